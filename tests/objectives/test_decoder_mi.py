"""Decoders: published sizes, likelihoods and gains against NumPy and SciPy, units, masks."""

import numpy as np
import pytest
import torch
from scipy.stats import laplace, multivariate_normal, norm

from astroclip_train.bottlenecks import SharedPrivate
from astroclip_train.encoders import AutoEncoder, MaskedTransformer
from astroclip_train.errors import ConfigError
from astroclip_train.heads import AttentionHead, MLPBranchHead, SplitHead
from astroclip_train.objectives import Composite, Contrastive, DecoderMI
from astroclip_train.objectives.likelihoods import GaussianFamily, GaussianReference, LaplaceFamily

WIDTHS = {"lrs": (3072, 3072, 3072), "xp": (3072, 1536, 768)}
SPLIT = {"lrs": (2048, 2048, 2048), "xp": (2048, 1024, 512)}
PIXELS, FEATURES = {"lrs": 1462, "xp": 343}, {"lrs": 768, "xp": 768}


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def tiny(**options):
    torch.manual_seed(0)
    widths = {"lrs": (8,), "xp": (8,)}
    return DecoderMI(widths=widths, **options).bind({"lrs": 11, "xp": 7}, {"lrs": 6, "xp": 6}).double()


def batch(b=5):
    torch.manual_seed(1)
    return {
        "lrs": torch.randn(b, 11, dtype=torch.float64) * 0.3 + 1,
        "xp": torch.randn(b, 7, dtype=torch.float64) * 0.5 + 1,
        "lrs_mask": torch.rand(b, 11) > 0.2,
        "xp_ivar": torch.rand(b, 7, dtype=torch.float64) + 5,
    }


def embeddings(b=5):
    torch.manual_seed(2)
    return {m: torch.randn(b, 6, dtype=torch.float64, requires_grad=True) for m in ("lrs", "xp")}


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_published_sizes_of_whole_models(norm):
    with torch.device("meta"):
        encoders = (MaskedTransformer(1462, positions=150), AutoEncoder(343))
        heads = (AttentionHead(146, 768), MLPBranchHead(1, 768))
        clip = Contrastive()
        pr = Composite({"contrastive": Contrastive(), "decoders": DecoderMI(widths=WIDTHS, norm=norm)})
        split = Composite(
            {"contrastive": Contrastive(), "decoders": DecoderMI(cross_widths=SPLIT, norm=norm, dropout=0.1)}
        )
        split.bind(PIXELS, FEATURES, SharedPrivate())
        split_heads = (SplitHead(146, 768), SplitHead(1, 768, kind="mlp"))
        assert count(*encoders, *heads, clip.bind(PIXELS, FEATURES)) == 99_710_814
        assert count(*encoders, *heads, pr.bind(PIXELS, FEATURES)) == 168_293_752
        assert count(*encoders, *split_heads, split) == 126_229_506


def test_laplace_is_the_published_mean_absolute_error():
    objective, b, z = tiny(zscore=["lrs"]), batch(), embeddings()
    b.pop("lrs_mask")
    b.pop("xp_ivar")
    loss, metrics = objective(z, b)
    x = b["lrs"].numpy()
    standard = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
    targets = {
        "own_lrs": standard,
        "own_xp": b["xp"],
        "cross_lrs_to_xp": b["xp"],
        "cross_xp_to_lrs": b["lrs"],
    }
    expected = 0.0
    for name, target in targets.items():
        source = "lrs" if name in ("own_lrs", "cross_lrs_to_xp") else "xp"
        made = objective.decoders[name](z[source]).detach().numpy()
        expected += np.abs(made - np.asarray(target)).mean()
        np.testing.assert_allclose(metrics[name], np.abs(made - np.asarray(target)).mean())
    np.testing.assert_allclose(loss.item(), expected)


def test_densities_equal_scipy():
    r, good = torch.randn(4, 7, dtype=torch.float64), (torch.rand(4, 7) > 0.3).double()
    ivar = torch.rand(4, 7, dtype=torch.float64) + 0.5
    gaussian = GaussianFamily(7, 0.4).double()
    sigma = np.sqrt(0.4**2 + 1 / ivar.numpy())
    terms = norm.logpdf(r.numpy(), scale=sigma) * good.numpy()
    np.testing.assert_allclose(gaussian.log_prob(r, good, ivar).detach(), terms.sum(1))
    np.testing.assert_allclose(gaussian.loss(r, good, ivar).item(), -terms.sum() / good.sum())
    family = LaplaceFamily(7).double()
    family.width.copy_(torch.rand(7) + 0.5)
    terms = laplace.logpdf(r.numpy(), scale=family.width.numpy()) * good.numpy()
    np.testing.assert_allclose(family.log_prob(r, good, None), terms.sum(1))


def test_laplace_width_follows_the_mean_absolute_residual():
    family = LaplaceFamily(3)
    scale = torch.tensor([0.1, 1.0, 5.0])
    for _ in range(300):
        family.loss(torch.randn(64, 3) * scale, torch.ones(64, 3), None)
    torch.testing.assert_close(family.width, scale * 0.798, rtol=0.08, atol=0)


def test_reference_marginalises_bad_pixels_exactly():
    root = np.random.default_rng(0).normal(size=(7, 7))
    cov, mean = root @ root.T + np.eye(7), np.arange(7.0)
    x, good = torch.randn(6, 7, dtype=torch.float64), torch.rand(6, 7) > 0.4
    good[0], good[1] = True, torch.tensor([True] + [False] * 6)
    reference = GaussianReference(torch.from_numpy(mean), torch.from_numpy(cov), floor=0.0)
    for i, value in enumerate(reference.log_prob(x, good.double())):
        g = good[i].numpy()
        expected = multivariate_normal.logpdf(x[i].numpy()[g], mean[g], cov[np.ix_(g, g)])
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_singular_reference_is_refused_without_a_floor():
    with pytest.raises(ConfigError, match="floor"):
        GaussianReference(torch.zeros(3), torch.ones(3, 3) - 1e-3 * torch.eye(3), floor=0.0)


@pytest.mark.parametrize("family", ["laplace", "gaussian"])
def test_gain_does_not_depend_on_the_targets_unit(family):
    """The same decoder output, expressed in store units or standardised, proves the same information."""
    b, z = batch(), embeddings()
    plain, scaled = tiny(family=family).eval(), tiny(family=family, standardise=True).eval()
    mean, cov = torch.linspace(0.5, 1.5, 11), torch.diag(torch.linspace(0.1, 0.4, 11))
    for objective in (plain, scaled):
        objective.set_reference("lrs", mean, cov)
    std = cov.diagonal().sqrt().double()
    with torch.no_grad():  # the plain decoder's last layer is put into store units by hand
        for name in ("own_lrs", "cross_xp_to_lrs"):
            last = plain.decoders[name][-1]
            last.weight.mul_(std[:, None])
            last.bias.mul_(std).add_(mean)
            if family == "laplace":
                plain.families[name].width.mul_(std)
            else:
                plain.families[name].log_width.add_(std.log())
    one, two = plain(z, b)[1], scaled(z, b)[1]
    for name in ("gain_own_lrs", "gain_cross_xp_to_lrs"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.translate(z["xp"], "xp", "lrs"), scaled.translate(z["xp"], "xp", "lrs"))


def test_gain_of_a_linear_gaussian_channel_is_its_information():
    """x = z + noise: an ideal decoder's gain over N(0, 1 + s²) is I(x; z) = ½ log(1 + 1/s²) per pixel."""
    s, n = 0.5, 20_000
    torch.manual_seed(0)
    z = torch.randn(n, 2, dtype=torch.float64)
    x = z + s * torch.randn(n, 2, dtype=torch.float64)
    objective = (
        DecoderMI(cross=0, family="gaussian", widths={"lrs": ()}).bind({"lrs": 2}, {"lrs": 2}).double()
    )
    with torch.no_grad():
        objective.decoders["own_lrs"][0].weight.copy_(torch.eye(2))
        objective.decoders["own_lrs"][0].bias.zero_()
        objective.families["own_lrs"].log_width.fill_(np.log(s))
    objective.set_reference("lrs", torch.zeros(2), torch.eye(2) * (1 + s**2), floor=0.0)
    gain = objective.eval()({"lrs": z}, {"lrs": x})[1]["gain_own_lrs"]
    np.testing.assert_allclose(gain, np.log(1 + 1 / s**2), atol=0.03)


def test_bad_pixels_and_missing_modalities_have_no_weight():
    objective, b, z = tiny(family="gaussian"), batch(), embeddings()
    b["xp_present"] = torch.tensor([True, False, True, True, True])
    loss = objective(z, b)[0]
    b["lrs"] = torch.where(b["lrs_mask"], b["lrs"], torch.full_like(b["lrs"], torch.nan))
    b["xp"][1] = torch.nan
    b["xp_ivar"][1] = 0.0
    spoiled = {"lrs": z["lrs"], "xp": z["xp"].detach().clone()}
    spoiled["xp"][1] = 1e3
    again = objective(spoiled, b)[0]
    torch.testing.assert_close(loss, again)
    again.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())


def test_split_decoders_see_shared_or_both():
    objective = DecoderMI(widths={"lrs": (8,), "xp": (8,)}).double()
    objective.bind({"lrs": 11, "xp": 7}, {"lrs": 6, "xp": 6}, SharedPrivate(4, 2)).double()
    z = embeddings()
    changed = z["lrs"].detach().clone()
    changed[:, 4:] += 5
    same = objective.translate(changed, "lrs", "xp")
    torch.testing.assert_close(same, objective.translate(z["lrs"], "lrs", "xp"))
    own = objective.translate(changed, "lrs", "lrs")
    assert not torch.allclose(own, objective.translate(z["lrs"], "lrs", "lrs"))


def test_weights_switch_decoders_off():
    assert tiny(cross=0).can_translate("xp", "xp")
    assert not tiny(cross=0).can_translate("lrs", "xp")
    assert set(tiny(cross=0).decoders) == {"own_lrs", "own_xp"}
    assert set(tiny(own=0).decoders) == {"cross_lrs_to_xp", "cross_xp_to_lrs"}
    with pytest.raises(ConfigError, match="zero"):
        DecoderMI(own=0, cross=0)


def test_translations_that_cannot_be_made_are_refused():
    z = embeddings()["lrs"]
    with pytest.raises(ConfigError, match="no decoder"):
        tiny(cross=0).translate(z, "lrs", "xp")
    with pytest.raises(ConfigError, match="scatter"):
        tiny(zscore=["lrs"]).translate(z, "lrs", "lrs")
    with pytest.raises(ConfigError, match="variant"):
        Composite({"contrastive": Contrastive()}).translate(z, "lrs", "xp")
