"""Properties of every registered objective."""

import io

import pytest
import torch

from astroclip_train.errors import ConfigError
from astroclip_train.objectives import (
    ENCODER_OBJECTIVES,
    PAIR_OBJECTIVES,
    Autoencode,
    Composite,
    MaskedReconstruction,
)


def silent(module):
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def pair_batch(b):
    generator = torch.Generator().manual_seed(b)
    lrs, xp = (torch.randn(b, l, generator=generator, dtype=torch.float64) for l in (11, 7))
    embeddings = {m: torch.randn(b, 6, generator=generator, dtype=torch.float64) for m in ("lrs", "xp")}
    return embeddings, {"lrs": lrs, "xp": xp, "object": torch.arange(b)}


@pytest.mark.parametrize("name", ENCODER_OBJECTIVES)
class TestEveryEncoderObjective:
    def run(self, name, b=4):
        objective, encoder = ENCODER_OBJECTIVES[name].example()
        objective, encoder = objective.double(), encoder.double()
        x = torch.randn(b, encoder.length, dtype=torch.float64)
        uniforms = torch.rand(b, objective.n_uniforms(encoder), dtype=torch.float64)
        return objective, encoder, x, uniforms

    def test_scalar_and_gradient_to_every_parameter(self, name):
        objective, encoder, x, uniforms = self.run(name)
        loss, metrics = objective(encoder, x, None, None, uniforms)
        assert loss.shape == ()
        assert loss.dtype == torch.float64
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
        assert torch.equal(metrics["loss"], loss.detach())
        loss.backward()
        assert silent(encoder) == silent(objective) == []

    def test_eval_is_deterministic_with_a_batch_of_one(self, name):
        objective, encoder, x, uniforms = self.run(name, b=1)
        objective.eval()
        encoder.eval()
        assert torch.equal(*(objective(encoder, x, None, None, uniforms)[0] for _ in range(2)))


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
class TestEveryPairObjective:
    def test_scalar_and_gradient_to_every_parameter(self, name):
        objective = PAIR_OBJECTIVES[name].example().double()
        embeddings, batch = pair_batch(6)
        embeddings = {m: z.requires_grad_() for m, z in embeddings.items()}
        loss, metrics = objective(embeddings, batch)
        assert loss.shape == ()
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
        loss.backward()
        assert silent(objective) == []
        assert all(z.grad.any() for z in embeddings.values())

    def test_eval_is_deterministic_with_a_batch_of_one(self, name):
        objective = PAIR_OBJECTIVES[name].example().double().eval()
        assert torch.equal(*(objective(*pair_batch(1))[0] for _ in range(2)))

    def test_save_and_load(self, name):
        objective, other = PAIR_OBJECTIVES[name].example(), PAIR_OBJECTIVES[name].example()
        buffer = io.BytesIO()
        torch.save(objective.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        embeddings, batch = pair_batch(4)
        one, two = objective.double().eval(), other.double().eval()
        assert torch.equal(one(embeddings, batch)[0], two(embeddings, batch)[0])


def test_autoencode_is_the_mean_squared_error_of_the_vector():
    objective, encoder = Autoencode.example()
    x = torch.randn(3, encoder.length)
    target, made, _ = encoder.reconstruct(x)
    loss = objective(encoder, x, None, None, torch.rand(3, 0))[0]
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(made, target))


def test_composite_adds_its_parts():
    objective = Composite.example().double().eval()
    embeddings, batch = pair_batch(5)
    expected = sum(part(embeddings, batch)[0] for part in objective.parts.values())
    loss, metrics = objective(embeddings, batch)
    torch.testing.assert_close(loss, expected)
    assert "contrastive_mi_bound" in metrics


def test_wrong_partners_are_refused():
    masked, transformer = MaskedReconstruction.example()
    autoencode, autoencoder = Autoencode.example()
    x = torch.randn(2, 67)
    for objective, encoder in ((masked, autoencoder), (autoencode, transformer)):
        with pytest.raises(ConfigError, match="needs"):
            objective(encoder, x, None, None, torch.rand(2, 4))
    with pytest.raises(ConfigError, match="part"):
        Composite({})
