"""Residuals of translated spectra: known noise gives χ² of one, bad pixels never count."""

import numpy as np
import pytest

from astroclip_train.evaluation.translation import object_chi2, pixel_residuals, translation_metrics


@pytest.fixture
def spectra() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = 1 + 0.2 * np.sin(np.arange(200) / 9) * rng.normal(size=(150, 1))
    return clean + 0.05 * rng.normal(size=clean.shape), clean


def test_known_noise(spectra):
    truth, prediction = spectra
    found = translation_metrics(truth, prediction, np.full(truth.shape, 0.05**-2))
    assert found["n"] == 150
    assert found["rmse"] == pytest.approx(0.05, rel=0.02)
    assert found["chi2"] == pytest.approx(1.0, abs=0.05)
    assert found["rmse_baseline"] == pytest.approx(truth.std(0).mean(), rel=0.1)
    assert found["rmse_err"] == pytest.approx(0.05 / np.sqrt(2 * truth.size), rel=0.4)


def test_bad_pixels_never_count(spectra):
    truth, prediction = spectra
    mask = np.ones(truth.shape, bool)
    mask[:, :50] = False
    broken = np.where(mask, truth, 1e6)
    broken[0, 100] = np.nan
    ivar = np.full(truth.shape, 400.0)
    ivar[:, 60] = 0.0
    found = translation_metrics(broken, prediction, ivar, mask)
    assert found["rmse"] == pytest.approx(0.05, rel=0.03)
    direct = (400 * (truth - prediction)[1, 50:] ** 2)[np.arange(150) != 10].mean()
    assert object_chi2(broken, prediction, ivar, mask)[1] == pytest.approx(direct)
    low, middle, high = pixel_residuals(broken, prediction, mask)
    assert np.isnan(middle[:50]).all()
    assert (low[50:] < high[50:]).all()
    assert np.abs(middle[50:]).max() < 0.03


def test_objects_without_pixels_and_without_ivar(spectra):
    truth, prediction = spectra
    mask = np.ones(truth.shape, bool)
    mask[:100] = False
    found = translation_metrics(truth, prediction, None, mask)
    assert found["n"] == 50
    assert found["chi2"] is None
    nothing = translation_metrics(truth, prediction, None, np.zeros(truth.shape, bool))
    assert nothing["n"] == 0
    assert nothing["rmse"] is None


def test_the_baseline_is_that_of_good_pixels(spectra):
    truth, _ = spectra
    mask = np.ones(truth.shape, bool)
    mask[:, :80] = False
    spread = truth[:, 80:] - truth[:, 80:].mean(0)
    found = translation_metrics(truth, np.zeros_like(truth), None, mask)
    assert found["rmse_baseline"] == pytest.approx(np.sqrt(np.mean(spread**2)))
