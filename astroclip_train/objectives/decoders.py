"""Decoders: an embedding to the spectrum of a modality.

Axes: b batch, l pixels, k code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..registry import choose

__all__ = ["MLPDecoder", "SplitDecoder"]


class MLPDecoder(nn.Sequential):
    """(Linear, GELU, norm, dropout) for each hidden width, then Linear: (b, k) -> (b, l).

    The published decoders have BatchNorm and dropout 0.1 (`norm="batch"`); LayerNorm, the default, has the
    same parameters and does not couple the objects of a batch. Published widths: XP (3072, 1536, 768),
    8,537,431 parameters; LRS (3072, 3072, 3072), 25,754,038, both from embeddings of 768.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        features: length k of the embedding.
        pixels: l.
        widths: hidden widths.
        norm: `"layer"` or `"batch"`.
        dropout: after each norm.

    Raises:
        ConfigError: an unknown norm.
    """

    def __init__(
        self, features: int, pixels: int, widths: Sequence[int], norm: str = "layer", dropout: float = 0.0
    ) -> None:
        layer = nn.LayerNorm if choose("norm", norm, ("layer", "batch")) == "layer" else nn.BatchNorm1d
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(features, width), nn.GELU(), layer(width), nn.Dropout(dropout)]
            features = width
        super().__init__(*layers, nn.Linear(features, pixels))


class SplitDecoder(nn.Module):
    """Shared and private part each through Linear to l, concatenated; Linear 2l, GELU, Linear l: (b, k) ->
    (b, l).

    Published for shared 512 and private 256: LRS 13,954,790 parameters, XP 971,033.

    References:
        SpecCLIP (split), Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        shared, private: lengths of the two parts; the embedding is both, concatenated.
        pixels: l.
    """

    def __init__(self, shared: int, private: int, pixels: int) -> None:
        super().__init__()
        self.sizes = (shared, private)
        self.shared, self.private = nn.Linear(shared, pixels), nn.Linear(private, pixels)
        self.mix = nn.Sequential(nn.Linear(2 * pixels, 2 * pixels), nn.GELU(), nn.Linear(2 * pixels, pixels))

    def forward(self, z: Tensor) -> Tensor:
        shared, private = z.split(self.sizes, dim=-1)
        return self.mix(torch.cat([self.shared(shared), self.private(private)], dim=-1))
