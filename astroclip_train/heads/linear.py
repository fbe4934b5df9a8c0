r"""Ridge regression in closed form.

.. math:: W = \arg\min \|Y - X W\|^2 + n \lambda \|W\|^2

Axes: b batch, n training objects, f features, k labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Head, Prediction, label_groups

__all__ = ["LinearHead"]


class LinearHead(Head):
    """Ridge regression of standardised labels on standardised features, solved in float64.

    The predicted `std` is that of the training residuals, divided by n minus the effective degrees of
    freedom.

    References:
        Generalized cross-validation, Golub, Heath and Wahba 1979, https://doi.org/10.1080/00401706.1979.10489751

    Arguments:
        in_features, labels: see `Head`.
        ridge: λ, or `"gcv"` to choose it for each label by generalised cross-validation among 17 values.

    Raises:
        ConfigError: a negative ridge.
    """

    closed_form = True
    samples = False
    weight: Tensor
    bias: Tensor
    scatter: Tensor

    def __init__(self, in_features: int, labels: Sequence[str], ridge: float | str = "gcv") -> None:
        super().__init__(in_features, labels)
        if (isinstance(ridge, str) and ridge != "gcv") or (not isinstance(ridge, str) and ridge < 0):
            raise ConfigError(f"ridge={ridge!r} must be a number >= 0 or 'gcv'.")
        self.ridge = ridge
        self.register_buffer("weight", torch.zeros(in_features, len(self.labels)))
        self.register_buffer("bias", torch.zeros(len(self.labels)))
        self.register_buffer("scatter", torch.ones(len(self.labels)))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.prepare(features, labels)
        x_all, y_all = self.standard_features(features.double()), self.standard_labels(labels.double())
        for rows, columns in label_groups(labels):
            x, y = x_all[rows], y_all[rows][:, columns]
            x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
            weight, scatter = _ridge(x - x_mean, y - y_mean, self.ridge)
            self.weight[:, columns] = weight.to(self.weight)
            self.bias[columns] = (y_mean - x_mean @ weight).to(self.bias)
            self.scatter[columns] = scatter.to(self.scatter)

    @torch.no_grad()
    def predict(self, features: Tensor, n_samples: int = 0, noise: Tensor | None = None) -> Prediction:
        standard = self.standard_features(features) @ self.weight.to(features) + self.bias.to(features)
        mean = standard * self.label_std.to(features) + self.label_mean.to(features)
        return Prediction(mean, (self.scatter * self.label_std).to(features).expand_as(mean))

    @classmethod
    def example(cls) -> "LinearHead":
        return cls(8, ["a", "b", "c"])


def _ridge(x: Tensor, y: Tensor, ridge: float | str) -> tuple[Tensor, Tensor]:
    """Weights (f, k) and predictive scatter (k,) from centred x (n, f), y (n, k)."""
    n, f = x.shape
    tiny = 1e-12
    if f <= n:
        square, v = torch.linalg.eigh(x.T @ x)
        kept = square > tiny * square[-1]
        s, v = square[kept].sqrt(), v[:, kept]
        d = (v.T @ (x.T @ y)) / s[:, None]
    else:  # fewer objects than features: the same singular values from the smaller matrix
        square, u = torch.linalg.eigh(x @ x.T)
        kept = square > tiny * square[-1]
        s, u = square[kept].sqrt(), u[:, kept]
        v = (x.T @ u) / s
        d = u.T @ y
    unexplained = y.square().sum(dim=0) - d.square().sum(dim=0)
    grid = (
        torch.logspace(-6, 2, 17, dtype=x.dtype, device=x.device) if ridge == "gcv" else x.new_tensor([ridge])
    )
    rest = n * grid[:, None] / (s.square() + n * grid[:, None])  # 1 - share, (candidates, singular values)
    share = 1 - rest
    error = unexplained.clamp_min(0.0) + rest.square() @ d.square()  # (candidates, k)
    # with as many features as objects nothing is left over but what the penalty holds back
    free = (max(n - 1 - len(s), 0) + rest.sum(dim=1)).clamp_min(tiny)[:, None]
    best = (error / free.square()).argmin(dim=0)
    weight = v @ (share[best].T / s[:, None] * d)
    columns = torch.arange(y.shape[1], device=y.device)
    # of objects left out, by generalised cross-validation: training residuals vanish where features abound
    return weight, ((n - 1) * error[best, columns]).sqrt() / free[best, 0]
