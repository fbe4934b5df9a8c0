"""Masks as functions of their uniforms, and masked losses against NumPy."""

import numpy as np
import pytest
import torch

from astroclip_train.encoders import MaskedTransformer
from astroclip_train.errors import ConfigError
from astroclip_train.objectives import MaskedReconstruction


def small(masking="zero", **options):
    sizes = {"length": 67, "width": 16, "depth": 1, "heads": 2, "window": 10, "stride": 5}
    return MaskedTransformer(**(sizes | options), masking=masking).double()


def test_strips_follow_the_published_rule():
    with torch.device("meta"):
        shape = MaskedTransformer(1462, 8, 1, 1)
    objective = MaskedReconstruction(6, 10)
    uniforms = torch.rand(4000, 6, dtype=torch.float64)
    hidden = objective.hidden(shape, uniforms)
    for i in range(5):
        expected = np.zeros(146, bool)
        for strip in range(6):
            start = int(strip * 146 / 6) + int(uniforms[i, strip] * (24 - 10))
            expected[start : start + 10] = True
        np.testing.assert_array_equal(hidden[i].numpy(), expected)
    assert (hidden.sum(1) == 60).all()
    assert (~hidden.any(0)).nonzero()[:, 0].tolist() == [23, 47, 71, 72, 96, 120, 144, 145]


@pytest.mark.parametrize("layout", ["strips", "blocks", "uniform"])
def test_masks_depend_on_the_object_only_and_hide_the_same_number(layout):
    encoder, objective = small(), MaskedReconstruction(2, 3, layout=layout)
    uniforms = torch.rand(200, objective.n_uniforms(encoder), dtype=torch.float64)
    hidden = objective.hidden(encoder, uniforms)
    assert torch.equal(objective.hidden(encoder, uniforms.flip(0)).flip(0), hidden)
    assert (hidden.sum(1) == 6).all()


@pytest.mark.parametrize("layout", ["blocks", "uniform"])
def test_fair_layouts_hide_all_windows_equally_often_and_never_the_statistics(layout):
    encoder, objective = small(), MaskedReconstruction(2, 3, layout=layout)
    uniforms = torch.rand(6000, objective.n_uniforms(encoder), dtype=torch.float64)
    rate = objective.hidden(encoder, uniforms).double().mean(0)
    assert rate[0] == 0
    assert (rate[1:] - 0.5).abs().max() < 0.03


def test_blocks_are_contiguous_up_to_rotation():
    encoder, objective = small(), MaskedReconstruction(2, 3, layout="blocks")
    windows = objective.hidden(encoder, torch.rand(300, 3, dtype=torch.float64))[:, 1:]
    edges = (windows != windows.roll(1, 1)).sum(1)
    assert (edges <= 4).all()


def test_keep_sets_the_fraction():
    encoder, objective = small(), MaskedReconstruction(2, keep=0.35, layout="uniform")
    assert objective.hidden(encoder, torch.rand(5, 13)).sum(1).tolist() == [8] * 5


@pytest.mark.parametrize("leak_free", [False, True])
def test_zero_fill_loss_equals_numpy(leak_free):
    encoder, objective = small(), MaskedReconstruction(2, 3, leak_free=leak_free)
    x, uniforms = torch.randn(3, 67, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    loss, metrics = objective(encoder, x, None, None, uniforms)
    tokens = encoder.tokenizer(x).values
    hidden = objective.hidden(encoder, uniforms)
    filled = torch.where(hidden[:, :, None], torch.zeros_like(tokens), tokens)
    prediction = encoder.predict(encoder.encode(filled)).detach().numpy()
    total = number = 0.0
    for i in range(3):
        for j in range(13):
            for k in range(11):
                counted = hidden[i, j] and tokens[i, j, k] != 0  # entries that masking changed
                if counted and leak_free and j > 0:
                    pixel = 5 * (j - 1) + k - 1
                    covering = [w for w in range(12) if 5 * w <= pixel < 5 * w + 10]
                    counted = all(hidden[i, w + 1] for w in covering)
                if counted:
                    total += (prediction[i, j, k] - tokens[i, j, k].item()) ** 2
                    number += 1
    np.testing.assert_allclose(loss.item(), total / number, rtol=1e-12)
    np.testing.assert_allclose(metrics["masked_fraction"], 6 / 13, rtol=1e-6)


@pytest.mark.parametrize("masking", ["zero", "token", "drop"])
@pytest.mark.parametrize("layout", ["strips", "blocks", "uniform"])
def test_hidden_values_do_not_reach_the_prediction(masking, layout):
    """The loss changes with hidden pixels only through the target: its gradient there is that of the
    target."""
    encoder, objective = small(masking, stride=10), MaskedReconstruction(2, 2, layout=layout)
    uniforms = torch.rand(2, 7 + 4, dtype=torch.float64)[:, : objective.n_uniforms(encoder)]
    values = encoder.tokenizer(torch.randn(2, 67, dtype=torch.float64)).values.detach()
    hidden = objective.hidden(encoder, uniforms)
    changed = torch.where(hidden[:, :, None], values + 7.0, values)

    def prediction(tokens):
        if masking == "drop":
            order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
            m = int((~hidden[0]).sum())
            return encoder.predict(encoder.encode(tokens, visible=order[:, :m]), order[:, m:])
        if masking == "token":
            return encoder.predict(encoder.encode(tokens, hidden=hidden))
        return encoder.predict(encoder.encode(tokens.masked_fill(hidden[:, :, None], 0.0)))

    torch.testing.assert_close(prediction(values), prediction(changed))


@pytest.mark.parametrize("masking", ["zero", "token", "drop"])
def test_gradient_reaches_every_parameter(masking):
    encoder, objective = small(masking), MaskedReconstruction(2, 3)
    for _ in range(3):
        x, uniforms = torch.randn(4, 67, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
        objective(encoder, x, torch.ones_like(x), None, uniforms)[0].backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("ivar_weighted", [False, True])
def test_bad_pixels_have_no_weight(ivar_weighted):
    encoder, objective = small("drop"), MaskedReconstruction(2, 3, ivar_weighted=ivar_weighted)
    x, uniforms = torch.randn(3, 67, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    mask, ivar = torch.rand(3, 67) > 0.3, torch.rand(3, 67, dtype=torch.float64) + 0.1
    loss = objective(encoder, x, ivar, mask, uniforms)[0]
    spoiled = torch.where(mask, x, torch.full_like(x, 1e6))
    torch.testing.assert_close(objective(encoder, spoiled, ivar, mask, uniforms)[0], loss)


def test_what_does_not_fit_is_refused():
    encoder = small()
    with pytest.raises(ConfigError, match="do not fit"):
        MaskedReconstruction(2, 9).hidden(encoder, torch.rand(1, 2))
    with pytest.raises(ConfigError, match="make them equal"):
        MaskedReconstruction(2, 3, fill="drop")(encoder, torch.randn(1, 67), None, None, torch.rand(1, 2))
    with pytest.raises(ConfigError, match="keep"):
        MaskedReconstruction(keep=1.5)
    with pytest.raises(ConfigError, match="strips"):
        MaskedReconstruction(layout="random")
