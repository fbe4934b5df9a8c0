"""InfoNCE and the sigmoid loss against NumPy, same-object pairs, and the bound."""

import math

import numpy as np
import pytest
import torch

from astroclip_train.bottlenecks import SharedPrivate
from astroclip_train.errors import ConfigError
from astroclip_train.objectives import Contrastive

GENERATOR = np.random.default_rng(1)


def pair(b=6, k=5):
    return GENERATOR.normal(size=(b, k)), GENERATOR.normal(size=(b, k))


def tensors(u, v):
    return {"lrs": torch.from_numpy(u), "xp": torch.from_numpy(v)}


def cosines(u, v):
    return (u / np.linalg.norm(u, axis=1, keepdims=True)) @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T


def numpy_info_nce(s):
    return np.mean([-s[i, i] + np.log(np.exp(s[i]).sum()) for i in range(len(s))])


def test_info_nce_equals_numpy():
    u, v = pair()
    loss, metrics = Contrastive()(tensors(u, v), {})
    s = 15.5 * cosines(u, v)
    expected = (numpy_info_nce(s) + numpy_info_nce(s.T)) / 2
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics["ceiling"], math.log(6))
    np.testing.assert_allclose(metrics["mi_bound"], math.log(6) - expected)
    np.testing.assert_allclose(metrics["mi_bound_bits"], (math.log(6) - expected) / math.log(2))
    assert metrics["accuracy_lrs_to_xp"] == np.mean(s.argmax(1) == np.arange(6))


def test_sigmoid_equals_numpy_and_reports_info_nce_beside():
    u, v = pair()
    objective = Contrastive(loss="sigmoid", temperature=0.1, initial_bias=-3.0).double()
    loss, metrics = objective(tensors(u, v), {})
    s = 10 * cosines(u, v)
    sign = 2 * np.eye(6) - 1
    np.testing.assert_allclose(loss.item(), np.log1p(np.exp(-sign * (s - 3))).sum() / 6, rtol=1e-12)
    np.testing.assert_allclose(metrics["info_nce"], (numpy_info_nce(s) + numpy_info_nce(s.T)) / 2)


def test_two_observations_of_one_object_are_no_negatives():
    u, v = pair()
    ids = torch.tensor([5, 7, 5, 8, 9, 7])
    loss, metrics = Contrastive()(tensors(u, v), {"object": ids})
    s = 15.5 * cosines(u, v)
    same = ids.numpy()[:, None] == ids.numpy()[None]
    s[same & ~np.eye(6, dtype=bool)] = -np.inf
    np.testing.assert_allclose(loss.item(), (numpy_info_nce(s) + numpy_info_nce(s.T)) / 2, rtol=1e-12)
    np.testing.assert_allclose(metrics["ceiling"], np.mean(np.log([5, 5, 5, 6, 6, 5])))


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_same_object_pairs_carry_no_gradient(loss):
    u, v = (torch.from_numpy(x).requires_grad_() for x in pair(2))
    objective = Contrastive(loss=loss).double()
    only = objective({"lrs": u[:1], "xp": v[:1]}, {})[0]
    twins = objective({"lrs": u, "xp": v}, {"object": torch.tensor([3, 3])})[0]
    other = objective({"lrs": u[1:], "xp": v[1:]}, {})[0]
    torch.testing.assert_close(twins, (only + other) / 2)


def test_objects_without_a_modality_are_left_out():
    u, v = pair()
    there = torch.tensor([True, True, False, True, True, True])
    batch = {"lrs_present": torch.ones(6, dtype=torch.bool), "xp_present": there, "object": torch.arange(6)}
    loss = Contrastive()(tensors(u, v), batch)[0]
    keep = there.numpy()
    torch.testing.assert_close(loss, Contrastive()(tensors(u[keep], v[keep]), {})[0])
    nothing = {"xp_present": torch.zeros(6, dtype=torch.bool)}
    assert Contrastive()(tensors(u, v), nothing)[0] == 0


def test_gathered_candidates_give_the_loss_of_the_whole_batch():
    u, v = (torch.from_numpy(x) for x in pair(8))
    ids = torch.tensor([1, 2, 3, 1, 4, 5, 6, 7])
    objective = Contrastive()
    scale = objective.scale()
    whole = objective.direction([objective.block(objective.similarity(u, v, ids, ids), scale)])[0]
    parts = [
        objective.direction([objective.block(objective.similarity(u[r], v, ids[r], ids, r.start), scale)])[0]
        for r in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_bound_never_passes_the_ceiling_and_matches_a_gaussian_channel():
    """Scalar Gaussian channel: the InfoNCE of the exact log ratio stays below the true information."""
    generator = torch.Generator().manual_seed(0)
    rho, b = 0.9, 512
    x = torch.randn(b, 1, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(b, 1, generator=generator, dtype=torch.float64)
    logits = -0.5 * (y.T - rho * x) ** 2 / (1 - rho**2)
    from astroclip_train.objectives.contrastive import info_nce

    bound = math.log(b) - info_nce(logits, torch.arange(b)).mean().item()
    truth = -0.5 * math.log(1 - rho**2)
    assert truth - 0.15 < bound < min(truth + 0.05, math.log(b))


def test_learnable_scale_is_clamped():
    objective = Contrastive(learnable=True, max_scale=20.0)
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    assert abs(objective.scale().item() - 20) < 1e-4
    with torch.no_grad():
        objective.log_scale.fill_(-9.0)
    assert objective.scale().item() == 1


@pytest.mark.parametrize("temperature", [15.5, 1.01, 0.0, -0.1])
def test_a_scale_given_as_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="1 / logit scale"):
        Contrastive(temperature=temperature)


def test_only_the_shared_part_is_compared():
    u, v = pair(5, 6)
    objective = Contrastive().bind({"lrs": 3, "xp": 3}, {"lrs": 6, "xp": 6}, SharedPrivate(4, 2))
    torch.testing.assert_close(
        objective(tensors(u, v), {})[0], Contrastive()(tensors(u[:, :4], v[:, :4]), {})[0]
    )


def test_unequal_embeddings_are_refused():
    with pytest.raises(ConfigError, match="one length"):
        Contrastive().bind({"lrs": 3, "xp": 3}, {"lrs": 6, "xp": 5})


def test_half_precision_embeddings_are_compared_in_float32():
    u, v = pair()
    halves = {m: z.bfloat16() for m, z in tensors(u, v).items()}
    assert Contrastive()(halves, {})[0].dtype == torch.float32
