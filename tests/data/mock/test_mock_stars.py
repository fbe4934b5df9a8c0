"""The mock stars as data: determinism, gradients, noise, store."""

from pathlib import Path

import numpy as np
import pytest
import torch

from astroclip_train.data.grids import LRS_GRID, XP_GRID, Grid
from astroclip_train.data.mock import (
    LABELS,
    LRS,
    XP,
    MockStars,
    model_spectrum,
    sample_labels,
    sample_snr,
    simulate,
)
from astroclip_train.data.mock.spectrum import Spectrum
from astroclip_train.data.mock.strengths import Star, line_strengths
from astroclip_train.data.store import Store
from astroclip_train.errors import ConfigError, DataError

INDEX = torch.arange(40)


def test_labels_are_realistic() -> None:
    labels = dict(zip(LABELS, sample_labels(0, torch.arange(20000)).T, strict=True))
    limits = {
        "teff": (3700, 9000), "logg": (0.2, 5.0), "feh": (-3.5, 0.5), "alpha_fe": (-0.3, 0.7), "c_fe": (-1.5, 2.5),
        "ebv": (0, 1), "rv": (-550, 550), "vsini": (0, 130),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        assert labels[name].min() >= low, name
        assert labels[name].max() <= high, name
    dwarf, poor = labels["logg"] > 4, labels["feh"] < -1.5
    assert 0.4 < dwarf.double().mean() < 0.7
    assert 0.03 < poor.double().mean() < 0.15
    assert labels["alpha_fe"][poor].median() > labels["alpha_fe"][~poor].median() + 0.1
    assert (labels["c_fe"][labels["feh"] < -2] > 0.7).double().mean() > 0.1
    giants = labels["logg"] < 2
    assert labels["teff"][giants].median() < 4800


def test_snr_spans_the_survey() -> None:
    snr = sample_snr(0, torch.arange(20000))[:, 0]
    assert snr.min() >= 10
    assert snr.max() <= 300
    assert 0.4 < (snr > 50).double().mean() < 0.7


def test_a_star_is_the_same_in_every_batch() -> None:
    whole = simulate(3, INDEX)
    some = simulate(3, torch.tensor([31, 4]))
    for name, values in some.items():
        torch.testing.assert_close(values, whole[name][[31, 4]], rtol=2e-4, atol=2e-4)
    assert torch.equal(some["labels"], whole["labels"][[31, 4]])
    other = simulate(4, INDEX[:2])
    assert not torch.allclose(other["lrs"], whole["lrs"][:2], atol=1e-2)


def test_shapes_and_dtypes() -> None:
    data = simulate(0, INDEX[:3])
    assert data["lrs"].shape == data["lrs_ivar"].shape == (3, LRS_GRID.n)
    assert data["xp"].shape == data["xp_ivar"].shape == (3, XP_GRID.n)
    assert data["xp_coeff"].shape == (3, 110)
    assert data["lrs"].dtype == torch.float32
    assert simulate(0, INDEX[:1], dtype=torch.float64)["xp"].dtype == torch.float64
    assert all(bool(torch.isfinite(v).all()) for v in data.values())
    assert bool((data["xp"][:, 107] == 1).all())


@pytest.mark.parametrize("instrument", [LRS(), XP()], ids=["lrs", "xp"])
def test_gradient_matches_finite_differences(instrument: LRS | XP) -> None:
    labels = sample_labels(1, INDEX[:3])
    direction = torch.linspace(-1, 1, instrument(labels).shape[1], dtype=torch.float64)
    steps = torch.tensor([0.5, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 0.05, 0.05], dtype=torch.float64)
    x = labels.clone().requires_grad_()
    (instrument(x) @ direction).sum().backward()
    for i, step in enumerate(steps):
        shift = torch.zeros(8, dtype=torch.float64)
        shift[i] = step
        numeric = ((instrument(labels + shift) - instrument(labels - shift)) @ direction) / (2 * step)
        torch.testing.assert_close(x.grad[:, i], numeric, rtol=1e-4, atol=1e-8)


def test_velocity_moves_lines_by_the_doppler_shift() -> None:
    lrs = LRS()
    labels = torch.tensor([[6500.0, 4.3, 0, 0, 0, 0, 0, 5.0]], dtype=torch.float64).repeat(2, 1)
    labels[1, 6] = 299792.458 * (10 ** (3 * lrs.grid.step) - 1)  # three pixels
    normalised = lrs(labels)
    depth = 1 - normalised / lrs.continuum.fit(normalised)
    torch.testing.assert_close(depth[1, 803:1203], depth[0, 800:1200], rtol=0, atol=2e-3)


def test_line_spread_has_the_resolution() -> None:
    """An unresolved line on the oversampled axis comes out with FWHM = λ/R."""
    lrs = LRS()
    depth = torch.zeros(1, lrs.n_fft, dtype=torch.float64)
    step = lrs.pixel / 2
    v = (torch.arange(lrs.n_fft) - lrs.n_fft // 2) * step
    depth[0] = torch.exp(-0.5 * (v / 35.0) ** 2)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    line = lrs._observe(depth, zero, zero)[0]
    x = torch.arange(len(line), dtype=torch.float64) * lrs.pixel
    mean = (x * line).sum() / line.sum()
    sigma = torch.sqrt(((x - mean) ** 2 * line).sum() / line.sum())
    assert float(sigma) == pytest.approx(299792.458 / 1800 / 2.3548, rel=1e-3)


def test_lrs_is_the_model_spectrum_seen_by_the_instrument() -> None:
    """Nodes, pieces of templates and Fourier space change nothing: compare with a direct convolution."""
    lrs = LRS()
    labels = sample_labels(0, INDEX[:4])
    labels[:, 6:] = 0
    fine = 10 ** (3.602 - 0.002 + 5e-5 * np.arange(2 * (1462 + 40)))
    at_rest, smooth = model_spectrum(labels, fine), Spectrum(fine)
    star = Star.from_labels(labels)
    continuum = torch.exp(smooth.ingredients(star, line_strengths(star))[:, -len(fine) :])
    depth = 1 - at_rest / continuum / smooth.redden(labels[:, 5:6])
    v = np.arange(-16, 17) * lrs.pixel / 2
    kernel = torch.as_tensor(np.exp(-0.5 * (v / lrs.rest) ** 2))
    seen = torch.nn.functional.conv1d(depth[:, None], (kernel / kernel.sum())[None, None])[:, 0]
    seen = seen[:, 24 : 24 + 2 * 1462 : 2]
    flux = (1 - seen) * (continuum * smooth.redden(labels[:, 5:6]))[:, 40 : 40 + 2 * 1462 : 2]
    torch.testing.assert_close(lrs(labels), flux / flux.mean(1, keepdim=True), rtol=1e-5, atol=1e-5)


def test_continuum_is_linear_and_its_noise_propagates() -> None:
    lrs = LRS(Grid("log10", 3.65, 1e-4, 200))
    flux = lrs(sample_labels(0, INDEX[:2]))
    fit = lrs.continuum.fit
    torch.testing.assert_close(fit(2 * flux[:1] + 3 * flux[1:]), 2 * fit(flux[:1]) + 3 * fit(flux[1:]))
    weighted = fit(flux, torch.ones_like(flux))
    torch.testing.assert_close(weighted, fit(flux))
    variance = lrs.noise_variance(flux[:1], torch.tensor([100.0], dtype=torch.float64))
    jacobian = lrs.continuum.jacobian(flux[:1])[0]
    predicted = jacobian @ torch.diag(variance[0]) @ jacobian.T
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20000, 200, generator=generator, dtype=torch.float64) * torch.sqrt(variance)
    noisy = flux[:1] + noise
    measured = torch.cov((noisy / fit(noisy)).T)
    assert (measured - predicted).norm() / predicted.norm() < 0.12
    assert float((torch.diagonal(measured) / torch.diagonal(predicted)).mean()) == pytest.approx(1, abs=0.01)


def test_noise_is_as_large_as_its_inverse_variance_says() -> None:
    data = simulate(0, torch.arange(200), dtype=torch.float64)
    labels = data["labels"]
    lrs, xp = LRS(), XP()
    clean = lrs(labels)
    residual = (data["lrs"] - clean / lrs.continuum.fit(clean)) * torch.sqrt(data["lrs_ivar"])
    assert float(residual.median(1).values.abs().median()) < 0.1
    assert float(1.4826 * residual.abs().median()) == pytest.approx(1, abs=0.05)
    residual = (data["xp"] - xp.samples(xp.coefficients(xp(labels)))[0]) * torch.sqrt(data["xp_ivar"])
    assert float(1.4826 * residual[:, 110:].abs().median()) == pytest.approx(1, abs=0.06)


def test_xp_covariance_has_rank_110_and_matches_noise() -> None:
    xp = XP()
    pixels = xp(sample_labels(0, INDEX[:1]))
    snr = torch.tensor([100.0], dtype=torch.float64)
    covariance = torch.block_diag(*xp.covariance(pixels, snr)[0])
    assert int(torch.linalg.matrix_rank(covariance)) == 110
    assert int(np.linalg.matrix_rank(xp.basis)) == 110
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20000, 220, generator=generator, dtype=torch.float64)
    drawn = xp.coefficients(pixels + noise * torch.sqrt(xp.pixel_variance(pixels, snr)))
    measured = torch.cov(drawn.T)
    assert (measured - covariance).norm() / covariance.norm() < 0.12
    correlation = covariance / torch.sqrt(torch.outer(covariance.diagonal(), covariance.diagonal()))
    assert (correlation - torch.eye(110)).abs().max() > 0.1


def test_another_grid_is_possible_and_wrong_ones_are_refused() -> None:
    grid = Grid("log10", 3.599, 1e-4, 1600)
    assert simulate(0, INDEX[:2], lrs=LRS(grid), modalities=("lrs",))["lrs"].shape == (2, 1600)
    with pytest.raises(DataError, match="log10"):
        LRS(Grid("linear", 4000.0, 1.0, 1000))
    with pytest.raises(DataError, match="sampled"):
        LRS(Grid("log10", 3.6, 1e-3, 100))
    with pytest.raises(ConfigError, match="bounds"):
        MockStars(n=10, bounds="some")


def test_store_is_written_once_and_joins_repeats(tmp_path: Path) -> None:
    dataset = MockStars(n=60, seed=2, repeats=0.3)
    (path,) = dataset.prepare(tmp_path, progress=False)
    written = path.stat().st_mtime_ns
    assert dataset.prepare(tmp_path, progress=False) == [path]
    assert path.stat().st_mtime_ns == written
    store = Store(path)
    assert store.n > 60
    assert len(np.unique(store.object_id)) == 60
    assert set(store.labels) == set(LABELS)
    names, counts = np.unique(store.object_id, return_counts=True)
    first, second = np.flatnonzero(store.object_id == names[counts == 2][0])
    assert store.rows["xp"][first] == store.rows["xp"][second]
    assert store.rows["lrs"][first] != store.rows["lrs"][second]
    assert store.labels["teff"][first] == store.labels["teff"][second]
    test = store.split("test")
    for m in ("lrs", "xp", "joint"):
        sigma = store.bounds[m]["teff"]
        assert np.isfinite(sigma[test]).all()
        assert np.isnan(sigma[store.split("train")]).all()
    assert (store.bounds["joint"]["teff"][test] <= store.bounds["lrs"]["teff"][test]).all()


def test_describe_names_what_changes_the_data() -> None:
    assert MockStars(n=5).describe() != MockStars(n=5, snr_lrs=60.0).describe()
    fields = {"kind": "log10", "start": 3.602, "step": 1e-4, "n": 1462}
    assert MockStars(lrs_grid=fields).describe() == MockStars().describe()


def test_a_store_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    stars = MockStars(n=150, bounds="all")
    stores = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            stores.append(Store(stars.prepare(tmp_path / str(n), progress=False)[0]))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    one, two = stores
    for m in ("lrs", "xp"):
        seen = np.flatnonzero(np.isfinite(one.snr(m)))
        np.testing.assert_array_equal(one.read(m, seen)["flux"], two.read(m, seen)["flux"])
    for m, columns in one.bounds.items():
        for name, sigma in columns.items():
            np.testing.assert_array_equal(sigma, two.bounds[m][name])
            assert np.isfinite(sigma).all()
