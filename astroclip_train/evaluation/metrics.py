"""Point-estimate metrics: bias, robust scatter, outliers, scatter in units of the bound; bootstrap errors."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "OUTLIER_SIGMAS",
    "SNR_BINS",
    "biweight_scale",
    "bootstrap_error",
    "label_metrics",
    "median_absolute_deviation",
    "outlier_fraction",
    "r_squared",
    "residual_metrics",
]

OUTLIER_SIGMAS = 5.0  # a Gaussian has none beyond this, so the fraction is about the tails alone
SNR_BINS = (0.0, 10.0, 20.0, 30.0, 50.0, 80.0, 120.0, 200.0, np.inf)
SMALLEST_SAMPLE = 10  # below this a scatter and its bootstrap error say nothing; the metrics are null
_GAUSS = 0.6745
_LARGEST_RESAMPLE = 1000

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]


def _centre_and_mad(y: Array) -> tuple[Array, Array]:
    """Median and scaled MAD along the last axis of finite residuals, kept as a last axis of length 1."""
    centre = np.median(y, axis=-1, keepdims=True)
    deviation = np.abs(y - centre)
    mad = np.median(deviation, axis=-1, keepdims=True) / _GAUSS
    if np.any(mad == 0):
        mad = np.where(mad == 0, deviation.mean(axis=-1, keepdims=True) / 0.8, mad)
    return centre, mad


def _biweight(y: Array) -> Array:
    """Biweight scale along the last axis of finite residuals; NaN where fewer than 3 points are kept."""
    n = y.shape[-1]
    centre, mad = _centre_and_mad(y)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = y - centre
        t2 = np.square(deviation / (6.0 * mad))
        w = np.where(t2 <= 1.0, 1.0 - t2, 0.0)
        kept = np.count_nonzero(t2 <= 1.0, axis=-1)
        top = n * np.einsum("...i,...i->...", np.square(deviation), w**4)
        d = np.sum(w * (1.0 - 5.0 * np.where(w > 0, t2, 0.0)), axis=-1)
        sigma = np.sqrt(top / (d * (d - 1.0)))
    sigma = np.where(kept >= 3, sigma, np.nan)
    return np.where(mad[..., 0] == 0, 0.0, sigma)  # all residuals equal


def biweight_scale(residuals: ArrayLike, axis: int | None = None) -> Array:
    r"""The robust biweight scatter of residuals, about their median.

    .. math:: \sigma^2 = n \frac{\sum (y-m)^2 (1-t^2)^4}{D (D-1)}, \quad D = \sum (1-t^2)(1-5t^2), \quad
              t = \frac{y-m}{6\,\mathrm{MAD}}

    with m the median, MAD = median|y-m| / 0.6745 (if that is 0, mean|y-m| / 0.8), sums over |t| <= 1, and n
    counting all finite residuals. Source: Beers, Flynn and Gebhardt 1990, AJ 100, 32, with the constants of
    SpecCLIP's tables.

    Arguments:
        residuals: any shape; non-finite entries are left out.
        axis: the axis of objects; None flattens.

    Returns:
        The scatter in the unit of the residuals, float64, `axis` removed; NaN if fewer than 3 are kept.
    """
    y = np.asarray(residuals, dtype=np.float64)
    y = y.reshape(-1) if axis is None else np.moveaxis(y, axis, -1)
    if y.shape[-1] < 3:
        return np.full(y.shape[:-1], np.nan)[()]
    if np.isfinite(y).all():
        return _biweight(y)[()]
    rows = [row[np.isfinite(row)] for row in y.reshape(-1, y.shape[-1])]
    values = [_biweight(row) if row.size >= 3 else np.nan for row in rows]
    return np.asarray(values, dtype=np.float64).reshape(y.shape[:-1])[()]


def median_absolute_deviation(y: Array) -> Array:
    """The median absolute deviation over 0.6745, along the last axis (for a Gaussian, its σ)."""
    centre = np.median(y, axis=-1, keepdims=True)
    return np.median(np.abs(y - centre), axis=-1) / _GAUSS


def outlier_fraction(y: Array) -> Array:
    """The fraction of residuals further than 5 biweight σ from their median, along the last axis."""
    scale = _biweight(y)[..., None]
    return np.mean(np.abs(y - np.median(y, axis=-1, keepdims=True)) > OUTLIER_SIGMAS * scale, axis=-1)


def r_squared(truth: Array, prediction: Array) -> Array:
    """The determination 1 - SS_residual / SS_total along the last axis; NaN if the truth is constant."""
    total = np.square(truth - truth.mean(axis=-1, keepdims=True)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.square(prediction - truth).sum(axis=-1) / total
    return np.where(total > 0, 1.0 - ratio, np.nan)


@functools.lru_cache(maxsize=8)
def _resample(n: int, m: int, replicates: int, seed: int) -> NDArray[np.int32]:
    # cached, because heads and labels of one test set share n; the same draws also make comparisons paired
    return np.random.default_rng(seed).integers(0, n, size=(replicates, m), dtype=np.int32)


def bootstrap_error(
    statistic: Callable[..., Array], *arrays: Array, replicates: int = 200, seed: int = 0
) -> Array | float:
    r"""The bootstrap standard error of a statistic of paired arrays.

    Above 1,000 objects each replicate draws m = 1,000 of n (m out of n bootstrap) and the spread is scaled by
    :math:`\sqrt{m/n}`, which is the same error for any root-n statistic at a cost that does not grow.
    Source: Efron 1979; Bickel, Götze and van Zwet 1997.

    Arguments:
        statistic: maps arrays (replicates, m) to (replicates,) or (values, replicates), along the last axis.
        arrays: finite arrays of one length, (n,).
        replicates: number of resamples.
        seed: the draws are a function of (seed, n), so repeated calls agree.

    Returns:
        The error, a number, or an array (values,).
    """
    n = len(arrays[0])
    m = min(n, _LARGEST_RESAMPLE)
    draws = _resample(n, m, replicates, seed)
    values = statistic(
        *(a.astype(np.float32)[draws] for a in arrays)
    )  # half the time, errors need no more digits
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(finite, values, 0.0).sum(-1) / np.maximum(finite.sum(-1), 1)
        square = np.where(finite, np.square(values - mean[..., None]), 0.0).sum(-1)
        error = np.sqrt(square / (finite.sum(-1) - 1.0)) * np.sqrt(m / n)
    return float(error) if error.ndim == 0 else error


def _robust_set(y: Array) -> Array:
    """Median, biweight σ, scaled MAD and outlier fraction in one pass: (..., n) -> (4, ...)."""
    centre = np.median(y, axis=-1, keepdims=True)
    deviation = np.abs(y - centre)
    mad = np.median(deviation, axis=-1) / _GAUSS
    sigma = _biweight(y) if np.any(mad == 0) else _biweight_given(deviation, mad)
    outliers = np.mean(deviation > OUTLIER_SIGMAS * sigma[..., None], axis=-1)
    return np.stack([centre[..., 0], sigma, mad, outliers])


def _biweight_given(deviation: Array, mad: Array) -> Array:
    """The biweight from ready deviations: the bootstrap spends its time in medians, so they are shared."""
    t2 = np.square(deviation / (6.0 * mad[..., None]))
    w = np.maximum(1.0 - t2, 0.0)
    w2 = w * w
    top = deviation.shape[-1] * np.einsum("...i,...i,...i->...", np.square(deviation), w2, w2)
    d = np.sum(w, axis=-1) - 5.0 * np.einsum("...i,...i->...", w, t2)
    return np.sqrt(top / (d * (d - 1.0)))


def residual_metrics(
    truth: ArrayLike,
    mean: ArrayLike,
    bound: ArrayLike | None = None,
    std: ArrayLike | None = None,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, float | int | None]:
    """Metrics of one label on one set of objects; residual = prediction - truth.

    Arguments:
        truth, mean: label and prediction, (n,), one unit; objects without a label do not count.
        bound: Cramér–Rao σ of each object, (n,); gives `pull_sigma`, the biweight of residual / bound.
        std: the head's own error, (n,); gives `std_pull`, the biweight of residual / std.
        replicates: bootstrap resamples; 0 leaves the errors out.
        seed: of the bootstrap.

    Returns:
        `n, bias, sigma, mad, r2, outliers, pull_sigma, pull_bias, std_pull`, each but n with `<key>_err`, and
        `nonfinite` (labelled objects without a finite prediction, left out). None where not defined.
    """
    truth, mean = np.asarray(truth, np.float64), np.asarray(mean, np.float64)
    labelled = np.isfinite(truth)
    used = labelled & np.isfinite(mean)
    keys = ("bias", "sigma", "mad", "r2", "outliers", "pull_sigma", "pull_bias", "std_pull")
    out: dict[str, float | int | None] = {"n": int(used.sum()), "nonfinite": int((labelled & ~used).sum())}
    out |= {name: None for key in keys for name in (key, f"{key}_err")}
    if used.sum() < SMALLEST_SAMPLE:
        return out
    t, p = truth[used], mean[used]
    _fill(out, ("bias", "sigma", "mad", "outliers"), _robust_set, (p - t,), replicates, seed)
    _fill(out, ("r2",), lambda a, b: r_squared(a, b)[None], (t, p), replicates, seed)
    for keys_of, scale in ((("pull_bias", "pull_sigma"), bound), (("", "std_pull"), std)):
        if scale is None:
            continue
        pull = _pull(truth[used], p, np.asarray(scale, np.float64)[used])
        if pull.size >= SMALLEST_SAMPLE:
            _fill(out, keys_of, lambda y: _robust_set(y)[:2], (pull,), replicates, seed)
    return out


def _pull(truth: Array, prediction: Array, scale: Array) -> Array:
    good = np.isfinite(scale) & (scale > 0)
    return (prediction[good] - truth[good]) / scale[good]


def _fill(
    out: dict[str, float | int | None],
    keys: tuple[str, ...],
    statistic: Callable[..., Array],
    arrays: tuple[Array, ...],
    replicates: int,
    seed: int,
) -> None:
    """Writes values and bootstrap errors under `keys` (an empty key is skipped); non-finite becomes None."""
    values = statistic(*arrays)
    errors = bootstrap_error(statistic, *arrays, replicates=replicates, seed=seed) if replicates > 1 else None
    for i, key in enumerate(keys):
        if key:
            out[key] = _number(values[i])
            out[f"{key}_err"] = None if errors is None else _number(np.atleast_1d(errors)[i])


def _number(value: float) -> float | None:
    # six digits are more than any of these numbers has, and halve the file
    return float(f"{value:.6g}") if np.isfinite(value) else None


def label_metrics(
    truth: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike | None = None,
    snr: ArrayLike | None = None,
    bound: ArrayLike | None = None,
    snr_cut: float = 50.0,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> dict[str, object]:
    """Metrics of one label: `all`, `snr50` (S/N > snr_cut), `snr120` (S/N > 120) and `bins` in S/N.

    Arguments:
        truth, mean, std: label, prediction and the head's error, (n,), in the label's unit; NaN is missing.
        snr: signal-to-noise ratio of the input of each object, (n,); without it only `all` has objects.
        bound: Cramér–Rao σ, (n,), in the label's unit.
        snr_cut: where `snr50` begins.
        replicates, seed: of the bootstrap; bins get a quarter of the replicates.

    Returns:
        `{"all": {...}, "snr50": {...}, "snr120": {...}, "bins": [{"low", "high", ...}, ...]}`, each set as
        `residual_metrics`; the last bin's `high` is None.
    """
    truth = np.asarray(truth, np.float64)
    ratio = np.full(truth.shape, np.nan) if snr is None else np.asarray(snr, np.float64)

    def over(
        keep: NDArray[np.bool_], count: int, std: ArrayLike | None = std
    ) -> dict[str, float | int | None]:
        cut = [None if a is None else np.asarray(a, np.float64)[keep] for a in (mean, bound, std)]
        return residual_metrics(truth[keep], cut[0], cut[1], cut[2], replicates=count, seed=seed)  # type: ignore[arg-type]

    bins = []
    for low, high in itertools.pairwise(SNR_BINS):
        keep = (ratio > low) & (ratio <= high)
        if keep.any():
            edge = None if np.isinf(high) else high
            bins.append({"low": low, "high": edge, **over(keep, replicates // 4, None)})
    everything = over(np.ones(truth.shape, bool), replicates)
    return {
        "all": everything,
        "snr50": over(ratio > snr_cut, replicates),
        "snr120": over(ratio > 120, replicates),
        "bins": bins,
    }
