r"""Multilayer-perceptron autoencoder of a whole spectrum, whose latent vector is the only token.

.. math:: e = \mathrm{LN}(W_2\, B_2 B_1 W_1 v), \qquad \hat v = W_4\, B_4 B_3 W_3 e, \qquad v = (\mu, s, z)

where each block :math:`B` is LayerNorm, Linear, GELU, Linear, without a residual path as published, or with one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..registry import choose
from .base import Encoder, grouped
from .tokenizer import STATS, standardise

__all__ = ["AutoEncoder", "Reconstruction"]


class Reconstruction(NamedTuple):
    """Input vector, its reconstruction and the weight of its entries, each of shape (b, l + statistics)."""

    target: Tensor
    prediction: Tensor
    weight: Tensor


def _block(hidden: int, expansion: float, norm: str) -> nn.Sequential:
    inner = int(hidden * expansion)
    return nn.Sequential(_norm(norm, hidden), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))


def _norm(norm: str, width: int) -> nn.Module:
    return nn.LayerNorm(width) if norm == "layer" else nn.Identity()


class AutoEncoder(Encoder):
    """Ordinary autoencoder, with the latent vector as a single token: (b, l) -> (b, 1, d).

    The input vector is (μ, s, z) for `stats="mean_std"` (published for Gaia XP: 345 entries, 42,846,129
    parameters with width 768 and hidden 1290), (log10 s, z) for `"log_std"`, z for `"none"`, with z the
    standardised spectrum, and (x − 1) / 0.1 for `"fixed"` (spectra over their continuum).

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        length: pixels l.
        width: latent features d.
        hidden: width of the blocks.
        expansion: inner width of a block over `hidden`.
        blocks: blocks on each side.
        stats: see above.
        norm: `"layer"` (published) or `"none"`. A LayerNorm divides by the length of its vector, which in spectra over
            their continuum is the strength of the lines; without it the latent space stays nearly linear.
        residual: h + B(h) instead of B(h), with B starting at zero: training starts from a linear autoencoder, whose
            latent space is that of the principal components.

    Raises:
        ConfigError: an unknown choice.
    """

    def __init__(
        self,
        length: int,
        width: int = 768,
        hidden: int = 1290,
        expansion: float = 3,
        blocks: int = 2,
        stats: str = "mean_std",
        norm: str = "layer",
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.length, self.width, self.n_tokens = length, width, 1
        self.residual = residual
        self.stats = choose("stats", stats, STATS)
        choose("norm", norm, ("layer", "none"))
        entries = length + {"mean_std": 2, "log_std": 1}.get(stats, 0)
        self.input = nn.Linear(entries, hidden)
        self.encode_blocks = nn.ModuleList(_block(hidden, expansion, norm) for _ in range(blocks))
        self.latent = nn.Linear(hidden, width)
        self.norm = _norm(norm, width)
        self.expand = nn.Linear(width, hidden)
        self.decode_blocks = nn.ModuleList(_block(hidden, expansion, norm) for _ in range(blocks))
        self.output = nn.Linear(hidden, entries)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if residual else "relu")
                nn.init.zeros_(module.bias)
        if residual:
            for block in (*self.encode_blocks, *self.decode_blocks):
                nn.init.zeros_(block[-1].weight)

    def vector(
        self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Input vector and weights of its entries, both of shape (b, l + statistics)."""
        z, weight, mean, std = standardise(x, ivar, mask, self.stats == "fixed")
        weight = torch.ones_like(z) if weight is None else weight
        if self.stats in ("none", "fixed"):
            return z, weight
        stats = [mean, std] if self.stats == "mean_std" else [std.log10()]
        ones = torch.ones_like(mean)
        return (
            torch.cat([torch.stack(stats, dim=1), z], dim=1),
            torch.cat([torch.stack([ones] * len(stats), dim=1), weight], dim=1),
        )

    def forward(self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.encode(self.vector(x, ivar, mask)[0])[:, None]

    def encode(self, vector: Tensor) -> Tensor:
        """Input vector (b, l + statistics) -> latent (b, d)."""
        h = self._through(self.encode_blocks, self.input(vector))
        return self.norm(self.latent(h))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (b, d) -> reconstructed input vector."""
        return self.output(self._through(self.decode_blocks, self.expand(latent)))

    def _through(self, blocks: nn.ModuleList, h: Tensor) -> Tensor:
        for block in blocks:
            h = h + block(h) if self.residual else block(h)
        return h

    def reconstruct(
        self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None
    ) -> Reconstruction:
        """Spectra (b, l) through encoder and decoder."""
        target, weight = self.vector(x, ivar, mask)
        return Reconstruction(target, self.decode(self.encode(target)), weight)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        last: list = [self.latent, self.norm, self.expand, self.decode_blocks, self.output]
        return grouped(self.input, *self.encode_blocks, last)

    def flops(self, visible: int | None = None) -> int:
        side = (self.input, self.encode_blocks, self.latent)
        return 2 * sum(p.numel() for module in side for p in module.parameters() if p.ndim == 2)

    @classmethod
    def example(cls) -> "AutoEncoder":
        return cls(length=67, width=16, hidden=24)
