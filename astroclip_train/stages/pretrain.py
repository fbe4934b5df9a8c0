"""Pretraining of one encoder on one modality, without labels or with those that simulations have."""

from typing import Any

import torch

from ..config.targets import with_sizes
from ..distributed import is_main
from ..training.probes import EmbeddingProbe
from .base import Stage
from .systems import PretrainSystem, encoder_inputs

__all__ = ["PretrainStage"]


class PretrainStage(Stage):
    """Trains `encoder` with a single-modality `objective` (masked, autoencode)."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one modality."""
        return (self.config["modality"],)

    def train(self) -> dict[str, Any]:
        """Fits encoder and objective; the encoder's length is that of the data's grid."""
        modality, source = self.config["modality"], self.source
        node = with_length(self.config["encoder"], source, modality)
        encoder: Any = self.context.build(self.name, "encoder", node)
        source.check_grid(modality, int(encoder.length), f"stages.{self.name}.encoder")
        objective_node = with_sizes(self.config["objective"], encoder, source.label_names)
        objective: Any = self.context.build(self.name, "objective", objective_node)
        if objective.uses_labels:
            objective.prepare(torch.from_numpy(source.labels(self.split("train"))))
        system = PretrainSystem(encoder, objective, modality, self.context.seed)
        settings = self.settings()
        result = self.fit(
            self.name, system, settings, self.folder, self.config,
            fingerprint=self.fingerprint(),
            architecture={"encoder": node, "objective": objective_node},
            metadata={**self.context.metadata(source), "modality": modality},
            **self.loaders(source, settings, self.split("train"), self.split("validation")),
            **self._probes(),
        )  # fmt: skip
        return self.record(result, self.folder)

    def _probes(self) -> dict[str, Any]:
        node = self.config.get("probe") or {}
        source, modality = self.source, self.config["modality"]
        if not node.get("every_steps") or not source.label_names or not is_main():
            return {}
        batches = {
            split: list(source.loader(self.split(split)[: node["n"]], 256, seed=0, shuffle=False))
            for split in ("train", "validation")
        }

        def embed(system: Any, batch: Any) -> Any:
            return system.encoder(*encoder_inputs(batch, modality)).mean(dim=1)

        hint = "mask more, lower optimizer.lr, or check that the flux is normalised"
        probe = EmbeddingProbe(embed, batches["train"], batches["validation"], source.label_names, hint)
        return {"probes": [probe], "probe_every": int(node["every_steps"])}


def with_length(node: dict[str, Any], source: Any, modality: str) -> dict[str, Any]:
    """The encoder's configuration with the number of pixels taken from the data where it is not given."""
    return {**node, "length": node.get("length") or source.lengths[modality]}
