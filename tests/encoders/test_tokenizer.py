"""Tokens against few-line NumPy references, and the tokeniser's own properties."""

import numpy as np
import pytest
import torch

from astroclip_train.encoders import Tokenizer
from astroclip_train.encoders.tokenizer import standardise
from astroclip_train.errors import ConfigError


def reference_tokens(x, window, stride, stats):
    """One spectrum, in NumPy."""
    mean, std = x.mean(), x.std(ddof=1)
    z = (x - mean) / std
    pad = {"log_std": 1, "mean_std": 2}[stats]
    rows = [np.concatenate([np.zeros(pad), z[i : i + window]]) for i in range(0, len(x) - window + 1, stride)]
    first = np.zeros(window + pad)
    first[:pad] = [np.log10(std)] if stats == "log_std" else [mean, std]
    return np.stack([first, *rows])


@pytest.mark.parametrize(
    ("length", "window", "stride", "stats", "shape"),
    [
        (1462, 20, 10, "log_std", (146, 21)),
        (343, 1, 1, "mean_std", (344, 3)),
        (67, 10, 5, "log_std", (13, 11)),
    ],
)
def test_tokens_equal_numpy(length, window, stride, stats, shape):
    x = np.random.default_rng(0).normal(1.0, 0.2, (3, length))
    tokenizer = Tokenizer(length, window, stride, stats)
    tokens = tokenizer(torch.from_numpy(x))
    assert (tokenizer.n_tokens, tokenizer.features) == shape == tuple(tokens.values.shape[1:])
    expected = np.stack([reference_tokens(row, window, stride, stats) for row in x])
    np.testing.assert_allclose(tokens.values.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_full_last_window_is_kept_and_the_published_slip_drops_it():
    assert Tokenizer(1460, 20, 10).n_windows == 145
    assert Tokenizer(1460, 20, 10, keep_last=False).n_windows == 144
    assert Tokenizer(1462, 20, 10, keep_last=False).n_tokens == 146


def test_bad_pixels_do_not_touch_statistics_or_other_tokens():
    x = torch.randn(4, 67, dtype=torch.float64)
    mask = torch.rand(4, 67) > 0.2
    tokenizer = Tokenizer(67, 10, 5)
    one = tokenizer(x, mask=mask)
    spoiled = torch.where(mask, x, torch.tensor(float("nan"), dtype=x.dtype))
    spoiled[~mask & (torch.rand(4, 67) > 0.5)] = 1e9
    two = tokenizer(spoiled, mask=mask)
    torch.testing.assert_close(one.values, two.values)
    for i in range(4):
        good = x[i][mask[i]].numpy()
        np.testing.assert_allclose(one.mean[i], good.mean())
        np.testing.assert_allclose(one.std[i], good.std(ddof=1))
    expected = mask.unfold(1, 10, 5)
    assert torch.equal(one.weight[:, 1:, 1:] > 0, expected)
    assert (one.weight[:, 1:, 0] == 0).all()
    assert (one.values[:, 1:, 1:][~expected] == 0).all()


def test_inverse_variance_gives_the_signal_share_and_zero_is_bad():
    x, ivar = torch.randn(2, 30, dtype=torch.float64), torch.full((2, 30), 4.0, dtype=torch.float64)
    ivar[0, 3] = 0
    tokens = Tokenizer(30, 10, 10, "none")(x, ivar=ivar)
    share = 4 * tokens.std[1] ** 2 / (1 + 4 * tokens.std[1] ** 2)
    torch.testing.assert_close(tokens.weight[1], share.expand(3, 10))
    assert tokens.weight[0, 0, 3] == 0


def test_untokenize_inverts():
    x = torch.randn(3, 65, dtype=torch.float64)
    tokenizer = Tokenizer(65, 10, 5, "mean_std")
    values, _, mean, std = tokenizer(x)
    torch.testing.assert_close(tokenizer.untokenize(values, mean, std), x)


def test_seen_marks_pixels_that_a_visible_window_covers():
    tokenizer = Tokenizer(65, 10, 5)
    visible = torch.zeros(1, tokenizer.n_tokens, dtype=torch.bool)
    visible[0, 4] = True  # window 3: pixels 15..24
    seen = tokenizer.seen(visible)[0, 1:, 1:]
    pixels = torch.arange(65).unfold(0, 10, 5)
    assert torch.equal(seen, (pixels >= 15) & (pixels < 25))


def test_a_constant_spectrum_is_finite():
    assert torch.isfinite(Tokenizer(30, 10, 10)(torch.ones(2, 30)).values).all()


@pytest.mark.parametrize("sizes", [(10, 20, 5), (30, 5, 6), (30, 5, 0)])
def test_windows_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ConfigError, match="window"):
        Tokenizer(*sizes)


def test_unknown_statistics_are_refused():
    with pytest.raises(ConfigError, match="mean_std"):
        Tokenizer(30, 10, 10, stats="median")


def test_fixed_statistics_keep_line_depths_comparable():
    """(x - 1) / 0.1 for every spectrum, bad pixels at the continuum; windows only, no token of statistics."""
    x = torch.tensor([[1.0, 0.9, 1.1, 0.5], [1.0, 1.0, 1.0, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    tokens = Tokenizer(length=4, window=2, stride=2, stats="fixed")(x, mask=mask)
    expected = torch.tensor([[[0.0, -1.0], [1.0, -5.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert torch.allclose(tokens.values, expected)
    assert tokens.weight.flatten(1).tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    back = Tokenizer(length=4, window=2, stride=2, stats="fixed").untokenize(
        tokens.values, tokens.mean, tokens.std
    )
    assert torch.allclose(back[0], x[0])


@pytest.mark.parametrize("bad", [False, True])
def test_the_unit_of_the_flux_changes_nothing(bad):
    """Spectra in erg/s/cm²/Å have a scatter of 1e-17."""
    x = torch.from_numpy(np.random.default_rng(0).normal(1.0, 0.2, (3, 67))).float()
    mask = torch.ones(3, 67, dtype=torch.bool) if bad else None
    one, two = (standardise(scale * x, mask=mask)[0] for scale in (1.0, 1e-16))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    flat, _, _, std = standardise(torch.full((1, 67), 3e-16), mask=None if mask is None else mask[:1])
    assert (flat.abs() < 1).all()
    assert torch.isfinite(torch.log10(std)).all()
