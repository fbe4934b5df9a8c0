"""Bad pixels and bad objects: zero weight for the former, leaving out and counting for the latter."""

import numpy as np

from .modality import ModalityInfo

__all__ = ["REASONS", "assess", "clean", "good_pixels", "median_snr"]

REASONS = (
    "good",
    "fewer than half of its pixels are good",
    "its flux is not significantly positive",
    "its variance is zero",
    "marked bad by the reader",
)
SIGNIFICANCE = 3.0  # of the mean flux, in its standard errors


def good_pixels(flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray:
    """Pixels that carry information: finite, not masked, of positive ivar; (n, l) -> bool (n, l)."""
    good = np.isfinite(flux)
    if mask is not None:
        good &= mask.astype(bool)
    if ivar is not None:
        with np.errstate(invalid="ignore"):
            good &= (ivar > 0) & np.isfinite(ivar)
    return good


def assess(
    flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray | None, info: ModalityInfo
) -> np.ndarray:
    """Why each object is bad, as an index into `REASONS`; (n, l) -> uint8 (n,).

    An object is bad if fewer than half its pixels are good, if its variance is zero, or if its normaliser,
    the mean flux weighted by ivar, is below 3 of its standard errors (below 0 where no errors are known).
    """
    good = good_pixels(flux, ivar, mask)
    count = good.sum(axis=1)
    safe = np.maximum(count, 1)
    values = np.where(good, flux, 0).astype(np.float64)
    mean = values.sum(axis=1) / safe
    variance = (np.where(good, values - mean[:, None], 0) ** 2).sum(axis=1) / safe
    reason = np.zeros(len(flux), dtype=np.uint8)
    if not info.centred:
        if ivar is None:
            positive = mean > 0
        else:
            weight = np.where(good, ivar, 0).astype(np.float64)
            total = weight.sum(axis=1)
            positive = (values * weight).sum(axis=1) > SIGNIFICANCE * np.sqrt(np.maximum(total, 1e-300))
        reason[~positive] = 2
    reason[variance <= 1e-14 * mean**2] = 3
    reason[2 * count < flux.shape[1]] = 1
    return reason


def median_snr(flux: np.ndarray, ivar: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Median over good pixels of flux·√ivar, NaN where there are none; (n, l) -> float32 (n,)."""
    good = good_pixels(flux, ivar, mask)
    ratio = np.where(good, flux * np.sqrt(np.where(good, ivar, 0)), np.nan)
    result = np.full(len(flux), np.nan, dtype=np.float32)
    usable = good.any(axis=1)
    if usable.any():
        result[usable] = np.nanmedian(ratio[usable], axis=1)
    return result


def clean(
    flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray | None, info: ModalityInfo
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Gives bad pixels zero weight and a harmless value, in place where the arrays allow it.

    The value is 1 where flux is a ratio to a continuum, otherwise the line between the nearest good pixels;
    a row without any good pixel becomes 0.

    Returns:
        flux (n, l) finite, ivar (n, l) or None with 0 at bad pixels, mask (n, l) True at good pixels.
    """
    good = good_pixels(flux, ivar, mask)
    rows = np.flatnonzero(~good.all(axis=1))
    if rows.size:
        flux[rows] = _filled(flux[rows], good[rows], info.continuum_normalised)
        if ivar is not None:
            ivar[rows] = np.where(good[rows], ivar[rows], 0)
    return flux, ivar, good


def _filled(flux: np.ndarray, good: np.ndarray, continuum_normalised: bool) -> np.ndarray:
    if continuum_normalised:
        filled = np.where(good, flux, 1)
    else:
        pixels = np.arange(flux.shape[1])
        before = np.maximum.accumulate(np.where(good, pixels, -1), axis=1)
        after = np.minimum.accumulate(np.where(good, pixels, flux.shape[1])[:, ::-1], axis=1)[:, ::-1]
        left = np.where(before < 0, after, before).clip(0, flux.shape[1] - 1)
        right = np.where(after >= flux.shape[1], before, after).clip(0)
        span = np.maximum(right - left, 1)
        share = ((pixels - left) / span).clip(0, 1).astype(flux.dtype)
        first, last = np.take_along_axis(flux, left, axis=1), np.take_along_axis(flux, right, axis=1)
        filled = np.where(good, flux, first * (1 - share) + last * share)
    filled[~good.any(axis=1)] = 0
    return filled
