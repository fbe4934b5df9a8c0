"""The domain threshold keeps its promise; low-rank adaptation starts at the layer and merges back into it."""

import numpy as np
import pytest
import torch
from torch import nn

from astroclip_train.errors import ConfigError
from astroclip_train.hub import lora
from astroclip_train.hub.domain import DomainGuard


def test_distance_is_mahalanobis_where_all_components_are_kept():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5)) + 3
    guard = DomainGuard(5).double().fit(torch.as_tensor(z))
    half = z[::2]
    x = z[1::2][:50] - half.mean(0)
    expected = np.sqrt(np.einsum("bi,ij,bj->b", x, np.linalg.inv(np.cov(half.T)), x))
    np.testing.assert_allclose(guard.distance(torch.as_tensor(z[1::2][:50])).numpy(), expected, rtol=1e-6)


def test_quantile_of_new_objects_stays_inside():
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randn(n, 100, generator=generator) * torch.linspace(1, 0.01, 100)  # noqa: E731
    guard = DomainGuard(100, components=16).fit(draw(8000))
    assert 0.990 < guard(draw(8000)).float().mean() < 0.999
    assert not guard(draw(10) + 5).any()


def test_domain_of_few_objects_in_many_dimensions_is_finite():
    guard = DomainGuard(64).fit(torch.randn(20, 64))
    assert torch.isfinite(guard.distance(torch.randn(5, 64))).all()


def test_lora_starts_at_the_layer_trains_only_updates_and_merges():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(5, 6)
    before = model(x)
    names = lora.apply(model, rank=2, alpha=4, pattern=r"^0$")
    assert names == ["0"]
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == ["0.a", "0.b"]
    with torch.no_grad():
        model[0].b.normal_()
    after = model(x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(lora.merge(model)(x), after)
    assert isinstance(model[0], nn.Linear)


def test_adapt_knows_its_three_ways_and_says_so():
    model = nn.Sequential(nn.Linear(4, 4))
    assert lora.adapt(model, "probe") == []
    assert len(lora.adapt(model, "full")) == 2
    assert [tuple(p.shape) for p in lora.adapt(model, "lora", rank=2)] == [(2, 4), (4, 2)]
    with pytest.raises(ConfigError, match="probe, lora or full"):
        lora.adapt(model, "half")
    with pytest.raises(ConfigError, match="no linear layer matches"):
        lora.apply(nn.Sequential(nn.Linear(2, 2)), pattern="attention")
