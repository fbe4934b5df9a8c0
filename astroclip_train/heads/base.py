"""What every downstream head is: features of an object to its labels, all labels at once.

Axes: b batch, n training objects, k labels, s posterior samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError

__all__ = ["Head", "Prediction"]


@dataclass
class Prediction:
    """Labels predicted for a batch, in the labels' units.

    Attributes:
        mean: shape (b, k).
        std: one standard deviation, shape (b, k), or None.
        samples: posterior samples, shape (b, s, k), or None.
    """

    mean: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None

    def quantiles(self, q: Sequence[float]) -> Tensor | None:
        """Quantiles of shape (b, k, len(q)), of the samples, else of a normal with `std`, else None."""
        at = torch.as_tensor(q, dtype=self.mean.dtype, device=self.mean.device)
        if self.samples is not None:
            # a sort serves all quantiles, and has no limit on the number of elements as torch.quantile does
            ordered = self.samples.sort(dim=1).values
            position = at * (ordered.shape[1] - 1)
            low = position.floor().long()
            high = (low + 1).clamp_max(ordered.shape[1] - 1)
            share = (position - low)[None, :, None]
            return torch.lerp(ordered[:, low], ordered[:, high], share).transpose(1, 2)
        if self.std is None:
            return None
        return self.mean[..., None] + self.std[..., None] * torch.special.ndtri(at)

    @staticmethod
    def concatenate(parts: "Sequence[Prediction]") -> "Prediction":
        """One prediction of consecutive batches."""

        def join(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        return Prediction(join("mean"), join("std"), join("samples"))


class Head(nn.Module, ABC):
    """Base class of the downstream heads.

    Features and labels are standardised by statistics of the training data, which are part of the state.
    Missing labels are NaN.

    Arguments:
        in_features: length of the feature vector.
        labels: names of the k labels.

    Attributes:
        closed_form: whether `fit` does all, otherwise `prepare` and then gradient descent on `loss`.
        samples: whether `predict` makes its answer from random numbers.

    Raises:
        ConfigError: no labels.
    """

    closed_form: ClassVar[bool] = False
    samples: ClassVar[bool] = True
    feature_mean: Tensor
    feature_std: Tensor
    label_mean: Tensor
    label_std: Tensor

    def __init__(self, in_features: int, labels: Sequence[str]) -> None:
        super().__init__()
        if not labels:
            raise ConfigError(f"{type(self).__name__} was given no labels: set labels.names.")
        self.in_features, self.labels = in_features, list(labels)
        for name, size in (("feature", in_features), ("label", len(labels))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def prepare(self, features: Tensor, labels: Tensor) -> None:
        """Learns the standardisation from training features (n, f) and labels (n, k).

        Raises:
            DataError: a label that no training object has.
        """
        self.check_labels(labels)
        for name, values in (("feature", features), ("label", labels)):
            mean, std = moments(values)
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_std").copy_(std)

    def check_labels(self, labels: Tensor) -> None:
        """Every label has at least two values.

        Raises:
            DataError: one has not.
        """
        count = torch.isfinite(labels).sum(dim=0).tolist()
        for name, number in zip(self.labels, count, strict=True):
            if number < 2:
                raise DataError(
                    f"label {name} is present for {number} of {len(labels)} training objects: leave it out "
                    "of labels.names or add labelled objects."
                )

    def standard_features(self, features: Tensor) -> Tensor:
        """Features with training mean 0 and standard deviation 1, without gradient to the statistics."""
        return (features - self.feature_mean.to(features.dtype)) / self.feature_std.to(features.dtype)

    def standard_labels(self, labels: Tensor) -> Tensor:
        """Labels with training mean 0 and standard deviation 1; NaN stays NaN."""
        return (labels - self.label_mean.to(labels.dtype)) / self.label_std.to(labels.dtype)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fits a closed-form head to training features (n, f) and labels (n, k), NaN where missing."""
        raise NotImplementedError(f"{type(self).__name__} is trained by gradient descent on its loss")

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The training loss of features (b, f) and labels (b, k), NaN where missing: a scalar."""
        raise NotImplementedError(f"{type(self).__name__} is fitted in closed form")

    @abstractmethod
    def predict(self, features: Tensor, n_samples: int = 0, noise: Tensor | None = None) -> Prediction:
        """All labels of features (b, f) in one pass.

        Arguments:
            features: shape (b, f).
            n_samples: posterior samples per object, by heads that have a posterior.
            noise: standard normal numbers that samples are made of, (s, k) for all objects or (b, s, k); drawn
                where they are not given.
        """

    def log_prob(self, features: Tensor, labels: Tensor) -> Tensor | None:
        """Log density of labels (b, k) in nats in their units, shape (b,); missing labels are left out.

        The default is an independent normal with the predicted `std`; None for a head without one.
        """
        prediction = self.predict(features)
        if prediction.std is None:
            return None
        z = (labels - prediction.mean) / prediction.std
        terms = -0.5 * z.square() - prediction.std.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(torch.isfinite(labels), terms, 0.0).sum(dim=1)

    @classmethod
    @abstractmethod
    def example(cls) -> "Head":
        """A tiny instance for 8 features and labels a, b, c, with which the property tests run."""


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over finite entries of each column, shape (f,); a constant column has 1."""
    good = torch.isfinite(values)
    count = good.sum(dim=0).clamp_min(1)
    clean = (
        torch.where(good, values, 0.0).double()
        if values.device.type != "mps"
        else torch.where(good, values, 0.0)
    )
    mean = clean.sum(dim=0) / count
    std = (torch.where(good, clean - mean, 0.0).square().sum(dim=0) / (count - 1).clamp_min(1)).sqrt()
    return mean, torch.where(std > 1e-12 * mean.abs(), std, 1.0)


def label_groups(labels: Tensor) -> list[tuple[Tensor, list[int]]]:
    """Columns that are present for the same objects: (objects (n,) bool, columns)."""
    good = torch.isfinite(labels)
    groups: list[tuple[Tensor, list[int]]] = []
    for column in range(labels.shape[1]):
        for rows, columns in groups:
            if torch.equal(rows, good[:, column]):
                columns.append(column)
                break
        else:
            groups.append((good[:, column], [column]))
    return groups
