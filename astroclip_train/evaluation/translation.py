"""How well one instrument's spectrum is predicted from the other's: residuals per pixel and per object."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import bootstrap_error

__all__ = ["object_chi2", "pixel_residuals", "translation_metrics"]

Array = NDArray[np.float64]


def _residual(truth: ArrayLike, prediction: ArrayLike, mask: ArrayLike | None) -> Array:
    """Prediction - truth, (n, l), NaN on bad pixels."""
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    good = np.isfinite(truth) if mask is None else np.asarray(mask, bool) & np.isfinite(truth)
    return np.where(good, prediction - truth, np.nan)


def object_chi2(
    truth: ArrayLike, prediction: ArrayLike, ivar: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    r"""The mean squared residual in units of the noise, per object.

    .. math:: \chi^2_i = \sum_l m_{il} w_{il} (\hat x_{il} - x_{il})^2 \,/\, \sum_l m_{il} [w_{il} > 0]

    Only the variance enters, so correlated noise (Gaia XP) makes it scatter more than a true reduced χ².

    Arguments:
        truth, prediction, ivar: (n, l), ivar in the inverse square of the flux unit.
        mask: True = good, (n, l).

    Returns:
        (n,), NaN for objects without a good pixel.
    """
    residual = _residual(truth, prediction, mask)
    weight = np.asarray(ivar, np.float64)
    used = np.isfinite(residual) & np.isfinite(weight) & (weight > 0)
    total = np.where(used, weight * np.square(np.where(used, residual, 0.0)), 0.0).sum(1)
    count = used.sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pixel_residuals(
    truth: ArrayLike, prediction: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Array, Array, Array]:
    """The 16th, 50th and 84th percentile over objects of prediction - truth at each pixel, (l,) each."""
    residual = _residual(truth, prediction, mask)
    empty = ~np.isfinite(residual).any(0)
    residual[:, empty] = 0.0
    low, middle, high = np.nanpercentile(residual, (16, 50, 84), axis=0)
    return tuple(np.where(empty, np.nan, x) for x in (low, middle, high))  # type: ignore[return-value]


def translation_metrics(
    truth: ArrayLike,
    prediction: ArrayLike,
    ivar: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Root mean square residual and χ² per pixel of predicted spectra.

    Arguments:
        truth, prediction: spectra, (n, l), one unit.
        ivar, mask: inverse variances and good pixels of the truth, (n, l).
        replicates, seed: of the bootstrap over objects.

    Returns:
        `n` objects, `rmse` over all good pixels (unit of the flux), `rmse_median` of the objects' own,
        `chi2`, the median over objects of `object_chi2`, and `rmse_baseline`, the residual of predicting the
        mean spectrum, beside which rmse must be read; errors as `<key>_err`; None where not defined.
    """
    residual = _residual(truth, prediction, mask)
    count = np.isfinite(residual).sum(1)
    square = np.square(np.where(np.isfinite(residual), residual, 0.0)).sum(1)
    kept = count > 0
    out: dict[str, Any] = {"n": int(kept.sum())}
    spread = _residual(truth, np.zeros_like(residual), mask)[kept]
    empty = ~np.isfinite(spread).any(0) if spread.size else np.zeros(residual.shape[1], bool)
    spread = spread[:, ~empty]

    def put(key: str, statistic: Any, *arrays: Array) -> None:
        values = tuple(a[kept] for a in arrays)
        good = np.all([np.isfinite(v) for v in values], axis=0)
        values = tuple(v[good] for v in values)
        known = values[0].size > 0
        out[key] = float(statistic(*values)) if known else None
        out[f"{key}_err"] = None
        if values[0].size > 1 and replicates > 1:
            out[f"{key}_err"] = float(bootstrap_error(statistic, *values, replicates=replicates, seed=seed))

    put("rmse", lambda s, c: np.sqrt(s.sum(-1) / c.sum(-1)), square, count.astype(np.float64))
    put("rmse_median", lambda s, c: np.median(np.sqrt(s / c), axis=-1), square, count.astype(np.float64))
    out["rmse_baseline"] = (
        float(np.sqrt(np.nanmean(np.square(spread - np.nanmean(spread, 0))))) if spread.size else None
    )
    chi2 = np.full(len(count), np.nan) if ivar is None else object_chi2(truth, prediction, ivar, mask)
    put("chi2", lambda c: np.median(c, axis=-1), chi2)
    return out
