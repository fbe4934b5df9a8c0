"""Restoration of spectra, with and without labels, against a few lines of NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from astroclip_train.encoders import ConvEncoder
from astroclip_train.errors import ConfigError
from astroclip_train.objectives import Restore


def parts(**options):
    torch.manual_seed(0)
    encoder = ConvEncoder(length=67, channels=(4, 8)).double().eval()
    objective = Restore(encoder.n_tokens, encoder.width, 67, code=8, window=10, **options).double()
    g = torch.Generator().manual_seed(1)
    x = 1 + 0.1 * torch.randn(5, 67, generator=g, dtype=torch.float64)
    ivar = torch.rand(5, 67, generator=g, dtype=torch.float64) * 400 + 50
    ivar[2, 7] = 0.0
    uniforms = torch.rand(5, objective.n_uniforms(encoder), generator=g, dtype=torch.float64)
    return objective, encoder, x, ivar, uniforms


def test_damage_and_loss():
    objective, encoder, x, ivar, uniforms = parts(noise=0.8, hide=0.4)
    flux, weight, visible = objective.damaged(x, ivar, None, uniforms)
    u = uniforms.numpy()
    for i in range(5):
        for j in range(67):
            a = 0.8 * u[i, 0]
            sigma = 0.0 if ivar[i, j] == 0 else ivar[i, j].item() ** -0.5
            assert np.isclose(flux[i, j], x[i, j] + a * sigma * ndtri(u[i, 1 + 7 + j]))
            assert np.isclose(weight[i, j], ivar[i, j] / (1 + a**2))
            assert bool(visible[i, j]) == (u[i, 1 + j // 10] >= 0.4)
    with torch.no_grad():
        restored = objective.decoder(encoder(flux, weight, visible).flatten(1)).numpy()
    w = np.where(ivar > 0, 1 / (1 / (np.maximum(ivar, 1e-12) * 0.01) + 0.25), 0.0)
    expected = (w * np.abs(restored - (x.numpy() - 1) / 0.1)).sum() / w.sum()
    assert np.isclose(objective(encoder, x, ivar, None, uniforms)[0].item(), expected)


def test_labels_that_are_known_are_regressed_and_the_others_carry_no_weight():
    objective, encoder, x, ivar, uniforms = parts(regress=0.5, n_labels=2)
    labels = torch.tensor(
        [[5000.0, 4.0], [6000.0, 2.0], [np.nan, np.nan], [5500.0, np.nan], [4500.0, 3.0]], dtype=torch.float64
    )
    objective.prepare(labels)
    assert np.allclose(objective.label_mean, np.nanmean(labels, axis=0))
    assert np.allclose(objective.label_std, np.nanstd(labels, axis=0))
    loss, metrics = objective(encoder, x, ivar, None, uniforms, labels=labels)
    with torch.no_grad():
        tokens = encoder(*objective.damaged(x, ivar, None, uniforms)).flatten(1)
        mean, log_width = (t.numpy() for t in objective.regressor(tokens).chunk(2, dim=1))
    y = ((labels - objective.label_mean) / objective.label_std).numpy()
    regression = np.nanmean(np.abs(y - mean) / np.exp(log_width) + log_width)
    assert np.isclose(float(metrics["regress"]), regression)
    assert np.isclose(float(loss), float(metrics["restore"]) + 0.5 * regression)
    none = torch.full_like(labels, np.nan)
    assert float(objective(encoder, x, ivar, None, uniforms, labels=none)[1]["regress"]) == 0.0


def test_wrong_sizes_and_missing_labels_are_told():
    objective, _, x, ivar, uniforms = parts()
    with pytest.raises(ConfigError, match="Restore was made for"):
        objective(ConvEncoder(length=67, channels=(4, 4)).double(), x, ivar, None, uniforms)
    with pytest.raises(ConfigError, match=r"labels\.names"):
        Restore(3, 4, 67, regress=1.0)
    with pytest.raises(ConfigError, match="share"):
        Restore(3, 4, 67, hide=1.0)
