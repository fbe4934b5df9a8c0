"""Properties of every registered downstream head, and each against a reference."""

import io

import numpy as np
import pytest
import torch
from scipy.stats import norm

from astroclip_train.errors import ConfigError, DataError
from astroclip_train.heads import HEADS, FlowHead, KNNHead, LinearHead, MLPHead, Prediction
from astroclip_train.heads.base import moments
from astroclip_train.randomness import even_normals

LABELS = ["a", "b", "c"]
NOISE = even_normals(8, 3)


def data(n=200, seed=0, missing=0.1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64) * 3 + 1
    w = torch.randn(8, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = x @ w + 0.1 * torch.randn(n, 3, generator=generator, dtype=torch.float64) + torch.tensor([5e3, 0, 1])
    return x, torch.where(torch.rand(n, 3, generator=generator) < missing, torch.nan, y)


def fitted(name, **options):
    torch.manual_seed(0)
    head = (HEADS[name](8, LABELS, **options) if options else HEADS[name].example()).double()
    (head.fit if head.closed_form else head.prepare)(*data())
    return head.eval()


def train(head, x, y, steps=300, rate=1e-2):
    head.prepare(x, y)
    optimizer = torch.optim.Adam(head.parameters(), rate)
    head.train()
    for _ in range(steps):
        rows = torch.randint(0, len(x), (256,))
        optimizer.zero_grad()
        head.loss(x[rows], y[rows]).backward()
        optimizer.step()
    return head.eval()


@pytest.mark.parametrize("name", HEADS)
class TestEveryHead:
    def test_shapes_and_float64(self, name):
        x, y = data(5)
        prediction = fitted(name).predict(x, n_samples=6)
        assert prediction.mean.shape == prediction.std.shape == (5, 3)
        assert prediction.mean.dtype == torch.float64
        assert torch.isfinite(prediction.mean).all()
        assert (prediction.std >= 0).all()
        assert prediction.quantiles([0.16, 0.5, 0.84]).shape == (5, 3, 3)
        assert fitted(name).log_prob(x, y).shape == (5,)

    def test_gradient_reaches_every_parameter(self, name):
        head = fitted(name)
        if head.closed_form:
            assert list(head.parameters()) == []
            return
        head.train()
        head.loss(*data(50)).backward()
        assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_eval_is_deterministic_with_a_batch_of_one(self, name):
        head, (x, _) = fitted(name), data(4)
        one, two = (head.predict(x[:1], 8, NOISE) for _ in range(2))
        assert torch.equal(one.mean, two.mean)
        torch.testing.assert_close(head.predict(x, 8, NOISE).mean[:1], one.mean)

    def test_save_and_load(self, name):
        head, (x, _) = fitted(name), data(4)
        buffer = io.BytesIO()
        torch.save(head.state_dict(), buffer)
        buffer.seek(0)
        other = HEADS[name].example().double().eval()
        other.load_state_dict(torch.load(buffer, weights_only=True))
        one, two = (h.predict(x, 8, NOISE) for h in (head, other))
        assert torch.equal(one.mean, two.mean)
        assert torch.equal(one.std, two.std)

    def test_a_label_nobody_has_is_refused(self, name):
        x, y = data()
        y[:, 1] = torch.nan
        head = HEADS[name].example().double()
        with pytest.raises(DataError, match="label b"):
            (head.fit if head.closed_form else head.prepare)(x, y)

    def test_no_labels_are_refused(self, name):
        with pytest.raises(ConfigError, match="labels"):
            HEADS[name](8, [])


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_knn_median_is_numpys(k):
    x, y = data(100, missing=0)
    head = KNNHead(8, LABELS, k=k, statistic="median").double()
    head.fit(x, y)
    queries, _ = data(7, seed=5)
    near = (
        torch.cdist(head.standard_features(queries), head.standard_features(x)).topk(k, largest=False).indices
    )
    labels = y.numpy()[near.numpy()]
    centre = np.median(labels, axis=1)
    found = head.predict(queries)
    np.testing.assert_allclose(found.mean, centre, rtol=1e-12)
    np.testing.assert_allclose(
        found.std, 1.4826 * np.median(np.abs(labels - centre[:, None]), axis=1), atol=1e-9
    )


@pytest.mark.parametrize("shape", [(60, 8), (20, 30)])
def test_linear_equals_the_normal_equations(shape):
    generator = np.random.default_rng(0)
    x = generator.normal(size=shape) * 2 + 1
    y = x @ generator.normal(size=(shape[1], 2)) + generator.normal(size=(shape[0], 2))
    head = LinearHead(shape[1], ["a", "b"], ridge=0.01).double()
    head.fit(torch.from_numpy(x), torch.from_numpy(y))
    z, t = (x - x.mean(0)) / x.std(0, ddof=1), (y - y.mean(0)) / y.std(0, ddof=1)
    w = np.linalg.solve(z.T @ z + 0.01 * len(z) * np.eye(shape[1]), z.T @ t)
    expected = z @ w * y.std(0, ddof=1) + y.mean(0)
    np.testing.assert_allclose(head.predict(torch.from_numpy(x)).mean, expected, rtol=1e-8)


def test_linear_with_missing_labels_uses_what_is_there():
    x, y = data(missing=0.3)
    head = LinearHead(8, LABELS, ridge=1e-8).double()
    head.fit(x, y)
    prediction, (x2, y2) = head.predict(x), data(missing=0.0)
    assert torch.equal(x, x2)
    residual = prediction.mean - y2
    torch.testing.assert_close(residual.std(0), torch.full((3,), 0.1, dtype=y.dtype), rtol=0.15, atol=0)
    torch.testing.assert_close(prediction.std[0], torch.full((3,), 0.1, dtype=y.dtype), rtol=0.15, atol=0)


def test_cross_validation_chooses_a_strong_ridge_for_noise():
    torch.manual_seed(0)
    x, y = torch.randn(100, 80, dtype=torch.float64), torch.randn(100, 1, dtype=torch.float64)
    head = LinearHead(80, ["a"]).double()
    head.fit(x, y)
    assert head.predict(torch.randn(500, 80, dtype=torch.float64)).mean.std() < 0.5
    with pytest.raises(ConfigError, match="ridge"):
        LinearHead(80, ["a"], ridge=-1.0)


@pytest.mark.parametrize("statistic", ["mean", "weighted", "median"])
def test_neighbours_equal_numpy(statistic):
    x, y = data(60, missing=0.2)
    queries, _ = data(7, seed=3)
    head = KNNHead(8, LABELS, k=5, statistic=statistic, chunk=3).double()
    head.fit(x, y)
    found = head.predict(queries)
    mean, std = x.mean(0), x.std(0)
    for i in range(7):
        for j in range(3):
            there = torch.isfinite(y[:, j])
            distance = (((x[there] - queries[i]) / std) ** 2).sum(1).sqrt()
            near = distance.argsort()[:5]
            labels, weight = y[there, j][near], 1 / distance[near]
            expected = {
                "mean": labels.mean(),
                "median": labels.median(),
                "weighted": (labels * weight).sum() / weight.sum(),
            }[statistic]
            torch.testing.assert_close(found.mean[i, j], expected)
    assert mean.shape == (8,)


def test_mlp_loss_is_the_mean_over_present_labels():
    head, (x, y) = MLPHead(8, LABELS, widths=(12,), dropout=0.0).double(), data()
    head.prepare(x, y)
    made = head(x)[0].detach().numpy()
    standard = (y.numpy() - np.nanmean(y, 0)) / np.nanstd(y, 0, ddof=1)
    np.testing.assert_allclose(head.loss(x, y).item(), np.nanmean((made - standard) ** 2), rtol=1e-9)


def test_mlp_has_the_published_size():
    for norm_name in ("layer", "batch"):
        head = MLPHead(768, ["teff"], norm=norm_name)
        assert sum(p.numel() for p in head.parameters()) == 1_348_353


def test_heteroscedastic_width_is_the_noise():
    torch.manual_seed(0)
    x = torch.rand(3000, 1) * 2 - 1
    y = 100 * x + torch.where(x > 0, 20.0, 2.0) * torch.randn(3000, 1)
    head = train(MLPHead(1, ["a"], widths=(32,), dropout=0.0, heteroscedastic=True), x, y)
    std = head.predict(torch.tensor([[-0.6], [0.6]])).std[:, 0]
    assert 1.2 < std[0] < 4.0
    assert 16 < std[1] < 25


def test_flow_density_integrates_to_one_within_the_bounds():
    torch.manual_seed(0)
    head = FlowHead(8, ["a", "b"], transforms=2, hidden=(8,), context=4, widths=(8,)).double()
    x, y = data()
    head.prepare(x, y[:, 1:])
    head.eval()
    low, high = head.low, head.high
    axes = [torch.linspace(float(low[j]), float(high[j]), 402, dtype=torch.float64)[1:-1] for j in range(2)]
    grid = torch.cartesian_prod(*axes)
    density = head.log_prob(x[:1].expand(len(grid), -1), grid).exp()
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    assert abs(float(density.sum()) * cell - 1) < 0.02
    outside = torch.stack([high + 1, high]).T
    assert head.log_prob(x[:2], outside).tolist() == [-torch.inf, -torch.inf]


def test_flow_samples_stay_inside_and_follow_the_density():
    head = fitted("FlowHead")
    x, _ = data(3)
    samples = head.sample(x, 4000, even_normals(4000, 3))
    assert samples.shape == (3, 4000, 3)
    assert ((samples >= head.low) & (samples <= head.high)).all()
    # the mean of 1/q over the samples in a box estimates its volume, wherever the density is not tiny
    low, high = samples[0].quantile(0.2, dim=0), samples[0].quantile(0.8, dim=0)
    inside = ((samples[0] > low) & (samples[0] < high)).all(1)
    weight = head.log_prob(x[:1].expand(4000, -1), samples[0]).neg().exp() * inside
    assert abs(float(weight.mean() / (high - low).prod()) - 1) < 0.1


def test_flow_learns_a_calibrated_correlated_posterior():
    torch.manual_seed(0)
    n = 4000
    x = torch.randn(n, 2)
    shared = torch.randn(n, 1)
    y = x + 0.2 * shared + 0.05 * torch.randn(n, 2)
    options = {"transforms": 1, "hidden": (16,), "context": 8, "widths": (32,), "dropout": 0.0}
    head = train(
        FlowHead(2, ["a", "b"], low={"a": -8, "b": -8}, high={"a": 8, "b": 8}, **options), x, y, 400, 5e-3
    )
    prediction = head.predict(x[:1000], 400)
    z = (y[:1000] - prediction.mean) / prediction.std
    assert 0.62 < float((z.abs() < 1).double().mean()) < 0.74
    centred = prediction.samples - prediction.mean[:, None]
    correlation = (centred[..., 0] * centred[..., 1]).mean() / centred.var((0, 1)).prod().sqrt()
    assert 0.8 < float(correlation) < 1.0


def test_flow_leaves_incomplete_objects_out():
    head, (x, y) = fitted("FlowHead"), data(20, missing=0.3)
    complete = torch.isfinite(y).all(1)
    torch.testing.assert_close(head.loss(x, y), head.loss(x[complete], y[complete]))
    assert torch.equal(torch.isnan(head.log_prob(x, y)), ~complete)
    nothing = head.loss(x, torch.full_like(y, torch.nan))
    nothing.backward()
    assert nothing == 0


def test_flow_refuses_labels_outside_the_prior():
    x, y = data()
    with pytest.raises(DataError, match="prior bounds"):
        FlowHead(8, LABELS, low={"b": 0.0}).double().prepare(x, y)
    with pytest.raises(ConfigError, match="low < high"):
        FlowHead(8, LABELS, low={"b": 1.0}, high={"b": 0.0})
    y[torch.arange(len(y)), torch.arange(len(y)) % 3] = torch.nan
    with pytest.raises(DataError, match="joint"):
        FlowHead(8, LABELS).double().prepare(x, y)


@pytest.mark.parametrize("name", HEADS)
def test_heads_can_be_built_without_memory(name):
    with torch.device("meta"):
        head = HEADS[name](8, LABELS)
    assert all(p.is_meta for p in [*head.parameters(), *head.buffers()])


def test_quantiles_of_samples_and_of_a_normal():
    samples = torch.randn(2, 501, 3, dtype=torch.float64)
    q = [0.025, 0.16, 0.5, 0.84, 0.975]
    made = Prediction(samples.mean(1), samples.std(1), samples).quantiles(q)
    np.testing.assert_allclose(made, np.moveaxis(np.quantile(samples.numpy(), q, axis=1), 0, -1))
    normal = Prediction(torch.tensor([[3.0]]), torch.tensor([[2.0]])).quantiles(q)
    np.testing.assert_allclose(normal[0, 0], norm.ppf(q, 3, 2), rtol=1e-5)


def test_linear_states_the_errors_of_others_where_features_abound():
    """Fewer objects than features: training residuals vanish, errors of new objects do not."""
    g = torch.Generator().manual_seed(0)
    x, truth = (
        torch.randn(400, 300, generator=g, dtype=torch.float64),
        torch.randn(300, 1, generator=g, dtype=torch.float64),
    )
    y = x @ truth + 3.0 * torch.randn(400, 1, generator=g, dtype=torch.float64)
    for n in (40, 150, 280, 330):
        head = LinearHead(300, ["a"]).double()
        head.fit(x[:n], y[:n])
        answer = head.predict(x[350:])
        ratio = float((answer.mean - y[350:]).std() / answer.std.mean())
        assert 0.7 < ratio < 1.4, (n, ratio)


@pytest.mark.parametrize("unit", [1.0, 1e-16])
def test_moments_of_columns_in_any_unit(unit):
    x = torch.stack([torch.tensor([1.0, 2.0, 3.0, torch.nan]) * unit, torch.full((4,), 0.1) * unit], 1)
    mean, std = moments(x)
    torch.testing.assert_close(mean / unit, torch.tensor([2.0, 0.1]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(std, torch.tensor([unit, 1.0]).double(), rtol=1e-6, atol=0)
