"""The perceptron head's projection on principal axes."""

import numpy as np
import pytest
import torch

from astroclip_train.errors import ConfigError
from astroclip_train.heads import MLPHead


def test_components_are_whitened_and_leave_out_the_noise() -> None:
    """Against a few lines of NumPy: leading principal scores of the training features, unit variance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 30)) * 3 + 0.01 * rng.normal(size=(400, 30)) + 5
    head = MLPHead(30, ["a"], widths=(4,), components=2).double()
    head.prepare(torch.from_numpy(x), torch.from_numpy(x[:, :1]))
    scores = head.whitened(torch.from_numpy(x)).numpy()
    u, _, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = u[:, :2] * np.sqrt(len(x) - 1)
    assert np.allclose(np.abs((scores * expected).mean(0)), (expected**2).mean(0), rtol=1e-6)
    assert np.allclose(scores.std(0, ddof=1), 1, rtol=1e-6)


def test_axes_without_variance_carry_nothing() -> None:
    x = torch.zeros(50, 6, dtype=torch.float64)
    x[:, 0] = torch.arange(50)
    head = MLPHead(6, ["a"], widths=(4,), components=4).double()
    head.prepare(x, x[:, :1])
    assert torch.isfinite(head.whitened(x + 1e3)).all()
    assert (head.whitened(x + torch.tensor([0, 1.0, 1, 1, 1, 1]))[:, 1:] == 0).all()


def test_one_far_object_does_not_decide_the_validation_loss() -> None:
    x = torch.randn(500, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 10:] *= 1e-3
    head = MLPHead(
        20, ["a"], widths=(8,), components=20, heteroscedastic=True, beta=0.0, norm="none"
    ).double()
    head.prepare(x, x[:, :1])
    far = x[:50].clone()
    far[0] += 1e3
    with torch.no_grad():
        head.output.bias[1] = -7.0  # sure of itself
    labels = far[:, :1].clamp(-3, 3)
    assert float(head.eval().loss(far, labels)) < 0.5 * 10**2
    assert float(head.train().loss(far, labels)) > 1e4


def test_the_laplace_likelihood_and_its_width() -> None:
    """−log p = |y − μ| / w + log w (+ log 2); the σ it states is √2 w."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, k, generator=g, dtype=torch.float64) for k in (5, 2))
    y[3, 1] = torch.nan
    head = MLPHead(
        5, ["a", "b"], widths=(8,), dropout=0.0, heteroscedastic=True, beta=0.0, error="l1", norm="none"
    )
    head = head.double()
    head.prepare(x, y)
    mean, log_width = (t.detach().numpy() for t in head(x))
    target = ((y - head.label_mean) / head.label_std).numpy()
    terms = np.abs(target - mean) / np.exp(log_width) + log_width
    assert np.isclose(float(head.loss(x, y)), np.nanmean(terms))
    std = head.eval().predict(x).std
    assert std is not None
    assert np.allclose(std.numpy(), np.sqrt(2) * np.exp(log_width) * head.label_std.numpy())


def test_the_logarithm_of_a_label_is_regressed_and_its_error_propagated() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=g, dtype=torch.float64)
    y = torch.stack([(8.5 + 0.3 * x[:, 0]).exp(), x[:, 1]], dim=1)
    y[7, 0] = -9999.0
    head = MLPHead(
        4, ["teff", "logg"], widths=(8,), dropout=0.0, heteroscedastic=True, norm="none", log_labels=["teff"]
    ).double()
    head.prepare(x, y)
    logs = np.log(np.delete(y[:, 0].numpy(), 7))
    assert np.allclose(head.label_mean.numpy(), [logs.mean(), y[:, 1].mean()])
    mean, log_width = head.eval()(x)
    answer = head.predict(x)
    expected = (mean[:, 0] * logs.std(ddof=1) + logs.mean()).exp()
    assert answer.std is not None
    assert torch.allclose(answer.mean[:, 0], expected)
    assert torch.allclose(answer.std[:, 0], expected * log_width[:, 0].exp() * logs.std(ddof=1))
    y[7, 0] = torch.nan
    without = head.loss(x, y)
    y[7, 0] = -1.0
    assert torch.equal(without, head.loss(x, y))
    with pytest.raises(ConfigError, match="log_labels has mass"):
        MLPHead(4, ["teff"], log_labels=["mass"])


@pytest.mark.parametrize("error", ["mse", "l1"])
def test_validation_loss_is_a_proper_score(error: str) -> None:
    """A head that is better, and knows it, has the lower validation loss, whatever beta weights training by."""
    values = []
    for width in (0.4, 0.1, 0.02):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(4000, 2, generator=g, dtype=torch.float64)
        noise = torch.randn(4000, 1, generator=g, dtype=torch.float64)
        head = MLPHead(
            2, ["a"], widths=(2,), dropout=0.0, heteroscedastic=True, norm="none", error=error
        ).double()
        assert head.beta > 0
        with torch.no_grad():
            head.output.weight.zero_()
            head.output.bias.copy_(torch.tensor([0.0, np.log(width)]))
        values.append(float(head.eval().loss(x, width * noise)))
    assert values[0] > values[1] + 1 > values[2] + 2
    true = {"mse": 0.5 + np.log(0.02), "l1": np.sqrt(2 / np.pi) + np.log(0.02)}[error]
    assert values[2] == pytest.approx(true, abs=0.05)
