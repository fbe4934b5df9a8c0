"""Draws are functions of (seed, epoch, object, slot): golden bits, independence of the batch, distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from astroclip_train.randomness import (
    even_normals,
    hash64,
    normal,
    object_hash,
    seed_torch,
    step_seed,
    uniform,
)

MASK = (1 << 64) - 1


def splitmix(seed: int, epoch: int, name: int, slot: int, stream: str) -> float:
    """The same in Python's integers."""

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    key = hash64("uniform", seed, stream) & MASK
    state = mix((name & MASK) ^ mix((key + epoch * golden) & MASK))
    return (mix((state + (slot + 1) * golden) & MASK) >> 11) * 2.0**-53


def test_draws_are_splitmix_of_their_counter():
    objects = torch.tensor([0, 1, -5, 2**62])
    drawn = uniform(7, 3, objects, 4, "mask")
    for i, name in enumerate(objects.tolist()):
        for slot in range(4):
            assert float(drawn[i, slot]) == splitmix(7, 3, name, slot, "mask")


def test_a_draw_does_not_depend_on_its_batch_and_differs_by_epoch_and_stream():
    objects = torch.from_numpy(object_hash(np.array(["a", "b", "c"])))
    whole = uniform(0, torch.tensor([0, 1, 2]), objects, 5, "x")
    assert torch.equal(whole[1:2], uniform(0, 1, objects[1:2], 5, "x"))
    others = [
        uniform(1, 1, objects[1:2], 5, "x"),
        uniform(0, 2, objects[1:2], 5, "x"),
        uniform(0, 1, objects[1:2], 5, "y"),
    ]
    assert not any(torch.isin(other, whole).any() for other in others)


@pytest.mark.parametrize("axis", [0, 1])
def test_normals_are_normal_along_objects_and_slots(axis):
    shape = (20_000, 3) if axis == 0 else (3, 20_000)
    drawn = normal(1, 0, torch.arange(shape[0]), shape[1])
    for i in range(3):
        assert kstest(drawn.select(1 - axis, i).numpy(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.numpy(), rowvar=axis == 1) - np.eye(3)).max() < 0.03


def test_seeds_of_steps_ranks_and_stages_differ():
    seeds = {
        step_seed(0, stage, step, rank) for stage in ("lrs", "xp") for step in range(50) for rank in range(4)
    }
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_even_normals_average_better_than_drawn_ones():
    points = even_normals(256, 4)
    assert torch.equal(points, even_normals(256, 4))
    assert points.mean(0).abs().max() < 0.02  # 0.06 by chance
    assert (points.std(0) - 1).abs().max() < 0.02
    assert torch.isfinite(points).all()


def test_even_normals_of_several_objects_are_normal_and_their_own():
    shift = uniform(0, 0, torch.arange(300), 3, "posterior")
    points = even_normals(200, 3, shift)
    assert points.shape == (300, 200, 3)
    assert torch.equal(points[5:6], even_normals(200, 3, shift[5:6]))
    assert kstest(points[:, :, 1].flatten().numpy(), "norm").pvalue > 1e-3
    means = points.mean(1)
    assert means.std() < 0.02  # 0.07 by chance
    assert np.abs(np.corrcoef(means.numpy(), rowvar=False) - np.eye(3)).max() < 0.3


def test_torch_is_seeded_as_by_itself():
    drawn = []
    for seed in (torch.manual_seed, seed_torch):
        seed(step_seed(3, "lrs", 17))
        drawn.append(torch.nn.functional.dropout(torch.ones(1000), 0.3))
    assert torch.equal(*drawn)
