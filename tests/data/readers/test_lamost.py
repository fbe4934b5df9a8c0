"""LAMOST files of all releases, and damaged ones."""

import gzip
import math

import numpy as np
import pytest
from astropy.io import fits

from astroclip_train.data.grids import LRS_GRID
from astroclip_train.data.readers import lamost
from astroclip_train.data.readers.spectrum import air_to_vacuum
from astroclip_train.errors import DataError

DR7 = "spec-58575-HD103621N361936B01_sp03-050.fits.gz"
DR1 = "spec-55862-B6212_sp06-003.fits.gz"


def test_dr7_image(real_files):
    path = real_files / "lamost" / DR7
    spectrum = lamost.read(path)
    raw = fits.getdata(path).astype(float)
    header = fits.getheader(path)
    assert spectrum.obs_id == "740103050"
    assert (spectrum.frame, spectrum.medium, spectrum.release) == ("heliocentric", "vacuum", "LAMOST DR7")
    assert spectrum.snr["g"] == pytest.approx(28.03)
    assert spectrum.labels["rv"] == pytest.approx(299792.458 * header["Z"])
    np.testing.assert_array_equal(spectrum.flux, raw[0])
    bad = (raw[1] <= 0) | (raw[0] == 0) | (raw[3] != 0)
    np.testing.assert_array_equal(spectrum.mask, ~bad)
    assert (spectrum.ivar[~spectrum.mask] == 0).all()


def test_native_pixels_fall_on_the_models_grid(real_files):
    wave = lamost.read(real_files / "lamost" / DR7).wave
    first = int(np.argmin(np.abs(wave - LRS_GRID.wave()[0])))
    np.testing.assert_allclose(wave[first : first + 1462], LRS_GRID.wave(), rtol=1e-9)


def test_dr1_takes_wavelengths_from_the_header_and_names_the_observation(real_files):
    spectrum = lamost.read(real_files / "lamost" / DR1)
    np.testing.assert_allclose(np.log10(spectrum.wave[[0, -1]]), [3.5682, 3.5682 + 0.3903], atol=1e-9)
    assert spectrum.obs_id == "55862-B6212_sp06-003"
    assert spectrum.snr["g"] == pytest.approx(71.41)
    assert spectrum.designation.startswith("LAMOST J063715")


def test_overflowed_obsid_is_not_used(real_files):
    path = real_files / "lamost" / "spec-55939-GAC_061N46_V3_sp07-078.fits.gz"
    assert fits.getheader(path)["OBSID"] < 0
    assert lamost.read(path).obs_id == "55939-GAC_061N46_V3_sp07-078"


def test_strict_mask_refuses_more(real_files):
    path = real_files / "lamost" / "spec-55939-GAC_061N46_V3_sp07-078.fits.gz"
    loose, strict = lamost.read(path), lamost.read(path, strict_mask=True)
    assert strict.mask.sum() < loose.mask.sum()


def test_every_file_at_hand_is_read(shared_data):
    files = lamost.find_files([shared_data / "lamost_files"])
    spectra = [lamost.read(f) for f in files]
    assert len(spectra) == 27
    assert {len(s.wave) for s in spectra} == {3894, 3897, 3904, 3909}
    assert len({s.obs_id for s in spectra}) == 27
    for s in spectra:
        assert s.mask.mean() > 0.8
        assert s.frame == "heliocentric"
        assert math.isfinite(s.ra)
        assert math.isfinite(s.dec)
        assert (np.diff(s.wave) > 0).all()
    dr10 = next(s for s in spectra if s.obs_id == "949511177")
    assert dr10.gaia_source_id == "3872221881327708672"
    assert dr10.release == "LAMOST DR10"


def test_dr10_table_equals_an_image_of_the_same_numbers(real_files, tmp_path):
    old = real_files / "lamost" / DR7
    raw, header = fits.getdata(old), fits.getheader(old)
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
    columns = [fits.Column(n, f"{raw.shape[1]}E", array=row[None]) for n, row in zip(names, raw, strict=True)]
    primary = fits.PrimaryHDU()
    primary.header.update(
        {k: header[k] for k in ("OBSID", "RA", "DEC", "Z", "CLASS", "SNRG", "HELIO", "VACUUM")}
    )
    new = tmp_path / "new.fits"
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="COADD")]).writeto(new)
    a, b = lamost.read(old), lamost.read(new)
    np.testing.assert_array_equal(a.flux, b.flux)
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_allclose(a.wave, b.wave, rtol=2e-6)
    assert a.obs_id == b.obs_id


def _damaged(real_files, tmp_path, kind):
    whole = (real_files / "lamost" / DR7).read_bytes()
    plain = gzip.decompress(whole)
    name = "x.fits" if kind in ("short", "text", "header only") else "x.fits.gz"
    content = {
        "truncated gzip": whole[: len(whole) // 2],
        "zero bytes": b"",
        "text": b"not a FITS file\n" * 50,
        "plain bytes called gz": b"hello" * 1000,
        "short": plain[: len(plain) // 2],
        "header only": plain[: 2880 * 4],
        "flipped": whole[:20000] + bytes(b ^ 255 for b in whole[20000:20100]) + whole[20100:],
    }[kind]
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    ["truncated gzip", "zero bytes", "text", "plain bytes called gz", "short", "header only", "flipped"],
)
def test_damaged_files_are_one_sentence(real_files, tmp_path, kind):
    path = _damaged(real_files, tmp_path, kind)
    with pytest.raises(DataError) as error:
        lamost.read(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 400


def test_other_fits_is_refused_by_name(real_files, tmp_path):
    with pytest.raises(DataError, match="no column FLUX"):
        lamost.read(real_files / "gaia_xp" / "xp_coefficients_3stars.fits")
    image = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((50, 200))).writeto(image)
    with pytest.raises(DataError, match="expected 5 rows"):
        lamost.read(image)
    fits.setval(image, "TELESCOP", value="SDSS 2.5-M")
    with pytest.raises(DataError, match=r"SDSS 2.5-M, not from LAMOST.*convert table"):
        lamost.read(image)
    with pytest.raises(DataError, match="does not exist"):
        lamost.read(tmp_path / "none.fits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No FITS files"):
        lamost.find_files([tmp_path / "empty"])


def test_air_wavelengths_of_known_lines():
    # air and vacuum wavelengths of Hα, Hβ, Ca II K and Na D2 from the NIST tables
    air = np.array([6562.79, 4861.35, 3933.66, 5889.95])
    vacuum = np.array([6564.60, 4862.71, 3934.77, 5891.58])
    np.testing.assert_allclose(air_to_vacuum(air), vacuum, atol=0.02)
