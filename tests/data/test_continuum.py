"""The continuum on real files against a plain polyfit transcription of its definition."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.signal import medfilt

from astroclip_train.data.continuum import (
    fill_bad_pixels,
    fit_continuum,
    fit_polynomial,
    normalise_continuum,
)
from astroclip_train.data.readers import lamost
from astroclip_train.errors import DataError


def reference(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """The published fit with raw polynomials, and its Balmer index slip (`offset`) spelt out."""
    smooth = medfilt(flux, 7)
    cont = smooth.copy()
    blue, red = (wave >= 3700) & (wave <= 5700), wave > 6100
    w, y, offset = wave[blue] - 4700, smooth[blue].copy(), int((wave < 3700).sum())
    if wave[blue][np.argmax(np.polyval(np.polyfit(w, y, 5), w))] < 4500:
        clean = y.copy()
        for low, high in ((4030, 4160), (4270, 4410), (4800, 4940)):
            ends = [clean[np.where(np.abs(wave - e) <= 10)[0]].max() for e in (low, high)]
            inside = np.where((wave >= low) & (wave <= high))[0]
            y[inside] = np.interp(wave[inside], [low, high], ends)
        assert offset >= 0
    for _ in range(10):
        y = np.maximum(y, np.polyval(np.polyfit(w, y, 5), w))
    cont[blue] = np.polyval(np.polyfit(w, y, 5), w)
    w, y = wave[red] - 7500, smooth[red].copy()
    for _ in range(9):
        fit = np.polyval(np.polyfit(w, y, 4), w)
        y = np.where((y < fit) | (y > fit + 3 * np.std(y - fit)), fit, y)
    cont[red] = fit
    return cont


@pytest.mark.parametrize("name", ["spec-58575-HD103621N361936B01_sp03-050", "spec-55862-B6212_sp06-018"])
def test_published_continuum_of_a_cool_and_a_hot_star(real_files, name):
    spectrum = lamost.read(real_files / "lamost" / f"{name}.fits.gz")
    assert spectrum.wave[0] < 3700  # so that the index slip of the published code shows
    mine = fit_continuum(spectrum.wave, spectrum.flux[None], published=True)[0]
    expected = reference(spectrum.wave, spectrum.flux)
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_index_slip_shifts_balmer_bridges_only_in_published_mode(real_files):
    spectrum = lamost.read(real_files / "lamost" / "spec-55862-B6212_sp06-018.fits.gz")  # A4V
    inside = (spectrum.wave > 3999) & (spectrum.wave < 5600)
    ours = fit_continuum(spectrum.wave, spectrum.flux[None])[0]
    cropped = spectrum.wave >= 3700
    same = fit_continuum(spectrum.wave[cropped], spectrum.flux[None, cropped])[0]
    np.testing.assert_allclose(ours[cropped][10:], same[10:], rtol=2e-3)
    published = fit_continuum(spectrum.wave, spectrum.flux[None], published=True)[0]
    assert 0 < np.abs(published / ours - 1)[inside].max() < 0.05


def test_batch_equals_single_and_bad_pixels_do_not_matter(real_files):
    files = sorted((real_files / "lamost").glob("*.gz"))
    spectra = [lamost.read(f) for f in files if lamost.read(f).wave.size == 3909]
    wave = spectra[0].wave
    flux, ivar = (np.stack([getattr(s, a) for s in spectra]) for a in ("flux", "ivar"))
    mask = np.stack([s.mask for s in spectra])
    together = normalise_continuum(wave, flux, ivar, mask)
    alone = normalise_continuum(wave, flux[1:2], ivar[1:2], mask[1:2])
    np.testing.assert_allclose(together.flux[1], alone.flux[0], rtol=1e-10)
    spoiled, bad = flux.copy(), mask.copy()
    spoiled[0, 1000:1003], bad[0, 1000:1003] = np.nan, False
    other = normalise_continuum(wave, spoiled, ivar, bad)
    assert np.isfinite(other.flux).all()
    assert (other.ivar[0, 1000:1003] == 0).all()
    model = (wave > 3999.4) & (wave < 5599)
    assert np.abs(other.continuum[0] / together.continuum[0] - 1)[model].max() < 5e-3


def test_signal_to_noise_is_kept_and_the_level_is_one(real_files):
    spectrum = lamost.read(real_files / "lamost" / "spec-57287-KP193637N444141V03_sp10-161.fits.gz")
    done = normalise_continuum(spectrum.wave, spectrum.flux[None], spectrum.ivar[None], spectrum.mask[None])
    good = done.mask[0]
    before = (spectrum.flux * np.sqrt(spectrum.ivar))[good]
    np.testing.assert_allclose((done.flux[0] * np.sqrt(done.ivar[0]))[good], before, rtol=1e-9)
    blue = good & (spectrum.wave > 4000) & (spectrum.wave < 5600)
    assert 0.9 < np.median(done.flux[0, blue]) < 1.02
    assert np.quantile(done.flux[0, blue], 0.99) < 1.08


def test_twice_is_an_error():
    with pytest.raises(DataError, match="already divided by their continuum"):
        normalise_continuum(np.linspace(4000, 5600, 500), np.ones((1, 500)), applied=("continuum",))


def test_nonpositive_continuum_gives_no_weight():
    wave = 10 ** (3.57 + 1e-4 * np.arange(2000))
    flux = np.where(wave < 4500, 1.0, -1.0)[None] + 0.0
    done = normalise_continuum(wave, flux, np.ones_like(flux))
    assert not done.mask.all()
    assert (done.ivar[~done.mask] == 0).all()
    assert np.isfinite(done.flux).all()


def test_rows_without_a_good_pixel_stay_finite():
    wave = np.linspace(3700, 5700, 1500)
    done = normalise_continuum(wave, np.full((2, 1500), np.nan), np.zeros((2, 1500)))
    assert not done.mask.any()
    assert np.isfinite(done.flux).all()


def test_fill_is_linear_between_good_neighbours():
    flux = np.array([[np.nan, 2.0, 99.0, 6.0, 99.0]])
    good = np.array([[False, True, False, True, False]])
    np.testing.assert_array_equal(fill_bad_pixels(flux, good), [[2, 2, 4, 6, 6]])


def test_polynomial_is_that_of_the_mock_stars():
    torch = pytest.importorskip("torch")
    from astroclip_train.data.mock.lrs import LinearContinuum

    rng = np.random.default_rng(0)
    wave = 10 ** (3.602 + 1e-4 * np.arange(1462))
    flux = rng.normal(1.0, 0.1, (3, 1462)) * (wave / 5000) ** 2
    mask = rng.random((3, 1462)) > 0.1
    mock = LinearContinuum(wave)
    np.testing.assert_allclose(fit_polynomial(wave, flux), mock.fit(torch.from_numpy(flux)), rtol=1e-10)
    weighted = mock.fit(torch.from_numpy(flux), torch.from_numpy(mask.astype(float)))
    spoiled = np.where(mask, flux, np.nan)
    np.testing.assert_allclose(fit_polynomial(wave, spoiled, mask), weighted, rtol=1e-9)


def test_lines_of_a_real_hot_star_lie_in_vacuum(real_files):
    """Hβ and Hγ minima at their vacuum wavelengths, Doppler-shifted by the header's redshift."""
    path = real_files / "lamost" / "spec-55862-B6212_sp06-018.fits.gz"
    spectrum, z = lamost.read(path), fits.getheader(path)["Z"]
    flux = normalise_continuum(spectrum.wave, spectrum.flux[None], None, spectrum.mask[None]).flux[0]
    for line in (4862.68, 4341.68):
        near = np.abs(spectrum.wave - line * (1 + z)) < 25
        depth = np.clip(0.95 - flux[near], 0, None)
        assert abs((spectrum.wave[near] * depth).sum() / depth.sum() / (1 + z) - line) < 1.0
