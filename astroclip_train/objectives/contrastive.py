r"""Contrastive alignment: an object's embeddings in two modalities find each other among those of a batch.

With unit vectors :math:`u_i, v_j` and :math:`s_{ij} = c\, u_i \cdot v_j`, c = 1 / temperature,

.. math:: L = -\frac{1}{2b} \sum_i \left[ \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
                                       + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \right]

is InfoNCE, and I(u; v) >= log b - L: the loss bounds the information, up to the ceiling log b.

Axes: b batch (queries), c candidates, k code.
"""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bottlenecks.base import Bottleneck
from ..errors import ConfigError
from ..registry import choose
from .base import Metrics, PairObjective, present

__all__ = ["Contrastive", "Similarity", "info_nce", "sigmoid_loss"]


class Similarity(NamedTuple):
    """Queries against candidates.

    Attributes:
        cosine: shape (b, c).
        target: position of each query's own candidate, shape (b,).
        excluded: candidates of the same object other than the own one, shape (b, c) bool; None if there are
            none.
    """

    cosine: Tensor
    target: Tensor
    excluded: Tensor | None


def info_nce(logits: Tensor, target: Tensor, excluded: Tensor | None = None) -> Tensor:
    """-log softmax of the own candidate, shape (b,), from logits (b, c); excluded candidates do not count."""
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(logits, target, reduction="none")


def sigmoid_loss(logits: Tensor, target: Tensor, excluded: Tensor | None = None) -> Tensor:
    r"""Pairwise logistic loss of each query, :math:`-\sum_j \log \sigma(\pm s_{ij})`, shape (b,); + for the
    own one.

    References:
        Sigmoid loss for language image pre-training, Zhai et al. 2023, https://arxiv.org/abs/2303.15343
    """
    sign = torch.full_like(logits, -1.0).scatter(1, target[:, None], 1.0)
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

    Raises:
        ConfigError: a temperature outside (0, 1], which is mostly a logit scale given by mistake.
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
    ) -> None:
        super().__init__()
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
        offset: int = 0,
    ) -> Similarity:
        """Cosines of queries (b, k) with candidates (c, k), of which query i owns number i + offset.

        The candidates may come from more places than the queries: an all-gather of the other ranks'
        embeddings, with `offset` the number of candidates on lower ranks.
        """
        if queries.dtype in (torch.float16, torch.bfloat16):
            queries, candidates = queries.float(), candidates.float()
        with torch.autocast(queries.device.type, enabled=False):
            u, v = F.normalize(queries, dim=-1, eps=self.eps), F.normalize(candidates, dim=-1, eps=self.eps)
            cosine = u @ v.T
        target = torch.arange(len(queries), device=queries.device) + offset
        if query_ids is None or candidate_ids is None:
            return Similarity(cosine, target, None)
        own = torch.zeros_like(cosine, dtype=torch.bool).scatter(1, target[:, None], True)
        return Similarity(cosine, target, (query_ids[:, None] == candidate_ids[None, :]) & ~own)

    def direction(self, similarity: Similarity) -> tuple[Tensor, Metrics]:
        """The mean loss of one direction, and its metrics."""
        cosine, target, excluded = similarity
        scale = self.scale()
        logits = scale * cosine
        nce = info_nce(logits, target, excluded)
        bias = self.bias
        loss = nce.mean() if bias is None else sigmoid_loss(logits + bias, target, excluded).mean()
        with torch.no_grad():
            candidates = torch.full_like(nce, logits.shape[1])
            if excluded is not None:
                candidates -= excluded.sum(dim=1)
                logits = logits.masked_fill(excluded, -torch.inf)
            hits = (logits.argmax(dim=1) == target).to(nce.dtype)
        return loss, {
            "info_nce": nce.detach().mean(),
            "ceiling": candidates.log().mean(),
            "accuracy": hits.mean(),
            "scale": torch.as_tensor(scale, device=cosine.device).detach(),
        }

    def forward(
        self, embeddings: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        total, parts, metrics = None, [], {}
        for a, b in itertools.combinations(embeddings, 2):
            u, v = self.bottleneck.shared(embeddings[a]), self.bottleneck.shared(embeddings[b])
            ids, both = batch.get("object"), present(batch, a, b)
            if both is not None and not bool(both.all()):
                u, v, ids = u[both], v[both], None if ids is None else ids[both]
            if len(u) == 0:
                continue
            for name, queries, candidates in ((f"{a}_to_{b}", u, v), (f"{b}_to_{a}", v, u)):
                loss, part = self.direction(self.similarity(queries, candidates, ids, ids))
                total = loss if total is None else total + loss
                metrics[f"accuracy_{name}"] = part.pop("accuracy")
                parts.append(part)
        if total is None:  # no object has two modalities: a zero that still has a graph
            return sum(z.sum() * 0.0 for z in embeddings.values()) + torch.zeros(()), {}
        loss = self.weight * total / len(parts)
        mean = {key: torch.stack([p[key] for p in parts]).mean() for key in ("info_nce", "ceiling", "scale")}
        bound = mean["ceiling"] - mean["info_nce"]
        return loss, {
            "loss": loss.detach(),
            **mean,
            "mi_bound": bound,
            "mi_bound_bits": bound / math.log(2),
            **metrics,
        }

    @classmethod
    def example(cls) -> "Contrastive":
        return cls(learnable=True, loss="sigmoid").bind({"lrs": 11, "xp": 7}, {"lrs": 6, "xp": 6})
