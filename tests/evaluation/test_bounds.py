"""The Cramér–Rao bound against explicit linear algebra and against fits of noisy mock stars."""

import numpy as np
import pytest
import torch

from astroclip_train.data.grids import Grid
from astroclip_train.data.mock import LABELS, LRS, XP, MockStars, sample_labels, sample_snr, simulate
from astroclip_train.data.mock.labels import population_moments
from astroclip_train.data.store import Store
from astroclip_train.evaluation.bounds import Slopes, crb_covariance, crb_of_store, fisher_lrs, fisher_xp
from astroclip_train.evaluation.maximum_likelihood import fit_maximum_likelihood, lrs_residual, xp_residual
from astroclip_train.evaluation.metrics import biweight_scale

SCALE = torch.sqrt(torch.diagonal(population_moments()[1]))
SNR = torch.tensor([80.0, 80.0], dtype=torch.float64)


def test_slopes_match_finite_differences() -> None:
    labels = sample_labels(0, torch.arange(2))
    for m, instrument in (("lrs", LRS()), ("xp", XP())):
        _, slope = Slopes(labels, SCALE, {m: instrument}).flux(m, instrument, slice(0, 2))
        for i in range(8):
            step = torch.zeros(8, dtype=torch.float64)
            step[i] = 1e-4 * SCALE[i]
            numeric = (instrument(labels + step) - instrument(labels - step)) / 2e-4
            torch.testing.assert_close(slope[:, i], numeric, rtol=1e-4, atol=2e-7)


def test_lrs_information_is_that_of_the_normalised_data() -> None:
    """n_θᵀ (J C Jᵀ)⁺ n_θ, by brute force."""
    lrs = LRS(Grid("log10", 3.68, 1e-4, 300))
    labels = sample_labels(0, torch.arange(2))
    flux, slope = Slopes(labels, SCALE, {"lrs": lrs}).flux("lrs", lrs, slice(0, 2))
    found = fisher_lrs(flux, slope, SNR, lrs)
    variance = lrs.noise_variance(flux, SNR)
    jacobian = lrs.continuum.jacobian(flux)
    terms = torch.as_tensor(lrs.terms)
    prior = torch.as_tensor(lrs.response**2)
    for i in range(2):
        smooth = (flux[i] * terms).T  # directions of the calibration
        noise = (
            jacobian[i] @ (torch.diag(variance[i]) + smooth @ torch.diag(prior) @ smooth.T) @ jacobian[i].T
        )
        signal = jacobian[i] @ slope[i].T
        expected = signal.T @ torch.linalg.pinv(noise, hermitian=True, rtol=1e-13) @ signal
        torch.testing.assert_close(
            found[i], expected, rtol=1e-3, atol=1e-4 * float(expected.diagonal().max())
        )


def test_normalised_flux_determines_the_flux_up_to_a_factor() -> None:
    lrs = LRS()
    flux = lrs(sample_labels(0, torch.arange(5)))
    normalised = flux / lrs.continuum.fit(flux)
    restored = normalised * lrs.continuum.restore(normalised)
    torch.testing.assert_close(restored / restored.mean(1, keepdim=True), flux, rtol=1e-8, atol=0)


def test_xp_information_is_that_of_the_samples() -> None:
    """The pseudo-inverse of the singular covariance of 343 normalised samples gives the same information."""
    xp = XP()
    labels = sample_labels(0, torch.arange(2))
    pixels, slope = Slopes(labels, SCALE, {"xp": xp}).flux("xp", xp, slice(0, 2))
    found = fisher_xp(pixels, slope, SNR, xp)
    for i in range(2):
        coefficients = xp.coefficients(pixels[i : i + 1])
        samples, norm = xp.samples(coefficients)
        basis = torch.as_tensor(xp.basis)
        jacobian = (basis - samples[0][:, None] * basis[xp.reference][None, :]) / norm[0]
        noise = jacobian @ torch.block_diag(*xp.covariance(pixels[i : i + 1], SNR[:1])[0]) @ jacobian.T
        signal = jacobian @ xp.coefficients(slope[i]).T
        assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-8)) == 109
        expected = signal.T @ torch.linalg.pinv(noise, hermitian=True, rtol=1e-13) @ signal
        torch.testing.assert_close(
            found[i], expected, rtol=1e-3, atol=1e-4 * float(expected.diagonal().max())
        )


def test_precision_prior_and_joint() -> None:
    index = torch.arange(6)
    labels, snr = sample_labels(0, index), sample_snr(0, index)
    single, double = (crb_covariance(labels, snr, dtype=d) for d in (torch.float32, torch.float64))
    population = torch.diagonal(population_moments()[1])
    for m in ("lrs", "xp", "joint"):
        variance = torch.diagonal(double[m], dim1=1, dim2=2)
        torch.testing.assert_close(torch.diagonal(single[m], dim1=1, dim2=2), variance, rtol=1e-3, atol=0)
        assert bool((variance > 0).all())
        assert bool((variance <= population * 1.0001).all())
        if m != "joint":
            assert bool((torch.diagonal(double["joint"], dim1=1, dim2=2) <= variance * 1.0001).all())
    missing = crb_covariance(
        labels, torch.stack([snr[:, 0], torch.full((6,), torch.nan)], 1), dtype=torch.float64
    )
    torch.testing.assert_close(missing["joint"], double["lrs"])
    brighter = crb_covariance(labels, 2 * snr, modalities=("lrs",))["lrs"]
    assert bool((brighter[:, 0, 0] < single["lrs"][:, 0, 0]).all())


def test_bounds_are_of_known_size() -> None:
    """At S/N > 50: some ten K and hundredths of a dex from LRS, which does not know E(B−V); XP does."""
    index = torch.arange(300)
    snr = sample_snr(0, index)
    sharp = snr[:, 0] > 50
    found = crb_covariance(sample_labels(0, index)[sharp], snr[sharp])
    sigma = {m: torch.diagonal(c, dim1=1, dim2=2).sqrt().median(0).values for m, c in found.items()}
    lrs, xp = (dict(zip(LABELS, sigma[m].tolist(), strict=True)) for m in ("lrs", "xp"))
    assert 5 < lrs["teff"] < 40
    assert 0.005 < lrs["feh"] < 0.08
    assert 0.01 < lrs["logg"] < 0.15
    assert 0.2 < lrs["rv"] < 3
    assert lrs["ebv"] > 0.05
    assert xp["ebv"] < 0.03
    assert xp["rv"] > 20


@pytest.mark.parametrize("m", ["lrs", "xp"])
def test_maximum_likelihood_reaches_the_bound(m: str) -> None:
    n = 200
    index = torch.arange(5000, 5000 + n)
    labels, snr = sample_labels(0, index), sample_snr(0, index)
    lrs, xp = LRS(), XP()
    data = simulate(0, index, dtype=torch.float64, modalities=(m,))
    covariance = crb_covariance(labels, snr, modalities=(m,))[m]
    noise = torch.randn(n, 8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = labels + (torch.linalg.cholesky(covariance) @ noise)[..., 0] * 0.5
    if m == "lrs":
        residual = lrs_residual(data["lrs"], data["lrs_ivar"], lrs)
    else:
        residual = xp_residual(data["xp_coeff"], snr[:, 1], labels, xp)
    fit = fit_maximum_likelihood([residual], start, steps=3)
    pull = ((fit - labels) / torch.sqrt(torch.diagonal(covariance, dim1=1, dim2=2))).numpy()
    # Where the prior decides (E(B−V) from LRS, velocity from XP, rotation), pulls show its shape, not the bound.
    checked = ("teff", "logg", "feh", "alpha_fe", "c_fe") + (("rv",) if m == "lrs" else ("ebv",))
    for name in checked:
        values = pull[:, LABELS.index(name)]
        assert 0.85 < biweight_scale(values) < 1.2, name
        assert abs(np.median(values)) < 0.4, name


def test_covariances_of_a_store(tmp_path) -> None:
    (path,) = MockStars(n=40, seed=1).prepare(tmp_path, progress=False)
    store = Store(path)
    samples = store.split("test")
    found = crb_of_store(store, samples)
    assert found is not None
    for m, covariance in found.items():
        np.testing.assert_allclose(
            np.sqrt(covariance[:, 0, 0]), store.bounds[m]["teff"][samples], rtol=1e-3, err_msg=m
        )
