"""Properties of every registered encoder and pooling, and the published sizes."""

import io

import pytest
import torch

from astroclip_train.encoders import (
    ENCODERS,
    POOLINGS,
    AttentionPool,
    AutoEncoder,
    ConvEncoder,
    MaskedTransformer,
    StandardisedPool,
)
from astroclip_train.encoders.blocks import attend
from astroclip_train.errors import ConfigError


def count(module):
    return sum(p.numel() for p in module.parameters())


def saved_and_loaded(module, fresh):
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh.to(next(iter(module.state_dict().values()), torch.zeros(0)).dtype).eval()


@pytest.mark.parametrize("name", ENCODERS)
class TestEveryEncoder:
    def test_shape_and_float64(self, name):
        encoder = ENCODERS[name].example().double()
        tokens = encoder(torch.randn(3, encoder.length, dtype=torch.float64))
        assert tokens.shape == (3, encoder.n_tokens, encoder.width)
        assert tokens.dtype == torch.float64

    def test_eval_is_deterministic_and_independent_of_the_batch(self, name):
        encoder = ENCODERS[name].example().double().eval()
        x = torch.randn(3, encoder.length, dtype=torch.float64)
        assert torch.equal(encoder(x), encoder(x))
        torch.testing.assert_close(encoder(x[1:2]), encoder(x)[1:2])

    def test_save_and_load(self, name):
        encoder = ENCODERS[name].example().eval()
        other = saved_and_loaded(encoder, ENCODERS[name].example())
        x = torch.randn(2, encoder.length)
        assert torch.equal(encoder(x), other(x))

    def test_layer_groups_hold_every_parameter_once(self, name):
        encoder = ENCODERS[name].example()
        grouped = [id(p) for group in encoder.layer_groups() for p in group]
        assert sorted(grouped) == sorted(id(p) for p in encoder.parameters())

    def test_bad_pixels_do_not_change_the_tokens(self, name):
        encoder = ENCODERS[name].example().double().eval()
        x = torch.randn(2, encoder.length, dtype=torch.float64)
        mask = torch.rand(2, encoder.length) > 0.3
        spoiled = torch.where(mask, x, torch.full_like(x, float("nan")))
        assert torch.isfinite(encoder(spoiled, mask=mask)).all()
        torch.testing.assert_close(encoder(x, mask=mask), encoder(spoiled, mask=mask))

    def test_flops_are_counted(self, name):
        assert ENCODERS[name].example().flops() > 0


@pytest.mark.parametrize("name", POOLINGS)
class TestEveryPooling:
    def test_shape_gradient_and_batch_of_one(self, name):
        pool = POOLINGS[name].example().double()
        tokens = torch.randn(4, 5, 8, dtype=torch.float64)
        pool.fit([tokens + 1, tokens * 2])
        y = pool(tokens)
        assert y.shape == (4, pool.features)
        if list(pool.parameters()):
            (y * torch.randn_like(y)).sum().backward()
            assert [n for n, p in pool.named_parameters() if p.grad is None or not p.grad.any()] == []
        pool.eval()
        torch.testing.assert_close(pool(tokens[:1]), pool(tokens)[:1])

    def test_save_and_load(self, name):
        pool = POOLINGS[name].example()
        tokens = torch.randn(6, 5, 8)
        pool.fit([tokens])
        other = saved_and_loaded(pool, POOLINGS[name].example())
        assert torch.equal(pool.eval()(tokens), other(tokens))


def test_published_sizes():
    with torch.device("meta"):
        assert count(MaskedTransformer(1462, positions=150)) == 42_677_013
        assert (
            count(MaskedTransformer(343, window=1, stride=1, stats="mean_std", positions=350)) == 42_802_947
        )
        assert count(AutoEncoder(343)) == 42_846_129
        assert count(AutoEncoder(1462, hidden=1245, stats="log_std")) == 42_791_927


def test_autoencoder_vector_is_statistics_then_spectrum():
    x = torch.randn(2, 343, dtype=torch.float64) + 1
    vector, weight = AutoEncoder(343, width=4, hidden=4).vector(x)
    assert vector.shape == weight.shape == (2, 345)
    torch.testing.assert_close(vector[:, 2:] * vector[:, 1:2] + vector[:, :1], x)


def test_published_attention_divides_the_logits_by_the_head_width():
    encoder = MaskedTransformer(67, 16, 1, 2, window=10, stride=5, attention_scale="published").double()
    attention = encoder.blocks[0].attention
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    q, k, v = attention.qkv(x)[0].view(5, 3, 2, 8).permute(1, 2, 0, 3)
    expected = attention.out(
        (torch.softmax(q @ k.transpose(1, 2) / 8, -1) @ v).transpose(0, 1).reshape(5, 16)
    )
    torch.testing.assert_close(attention(x)[0], expected)
    standard = MaskedTransformer(67, 16, 1, 2, window=10, stride=5)
    assert standard.blocks[0].attention.scale is None


@pytest.mark.parametrize("scale", [None, 1 / 8])
def test_bfloat16_attention_on_a_cpu_equals_the_fused_kernel(scale):
    q, k, v = torch.randn(3, 2, 3, 9, 8)
    exact = attend(q, k, v, scale=scale)
    rough = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), scale=scale)
    assert rough.dtype is torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)


def test_encoding_visible_tokens_equals_encoding_a_shorter_sequence():
    encoder = MaskedTransformer(67, 16, 2, 2, window=10, stride=5).double()
    values = encoder.tokenizer(torch.randn(2, 67, dtype=torch.float64)).values
    everything = torch.arange(encoder.n_tokens).expand(2, -1)
    torch.testing.assert_close(encoder.encode(values, visible=everything), encoder.encode(values))
    visible = torch.tensor([[0, 3, 5], [1, 2, 12]])
    changed = values.clone()
    changed[0, 4], changed[1, 7] = 99.0, 99.0
    torch.testing.assert_close(
        encoder.encode(values, visible=visible), encoder.encode(changed, visible=visible)
    )


@pytest.mark.parametrize(
    "options", [{"heads": 3}, {"positions": 5}, {"masking": "noise"}, {"attention_scale": "double"}]
)
def test_transformer_refuses_what_does_not_fit(options):
    with pytest.raises(ConfigError):
        MaskedTransformer(
            **({"length": 67, "width": 16, "depth": 1, "heads": 2, "window": 10, "stride": 5} | options)
        )


def test_attention_pool_is_the_published_query():
    pool = AttentionPool(146, 768)
    assert count(pool) == 768 + 4 * (768 * 768 + 768) + 2 * 768


def test_standardised_pool_gives_every_position_the_same_scatter():
    tokens = torch.randn(500, 5, 8, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 5, 2.0])[:, None] + 3
    pool = StandardisedPool(5, 8, per_token=8).double()
    pool.fit(tokens.split(100))
    y = pool(tokens).unflatten(1, (5, 8))
    torch.testing.assert_close(y.mean(0), torch.zeros(5, 8, dtype=y.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.var(0).mean(-1), torch.ones(5, dtype=y.dtype))
    off_diagonal = torch.cov(y[:, 1].T) - torch.diag(y[:, 1].var(0))
    assert off_diagonal.abs().max() < 1e-9


def test_standardised_pool_keeps_the_leading_axis():
    direction = torch.nn.functional.normalize(torch.randn(8, dtype=torch.float64), dim=0)
    amplitude = torch.randn(300, 1, 1, dtype=torch.float64)
    tokens = amplitude * direction + 0.01 * torch.randn(300, 5, 8, dtype=torch.float64)
    pool = StandardisedPool(5, 8, per_token=1).double()
    pool.fit([tokens])
    correlation = torch.corrcoef(torch.stack([pool(tokens)[:, 2], amplitude[:, 0, 0]]))[0, 1]
    assert correlation.abs() > 0.999


def test_pooling_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="training tokens"):
        StandardisedPool(5, 8).fit([])


def test_convolution_centres_pixels_by_training_batches():
    encoder = ConvEncoder(67, channels=(4, 8), batches=2).double()
    x = torch.randn(60, 67, dtype=torch.float64) * 0.1 + torch.linspace(0, 5, 67)
    mask = torch.rand(60, 67) > 0.1
    for rows in (slice(0, 20), slice(20, 40), slice(40, 60)):
        encoder(torch.where(mask[rows], x[rows], 1e9), mask=mask[rows])
    means = [(x[r] * mask[r]).sum(0) / mask[r].sum(0) for r in (slice(0, 20), slice(20, 40))]
    torch.testing.assert_close(encoder.centre, (means[0] + means[1]) / 2)
    assert encoder.seen == 2


def test_convolution_refuses_short_spectra():
    with pytest.raises(ConfigError, match="stages"):
        ConvEncoder(6, channels=(4, 4, 4, 4))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_convolution_with_norm_and_clipped_pixels(norm):
    """A cosmic ray of any height is one pixel at the clip; statistics of batches are not used in eval mode."""
    torch.manual_seed(0)
    encoder = ConvEncoder(
        length=80, channels=(4, 6), kernel=(9, 3), stride=(4, 2), pool=False, norm=norm, clip=5.0
    )
    encoder = encoder.double()
    x = torch.randn(16, 80, dtype=torch.float64)
    encoder(x)
    encoder.eval()
    assert encoder(x).shape == (16, encoder.n_tokens, 6)
    high, higher = x.clone(), x.clone()
    high[:, 40], higher[:, 40] = 100.0, 1e6
    assert torch.equal(encoder(high), encoder(higher))
    assert torch.allclose(encoder(x)[:3], encoder(x[:3]))


@pytest.mark.parametrize("scale", [1.0, 1e-16])
def test_convolution_scale_is_that_of_the_pixels_that_are_ever_good(scale):
    encoder = ConvEncoder(67, channels=(4, 8))
    x = scale * (1 + 0.1 * torch.randn(64, 67, generator=torch.Generator().manual_seed(0)))
    mask = torch.ones(64, 67, dtype=torch.bool)
    mask[:, :7] = False
    encoder(x, mask=mask)
    expected = x[:, 7:].double().var(0, correction=0).mean().sqrt()
    assert float(encoder._scale() / expected) == pytest.approx(1.0, rel=1e-3)
