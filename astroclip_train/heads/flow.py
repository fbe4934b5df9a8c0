r"""Joint posterior of all labels by a conditional normalising flow.

With labels y inside prior bounds (a, b) and features h,

.. math::
    t &= \left( \mathrm{logit}\frac{y - a}{b - a} - m \right) / s, \\
    u &= L(h)^{-1} (t - \mu(h)), \qquad v = f_h(u) \sim N(0, I)

:math:`\mu, L` (lower triangular) are a Gaussian posterior, which leaves to the spline flow f only its
departure from one. The logit keeps every sample inside the bounds.

Axes: b batch, s samples, k labels.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..distributed.collectives import global_mean
from ..errors import ConfigError, DataError
from .base import Head, Prediction, moments
from .mlp import perceptron

__all__ = ["FlowHead"]

EDGE = 1e-6  # labels on a bound are taken this far inside, as a fraction of the interval


def coupling_flow(
    features: int, context: int, transforms: int, hidden: Sequence[int], bins: int
) -> nn.Module:
    """A conditional spline flow whose samples cost one pass, and that only over the labels each transform
    changes.

    First each label goes through a spline that depends on the context alone; then in each coupling transform
    half of the labels set the splines of the other half. The halves are those with bit 0 of their number
    set, then not set, then bit 1, and so on, so that with 2 log2 k transforms every label has acted on every
    other.

    Arguments:
        features: labels k.
        context: context features.
        transforms: coupling transforms; none if k = 1.
        hidden: hidden widths of each transform's network.
        bins: of a spline.
    """
    from zuko.distributions import DiagNormal  # slow to import
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.flows.gaussianization import ElementWiseTransform
    from zuko.lazy import Flow, UnconditionalDistribution
    from zuko.transforms import MonotonicRQSTransform

    spline = {
        "context": context,
        "univariate": MonotonicRQSTransform,
        "shapes": [(bins,), (bins,), (bins - 1,)],
        "hidden_features": tuple(hidden),
    }
    device = torch.empty(0).device  # torch 2.6 does not tell of a `with torch.device(...)` otherwise
    with torch.device("cpu"):  # zuko looks at its masks, which a meta tensor does not allow
        layers = [ElementWiseTransform(features, **spline)]
        number, bits = torch.arange(features), max((features - 1).bit_length(), 1)
        for i in range(transforms if features > 1 else 0):
            half = (number >> (i // 2 % bits)) % 2 == i % 2
            layers.append(GeneralCouplingTransform(features, mask=half, **spline))
        base = UnconditionalDistribution(DiagNormal, torch.zeros(features), torch.ones(features), buffer=True)
    return Flow(layers, base).to(device)


class FlowHead(Head):
    """Neural spline flow on top of a full-covariance Gaussian.

    Objects that lack any label are left out of the loss, since a coupling flow cannot be marginalised;
    `log_prob` is NaN for them.

    References:
        Neural spline flows, Durkan et al. 2019, https://arxiv.org/abs/1906.04032
        Zuko, https://zuko.readthedocs.io

    Arguments:
        in_features, labels: see `Head`.
        transforms: number of coupling transforms, see `coupling_flow`.
        hidden: hidden widths of each transform's network.
        bins: of a spline.
        context: features of the trunk that the transforms see.
        widths: hidden widths of the trunk.
        dropout: in the trunk.
        low, high: prior bounds, label -> value; a label without takes its training range and a tenth on each
            side.
        chunk: samples drawn at once; small enough to stay in a processor's cache.

    Raises:
        ConfigError: low is not below high.
        DataError: training labels outside the bounds, or no object with all labels.
    """

    low: Tensor
    high: Tensor
    logit_mean: Tensor
    logit_std: Tensor
    rows: Tensor

    def __init__(
        self,
        in_features: int,
        labels: Sequence[str],
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        context: int = 32,
        widths: Sequence[int] = (256, 128),
        dropout: float = 0.1,
        low: Mapping[str, float] | None = None,
        high: Mapping[str, float] | None = None,
        chunk: int = 10_000,
    ) -> None:
        super().__init__(in_features, labels)
        k = len(self.labels)
        self.bounds, self.chunk = (dict(low or {}), dict(high or {})), chunk
        for name in self.labels:
            if self.bounds[0].get(name, -math.inf) >= self.bounds[1].get(name, math.inf):
                raise ConfigError(f"the prior bounds of {name} must satisfy low < high.")
        self.trunk, last = perceptron(in_features, widths, "layer", dropout)
        self.gaussian = nn.Linear(last, k + k * (k + 1) // 2)
        self.context = nn.Linear(last, context)
        self.flow = coupling_flow(k, context, transforms, hidden, bins)
        nn.init.zeros_(self.gaussian.bias)
        self.register_buffer("low", torch.zeros(k))
        self.register_buffer("high", torch.ones(k))
        self.register_buffer("logit_mean", torch.zeros(k))
        self.register_buffer("logit_std", torch.ones(k))
        self.register_buffer("rows", torch.tril_indices(k, k), persistent=False)

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        super().prepare(features, labels)
        if not bool(torch.isfinite(labels).all(dim=1).any()):
            raise DataError(
                f"no training object has all of {', '.join(self.labels)}: the flow is joint, use fewer."
            )
        for j, name in enumerate(self.labels):
            column = labels[:, j][torch.isfinite(labels[:, j])]
            least, most = float(column.min()), float(column.max())
            margin = 0.1 * (most - least) or 1.0
            low = self.bounds[0].get(name, least - margin)
            high = self.bounds[1].get(name, most + margin)
            if least < low or most > high:
                raise DataError(
                    f"training values of {name} reach from {least:g} to {most:g}, outside the prior bounds "
                    f"{low:g} to {high:g}: widen heads.flow.low and high, or cut the sample."
                )
            self.low[j], self.high[j] = low, high
        mean, std = moments(self._logit(labels.double()))
        self.logit_mean.copy_(mean)
        self.logit_std.copy_(std)

    def _logit(self, labels: Tensor) -> Tensor:
        share = (labels - self.low.to(labels)) / (self.high - self.low).to(labels)
        return torch.logit(share.clamp(EDGE, 1 - EDGE))

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """μ (b, k), L (b, k, k) and the flow's context, from features (b, f)."""
        h = self.trunk(self.standard_features(features))
        k = len(self.labels)
        raw = self.gaussian(h)
        triangle = raw.new_zeros(len(raw), k, k)
        triangle[:, self.rows[0], self.rows[1]] = raw[:, k:]
        diagonal = triangle.diagonal(dim1=1, dim2=2)
        width = diagonal.clamp(-7.0, 3.0).exp()
        return raw[:, :k], triangle - torch.diag_embed(diagonal) + torch.diag_embed(width), self.context(h)

    def _log_prob(self, features: Tensor, labels: Tensor) -> Tensor:
        """Log density of t, shape (b,)."""
        mu, triangle, context = self._parts(features)
        t = (self._logit(labels) - self.logit_mean.to(labels)) / self.logit_std.to(labels)
        u = torch.linalg.solve_triangular(triangle, (t.to(mu) - mu)[:, :, None], upper=False)[:, :, 0]
        return self.flow(context).log_prob(u) - triangle.diagonal(dim1=1, dim2=2).log().sum(dim=1)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        complete = torch.isfinite(labels).all(dim=1)
        # incomplete objects go through with a harmless value: a batch without complete ones still has a graph
        filled = torch.where(complete[:, None], labels, self.label_mean.to(labels))
        terms = torch.where(complete, self._log_prob(features, filled), 0.0)
        return global_mean(-terms.sum(), complete.sum())

    @torch.no_grad()
    def log_prob(self, features: Tensor, labels: Tensor) -> Tensor:
        share = (labels - self.low.to(labels)) / (self.high - self.low).to(labels)
        inside = ((share > 0) & (share < 1)).all(dim=1)
        log_q = self._log_prob(
            features, torch.where(torch.isfinite(labels), labels, self.label_mean.to(labels))
        )
        clipped = share.clamp(EDGE, 1 - EDGE)
        slope = (self.high - self.low).to(labels) * clipped * (1 - clipped) * self.logit_std.to(labels)
        log_q = torch.where(inside, log_q - slope.log().sum(dim=1).to(log_q), -torch.inf)
        return torch.where(torch.isfinite(labels).all(dim=1), log_q, torch.nan)

    @torch.no_grad()
    def sample(self, features: Tensor, n_samples: int, noise: Tensor | None = None) -> Tensor:
        """Posterior samples (b, s, k) in the labels' units, always inside the bounds; `noise` as in `predict`."""
        shape = (len(features), n_samples, len(self.labels))
        if noise is None:
            noise = torch.randn(shape, dtype=features.dtype, device=features.device)
        noise, batch = noise.to(features).expand(shape), max(self.chunk // n_samples, 1)
        parts = []
        chunks = (part.split(batch) for part in (*self._parts(features), noise))
        for mu, triangle, context, v in zip(*chunks, strict=True):
            u = self.flow(context).transform.inv(v.to(mu).transpose(0, 1)).transpose(0, 1)
            t = mu[:, None] + u @ triangle.transpose(1, 2)
            share = torch.sigmoid(t * self.logit_std.to(t) + self.logit_mean.to(t))
            parts.append(torch.lerp(self.low.to(t).expand_as(share), self.high.to(t).expand_as(share), share))
        return torch.cat(parts)

    def predict(self, features: Tensor, n_samples: int = 0, noise: Tensor | None = None) -> Prediction:
        """Mean and standard deviation of `n_samples` samples (128 if 0, then not handed out), see
        `Head.predict`."""
        samples = self.sample(features, n_samples or 128, noise)
        return Prediction(samples.mean(dim=1), samples.std(dim=1), samples if n_samples else None)

    @classmethod
    def example(cls) -> "FlowHead":
        return cls(8, ["a", "b", "c"], transforms=2, hidden=(8,), context=4, widths=(12,), dropout=0.0)
