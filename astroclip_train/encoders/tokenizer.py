r"""Cuts a spectrum into overlapping windows, after taking out its mean and scatter.

.. math:: z = (x - \mu) / s, \qquad t_{ij} = z_{iS + j}, \quad j = 0 \dots W - 1

with window W and stride S; a leading token holds the statistics that were taken out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import choose

__all__ = ["Tokenizer", "Tokens", "standardise"]

STATS = ("log_std", "mean_std", "none", "fixed")
FIXED = (1.0, 0.1)  # level and depth of a spectrum over its continuum
STD_FLOOR = 1e-6  # of the mean, so that a constant spectrum gives z = 0 in any unit of the flux
TINY = 1e-30  # and one of zeros a finite log10 s


class Tokens(NamedTuple):
    """Tokens of a batch of spectra.

    Attributes:
        values: shape (b, n, f).
        weight: shape (b, n, f), 0 at padding and bad pixels, else 1, or v / (1 + v) with v = ivar s² where
            there
            is an inverse variance: a pixel's share of signal, were the scatter s² of the spectrum all signal.
        mean: μ, shape (b,).
        std: s, unbiased, shape (b,).
    """

    values: Tensor
    weight: Tensor
    mean: Tensor
    std: Tensor


def standardise(
    x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None, fixed: bool = False
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Takes mean and unbiased standard deviation of the good pixels out of each spectrum.

    Arguments:
        x, ivar, mask: shape (b, l); a pixel is good where `mask` is True, `ivar` > 0 and `x` is finite.
        fixed: take out the same μ = 1 and s = 0.1 everywhere. A spectrum over its continuum is comparable as
            it is; its own scatter is the strength of its lines, or the noise where it has none.

    Returns:
        z (b, l), 0 at bad pixels; its weight (b, l) as in `Tokens`, None without ivar and mask; μ (b,); s
        (b,).
    """
    if ivar is None and mask is None:
        mean, std = _constants(x) if fixed else torch.std_mean(x, dim=-1)[::-1]
        std = torch.maximum(std, _floor(mean))
        return (x - mean[:, None]) / std[:, None], None, mean, std
    good = torch.isfinite(x)
    if mask is not None:
        good = good & mask
    if ivar is not None:
        good = good & (ivar > 0)
    count = good.sum(-1)
    clean = torch.where(good, x, 0.0)
    mean, std = _constants(x)
    if not fixed:
        mean = clean.sum(-1) / count.clamp_min(1)
    centred = torch.where(good, clean - mean[:, None], 0.0)
    if not fixed:
        std = (centred.square().sum(-1) / (count - 1).clamp_min(1)).sqrt()
        std = torch.maximum(std, _floor(mean))
    weight = good.to(x.dtype)
    if ivar is not None:
        signal = torch.where(good, ivar, 0.0) * std[:, None].square()
        weight = weight * (signal / (1 + signal))
    return centred / std[:, None], weight, mean, std


def _floor(mean: Tensor) -> Tensor:
    return (STD_FLOOR * mean.abs()).clamp_min(TINY)


def _constants(x: Tensor) -> tuple[Tensor, Tensor]:
    """The fixed μ and s of every spectrum, each (b,)."""
    mean, std = (torch.full_like(x[:, 0], value) for value in FIXED)
    return mean, std


class Tokenizer(nn.Module):
    """Cuts spectra of l pixels into n tokens of f features.

    `stats="log_std"` puts one zero before each window (f = window + 1) and a first token (log10 s, 0, …):
    146 × 21 for the 1462 pixels of LAMOST LRS with window 20, stride 10. `"mean_std"` puts two zeros and a
    first token (μ, s, 0, …): 344 × 3 for the 343 samples of Gaia XP with window 1. `"none"` adds nothing (f
    = window). `"fixed"` adds nothing either and scales all spectra alike, see `standardise`.

    A remainder shorter than a window is dropped. The published code also drops the last window when it is
    complete; `keep_last=False` does the same: it lists starts while a pixel beyond the overlap is left and
    removes the last of them.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939, and its public code.

    Arguments:
        length: pixels l.
        window, stride: W and S in pixels.
        stats: see above.
        keep_last: see above.

    Raises:
        ConfigError: a window that does not fit, or an unknown `stats`.
    """

    pixel: Tensor
    pattern: Tensor

    def __init__(
        self, length: int, window: int = 20, stride: int = 10, stats: str = "log_std", keep_last: bool = True
    ) -> None:
        super().__init__()
        if not 1 <= stride <= window <= length:
            raise ConfigError(
                f"tokenizer: stride {stride}, window {window} and length {length} must satisfy "
                "1 <= stride <= window <= length; change window or stride."
            )
        self.length, self.window, self.stride = length, window, stride
        self.stats = choose("stats", stats, STATS)
        self.n_windows = (length - window) // stride + 1
        if not keep_last:
            self.n_windows = min(self.n_windows, len(range(0, length - (window - stride), stride)) - 1)
        self.pad = {"log_std": 1, "mean_std": 2}.get(stats, 0)
        self.n_stats = int(self.pad > 0)
        self.n_tokens = self.n_windows + self.n_stats
        self.features = window + self.pad
        pixel = torch.arange(self.n_windows)[:, None] * stride + torch.arange(window)
        pattern = torch.zeros(self.n_tokens, self.features)
        pattern[self.n_stats :, self.pad :] = 1.0
        pattern[: self.n_stats, : self.pad] = 1.0
        self.register_buffer("pixel", pixel.flatten(), persistent=False)
        self.register_buffer("pattern", pattern, persistent=False)

    def extra_repr(self) -> str:
        return f"{self.length} pixels -> {self.n_tokens} x {self.features}, stats={self.stats}"

    def forward(self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tokens:
        """Spectra (b, l), with ivar and mask (True = good) of the same shape or None, to tokens (b, n, f)."""
        z, weight, mean, std = standardise(x, ivar, mask, self.stats == "fixed")
        values = self._windows(z)
        if self.stats == "log_std":
            values[:, 0, 0] = std.log10()
        elif self.stats == "mean_std":
            values[:, 0, 0], values[:, 0, 1] = mean, std
        if weight is None:
            return Tokens(values, self.pattern.to(x.dtype).expand_as(values), mean, std)
        weights = self._windows(weight)
        weights[:, : self.n_stats, : self.pad] = 1.0
        return Tokens(values, weights, mean, std)

    def untokenize(self, values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Tokens (b, n, f), μ and s (b,) back to spectra (b, l): overlaps averaged, pixels of no token μ."""
        windows = values[:, self.n_stats :, self.pad :].flatten(1)
        total = values.new_zeros(len(values), self.length).index_add(1, self.pixel, windows)
        z = total / torch.bincount(self.pixel, minlength=self.length).clamp_min(1).to(values.dtype)
        return z * std[:, None] + mean[:, None]

    def seen(self, visible: Tensor) -> Tensor:
        """Entries (b, n, f) whose pixel lies in a visible token, given the visible tokens (b, n), all
        bool."""
        windows = visible[:, self.n_stats :].to(torch.float32).repeat_interleave(self.window, dim=1)
        count = windows.new_zeros(len(visible), self.length).index_add(1, self.pixel, windows)
        inside = (count[:, self.pixel] > 0).unflatten(1, (self.n_windows, self.window))
        seen = visible[:, :, None].expand(-1, -1, self.features).clone()
        seen[:, self.n_stats :, self.pad :] = inside
        return seen

    def _windows(self, z: Tensor) -> Tensor:
        values = z.new_zeros(len(z), self.n_tokens, self.features)
        values[:, self.n_stats :, self.pad :] = z.unfold(1, self.window, self.stride)[:, : self.n_windows]
        return values
