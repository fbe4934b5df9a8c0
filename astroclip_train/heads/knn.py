"""k nearest neighbours among the training objects.

Axes: b batch, n training objects, f features, k labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..registry import choose
from .base import Head, Prediction, label_groups

__all__ = ["KNNHead"]


class KNNHead(Head):
    """The mean or median label of the nearest training objects in standardised features, and their scatter
    as `std`.

    Neighbours are those nearest among the objects that have the label.

    Arguments:
        in_features, labels: see `Head`.
        k: number of neighbours; all objects if there are fewer.
        statistic: `"mean"`, `"weighted"` (by inverse distance) or `"median"`.
        metric: `"euclidean"` or `"cosine"`.
        chunk: queries handled at once, which bounds memory.
    """

    closed_form = True
    samples = False
    neighbours: Tensor
    values: Tensor

    def __init__(
        self,
        in_features: int,
        labels: Sequence[str],
        k: int = 16,
        statistic: str = "weighted",
        metric: str = "euclidean",
        chunk: int = 1024,
    ) -> None:
        super().__init__(in_features, labels)
        self.k, self.chunk = k, chunk
        self.statistic = choose("statistic", statistic, ("mean", "weighted", "median"))
        self.metric = choose("metric", metric, ("euclidean", "cosine"))
        self.register_buffer("neighbours", torch.zeros(0, in_features))
        self.register_buffer("values", torch.zeros(0, len(self.labels)))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.prepare(features, labels)
        self.neighbours = self._space(features).to(self.feature_mean.dtype)
        self.values = labels.to(self.label_mean)

    def _space(self, features: Tensor) -> Tensor:
        x = self.standard_features(features)
        return torch.nn.functional.normalize(x, dim=-1) if self.metric == "cosine" else x

    @torch.no_grad()
    def predict(self, features: Tensor, n_samples: int = 0, noise: Tensor | None = None) -> Prediction:
        groups = label_groups(self.values)
        parts = []
        for queries in self._space(features).split(self.chunk):
            mean = queries.new_empty(len(queries), len(self.labels))
            std = torch.empty_like(mean)
            for rows, columns in groups:
                distance = torch.cdist(queries, self.neighbours[rows].to(queries))
                near = distance.topk(min(self.k, distance.shape[1]), largest=False)
                labels = self.values[rows][:, columns].to(queries)[near.indices]
                mean[:, columns], std[:, columns] = self._summary(labels, near.values)
            parts.append(Prediction(mean, std))
        return Prediction.concatenate(parts)

    def _summary(self, labels: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and scatter (b, columns) of neighbours' labels (b, k, columns) at distances (b, k)."""
        if self.statistic == "median":
            centre = _median(labels)
            return centre, 1.4826 * _median((labels - centre[:, None]).abs())
        weight = torch.ones_like(distance)
        if self.statistic == "weighted":
            weight = 1 / distance.clamp_min(1e-6 * float(distance.mean()) + 1e-12)
        weight = (weight / weight.sum(dim=1, keepdim=True))[:, :, None]
        centre = (weight * labels).sum(dim=1)
        return centre, (weight * (labels - centre[:, None]).square()).sum(dim=1).sqrt()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("neighbours", "values"):  # their length is the number of training objects
            if prefix + name in state_dict:
                setattr(
                    self, name, torch.empty_like(state_dict[prefix + name], device=self.feature_mean.device)
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @classmethod
    def example(cls) -> "KNNHead":
        return cls(8, ["a", "b", "c"], k=3)


def _median(values: Tensor) -> Tensor:
    """The median along axis 1, of an even number the mean of the middle two; `torch.median` takes the lower."""
    ordered, k = values.sort(dim=1).values, values.shape[1]
    return (ordered[:, (k - 1) // 2] + ordered[:, k // 2]) / 2
