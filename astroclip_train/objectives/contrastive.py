r"""Contrastive alignment: an object's embeddings in two modalities find each other among those of a batch.

With unit vectors :math:`u_i, v_j` and :math:`s_{ij} = c\, u_i \cdot v_j`, c = 1 / temperature,

.. math:: L = -\frac{1}{2b} \sum_i \left[ \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
                                       + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \right]

is InfoNCE, and I(u; v) >= log b - L: the loss bounds the information, up to the ceiling log b.

On several ranks b is the batch of all of them. Each rank has its own objects as queries; InfoNCE gathers the
candidates of all ranks, with gradient, the sigmoid loss passes them around a ring. Either way the mean of the ranks'
losses, and of their gradients, is that of one process with the whole batch.

Axes: b batch (queries), c candidates, k code.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..bottlenecks.base import Bottleneck
from ..distributed.collectives import gather_rows, rank, row_counts, share, shift_rows, world_size
from ..errors import ConfigError
from ..registry import choose
from .base import Metrics, PairObjective, present

__all__ = ["Block", "Contrastive", "Similarity", "info_nce", "sigmoid_loss"]


class Similarity(NamedTuple):
    """Queries against candidates.

    Attributes:
        cosine: shape (b, c).
        target: position of each query's own candidate, shape (b,); None if it is elsewhere.
        excluded: candidates of the same object other than the own one, shape (b, c) bool; None if there are
            none.
    """

    cosine: Tensor
    target: Tensor | None
    excluded: Tensor | None


class Block(NamedTuple):
    """What some candidates contribute to each query, all of shape (b,).

    Attributes:
        log_sum: log of the sum of exp(logit) over candidates.
        own: logit of the own candidate, 0 if it is elsewhere.
        best: largest logit of the others.
        candidates: number of candidates that count.
        pairwise: logistic loss of the pairs, 0 for InfoNCE.
    """

    log_sum: Tensor
    own: Tensor
    best: Tensor
    candidates: Tensor
    pairwise: Tensor


def info_nce(logits: Tensor, target: Tensor, excluded: Tensor | None = None) -> Tensor:
    """-log softmax of the own candidate, shape (b,), from logits (b, c); excluded candidates do not count."""
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(logits, target, reduction="none")


def sigmoid_loss(logits: Tensor, target: Tensor | None, excluded: Tensor | None = None) -> Tensor:
    r"""Pairwise logistic loss of each query, :math:`-\sum_j \log \sigma(\pm s_{ij})`, shape (b,); + for the
    own one.

    References:
        Sigmoid loss for language image pre-training, Zhai et al. 2023, https://arxiv.org/abs/2303.15343
    """
    sign = torch.full_like(logits, -1.0)
    if target is not None:
        sign = sign.scatter(1, target[:, None], 1.0)
    terms = -F.logsigmoid(sign * logits)
    if excluded is not None:
        terms = terms.masked_fill(excluded, 0.0)
    return terms.sum(dim=1)


class Contrastive(PairObjective):
    """Symmetric contrastive loss over every two modalities, on the shared part of their embeddings.

    Two observations of one object (equal `batch["object"]`) are never each other's negatives; objects that
    lack one of two modalities are left out of that pair.

    Metrics, in nats and averaged over both directions and all pairs: `info_nce` (also of the sigmoid loss),
    its `ceiling` (mean log of the number of candidates), `mi_bound` = ceiling - info_nce, `mi_bound_bits`,
    `accuracy_<a>_to_<b>`, `scale`.

    References:
        Representation learning with contrastive predictive coding, van den Oord et al. 2018,
        https://arxiv.org/abs/1807.03748 Learning transferable visual models (CLIP), Radford et al. 2021,
        https://arxiv.org/abs/2103.00020 SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        temperature: 1 / c, published 1 / 15.5; the start value if learnable.
        learnable: train log c.
        max_scale: a learnable c is clamped to at most this, and at least 1.
        loss: `"infonce"` or `"sigmoid"` (adds a learned bias).
        weight: of this loss in a sum.
        eps: smallest norm by which an embedding is divided (published).
        initial_bias: of the sigmoid loss.
        chunk_size: objects that are embedded and compared at once, the rest of the batch being recomputed in the
            backward pass (GradCache, https://arxiv.org/abs/2101.06983): the batch is limited by embeddings, not by
            activations; None does all at once. Dropout masks are drawn
            chunk by chunk; without dropout no number changes beyond rounding.
        gather: `"with_gradient"`, the only choice: without a gradient through the gathered candidates the result is
            not the gradient of any loss (measured: half as long, and off by half).

    Raises:
        ConfigError: a temperature outside (0, 1], which is mostly a logit scale given by mistake, or another gather.
    """

    def __init__(
        self,
        temperature: float = 1 / 15.5,
        learnable: bool = False,
        max_scale: float = 100.0,
        loss: str = "infonce",
        weight: float = 1.0,
        eps: float = 1e-3,
        initial_bias: float = -10.0,
        chunk_size: int | None = None,
        gather: str = "with_gradient",
    ) -> None:
        super().__init__()
        if gather != "with_gradient":
            raise ConfigError(
                f"gather={gather} drops the gradient through the other ranks' embeddings, which is about half of it "
                "and turns the rest: leave gather=with_gradient."
            )
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(
                f"chunk_size={chunk_size} must be at least 1, or null for the whole batch at once."
            )
        self.chunk_size = chunk_size
        if not 0 < temperature <= 1:
            raise ConfigError(
                f"temperature={temperature} must lie in (0, 1]: it is 1 / logit scale "
                f"(a scale of 15.5 is temperature={1 / 15.5:.4f})."
            )
        self.loss = choose("loss", loss, ("infonce", "sigmoid"))
        self.temperature, self.max_scale, self.weight, self.eps = temperature, max_scale, weight, eps
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learnable else None
        self.bias = nn.Parameter(torch.tensor(float(initial_bias))) if loss == "sigmoid" else None

    def extra_repr(self) -> str:
        return f"loss={self.loss}, temperature={self.temperature:.4g}, learnable={self.log_scale is not None}"

    def bind(
        self, pixels: Mapping[str, int], features: Mapping[str, int], bottleneck: Bottleneck | None = None
    ) -> "Contrastive":
        super().bind(pixels, features, bottleneck)
        shared = {self.bottleneck.shared_features(k) for k in features.values()}
        if len(shared) > 1:
            raise ConfigError(
                f"embeddings to be compared must have one length, but the heads give {dict(features)}: "
                "set the same features for every head."
            )
        return self

    def scale(self) -> Tensor | float:
        """c; a learnable one is put back into [1, max_scale] first while training."""
        if self.log_scale is None:
            return 1 / self.temperature
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(0.0, math.log(self.max_scale))
        return self.log_scale.exp()

    def similarity(
        self,
        queries: Tensor,
        candidates: Tensor,
        query_ids: Tensor | None = None,
        candidate_ids: Tensor | None = None,
        offset: int | None = 0,
    ) -> Similarity:
        """Cosines of queries (b, k) with candidates (c, k), of which query i owns number i + offset.

        The candidates may come from more places than the queries: an all-gather of the other ranks'
        embeddings, with `offset` the number of candidates on lower ranks; None if none is an own one.
        """
        if queries.dtype in (torch.float16, torch.bfloat16):
            queries, candidates = queries.float(), candidates.float()
        with torch.autocast(queries.device.type, enabled=False):
            u, v = F.normalize(queries, dim=-1, eps=self.eps), F.normalize(candidates, dim=-1, eps=self.eps)
            cosine = u @ v.T
        target = None if offset is None else torch.arange(len(queries), device=queries.device) + offset
        if query_ids is None or candidate_ids is None:
            return Similarity(cosine, target, None)
        same = query_ids[:, None] == candidate_ids[None, :]
        if target is not None:
            same = same & ~torch.zeros_like(same).scatter(1, target[:, None], True)
        return Similarity(cosine, target, same)

    def block(self, similarity: Similarity, scale: Tensor | float) -> Block:
        """What these candidates contribute to each query."""
        cosine, target, excluded = similarity
        logits = scale * cosine
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.bias is None):
            masked = logits if excluded is None else logits.masked_fill(excluded, -torch.inf)
            log_sum = masked.logsumexp(dim=1)
            own = (
                log_sum.new_zeros(len(log_sum)) if target is None else logits.gather(1, target[:, None])[:, 0]
            )
        best = masked.detach() if target is None else masked.detach().scatter(1, target[:, None], -torch.inf)
        best = best.amax(dim=1) if best.shape[1] else torch.full_like(log_sum, -torch.inf)
        candidates = torch.full_like(best, logits.shape[1])
        if excluded is not None:
            candidates = candidates - excluded.sum(dim=1)
        pairwise = torch.zeros_like(best)
        if self.bias is not None:
            pairwise = sigmoid_loss(logits + self.bias, target, excluded)
        return Block(log_sum, own, best, candidates, pairwise)

    def direction(self, blocks: Sequence[Block], count: int | None = None) -> tuple[Tensor, Metrics]:
        """This rank's share of the mean loss of one direction, and of its metrics.

        Arguments:
            blocks: of the same queries, the own candidates in the first.
            count: queries of all ranks; None is those of the block.
        """
        first = blocks[0]
        count = len(first.own) if count is None else count
        log_sum = torch.stack([b.log_sum for b in blocks]).logsumexp(0) if len(blocks) > 1 else first.log_sum
        nce = log_sum - first.own
        losses = nce if self.bias is None else sum((b.pairwise for b in blocks[1:]), first.pairwise)
        with torch.no_grad():
            candidates = sum((b.candidates for b in blocks[1:]), first.candidates)
            best = torch.stack([b.best for b in blocks]).amax(dim=0)
            hits = (first.own > best).to(nce.dtype)  # a tie is no hit, or collapse would look perfect
        return share(losses, count), {
            "info_nce": share(nce.detach(), count),
            "ceiling": share(candidates.log(), count),
            "accuracy": share(hits, count),
        }

    def _blocks(
        self,
        queries: Tensor,
        candidates: Tensor,
        ids: Tensor | None,
        all_ids: Tensor | None,
        offset: int | None,
        scale: Tensor | float,
    ) -> Block:
        """`block`, for some queries at a time, recomputed in the backward pass, where `chunk_size` is set."""
        size = self.chunk_size
        if size is None or len(queries) <= size:
            return self.block(self.similarity(queries, candidates, ids, all_ids, offset), scale)

        def part(few: Tensor, own_ids: Tensor | None, start: int) -> tuple[Tensor, ...]:
            at = None if offset is None else offset + start
            return tuple(self.block(self.similarity(few, candidates, own_ids, all_ids, at), scale))

        parts = []
        for start in range(0, len(queries), size):
            few = queries[start : start + size]
            own_ids = None if ids is None else ids[start : start + size]
            parts.append(checkpoint(part, few, own_ids, start, use_reentrant=False))
        return Block(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _against(
        self,
        queries: Tensor,
        candidates: Tensor,
        ids: Tensor | None,
        counts: Sequence[int],
        scale: Tensor | float,
    ) -> list[Block]:
        """This rank's queries against the candidates of all ranks."""
        if world_size() == 1:
            return [self._blocks(queries, candidates, ids, ids, 0, scale)]
        if self.bias is None:
            everything = gather_rows(candidates, counts)
            all_ids = None if ids is None else gather_rows(ids, counts)
            return [self._blocks(queries, everything, ids, all_ids, sum(counts[: rank()]), scale)]
        # a rank without rows takes part all the same: every exchange has its counterpart in the backward pass
        blocks = [self._blocks(queries, candidates, ids, ids, 0, scale)]
        passed_ids = ids
        for turn in range(1, world_size()):
            candidates = shift_rows(candidates, counts, turn)
            passed_ids = None if passed_ids is None else shift_rows(passed_ids, counts, turn)
            blocks.append(self._blocks(queries, candidates, ids, passed_ids, None, scale))
        return blocks

    def forward(
        self, embeddings: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        total, parts, metrics = None, [], {}
        scale = self.scale()
        for a, b in itertools.combinations(embeddings, 2):
            u, v = self.bottleneck.shared(embeddings[a]), self.bottleneck.shared(embeddings[b])
            ids, both = batch.get("object"), present(batch, a, b)
            if both is not None and not bool(both.all()):
                u, v, ids = u[both], v[both], None if ids is None else ids[both]
            counts = row_counts(len(u))
            if sum(counts) == 0:
                continue
            for name, queries, candidates in ((f"{a}_to_{b}", u, v), (f"{b}_to_{a}", v, u)):
                loss, part = self.direction(
                    self._against(queries, candidates, ids, counts, scale), sum(counts)
                )
                total = loss if total is None else total + loss
                metrics[f"accuracy_{name}"] = part.pop("accuracy")
                parts.append(part)
        if total is None:  # no object has two modalities: a zero that still has a graph
            return sum(z.sum() * 0.0 for z in embeddings.values()) + torch.zeros(()), {}
        loss = self.weight * total / len(parts)
        mean = {key: torch.stack([p[key] for p in parts]).mean() for key in ("info_nce", "ceiling")}
        bound = mean["ceiling"] - mean["info_nce"]
        return loss, {
            "loss": loss.detach(),
            **mean,
            "scale": torch.as_tensor(scale, device=loss.device).detach(),
            "mi_bound": bound,
            "mi_bound_bits": bound / math.log(2),
            **metrics,
        }

    @classmethod
    def example(cls) -> "Contrastive":
        return cls(learnable=True, loss="sigmoid").bind({"lrs": 11, "xp": 7}, {"lrs": 6, "xp": 6})
