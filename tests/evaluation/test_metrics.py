"""Robust metrics against few-line references, edge cases, and the bootstrap against known errors."""

import numpy as np
import pytest
from astropy.stats import biweight_scale as astropy_biweight

from astroclip_train.evaluation.metrics import (
    biweight_scale,
    bootstrap_error,
    label_metrics,
    median_absolute_deviation,
    outlier_fraction,
    r_squared,
    residual_metrics,
)


def reference(y: np.ndarray) -> float:
    m = np.median(y)
    mad = np.median(abs(y - m)) / 0.6745
    if mad == 0:
        mad = np.mean(abs(y - m)) / 0.8
    t = (y - m) / (6 * mad)
    k = abs(t) <= 1
    d = np.sum((1 - t[k] ** 2) * (1 - 5 * t[k] ** 2))
    return np.sqrt(len(y) * np.sum((y[k] - m) ** 2 * (1 - t[k] ** 2) ** 4) / (d * (d - 1)))


@pytest.fixture
def tailed() -> np.ndarray:
    return 40 * np.random.default_rng(3).standard_t(2, size=501) + 7


def test_biweight_against_reference_and_golden(tailed):
    assert biweight_scale(tailed) == pytest.approx(reference(tailed), rel=1e-12)
    assert biweight_scale([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx(1.68144, rel=1e-5)  # by hand


def test_biweight_against_astropy_up_to_its_denominator(tailed):
    y = tailed
    t = (y - np.median(y)) / (6 * np.median(abs(y - np.median(y))) / 0.6745)
    k = abs(t) <= 1
    d = np.sum((1 - t[k] ** 2) * (1 - 5 * t[k] ** 2))
    # astropy divides by D^2, this formula by D (D - 1)
    expected = astropy_biweight(y, c=6 / 0.6745) * np.sqrt(d / (d - 1))
    assert biweight_scale(y) == pytest.approx(expected, rel=1e-12)


def test_biweight_is_sigma_of_a_gaussian_and_ignores_outliers():
    y = np.random.default_rng(0).normal(0, 3.0, 100_000)
    assert biweight_scale(y) == pytest.approx(3.0, rel=0.01)
    y[:2000] = 1e6
    assert biweight_scale(y) == pytest.approx(3.0, rel=0.03)


def test_biweight_edges():
    assert biweight_scale(np.full(20, 5.0)) == 0.0
    mostly_equal = np.r_[np.zeros(15), 1.0, 2.0, -1.0]
    assert biweight_scale(mostly_equal) == pytest.approx(reference(mostly_equal))
    assert np.isnan(biweight_scale([1.0, 2.0]))
    assert np.isnan(biweight_scale([]))
    with_gaps = np.array([1.0, np.nan, 2.0, 3.0, np.inf, 4.0, 7.0])
    assert biweight_scale(with_gaps) == pytest.approx(reference(np.array([1.0, 2.0, 3.0, 4.0, 7.0])))


def test_biweight_along_an_axis(tailed):
    y = tailed[:500].reshape(100, 5)
    expected = [reference(column) for column in y.T]
    assert biweight_scale(y, axis=0) == pytest.approx(expected)
    y[3, 1] = np.nan
    assert biweight_scale(y, axis=0)[1] == pytest.approx(reference(np.delete(y[:, 1], 3)))


def test_simple_metrics():
    y = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert median_absolute_deviation(y) == pytest.approx(1 / 0.6745)
    assert r_squared(y, y) == 1.0
    assert r_squared(y, np.full(5, 2.0)) == pytest.approx(0.0)
    assert np.isnan(r_squared(np.ones(5), y))
    noisy = np.r_[np.random.default_rng(0).normal(size=990), np.full(10, 50.0)]
    assert outlier_fraction(noisy) == pytest.approx(0.01)


def test_bootstrap_error_of_a_mean_and_of_a_large_sample():
    y = np.random.default_rng(1).normal(0, 2.0, 800)
    assert bootstrap_error(lambda a: a.mean(-1), y) == pytest.approx(y.std() / np.sqrt(800), rel=0.15)
    large = np.random.default_rng(1).normal(0, 2.0, 50_000)
    assert bootstrap_error(lambda a: a.mean(-1), large) == pytest.approx(2.0 / np.sqrt(50_000), rel=0.15)
    assert bootstrap_error(lambda a: a.mean(-1), y) == bootstrap_error(lambda a: a.mean(-1), y)


def test_sigma_error_has_the_gaussian_size():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=2000)
    found = residual_metrics(truth, truth + 0.1 * rng.normal(size=2000), replicates=400)
    # the biweight is nearly efficient: error of σ is σ / sqrt(2 n)
    assert found["sigma_err"] == pytest.approx(0.1 / np.sqrt(4000), rel=0.25)
    assert found["bias_err"] == pytest.approx(0.1 * np.sqrt(np.pi / 2 / 2000), rel=0.25)


def test_label_metrics_subsets_and_pull():
    rng = np.random.default_rng(4)
    n = 3000
    truth, snr = rng.normal(size=n), rng.uniform(5, 250, n)
    bound = 5 / snr
    found = label_metrics(truth, truth + 0.02 + 1.5 * bound * rng.normal(size=n), 2 * bound, snr, bound)
    assert found["all"]["n"] == n
    assert found["snr50"]["n"] == (snr > 50).sum()
    assert found["snr120"]["n"] == (snr > 120).sum()
    assert sum(b["n"] for b in found["bins"]) == n
    assert found["bins"][-1]["high"] is None
    for part in (found["all"], found["snr50"]):
        assert part["pull_sigma"] == pytest.approx(1.5, rel=0.1)
        assert part["std_pull"] == pytest.approx(0.75, rel=0.1)
        assert part["bias"] == pytest.approx(0.02, abs=0.01)
        assert all(
            part[f"{key}_err"] > 0 for key in ("bias", "sigma", "mad", "r2", "pull_sigma", "pull_bias")
        )


def test_missing_labels_predictions_and_few_objects():
    truth, mean = np.arange(40.0), np.arange(40.0) + 0.5 * np.sin(np.arange(40.0))
    truth[:5] = np.nan
    mean[5:8] = np.nan
    found = residual_metrics(truth, mean)
    assert (found["n"], found["nonfinite"]) == (32, 3)
    assert found["sigma"] > 0
    assert found["pull_sigma"] is None
    few = residual_metrics(truth[:12], mean[:12])
    assert few["n"] == 4
    assert few["sigma"] is None
    assert few["sigma_err"] is None
    nothing = label_metrics(np.full(5, np.nan), np.zeros(5))
    assert nothing["all"]["n"] == 0
    assert nothing["bins"] == []


def test_bad_bounds_are_left_out_of_the_pull():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    bound = np.full(200, 0.1)
    mean = truth + bound * rng.normal(size=200)
    clean = residual_metrics(truth[50:], mean[50:], bound[50:])["pull_sigma"]
    bound[:50] = [0.0, np.nan] * 25
    assert residual_metrics(truth, mean, bound)["pull_sigma"] == pytest.approx(clean)
