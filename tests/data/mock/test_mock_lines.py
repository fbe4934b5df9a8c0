"""Line wavelengths of the mock against a real LAMOST spectrum, and strengths against known trends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from astroclip_train.data.mock import LRS, UNITS, XP, MockStars, model_spectrum, simulate
from astroclip_train.data.mock.extinction import extinction_curve
from astroclip_train.data.mock.lines import ELEMENTS, HYDROGEN, LINE_LISTS, line_list
from astroclip_train.errors import ConfigError

FILE = Path(__file__).parent / "files" / "spec-58575-HD103621N361936B01_sp03-086.fits.gz"
LIGHT = 299792.458


def real_star() -> tuple[np.ndarray, np.ndarray, float]:
    with fits.open(FILE) as hdus:
        flux, _, wave = hdus[0].data[:3].astype(float)
        return wave, flux, float(hdus[0].header["Z"])


def line_offset(wave: np.ndarray, flux: np.ndarray, centre: float) -> float:
    """Velocity of an absorption line's centre, by a Gaussian-weighted centroid of its depth."""
    v = LIGHT * np.log(wave / centre)
    edge = (np.abs(v) > 1000) & (np.abs(v) < 1500)
    depth = np.clip(1 - flux / np.polyval(np.polyfit(v[edge], flux[edge], 1), v), 0, None) * (np.abs(v) < 600)
    offset = 0.0
    for _ in range(8):
        weight = depth * np.exp(-0.5 * ((v - offset) / 250) ** 2)
        offset = float((v * weight).sum() / weight.sum())
    return offset


def test_hydrogen_and_calcium_stand_where_a_real_star_has_them() -> None:
    wave, flux, z = real_star()
    lines = line_list()
    calcium = lines.wave[lines.element == list(ELEMENTS).index("Ca")]
    listed = [h[0] for h in HYDROGEN[:4]]
    listed += [
        calcium[np.argmin(np.abs(calcium - near))] for near in (3934.8, 3969.6, 4227.9, 8544.4, 8664.5)
    ]
    offsets = np.array([line_offset(wave / (1 + z), flux, centre) for centre in listed])
    # Air wavelengths would stand 84 km/s off, a pixel is 69 km/s.
    assert np.abs(offsets).max() < 45
    assert abs(np.median(offsets)) < 20


def test_mock_spectrum_cross_correlates_at_the_catalogue_velocity() -> None:
    wave, flux, z = real_star()
    lrs = LRS()
    velocity = np.arange(-150.0, 151.0, 5.0)
    labels = torch.tensor(
        [[5700.0, 4.4, -0.1, 0.0, 0.0, 0.05, v, 5.0] for v in velocity], dtype=torch.float64
    )
    model = lrs(labels)
    model = model / lrs.continuum.fit(model) - 1
    data = torch.as_tensor(np.interp(lrs.grid.wave(), wave, flux))[None]
    data = data / lrs.continuum.fit(data) - 1
    score = ((model * data).sum(1) / torch.sqrt((model**2).sum(1) * (data**2).sum())).numpy()
    assert abs(velocity[score.argmax()] - LIGHT * z) < 20
    assert score.max() > 0.7  # the labels are guesses from the class and the S/N is 33


@pytest.mark.parametrize(
    ("label", "low", "high", "window", "sign"),
    [
        ("teff", 6000.0, 8500.0, (4830, 4895), +1),  # Balmer lines strengthen up to the A stars
        ("feh", -2.0, 0.0, (5260, 5280), +1),  # iron
        ("alpha_fe", 0.0, 0.4, (5160, 5190), +1),  # magnesium triplet
        ("c_fe", 0.0, 1.0, (4295, 4318), +1),  # CH
        ("logg", 2.0, 4.6, (5160, 5190), +1),  # pressure broadening of magnesium
    ],
)
def test_strengths_follow_the_labels(
    label: str, low: float, high: float, window: tuple[int, int], sign: int
) -> None:
    base = dict(zip(UNITS, (5000.0, 4.5, -0.5, 0.1, 0.0, 0.0, 0.0, 5.0), strict=True))
    labels = torch.tensor([list({**base, label: v}.values()) for v in (low, high)], dtype=torch.float64)
    lrs = LRS()
    flux = lrs(labels)
    wave = torch.as_tensor(lrs.grid.wave())
    inside = (wave > window[0]) & (wave < window[1])
    depth = 1 - (flux / lrs.continuum.fit(flux))[:, inside].mean(1)
    assert sign * float(depth[1] - depth[0]) > 0.01


def test_balmer_jump_and_titanium_oxide() -> None:
    labels = torch.tensor(
        [[8800.0, 4.2, 0, 0, 0, 0, 0, 0], [5000.0, 4.5, 0, 0, 0, 0, 0, 0], [3750.0, 4.8, 0, 0, 0, 0, 0, 0]]
    ).double()
    wave = np.array([3550.0, 3800.0 + 65.0, 7020.0, 7100.0])
    hot, warm, cool = model_spectrum(labels, wave)
    assert hot[1] / hot[0] > 2
    assert warm[3] / warm[2] > 0.9
    assert cool[3] / cool[2] < 0.75


def test_extinction_has_the_known_values() -> None:
    """A_V = 3.1 and A_B = 4.1 for E(B−V) = 1; A(λ)/A_V = 0.479 in I, all of Cardelli, Clayton and Mathis."""
    a_b, a_v, a_i = extinction_curve(np.array([4400.0, 5500.0, 9000.0]))
    assert a_v == pytest.approx(3.1, rel=0.02)
    assert a_b - a_v == pytest.approx(1.0, abs=0.05)
    assert a_i / a_v == pytest.approx(0.479, abs=0.02)


def test_reddening_colours_xp_and_hardly_normalised_lrs() -> None:
    labels = torch.tensor([[5500.0, 4.4, 0, 0, 0, e, 0, 5] for e in (0.0, 0.5)], dtype=torch.float64)
    lrs, xp = LRS(), XP()
    flux = lrs(labels)
    normalised = flux / lrs.continuum.fit(flux)
    assert (flux[1] / flux[0] - 1).abs().max() > 0.2
    assert (normalised[1] - normalised[0]).abs().max() < 0.03
    samples = xp.samples(xp.coefficients(xp(labels)))[0]
    assert samples[1, 300] / samples[0, 300] > 1.3


def test_laboratory_strengths_differ_from_observed_ones_and_change_the_spectra() -> None:
    observed, laboratory = line_list(), line_list("laboratory")
    assert np.array_equal(observed.wave, laboratory.wave)
    shift = observed.log_gf - laboratory.log_gf
    assert np.abs(shift).max() <= 1.3
    assert (shift != 0).mean() > 0.5
    spectra = [simulate(0, np.arange(4), modalities=("lrs",), lines=kind)["lrs"] for kind in LINE_LISTS]
    assert 0.002 < float((spectra[0] - spectra[1]).std()) < 0.1


def test_laboratory_strengths_have_no_bounds() -> None:
    with pytest.raises(ConfigError, match="bounds=none"):
        MockStars(n=10, lines="laboratory", bounds="test")
