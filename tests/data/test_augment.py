"""Random changes of training spectra: what they do, and that they depend on (seed, stream, epoch, object) alone."""

import numpy as np
import pytest
import torch

from astroclip_train.data.augment import NoiseAndShift
from astroclip_train.errors import ConfigError
from astroclip_train.randomness import normal, uniform


def batch(b: int = 6, l: int = 40) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "lrs": torch.randn(b, l, generator=g, dtype=torch.float64),
        "lrs_ivar": torch.rand(b, l, generator=g, dtype=torch.float64) + 0.5,
        "lrs_mask": torch.ones(1, 1).bool().expand(b, l),
        "object": torch.arange(b),
    }


KEY = {"seed": 3, "epoch": 2, "stream": "heads/mlp/train"}


def test_against_a_few_lines_of_numpy():
    before = batch()
    after = NoiseAndShift(noise=0.7, shift=3)(before, "lrs", **KEY)
    draws = uniform(3, 2, before["object"], 2, "heads/mlp/train/augment/lrs").numpy()
    noise = normal(3, 2, before["object"], 40, "heads/mlp/train/noise/lrs").numpy()
    x, ivar = before["lrs"].numpy(), before["lrs_ivar"].numpy()
    shifts = set()
    for i in range(6):
        s, a = int(draws[i, 0] * 7) - 3, 0.7 * draws[i, 1]
        shifts.add(s)
        for j in range(40):
            k = min(max(j + s, 0), 39)
            assert np.isclose(after["lrs"][i, j], x[i, k] + a * noise[i, j] / np.sqrt(ivar[i, k]))
            assert np.isclose(after["lrs_ivar"][i, j], ivar[i, k] / (1 + a**2))
            assert bool(after["lrs_mask"][i, j]) == (0 <= j + s < 40)
    assert len(shifts) > 2


def test_an_object_is_changed_alike_wherever_it_stands_and_anew_in_every_epoch():
    before, change = batch(), NoiseAndShift(noise=1.0, shift=2)
    whole = change(before, "lrs", **KEY)["lrs"]
    part = change({k: v[2:4] for k, v in before.items()}, "lrs", **KEY)["lrs"]
    assert torch.equal(whole[2:4], part)
    other = change(before, "lrs", **{**KEY, "epoch": 3})["lrs"]
    assert (other != whole).any(dim=1).all()


def test_unknown_pixels_get_no_noise_and_a_modality_without_ivar_none():
    before = batch()
    before["lrs_ivar"] = before["lrs_ivar"].clone()
    before["lrs_ivar"][:, 5] = 0
    before["lrs_ivar"][:, 6] = 1e-30
    after = NoiseAndShift(noise=1.0)(before, "lrs", **KEY)
    assert torch.equal(after["lrs"][:, 5], before["lrs"][:, 5])
    assert ((after["lrs"] - before["lrs"])[:, 6].abs() < 100).all()
    del before["lrs_ivar"]
    assert torch.equal(NoiseAndShift(noise=1.0)(before, "lrs", **KEY)["lrs"], before["lrs"])
    assert "lrs_ivar" not in NoiseAndShift(noise=1.0)(before, "lrs", **KEY)
    assert NoiseAndShift()(before, "xp", **KEY) == before


def test_negative_sizes_are_refused():
    with pytest.raises(ConfigError, match="must not be negative"):
        NoiseAndShift(noise=-1.0)
