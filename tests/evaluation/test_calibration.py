"""Calibrated Gaussians pass, wrong widths and offsets are seen for what they are."""

import numpy as np
import pytest
from scipy.stats import norm

from astroclip_train.evaluation.calibration import (
    QUANTILES,
    calibration_metrics,
    coverage,
    expected_calibration_error,
    gaussian_nll,
    gaussian_pit,
    sample_pit,
    sample_quantiles,
)


@pytest.fixture(scope="module")
def posterior() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2, (3000, 2))
    mean = rng.normal(size=(3000, 2))
    return mean + std * rng.normal(size=(3000, 2)), mean, std


def test_samples_and_gaussian_agree(posterior):
    truth, mean, std = (x[:400] for x in posterior)
    samples = mean[:, None] + std[:, None] * np.random.default_rng(1).normal(size=(400, 800, 2))
    assert np.abs(sample_pit(samples, truth) - gaussian_pit(truth, mean, std)).max() < 0.08
    found = sample_quantiles(samples)
    expected = mean[..., None] + std[..., None] * norm.ppf(QUANTILES)
    assert found.shape == (400, 2, 5)
    assert np.abs((found - expected) / std[..., None]).max() < 0.5
    assert gaussian_nll(truth, mean, std) == pytest.approx(-norm.logpdf(truth, mean, std))


def test_pit_stays_inside_the_unit_interval_and_knows_missing():
    samples = np.zeros((2, 10, 1))
    found = sample_pit(samples, np.array([[1.0], [np.nan]]))
    assert 0 < found[0, 0] < 1
    assert np.isnan(found[1, 0])


def test_coverage_and_calibration_error(posterior):
    truth, mean, std = posterior
    good, narrow = gaussian_pit(truth, mean, std), gaussian_pit(truth, mean, std / 2)
    assert coverage(good, 0.68) == pytest.approx(0.68, abs=0.015)
    assert coverage(good, 0.95) == pytest.approx(0.95, abs=0.01)
    assert coverage(narrow, 0.68) == pytest.approx(2 * norm.cdf(0.5 * norm.ppf(0.84)) - 1, abs=0.02)
    assert expected_calibration_error(good) < 0.02
    assert expected_calibration_error(narrow) > 0.15
    assert np.isnan(coverage([np.nan], 0.68))


@pytest.mark.parametrize("form", ["quantiles", "pit", "std"])
def test_every_form_of_error_gives_the_same_coverage(posterior, form):
    truth, mean, std = posterior
    given = {
        "quantiles": {"quantiles": mean[..., None] + std[..., None] * norm.ppf(QUANTILES)},
        "pit": {"pit": gaussian_pit(truth, mean, std)},
        "std": {"mean": mean, "std": std},
    }[form]
    found = calibration_metrics(["a", "b"], truth, **given)
    assert found is not None
    expected = np.mean(np.abs(truth - mean) / std <= norm.ppf(0.84))
    assert found["coverage68"] == pytest.approx(expected, abs=2e-3)
    assert found["coverage68_err"] == pytest.approx(np.sqrt(0.68 * 0.32 / 6000), rel=0.15)
    assert set(found["labels"]) == {"a", "b"}
    assert found["labels"]["a"]["n"] == 3000


def test_likelihood_is_joint_or_summed(posterior):
    truth, mean, std = posterior
    summed = calibration_metrics(["a", "b"], truth, mean, std)
    joint = calibration_metrics(["a", "b"], truth, mean, std, log_prob=np.full(3000, -4.0))
    assert summed is not None
    assert joint is not None
    expected = -norm.logpdf(truth, mean, std)
    assert summed["nll"] == pytest.approx(expected.sum(1).mean())
    assert summed["labels"]["b"]["nll"] == pytest.approx(expected[:, 1].mean())
    assert joint["nll"] == pytest.approx(4.0)
    assert joint["labels"]["b"]["nll"] is None
    density = np.full(3000, -4.0)
    density[:7] = -np.inf
    joint = calibration_metrics(["a", "b"], truth, mean, std, log_prob=density)
    assert joint is not None
    assert (joint["nll"], joint["outside"]) == (pytest.approx(4.0), 7)


def test_missing_truths_do_not_count_and_heads_without_errors_have_none(posterior):
    truth, mean, std = (x.copy() for x in posterior)
    truth[:1000, 0] = np.nan
    truth[:500, 1] = np.nan
    found = calibration_metrics(["a", "b"], truth, mean, std)
    assert found is not None
    assert (found["n"], found["labels"]["a"]["n"]) == (2500, 2000)
    assert found["coverage68"] == pytest.approx(0.68, abs=0.02)
    assert calibration_metrics(["a", "b"], truth, mean) is None
    nothing = calibration_metrics(["a", "b"], np.full((5, 2), np.nan), mean[:5], std[:5])
    assert nothing is not None
    assert nothing["n"] == 0
    assert nothing["coverage68"] is None
