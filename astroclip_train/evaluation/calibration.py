"""Whether reported errors are true: coverage, probability integral transform, likelihood."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

__all__ = [
    "QUANTILES",
    "calibration_metrics",
    "coverage",
    "expected_calibration_error",
    "gaussian_nll",
    "gaussian_pit",
    "sample_pit",
    "sample_quantiles",
]

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
LEVELS = {"coverage68": 0.68, "coverage95": 0.95}

Array = NDArray[np.float64]


def _f64(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def sample_quantiles(samples: ArrayLike) -> Array:
    """The quantiles `QUANTILES` of posterior samples (n, s, k) -> (n, k, 5), as predictions store them."""
    return np.moveaxis(np.quantile(_f64(samples), QUANTILES, axis=1), 0, -1)


def sample_pit(samples: ArrayLike, truth: ArrayLike) -> Array:
    """The probability integral transform: the fraction of samples (n, s, k) below the truth (n, k) -> (n, k).

    Half a count is added on either side, so that the transform stays inside (0, 1). NaN where the truth
    is missing. It is uniform for a calibrated posterior (Dawid 1984).
    """
    s, t = _f64(samples), _f64(truth)
    below = (s < t[:, None, :]).sum(1) + 0.5 * (s == t[:, None, :]).sum(1)
    return np.where(np.isfinite(t), (below + 0.5) / (s.shape[1] + 1.0), np.nan)


def gaussian_pit(truth: ArrayLike, mean: ArrayLike, std: ArrayLike) -> Array:
    """The probability integral transform of a Gaussian prediction, any shape; NaN where missing."""
    t, m, s = _f64(truth), _f64(mean), _f64(std)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(s > 0, ndtr((t - m) / s), np.nan)


def gaussian_nll(truth: ArrayLike, mean: ArrayLike, std: ArrayLike) -> Array:
    """The negative log density of a Gaussian prediction in nats, per the label's unit; NaN if missing."""
    t, m, s = _f64(truth), _f64(mean), _f64(std)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 0.5 * np.square((t - m) / s) + np.log(s) + 0.5 * np.log(2 * np.pi)


def coverage(pit: ArrayLike, level: float) -> float:
    """The fraction of truths inside the central interval of probability `level`; NaN if there is none."""
    ranks = _f64(pit)
    ranks = ranks[np.isfinite(ranks)]
    return float(np.mean(np.abs(ranks - 0.5) <= level / 2)) if ranks.size else float("nan")


def expected_calibration_error(pit: ArrayLike) -> float:
    """The mean |coverage - level| over all central levels from 0 to 1: 0 is calibrated, 0.5 the worst."""
    ranks = _f64(pit)
    inside = np.sort(2 * np.abs(ranks[np.isfinite(ranks)] - 0.5))
    if not inside.size:
        return float("nan")
    levels = (np.arange(inside.size) + 0.5) / inside.size
    return float(np.mean(np.abs(levels - inside)))


def _in_quantiles(truth: Array, quantiles: Array) -> dict[str, Array]:
    """1 or 0 for each object and label in the stored intervals, NaN where the truth is missing."""
    low95, low68, _, high68, high95 = np.moveaxis(quantiles, -1, 0)
    return {
        name: np.where(np.isfinite(truth), ((truth >= low) & (truth <= high)).astype(float), np.nan)
        for name, low, high in (("coverage68", low68, high68), ("coverage95", low95, high95))
    }


def _from_pit(pit: Array) -> dict[str, Array]:
    return {
        name: np.where(np.isfinite(pit), (np.abs(pit - 0.5) <= level / 2).astype(float), np.nan)
        for name, level in LEVELS.items()
    }


def _mean(values: Array) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _error(values: Array) -> float | None:
    """Standard error of a mean over objects, whose own labels are not independent and averaged first."""
    per_object = np.nanmean(values[np.isfinite(values).any(1)], axis=1)
    return float(per_object.std(ddof=1) / np.sqrt(per_object.size)) if per_object.size > 1 else None


def calibration_metrics(
    labels: list[str],
    truth: ArrayLike,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    quantiles: ArrayLike | None = None,
    pit: ArrayLike | None = None,
    log_prob: ArrayLike | None = None,
) -> dict[str, Any] | None:
    """Coverage at 68 and 95 %, calibration error and negative log likelihood of one head's errors.

    Stored posterior quantiles are used if given, else the transform `pit`, else a Gaussian of mean and std.

    Arguments:
        labels: k names.
        truth, mean, std, pit: (n, k), NaN where missing.
        quantiles: posterior quantiles at `QUANTILES`, (n, k, 5).
        log_prob: joint log density of the true labels, (n,), nats.

    Returns:
        `n, coverage68, coverage95` with `_err`, `ece, nll, nll_err` over all labels and `labels.<label>` with
        the same for each; None if the head reports no errors. The overall `nll` is that of the joint density
        where `log_prob` is given, else the sum over labels of Gaussian ones.
    """
    t = _f64(truth)
    gauss = None
    if mean is not None and std is not None:
        gauss = gaussian_nll(t, mean, std)
        gauss[~np.isfinite(gauss)] = np.nan
        pit = gaussian_pit(t, mean, std) if pit is None else pit
    ranks = None if pit is None else _f64(pit)
    if quantiles is not None:
        inside = _in_quantiles(t, _f64(quantiles))
    elif ranks is not None:
        inside = _from_pit(ranks)
    else:
        return None
    joint: Array | None = None
    if log_prob is not None:
        joint = -_f64(log_prob)
        gauss = None  # a joint density says nothing about one label alone
    elif gauss is not None:
        joint = np.where(np.isfinite(gauss).any(1), np.nansum(gauss, axis=1), np.nan)
    result = _summary(inside, ranks, joint)
    result["labels"] = {
        label: _summary(
            {name: value[:, [j]] for name, value in inside.items()},
            None if ranks is None else ranks[:, [j]],
            None if gauss is None else gauss[:, j],
        )
        for j, label in enumerate(labels)
    }
    return result


def _summary(inside: dict[str, Array], ranks: Array | None, nll: Array | None) -> dict[str, Any]:
    out: dict[str, Any] = {"n": int(np.isfinite(inside["coverage68"]).any(1).sum())}
    for name, value in inside.items():
        out |= {name: _mean(value), f"{name}_err": _error(value)}
    ece = np.nan if ranks is None else expected_calibration_error(ranks)
    out["ece"] = min(float(ece), 0.5) if np.isfinite(ece) else None  # 0.5 but for rounding
    if nll is not None:  # a truth to which the posterior gives no density at all
        out["outside"] = int(np.isposinf(nll).sum())
    out |= (
        {"nll": None, "nll_err": None}
        if nll is None
        else {"nll": _mean(nll), "nll_err": _error(nll[:, None])}
    )
    return out
