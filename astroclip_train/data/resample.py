"""Linear resampling onto a store's grid, which leaves pixels alone where the grids coincide."""

from typing import NamedTuple

import numpy as np

__all__ = ["Resampled", "resample"]

SAME_PIXEL = 5e-3  # share of a pixel below which two scales are the same: 0.4 km/s on the LAMOST grid


class Resampled(NamedTuple):
    """Flux, inverse variance and good pixels on the new grid, (n, m); uncovered ones are NaN, 0, False."""

    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray


def resample(
    wave: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray | None,
    mask: np.ndarray,
    target: np.ndarray,
    *,
    logarithmic: bool = True,
) -> Resampled:
    """Spectra (n, l) on a shared scale `wave` (l,), brought to `target` (m,), both increasing, in one unit.

    Linear interpolation, in log10 of wavelength or in wavelength; variances are propagated with the squared
    weights, (1-w)² σ₀² + w² σ₁². An output pixel is good if every input pixel with weight is; grids that
    coincide to 5e-3 pixel are copied without smoothing, and pixels outside `wave` are not good.
    """
    x, t = (np.log10(wave), np.log10(target)) if logarithmic else (wave, target)
    position = np.interp(t, x, np.arange(len(x)))
    step = np.gradient(x)
    tolerance = SAME_PIXEL * np.interp(t, x, step)
    covered = (t >= x[0] - tolerance) & (t <= x[-1] + tolerance)
    nearest = np.rint(position)
    position = np.where(np.abs(position - nearest) < SAME_PIXEL, nearest, position)
    left = np.minimum(np.floor(position).astype(int), len(x) - 1)
    right = np.minimum(left + 1, len(x) - 1)
    w = position - left
    good = covered & mask[:, left] & (mask[:, right] | (w == 0))
    out = np.where(w == 0, flux[:, left], (1 - w) * flux[:, left] + w * flux[:, right])
    out = np.where(covered, out, np.nan)
    if ivar is None:
        return Resampled(out, None, good)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (1 - w) ** 2 / ivar[:, left] + np.where(w == 0, 0.0, w**2 / ivar[:, right])
        weight = np.where(good & np.isfinite(variance) & (variance > 0), 1 / variance, 0.0)
    return Resampled(out, weight, good)
