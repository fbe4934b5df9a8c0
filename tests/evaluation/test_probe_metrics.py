"""Probes read what is there, nothing where nothing is, and know missing labels."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from astroclip_train.evaluation.probe_metrics import _PENALTIES, _ridge_solve, knn_probe, ridge_probe


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 20, generator=generator)
    y = torch.stack(
        [x[:, 0] * 500 + 5000, x[:, 1] - 0.5 * x[:, 2], torch.randn(1200, generator=generator)], 1
    )
    return x, y + torch.tensor([20.0, 0.05, 0.0]) * torch.randn(1200, 3, generator=generator)


def test_ridge_reads_linear_labels_only(data):
    x, y = data
    found = ridge_probe(x[:900], y[:900], x[900:], y[900:])
    assert found["r2"][:2].min() > 0.99
    assert abs(found["r2"][2]) < 0.1
    assert found["sigma"][0] == pytest.approx(20.0, rel=0.2)
    assert found["sigma"][1] == pytest.approx(0.05, rel=0.2)


def test_ridge_solution_is_that_of_sklearn_at_its_penalty(data):
    x, y = (a[:100].double() for a in data)
    weight, intercept = _ridge_solve(x, y)
    candidates = [Ridge(alpha=p * 100).fit(x.numpy(), y.numpy()) for p in _PENALTIES]
    for j in range(3):
        errors = [np.abs(c.coef_[j] - weight[:, j].numpy()).max() for c in candidates]
        best = candidates[int(np.argmin(errors))]
        assert best.coef_[j] == pytest.approx(weight[:, j].numpy(), rel=1e-6, abs=1e-9)
        assert best.intercept_[j] == pytest.approx(float(intercept[j]), rel=1e-6)


def test_more_features_than_objects_and_constant_features(data):
    x, y = data
    wide = torch.cat(
        [x, torch.zeros(1200, 3), torch.randn(1200, 200, generator=torch.Generator().manual_seed(1))], 1
    )
    found = ridge_probe(wide[:100], y[:100], wide[900:], y[900:])
    assert torch.isfinite(found["r2"]).all()
    assert found["r2"][0] > 0.2  # one feature of 220, seen 100 times


@pytest.mark.parametrize("probe", [ridge_probe, knn_probe])
def test_missing_labels(data, probe):
    x, y = data[0], data[1].clone()
    y[::3, 0] = torch.nan
    y[:, 2] = torch.nan
    found = probe(x[:900], y[:900], x[900:], y[900:])
    assert found["r2"][0] > 0.3
    assert torch.isnan(found["r2"][2])
    assert torch.isnan(found["sigma"][2])


def test_knn_sees_neighbours_and_beats_ridge_on_a_curve():
    angle = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    x = torch.stack([angle.cos(), angle.sin()], 1)
    y = (3 * angle).sin()[:, None]
    near = knn_probe(x[:1500], y[:1500], x[1500:], y[1500:])
    flat = ridge_probe(x[:1500], y[:1500], x[1500:], y[1500:])
    assert near["r2"] > 0.95
    assert flat["r2"] < 0.2
    few = knn_probe(x[:3], y[:3], x[1500:], y[1500:], k=16)
    assert torch.isfinite(few["r2"]).all()


@pytest.mark.parametrize("labelled", [1, 25, 55, 105])
def test_rare_labels_of_noise_are_not_read(labelled):
    """What a probe cannot answer is not counted as answered."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2600, 8, generator=generator), torch.randn(2600, 1, generator=generator)
    train_y = torch.full((2000, 1), torch.nan)
    train_y[:labelled] = y[:labelled]
    for probe in (ridge_probe, knn_probe):
        found = probe(x[:2000], train_y, x[2000:], y[2000:])["r2"]
        assert found.isnan().all() or found.max() < 0.1, probe.__name__
