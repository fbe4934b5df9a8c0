"""One-dimensional convolutional network: the baseline that sees raw spectra and is trained from scratch.

Axes: b batch, n tokens (positions after pooling), l pixels, d width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..distributed.collectives import sum_over_ranks
from ..errors import ConfigError
from ..registry import choose
from .base import Encoder, grouped
from .tokenizer import standardise

__all__ = ["ConvEncoder"]


_NORMS: dict[str, Callable[[int], list[nn.Module]]] = {
    "none": lambda width: [],
    "batch": lambda width: [nn.BatchNorm1d(width)],
    "layer": lambda width: [nn.GroupNorm(1, width)],
}


class _Stage(nn.Sequential):
    """Convolution, norm, GELU and, with `pool`, halving by the maximum of two neighbours: (b, c, l) -> (b, d, l')."""

    def __init__(
        self, channels: int, width: int, kernel: int, stride: int, pool: bool, norm: str = "none"
    ) -> None:
        conv = nn.Conv1d(channels, width, kernel, stride, padding=kernel // 2)
        super().__init__(conv, *_NORMS[norm](width), nn.GELU(), *([nn.MaxPool1d(2)] if pool else []))


class ConvEncoder(Encoder):
    """Stages of convolution and pooling: (b, l) -> (b, n, d), positions kept.

    Input is centred and scaled. `normalise="pixel"`: by each pixel's mean and the pixels' root mean variance
    over the first training batches, without which it stays as it is; `"object"`: by each spectrum's own mean
    and standard deviation.

    Arguments:
        length: pixels l.
        channels: output channels of each stage, the last is the width d.
        kernel: pixels of each kernel, one number or one for each stage.
        stride: of the first convolution, or one number for each stage.
        pool: halve after each stage by maximum pooling; without it only strides shorten the spectrum.
        normalise: see above.
        norm: after each convolution `"batch"`, `"layer"` (over positions and channels) or `"none"`.
        clip: standardised pixels further out than this are moved there: cosmic rays and bad columns. None keeps all.
        batches: training batches over which pixel statistics are averaged.

    Raises:
        ConfigError: a spectrum too short for the stages.
    """

    centre: Tensor
    square: Tensor
    seen: Tensor

    def __init__(
        self,
        length: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        kernel: int | Sequence[int] = 7,
        stride: int | Sequence[int] = 1,
        pool: bool = True,
        normalise: str = "pixel",
        batches: int = 200,
        norm: str = "none",
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.length, self.width, self.batches, self.pool = length, channels[-1], batches, pool
        self.normalise, self.clip = choose("normalise", normalise, ("pixel", "object")), clip
        choose("norm", norm, tuple(_NORMS))
        strides = (stride,) + (1,) * (len(channels) - 1) if isinstance(stride, int) else tuple(stride)
        kernels = (kernel,) * len(channels) if isinstance(kernel, int) else tuple(kernel)
        if not len(strides) == len(kernels) == len(channels):
            raise ConfigError(
                f"ConvEncoder: {len(channels)} channels, {len(kernels)} kernels and {len(strides)} strides must be "
                "as many: give one of each for every stage."
            )
        inputs = (1, *channels[:-1])
        stages = zip(inputs, channels, kernels, strides, strict=True)
        self.stages = nn.ModuleList(_Stage(c, d, k, step, pool, norm) for c, d, k, step in stages)
        n = length
        for k, step in zip(kernels, strides, strict=True):
            n = ((n + 2 * (k // 2) - k) // step + 1) // (2 if pool else 1)
        if n < 1:
            raise ConfigError(f"{length} pixels are too few for {len(channels)} stages: use fewer channels.")
        self.n_tokens = n
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("square", torch.ones(length))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def _follow(self, x: Tensor, good: Tensor) -> None:
        """Averages the pixels' mean and mean square over the first batches of training, then keeps them.

        A batch is that of all ranks, so that every rank and every checkpoint has the same averages.
        """
        if not torch.compiler.is_compiling() and self.seen.device.type == "cpu" and self.seen >= self.batches:
            return  # a GPU would wait for the answer, and a compiled graph would break, so they go on at a rate of 0
        count = sum_over_ranks(good.sum(dim=0))
        rate = torch.where(self.seen < self.batches, 1.0 / (self.seen + 1), 0.0) * (count > 0)
        for average, values in ((self.centre, x), (self.square, x.square())):
            total = sum_over_ranks(torch.where(good, values, 0.0).sum(dim=0))
            mean = total / count.clamp_min(1)
            average.lerp_(mean.to(average.dtype), rate.to(average.dtype))
        self.seen += self.seen < self.batches

    def _scale(self) -> Tensor:
        """Root of the mean variance of the pixels; one that was never good, at its first 0 and 1, has no say."""
        followed = (self.centre != 0) | (self.square != 1) | (self.seen == 0)
        count = followed.sum().clamp_min(1)
        variance = torch.where(followed, self.square - self.centre.square(), 0.0).sum() / count
        floor = 1e-12 * torch.where(followed, self.square, 0.0).sum() / count
        return variance.clamp_min(floor.clamp_min(1e-36)).sqrt()

    def forward(self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.normalise == "object":
            z = standardise(x, ivar, mask)[0]
        else:
            good = torch.isfinite(x) if mask is None else torch.isfinite(x) & mask
            if self.training:
                self._follow(x, good)
            scale = self._scale()
            z = torch.where(good, x - self.centre.to(x.dtype), 0.0) / scale.to(x.dtype)
        h = (z if self.clip is None else z.clamp(-self.clip, self.clip))[:, None]
        for stage in self.stages:
            h = stage(h)
        return h.transpose(1, 2)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        return grouped(*self.stages)

    def flops(self, visible: int | None = None) -> int:
        total, n = 0, self.length
        for stage in self.stages:
            conv = stage.get_submodule("0")
            assert isinstance(conv, nn.Conv1d)
            n = (n + 2 * int(conv.padding[0]) - conv.kernel_size[0]) // conv.stride[0] + 1
            total, n = total + 2 * n * conv.weight.numel(), n // 2 if self.pool else n
        return total

    @classmethod
    def example(cls) -> "ConvEncoder":
        return cls(length=67, channels=(4, 8))
