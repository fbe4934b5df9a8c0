"""Online diagnosis while pretraining: what the embedding knows about labels, and whether it collapses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluation.information import embedding_diagnosis, pair_diagnosis
from ..evaluation.probe_metrics import knn_probe, ridge_probe
from .progress import say

__all__ = ["EmbeddingProbe", "PairProbe"]

Batch = dict[str, Tensor]


class EmbeddingProbe:
    """Ridge and k-NN from embeddings of labelled training objects to validation objects, and the embedding's shape.

    Arguments:
        embed: (system, batch) -> embeddings (b, k).
        train, validation: fixed batches with `labels` (b, j).
        labels: their names.
        hint: the knob to name when the embedding collapses.
        prefix: of the metric names.
    """

    def __init__(
        self,
        embed: Callable[[Any, Batch], Tensor],
        train: Sequence[Batch],
        validation: Sequence[Batch],
        labels: Sequence[str],
        hint: str,
        prefix: str = "probe",
    ) -> None:
        self.embed, self.train, self.validation = embed, train, validation
        self.labels, self.hint, self.prefix = list(labels), hint, prefix
        self.warned = False

    def _all(self, system: nn.Module, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        device = next(system.parameters()).device
        moved = ({k: v.to(device) for k, v in b.items()} for b in batches)
        pairs = [(self.embed(system, b).float().cpu(), b["labels"].cpu()) for b in moved]
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    def __call__(self, system: nn.Module, step: int) -> dict[str, float]:
        """Metrics `probe_ridge_r2_<label>`, `probe_knn_r2_<label>`, `probe_effective_rank`, …"""
        train_x, train_y = self._all(system, self.train)
        val_x, val_y = self._all(system, self.validation)
        shape = embedding_diagnosis(val_x)
        metrics = {f"{self.prefix}_{k}": float(v) for k, v in shape.items()}
        for name, probe in (("ridge", ridge_probe), ("knn", knn_probe)):
            r2 = probe(train_x, train_y, val_x, val_y)["r2"]
            for label, value in zip(self.labels, r2.tolist(), strict=True):
                if value == value:
                    metrics[f"{self.prefix}_{name}_r2_{label}"] = value
        self._warn(shape, step)
        return metrics

    def _warn(self, shape: dict[str, float], step: int) -> None:
        rank = float(shape["effective_rank"])
        if rank < 2.0 and not self.warned:
            self.warned = True
            say(
                f"warning: at step {step:,} the embedding has effective rank {rank:.1f}, it collapses: {self.hint}."
            )


class PairProbe:
    """Alignment, uniformity and modality gap of two modalities' embeddings of the same objects.

    Arguments:
        embed: (system, modality, batch) -> embedding (b, k).
        batches: fixed validation batches.
        pair: the two modalities.
    """

    def __init__(
        self, embed: Callable[[Any, str, Batch], Tensor], batches: Sequence[Batch], pair: tuple[str, str]
    ) -> None:
        self.embed, self.batches, self.pair = embed, batches, pair

    def __call__(self, system: nn.Module, step: int) -> dict[str, float]:
        """Metrics `pair_alignment`, `pair_uniformity_…`, `pair_modality_gap`."""
        device = next(system.parameters()).device
        both: dict[str, list[Tensor]] = {m: [] for m in self.pair}
        for batch in self.batches:
            moved = {k: v.to(device) for k, v in batch.items()}
            for modality in self.pair:
                both[modality].append(self.embed(system, modality, moved).float().cpu())
        a, b = (torch.cat(both[m]) for m in self.pair)
        return {f"pair_{k}": float(v) for k, v in pair_diagnosis(a, b).items()}
