"""Embedding diagnosis against closed forms, and collapse seen as collapse."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from astroclip_train.evaluation import information as info


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(512, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_effective_rank_against_numpy(z):
    s = np.linalg.svd((z - z.mean(0)).numpy(), compute_uv=False)
    p = s / s.sum()
    assert info.effective_rank(z) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-9)
    assert info.effective_rank(z[:8]) < 8  # fewer objects than dimensions


def test_effective_rank_of_known_shapes(z):
    assert info.effective_rank(z[:, :1] @ torch.ones(1, 16, dtype=z.dtype) + 5) == pytest.approx(1.0)
    assert info.effective_rank(torch.ones(10, 4)) == 0.0
    q = torch.linalg.qr(z - z.mean(0))[0]
    assert info.effective_rank(q) == pytest.approx(16.0, rel=1e-6)


def test_variance_and_collapse(z):
    assert info.feature_variance(z) == pytest.approx(z.var(0, unbiased=False).mean().item())
    assert info.feature_variance(1000 * z, relative=True) == pytest.approx(1.0, abs=0.05)
    collapsed = torch.ones(64, 16) + 1e-3 * z[:64]
    assert info.feature_variance(collapsed, relative=True) < 1e-5
    assert info.uniformity(collapsed) == pytest.approx(0.0, abs=1e-4)
    assert info.uniformity(z) < -3


def test_alignment_uniformity_gap_against_numpy(z):
    v = torch.randn(512, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    a, b = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (z, v))
    assert info.alignment(z, v) == pytest.approx(np.mean(np.sum((a - b) ** 2, 1)))
    assert info.alignment(z, 3 * z) == pytest.approx(0.0, abs=1e-12)
    assert info.alignment(z, -z) == pytest.approx(4.0)
    assert info.modality_gap(z, v) == pytest.approx(np.linalg.norm(a.mean(0) - b.mean(0)))
    d = ((a[:, None] - a[None]) ** 2).sum(-1)[np.triu_indices(512, 1)]
    assert info.uniformity(z) == pytest.approx(np.log(np.mean(np.exp(-2 * d))))
    assert math.isnan(info.uniformity(z[:1]))


def test_info_nce_bound_and_ceiling():
    assert info.info_nce_ceiling(256) == pytest.approx(math.log(256))
    assert info.info_nce_ceiling(256, bits=True) == pytest.approx(8.0)
    assert info.info_nce_information(0.0, 256, bits=True) == pytest.approx(8.0)
    assert info.info_nce_information(math.log(64), 64) == pytest.approx(0.0)


def test_gaussian_reference_against_scipy_and_gain():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    train, test = (torch.from_numpy(rng.normal(size=(n, 6)) @ mixing + 2) for n in (4000, 50))
    found = info.gaussian_reference(train, test, shrinkage=1e-12).numpy()
    expected = multivariate_normal(train.mean(0).numpy(), np.cov(train.numpy().T)).logpdf(test.numpy())
    assert found == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(info.gaussian_reference(train[:4], test)).all()  # fewer objects than pixels
    gain, error = info.information_gain(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0]))
    assert (gain, error) == (pytest.approx(2.0), pytest.approx(1.0))


def test_diagnosis_names_are_stable_and_need_no_gradient(z):
    z = z.float().requires_grad_()
    found = info.embedding_diagnosis(z)
    assert set(found) == {"effective_rank", "feature_variance", "relative_variance", "uniformity"}
    assert set(info.pair_diagnosis(z, z)) == {"alignment", "uniformity", "modality_gap"}
    assert all(isinstance(v, float) for v in found.values())
