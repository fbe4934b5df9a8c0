"""Gaia XP in every format of the archive, against the calibrated spectra that GaiaXPy's authors publish."""

import numpy as np
import pytest

from astroclip_train.data.readers import gaia_calibration, gaia_xp, tables
from astroclip_train.errors import DataError

CONTINUOUS = [
    "XP_CONTINUOUS_RAW.csv",
    "XP_CONTINUOUS_RAW.ecsv",
    "XP_CONTINUOUS_RAW.fits",
    "XP_CONTINUOUS_RAW.xml",
]
SAMPLED = [
    "XP_SAMPLED_RAW_dr3int6.csv",
    "XP_SAMPLED_RAW_dr3int6.ecsv",
    "XP_SAMPLED_RAW_dr3int6.fits",
    "XP_SAMPLED_RAW_votable_dr3int6.xml",
]


def one(path):
    batches = list(gaia_xp.read(path))
    assert len(batches) == 1
    return batches[0]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_coefficients_calibrate_to_the_published_spectra(real_files, name):
    pytest.importorskip("gaiaxpy")
    batch = one(real_files / "gaia_xp" / name)
    expected = one(real_files / "gaia_xp" / "calibrator.csv")
    assert list(batch.source_id) == ["5853498713190525696", "5762406957886626816"]
    spectra = gaia_calibration.calibrate(batch)
    np.testing.assert_allclose(spectra.flux, expected.flux, rtol=1e-5, atol=1e-21)
    np.testing.assert_allclose(spectra.sigma, expected.error, rtol=1e-5)
    assert spectra.mask.all()


def test_factor_gives_back_the_covariance(real_files):
    pytest.importorskip("gaiaxpy")
    batch = one(real_files / "gaia_xp" / "XP_CONTINUOUS_RAW.csv")
    factor = gaia_calibration.calibrate(batch).factor
    covariance = factor @ factor.transpose(0, 2, 1)
    np.testing.assert_allclose(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), batch.error, rtol=1e-6)
    block = covariance[0, :55, :55] / np.outer(batch.error[0, :55], batch.error[0, :55])
    np.testing.assert_allclose(block, batch.correlation[0, 0], atol=1e-6)
    assert (covariance[:, :55, 55:] == 0).all()
    assert (np.triu(factor, 1) == 0).all()
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_spectra_are_the_same_in_every_format(real_files, name):
    batch = one(real_files / "gaia_xp" / name)
    expected = one(real_files / "gaia_xp" / SAMPLED[0])
    np.testing.assert_allclose(batch.flux, expected.flux, rtol=1e-6)
    np.testing.assert_allclose(batch.error, expected.error, rtol=1e-6)
    assert batch.flux.shape == (2, 343)
    assert np.isfinite(batch.ra).all()


def test_missing_bp_leaves_only_red_pixels_and_no_normaliser(real_files):
    pytest.importorskip("gaiaxpy")
    batch = one(real_files / "gaia_xp" / "XP_CONTINUOUS_RAW_with_missing_BP.csv")
    assert np.isnan(batch.coeff[1, :55]).all()
    assert np.isfinite(batch.coeff[1, 55:]).all()
    spectra = gaia_calibration.calibrate(batch)
    red = gaia_calibration.WAVE > 643
    assert not spectra.mask[1, ~red].any()
    assert spectra.mask[1, red].all()
    assert list(gaia_calibration.scale_to_reference(*spectra[:3])[1]) == [True, False, True]


def test_combined_table_equals_its_own_columns(real_files):
    from astropy.table import Table

    path = real_files / "gaia_xp" / "xp_coefficients_3stars.fits"
    batch, table = one(path), Table.read(path)
    assert batch.correlation is None
    np.testing.assert_array_equal(batch.coeff[:, 3], table["bp_coeff_3"])
    np.testing.assert_array_equal(batch.error[:, 58], table["e_rp_coeff_3"])


def test_datalink_form_with_one_row_per_wavelength(real_files, tmp_path):
    sampled = one(real_files / "gaia_xp" / SAMPLED[0])
    path = tmp_path / "XP_SAMPLED-Gaia DR3 5853498713190525696.csv"
    rows = zip(sampled.wave, sampled.flux[0], sampled.error[0], strict=True)
    path.write_text("wavelength,flux,flux_error\n" + "\n".join(f"{w},{f},{e}" for w, f, e in rows))
    batch = one(path)
    assert list(batch.source_id) == ["5853498713190525696"]
    np.testing.assert_array_equal(batch.flux[0], sampled.flux[0])


def test_faint_normaliser_is_not_significant():
    flux, mask = np.ones((3, 343)), np.ones((3, 343), dtype=bool)
    sigma = np.ones((3, 343)) * np.array([0.1, 0.5, 0.1])[:, None]
    flux[2] = -1
    reference, usable = gaia_calibration.scale_to_reference(flux, sigma, mask)
    assert list(usable) == [True, False, False]
    assert reference[0] == 1


def test_2000_real_sources(shared_data):
    pytest.importorskip("gaiaxpy")
    path = shared_data / "gaia_xp" / "xp_continuous_combined_chunk0.fits.gz"
    usable = [
        gaia_calibration.scale_to_reference(*gaia_calibration.calibrate(b)[:3])[1] for b in gaia_xp.read(path)
    ]
    assert [len(u) for u in usable] == [1024, 976]
    assert sum(u.sum() for u in usable) == 1999
    examples = shared_data / "gaia_xp" / "xp_continuous_combined_weiler2023_examples.vot.gz"
    assert one(examples).correlation is not None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "x,y\n1,2\n", "none of the columns"),
        ("a.csv", "", "empty"),
        ("a.csv", "source_id,flux,flux_error\n", "no rows"),
        ("a.csv", 'source_id,flux,flux_error\n7,"(1,2)","(1,2)"\n', "343"),
        ("a.csv", "source_id,flux\n1,2,3\n", "row 1 has 3 fields"),
        ("a.csv", "source_id,bp_coefficients\nabc,(1)\n", "not a sound"),
        ("a.xml", "<VOTABLE><broken", "damaged"),
        ("a.fits", "SIMPLE  = nonsense", "damaged"),
        ("a.pdf", "x", "suffix .pdf"),
        ("a.csv.gz", "not gzip", "damaged"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=said) as error:
        list(gaia_xp.read(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_cells():
    np.testing.assert_array_equal(tables.array_cell("[1.0, null, 3]"), [1, np.nan, 3])
    assert tables.array_cell("") is None
    assert tables.array_cell(np.ma.masked) is None
    assert np.isnan(tables.number_column(["1", "", "x"])[1:]).all()
    with pytest.raises(ValueError, match="2 values where 3"):
        tables.array_cell("(1, 2)", 3)
