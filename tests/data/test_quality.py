"""Bad pixels and bad objects."""

import numpy as np
import pytest
from toy_stores import info, spectra

from astroclip_train.data.quality import REASONS, assess, clean, median_snr


def test_reasons():
    flux, ivar = spectra(6)
    mask = np.ones_like(flux, dtype=bool)
    mask[1, :21] = False
    flux[2] = np.nan
    flux[3] = 1.0
    flux[4] *= 1e-3  # 0.001 ± 0.1 in each of 40 pixels
    reason = assess(flux, ivar, mask, info())
    assert [REASONS[i].split()[0] for i in reason] == ["good", "fewer", "fewer", "its", "its", "good"]
    assert reason[3] == 3
    assert reason[4] == 2


def test_half_of_the_pixels_is_enough_and_negative_pixels_are_data():
    flux, ivar = spectra(1)
    flux[0, :5] = -1.0
    ivar[0, 20:] = 0
    assert assess(flux, ivar, None, info())[0] == 0


def test_centred_flux_has_no_sign_to_check():
    flux, ivar = spectra(3)
    centred = flux - 1
    assert (assess(centred, ivar, None, info(normalisation=("standardised",))) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clean_gives_zero_weight_and_finite_values(bad):
    flux, ivar = spectra(3)
    flux[0, 5] = bad
    ivar[1, 7] = bad
    ivar[2, 9] = -1
    flux, ivar, mask = clean(flux, ivar, None, info())
    assert np.isfinite(flux).all()
    assert np.isfinite(ivar).all()
    assert (~mask).sum() == 3
    assert ivar[~mask].tolist() == [0, 0, 0]
    assert flux[~mask].tolist() == [1, 1, 1]  # the continuum


def test_fill_is_a_line_between_good_pixels_where_flux_is_not_normalised():
    flux = np.array([[np.nan, 2.0, np.nan, np.nan, 8.0, np.nan], [np.nan] * 6], dtype=np.float32)
    filled, _, mask = clean(flux, None, None, info(normalisation=()))
    np.testing.assert_allclose(filled[0], [2, 2, 4, 6, 8, 8], rtol=1e-6)
    assert filled[1].tolist() == [0] * 6
    assert mask.sum() == 2


def test_median_snr_matches_numpy_over_good_pixels():
    flux, ivar = spectra(4)
    mask = np.random.default_rng(1).random(flux.shape) > 0.3
    mask[3] = False
    expected = [np.median(flux[i, mask[i]] * 10) for i in range(3)]
    found = median_snr(flux, ivar, mask)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert np.isnan(found[3])
