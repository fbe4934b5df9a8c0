r"""Masked reconstruction: hide some tokens of a spectrum, predict what they held.

.. math:: L = \frac{\sum_{i \in H} \sum_j w_{ij} (\hat t_{ij} - t_{ij})^2}{\sum_{i \in H} \sum_j w_{ij}}

with H the hidden tokens and w zero at padding and bad pixels.

Axes: b batch, n tokens, m visible tokens, f token features, q uniform draws.
"""

import torch
from torch import Tensor

from ..distributed.collectives import global_mean
from ..encoders.base import Encoder
from ..encoders.blocks import take
from ..encoders.transformer import MASKING, MaskedTransformer
from ..errors import ConfigError
from ..registry import choose
from .base import EncoderObjective, Metrics

__all__ = ["MaskedReconstruction"]

LAYOUTS = ("strips", "blocks", "uniform")


class MaskedReconstruction(EncoderObjective):
    """Hides tokens and takes the mean squared error of what the encoder predicts for them.

    Layouts of the hidden tokens:

    - `"strips"` (published): the n tokens are divided into `n_chunks` strips; in each, `chunk_width`
      consecutive tokens are hidden from a start that is uniform among the first (strip - width) ones. Some
      tokens are never hidden; the statistics token can be.
    - `"blocks"`: as strips over the windows only, then rotated by a uniform shift, so that every window is
      hidden equally often and the statistics token is always visible.
    - `"uniform"`: each set of windows of the right number is equally likely.

    The number hidden is the same for every object, so that `fill="drop"` makes rectangular batches. It is
    n_chunks × chunk_width, or, with `keep`, the fraction 1 - keep of the windows.

    Where windows overlap, pixels at the edge of a hidden chunk also lie in a visible token; `leak_free=True`
    leaves them out of the loss, the published loss counts them.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939, and its public code
        Masked autoencoders are scalable vision learners, He et al. 2021, https://arxiv.org/abs/2111.06377

    Arguments:
        n_chunks, chunk_width: see above; published 6 × 10 tokens for LRS, 6 × 20 for XP.
        fill: `"zero"`, `"token"` or `"drop"` (see `MaskedTransformer`); None is what the encoder was built
            for.
        keep: fraction of the windows that stay visible; None follows `chunk_width`.
        layout: see above.
        ivar_weighted: weight entries by the share of signal in their variance (see `Tokens`) instead of
            equally.
        leak_free: see above.

    Raises:
        ConfigError: chunks that do not fit, an unknown choice, or an encoder built for another `fill`.
    """

    trains = MaskedTransformer

    def __init__(
        self,
        n_chunks: int = 6,
        chunk_width: int = 10,
        fill: str | None = None,
        keep: float | None = None,
        layout: str = "strips",
        ivar_weighted: bool = False,
        leak_free: bool = True,
    ) -> None:
        super().__init__()
        self.n_chunks, self.chunk_width, self.keep = n_chunks, chunk_width, keep
        self.fill = None if fill is None else choose("fill", fill, MASKING)
        self.layout = choose("layout", layout, LAYOUTS)
        self.ivar_weighted, self.leak_free = ivar_weighted, leak_free
        if keep is not None and not 0 < keep < 1:
            raise ConfigError(
                f"keep={keep} must lie between 0 and 1: it is the fraction of tokens left visible."
            )

    def extra_repr(self) -> str:
        size = f"chunk_width={self.chunk_width}" if self.keep is None else f"keep={self.keep}"
        return f"layout={self.layout}, n_chunks={self.n_chunks}, {size}"

    def n_uniforms(self, encoder: Encoder) -> int:
        if self.layout == "uniform":
            return encoder.n_tokens
        return self.n_chunks + (self.layout == "blocks")

    def hidden(self, encoder: MaskedTransformer, uniforms: Tensor) -> Tensor:
        """Which tokens are hidden, shape (b, n) bool, from draws of shape (b, q)."""
        if self.layout == "strips":
            return self._chunks(encoder.n_tokens, uniforms)
        first, n = encoder.tokenizer.n_stats, encoder.tokenizer.n_windows
        if self.layout == "blocks":
            hidden = self._chunks(n, uniforms[:, : self.n_chunks])
            shift = (uniforms[:, self.n_chunks] * n).long()
            source = (torch.arange(n, device=hidden.device) + shift[:, None]) % n
            hidden = hidden.gather(1, source)
        else:
            keep = 1 - self.n_chunks * self.chunk_width / n if self.keep is None else self.keep
            count = min(max(round((1 - keep) * n), 1), n - 1)
            rank = uniforms[:, first : first + n].argsort(dim=1).argsort(dim=1)
            hidden = rank < count
        return torch.cat([hidden.new_zeros(len(hidden), first), hidden], dim=1)

    def _chunks(self, n: int, uniforms: Tensor) -> Tensor:
        strip = n // self.n_chunks
        width = self.chunk_width if self.keep is None else round((1 - self.keep) * n / self.n_chunks)
        if not 0 < width <= strip:
            raise ConfigError(
                f"{self.n_chunks} hidden chunks of {width} tokens do not fit {n} in strips of {strip}: "
                "take fewer or narrower chunks."
            )
        first = torch.arange(self.n_chunks, device=uniforms.device) * n // self.n_chunks
        free = max(strip - width, 1)
        start = first + (uniforms * free).long().clamp_max(free - 1)  # float32 draws may round up to 1
        offset = torch.arange(n, device=uniforms.device) - start[:, :, None]  # (b, chunks, n)
        return ((offset >= 0) & (offset < width)).any(dim=1)

    def forward(
        self, encoder: Encoder, x: Tensor, ivar: Tensor | None, mask: Tensor | None, uniforms: Tensor
    ) -> tuple[Tensor, Metrics]:
        self.check_encoder(type(encoder))
        assert isinstance(encoder, MaskedTransformer)
        fill = self.fill or encoder.masking
        if fill != encoder.masking:
            raise ConfigError(
                f"the objective has fill={fill} but the encoder was built with masking={encoder.masking}: "
                "make them equal."
            )
        values, weight, _, _ = encoder.tokenizer(x, ivar, mask)
        hidden = self.hidden(encoder, uniforms)
        weight = weight if self.ivar_weighted else (weight > 0).to(values.dtype)
        if self.leak_free and encoder.tokenizer.stride < encoder.tokenizer.window:
            weight = weight.masked_fill(encoder.tokenizer.seen(~hidden), 0.0)
        if fill == "drop":
            order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
            m = int((~hidden[0]).sum()) if len(hidden) else encoder.n_tokens // 2  # the same for every object
            visible, covered = order[:, :m], order[:, m:]
            prediction = encoder.predict(encoder.encode(values, visible=visible), covered)
            target, weight = take(values, covered), take(weight, covered)
        else:
            if fill == "token":
                encoded = encoder.encode(values, hidden=hidden)
            else:
                encoded = encoder.encode(values.masked_fill(hidden[:, :, None], 0.0))
            prediction, target = encoder.predict(encoded), values
            weight = weight * hidden[:, :, None]
        error = (prediction - target).square() * weight
        loss = global_mean(error.sum(), weight.sum(), 1e-12)
        fraction = global_mean(hidden.to(torch.float32).sum(), hidden.numel())
        return loss, {"loss": loss.detach(), "masked_fraction": fraction}

    @classmethod
    def example(cls) -> tuple["MaskedReconstruction", MaskedTransformer]:
        return cls(n_chunks=2, chunk_width=3), MaskedTransformer.example()
