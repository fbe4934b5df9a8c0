r"""Multilayer perceptron from features to all labels.

The loss is over the labels present, y standardised:

.. math:: \frac{1}{|P|} \sum_{(i, j) \in P} (\hat y_{ij} - y_{ij})^2

Axes: b batch, f features, k labels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed.collectives import global_mean
from ..errors import ConfigError
from ..registry import choose
from .base import Head, Prediction

__all__ = ["MLPHead", "perceptron"]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
    "none": lambda width: nn.Identity(),
}
# One damaged or very noisy spectrum stands thousands of standard deviations out along an axis of little variance, is
# predicted with a tiny width, and would alone decide the validation loss and with it the checkpoint: scores are cut at
# `_FAR` standard deviations, and in validation a label that is further off than `_OUTLIER` widths counts as so far.
_FAR, _OUTLIER = 8.0, 10.0
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def perceptron(
    features: int, widths: Sequence[int], norm: str = "layer", dropout: float = 0.0, activation: str = "relu"
) -> tuple[nn.Sequential, int]:
    """(Linear, norm, activation, dropout) for each width, and the last width.

    Raises:
        ConfigError: an unknown norm or activation.
    """
    layer = _NORMS[choose("norm", norm, tuple(_NORMS))]
    act = _ACTIVATIONS[choose("activation", activation, tuple(_ACTIVATIONS))]
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), layer(width), act(), nn.Dropout(dropout)]
        features = width
    return nn.Sequential(*layers), features


class MLPHead(Head):
    r"""Joint regression of all labels.

    The widths, BatchNorm (`norm="batch"`) and dropout 0.1 are published for one label each: 1,348,353
    parameters from 768 features; LayerNorm, the default, has the same number.

    With `heteroscedastic=True` it also predicts a log width and minimises the Gaussian negative
    log-likelihood of each label, weighted by the (detached) variance to the power `beta`, which keeps the
    mean from being neglected where the width is large.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939
        On the pitfalls of heteroscedastic uncertainty estimation, Seitzer et al. 2022, https://arxiv.org/abs/2203.09168

    In eval mode the loss is the plain negative log-likelihood, in which a label more than 10 predicted widths off
    counts as 10 widths.

    Arguments:
        in_features, labels: see `Head`.
        widths: hidden widths.
        norm: `"layer"`, `"batch"` or `"none"`.
        activation: `"relu"` (published) or `"gelu"`.
        components: first project the features on so many principal axes of the training features and whiten
            them, y = Λ^(−1/2) Uᵀ (x − μ). Spectra are thousands of noisy, correlated pixels made by few
            parameters: the leading axes hold those, and the first layer has less noise to learn by heart.
            None takes every feature by itself.
        dropout: after each hidden layer.
        heteroscedastic, beta: see above.
        log_labels: labels, all positive, of which the logarithm is regressed: errors of Teff grow with Teff.
        error: `"mse"`, `"l1"`, which a few wrong labels move less, or `"huber"` (quadratic within one standard
            deviation); with heteroscedasticity `"l1"` is the Laplace likelihood, whose width is mean |y − ŷ|.
    """

    samples = False
    axes: Tensor
    logarithmic: Tensor

    def __init__(
        self,
        in_features: int,
        labels: Sequence[str],
        widths: Sequence[int] = (1024, 512, 64),
        norm: str = "layer",
        dropout: float = 0.1,
        heteroscedastic: bool = False,
        beta: float = 0.5,
        error: str = "mse",
        activation: str = "relu",
        components: int | None = None,
        log_labels: Sequence[str] = (),
    ) -> None:
        super().__init__(in_features, labels)
        unknown = [name for name in log_labels if name not in self.labels]
        if unknown:
            raise ConfigError(
                f"log_labels has {unknown[0]}, which is none of the labels {', '.join(self.labels)}."
            )
        self.log_labels = list(log_labels)
        chosen = torch.tensor([name in log_labels for name in self.labels])
        self.register_buffer("logarithmic", chosen, persistent=False)
        self.components = None if components is None else min(components, in_features)
        if self.components is not None:
            self.register_buffer("axes", torch.eye(in_features)[:, : self.components])
        self.heteroscedastic, self.beta = heteroscedastic, beta
        self.error = choose("error", error, ("mse", "l1", "huber"))
        self.trunk, last = perceptron(self.components or in_features, widths, norm, dropout, activation)
        self.output = nn.Linear(last, len(self.labels) * (1 + heteroscedastic))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Standardised labels (b, k) and their log widths (b, k) or None, from features (b, f)."""
        y = self.output(self.trunk(self.whitened(features)))
        if not self.heteroscedastic:
            return y, None
        mean, log_width = y.chunk(2, dim=-1)
        return mean, log_width.clamp(-7.0, 4.0)

    def whitened(self, features: Tensor) -> Tensor:
        """Standardised features, or their leading principal components with unit variance: (b, f) or (b, c)."""
        if self.components is None:
            return self.standard_features(features)
        scores = (features - self.feature_mean.to(features.dtype)) @ self.axes.to(features.dtype)
        return scores.clamp(-_FAR, _FAR)

    def scaled(self, labels: Tensor) -> Tensor:
        """Labels (b, k), the logarithm of those in `log_labels`; not positive ones count as missing."""
        positive = torch.where(labels > 0, labels, torch.nan)
        return torch.where(self.logarithmic, positive.log(), labels)

    def standard_labels(self, labels: Tensor) -> Tensor:
        return super().standard_labels(self.scaled(labels))

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        super().prepare(features, self.scaled(labels))
        if self.components is None:
            return
        x = (features - self.feature_mean).double()
        values, vectors = torch.linalg.eigh(x.T @ x / max(len(x) - 1, 1))
        leading = vectors.flip(1)[:, : self.components]
        variance = values.flip(0)[: self.components]
        # an axis that training objects do not vary along is left out, not blown up
        scale = torch.where(variance > 1e-10 * variance[0], variance.clamp_min(1e-30).rsqrt(), 0.0)
        largest = leading.gather(0, leading.abs().argmax(0, keepdim=True))
        signs = torch.where(largest < 0, -1.0, 1.0)  # an eigenvector has no sign of its own
        self.axes.copy_(leading * signs * scale)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        target = self.standard_labels(labels)
        present = torch.isfinite(target)
        target = torch.where(present, target, 0.0)
        mean, log_width = self(features)
        target = target.to(mean.dtype)
        if log_width is not None:
            far = (mean - target).abs() / log_width.exp()
            far = far if self.training else far.clamp_max(_OUTLIER)
            terms = (far if self.error == "l1" else 0.5 * far.square()) + log_width
            if self.training:  # the weights make no proper score: a better head would look worse
                power = self.beta * (1 if self.error == "l1" else 2)  # at 1 every label pulls the mean alike
                terms = terms * (power * log_width.detach()).exp()
        elif self.error == "l1":
            terms = (mean - target).abs()
        elif self.error == "huber":
            terms = F.huber_loss(mean, target, reduction="none")
        else:
            terms = (mean - target).square()
        return global_mean((terms * present).sum(), present.sum())

    @torch.no_grad()
    def predict(self, features: Tensor, n_samples: int = 0, noise: Tensor | None = None) -> Prediction:
        mean, log_width = self(features)
        scale = self.label_std.to(mean)
        spread = 2**0.5 if self.error == "l1" else 1.0  # σ of a Laplace distribution over its mean deviation
        std = None if log_width is None else spread * log_width.exp() * scale
        answer = mean * scale + self.label_mean.to(mean)
        if not self.log_labels:
            return Prediction(answer, std)
        answer = torch.where(self.logarithmic, answer.exp(), answer)
        if std is not None:  # σ(y) = y σ(ln y)
            std = torch.where(self.logarithmic, answer * std, std)
        return Prediction(answer, std)

    @classmethod
    def example(cls) -> "MLPHead":
        return cls(8, ["a", "b", "c"], widths=(12, 6), dropout=0.0, heteroscedastic=True)
