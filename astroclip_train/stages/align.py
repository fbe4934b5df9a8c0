"""Alignment of two modalities of the same objects: contrastive, decoders, or both."""

import functools
from typing import Any

import numpy as np
import torch

from ..bottlenecks import Bottleneck
from ..config.fingerprint import fingerprint
from ..config.targets import build
from ..distributed import is_main, on_main
from ..errors import ConfigError
from ..files import write_json
from ..training.cache import FeatureCache, build_cache
from ..training.probes import EmbeddingProbe, PairProbe
from ..training.progress import say
from ..training.requeue import CACHE_PROGRESS
from .artefacts import oracle_pair, write_information, write_retrieval, write_spectra, write_translation
from .base import Stage, sized
from .systems import AlignSystem

__all__ = ["AlignStage", "load_aligned", "token_cache"]

REFERENCE_OBJECTS = 8192
INFORMATION_BATCH = 100  # objects; the scatter of the batches' means gives the error of a gain


class AlignStage(Stage):
    """Trains alignment heads, and decoders where the variant has them, on encoders of earlier stages."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Both modalities, in the order of `encoders`."""
        return tuple(self.config["encoders"])

    def inputs(self) -> list[Any]:
        """The stages that trained the encoders."""
        return list(self.config["encoders"].values())

    def train(self) -> dict[str, Any]:
        """Caches frozen features, then fits heads and objective."""
        source = self.source
        encoders, architecture = {}, {}
        for modality, node in self.config["encoders"].items():
            encoder, plan, metadata = self.context.encoder(node, modality)
            check_grid(metadata, source, modality, node)
            encoders[modality], architecture[f"encoders.{modality}"] = encoder, plan
        caches = self._caches(encoders) if self.config["frozen"] and self.config.get("cache", True) else {}
        heads = {}
        for modality, node in self.config["heads"].items():
            full = sized(node, encoders[modality])
            heads[modality] = self.context.build(self.name, f"heads.{modality}", full)
            architecture[f"heads.{modality}"] = full
        objective = self._objective(heads, architecture)
        system = AlignSystem(
            encoders, heads, objective,
            frozen=self.config["frozen"], layer_decay=self.config.get("layer_decay"), caches=caches,
        )  # fmt: skip
        settings = self.settings()
        result = self.fit(
            self.name, system, settings, self.folder, self.config,
            fingerprint=self.fingerprint(),
            architecture=architecture,
            metadata={**self.context.metadata(source), "modality": list(self.modalities)},
            **self.loaders(source, settings, self.split("train"), self.split("validation")),
            **self._probes(),
        )  # fmt: skip
        return self.record(result, self.folder)

    def _objective(self, heads: dict[str, Any], architecture: dict[str, Any]) -> Any:
        full = {
            "_target_": "astroclip_train.objectives.bound.bound",
            "objective": self.config["objective"],
            "pixels": {m: self.source.lengths[m] for m in self.modalities},
            "features": {m: h.features for m, h in heads.items()},
        }
        if self.config.get("bottleneck"):
            full["bottleneck"] = self.config["bottleneck"]
        architecture["objective"] = full
        objective = self.context.build(self.name, "objective", full)
        self._set_reference(objective)
        return objective

    def _set_reference(self, objective: Any) -> bool:
        """Gives decoders the Gaussian of training spectra over which their gain is stated."""
        set_reference: Any = getattr(objective, "set_reference", None)
        if set_reference is None:
            return False
        few = self.split("train")[:REFERENCE_OBJECTS]
        for modality in self.modalities:
            arrays = self.source.arrays(modality, few)
            set_reference(modality, *gaussian(arrays["flux"], arrays.get("mask")))
        return True

    def _caches(self, encoders: dict[str, Any]) -> dict[str, FeatureCache]:
        return {m: token_cache(self, m, encoders[m], self.config["encoders"][m]) for m in encoders}

    def _probes(self) -> dict[str, Any]:
        node = self.config.get("probe") or {}
        if not node.get("every_steps") or not is_main():
            return {}
        source = self.source
        batches = {
            split: list(source.loader(self.split(split)[: node["n"]], 256, seed=0, shuffle=False))
            for split in ("train", "validation")
        }
        pair = (self.modalities[0], self.modalities[1])
        probes: list[Any] = [PairProbe(lambda s, m, b: s.embed(m, b), batches["validation"], pair)]
        if source.label_names:
            hint = "raise objective.temperature or the batch size"
            for modality in pair:
                embed = functools.partial(_embed, modality)
                probe = EmbeddingProbe(
                    embed,
                    batches["train"],
                    batches["validation"],
                    source.label_names,
                    hint,
                    f"probe_{modality}",
                )
                probes.append(probe)
        return {"probes": probes, "probe_every": int(node["every_steps"])}

    def evaluate(self) -> None:
        """Retrieval both ways among test objects, and translated spectra where there are decoders."""
        system = load_aligned(self.context, {"from": self.name, "which": "best"}, self.context.device)
        gallery = self.split("test")[: self.context.config["evaluation"]["retrieval_gallery"]]
        embeddings = {m: embed_samples(self, system, m, gallery) for m in self.modalities}
        shared = {m: shared_part(system.objective, z) for m, z in embeddings.items()}
        a, b = self.modalities[:2]
        oracle = oracle_pair(self.source, gallery, a, b, self.context.seed)
        for query, other in ((a, b), (b, a)):
            pair = (query, other)
            write_retrieval(self.context.path, self.source, gallery, pair, shared, oracle.get(pair))
            if hasattr(system.objective, "translate") and system.objective.can_translate(query, other):
                with torch.no_grad():
                    predicted = system.objective.translate(
                        embeddings[query].to(self.context.device), query, other
                    )
                write_translation(self.context.path, self.source, gallery, query, other, predicted.cpu())
        for modality in (a, b):
            write_spectra(self.context.path, self.source, gallery, modality)
        if self._set_reference(system.objective):
            write_information(self.context.path, self._gains(system, gallery))

    @torch.no_grad()
    def _gains(self, system: AlignSystem, samples: np.ndarray) -> dict[str, list[tuple[float, int]]]:
        """Decoder -> its gain over the reference in nats per object, and the objects, for batches of test objects."""
        gains: dict[str, list[tuple[float, int]]] = {}
        for batch in self.source.loader(samples, INFORMATION_BATCH, seed=0, shuffle=False):
            moved = {k: v.to(self.context.device) for k, v in batch.items()}
            _, metrics = system.objective({m: system.embed(m, moved) for m in system.heads}, moved)
            for key, value in metrics.items():
                if "gain_" in key:
                    kind, _, name = key.split("gain_")[-1].partition("_")
                    way = f"{name}_to_{name}" if kind == "own" else name
                    target = way.split("_to_")[1]
                    seen = batch[f"{target}_mask"].any(dim=1) & batch[f"{target}_present"]
                    gains.setdefault(way, []).append((float(value), int(seen.sum())))
        return gains


def _embed(modality: str, system: AlignSystem, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return system.embed(modality, batch)


def gaussian(flux: np.ndarray, mask: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (l,) and full covariance (l, l) of training spectra, bad pixels at the mean, in float64."""
    x = torch.as_tensor(flux, dtype=torch.float64)
    if mask is not None:
        good = torch.as_tensor(mask)
        mean = (x * good).sum(0) / good.sum(0).clamp(min=1)
        x = torch.where(good, x, mean)
    return x.mean(0), torch.cov(x.T)


def check_grid(metadata: dict[str, Any], source: Any, modality: str, node: Any) -> None:
    """Refuses an encoder that was trained on another grid, medium or normalisation than the data has.

    Another frame is told: velocities are then not what the encoder has learned to expect.

    Raises:
        ConfigError: they differ.
    """
    trained = metadata["modalities"].get(modality)
    mine = source.infos[modality].to_attributes()
    if trained is None:
        known = ", ".join(metadata["modalities"])
        raise ConfigError(f"the encoder named by {node} was trained on {known}, not on {modality}.")
    for key in ("grid", "medium", "normalisation"):
        if trained[key] != mine[key]:
            raise ConfigError(
                f"{modality}: the encoder named by {node} was trained with {key} {trained[key]} but the data has "
                f"{mine[key]}: convert the data alike, or train the encoder on it."
            )
    if trained.get("frame") != mine.get("frame"):
        say(
            f"{modality}: encoder trained in the {trained.get('frame')} frame, data in the {mine.get('frame')} one."
        )


def token_cache(stage: Stage, modality: str, encoder: Any, node: Any) -> FeatureCache:
    """Features of all splits of a stage's data by a frozen encoder."""
    source, context = stage.source, stage.context
    wanted = np.concatenate([stage.split(s) for s in ("train", "validation", "test")])
    known = [modality, source.content_hash, context.limit, wanted.tolist()]
    # by the weights themselves: the same configuration trained again may have others
    key = on_main(lambda: fingerprint([context.weights(node), *known]))
    return build_cache(
        lambda samples: stage.encode(encoder, source, modality, samples),
        np.sort(wanted),
        (source.total, encoder.n_tokens, encoder.width),
        context.feature_root,
        key[:24],
        fingerprint(str(context.path.resolve()))[:8],
        f"{modality} encoder",
        noted=lambda: write_json(stage.folder / CACHE_PROGRESS, {"encoder": modality}),
    )


def load_aligned(context: Any, node: Any, device: torch.device) -> AlignSystem:
    """The aligned system of a checkpoint, in eval mode, without caches."""
    checkpoint = context.reference(node)
    plans, states = checkpoint["architecture"], checkpoint["modules"]
    wanted = [n for n in plans if n.startswith(("encoders.", "heads.")) or n == "objective"]
    modules = {name: build(plans[name]) for name in wanted}
    for name, module in modules.items():
        module.load_state_dict(states[name])
    pick = lambda kind: {n.split(".", 1)[1]: m for n, m in modules.items() if n.startswith(kind + ".")}  # noqa: E731
    return AlignSystem(pick("encoders"), pick("heads"), modules["objective"], frozen=True).to(device).eval()


@torch.no_grad()
def embed_samples(stage: Stage, system: AlignSystem, modality: str, samples: np.ndarray) -> torch.Tensor:
    """Aligned embeddings (b, k) of samples on the CPU."""
    device, chunks = stage.context.device, []
    for start in range(0, len(samples), 256):
        few = samples[start : start + 256]
        tokens = stage.encode(system.encoders[modality], stage.source, modality, few)
        chunks.append(system.heads[modality](tokens.to(torch.bfloat16).float().to(device)).float().cpu())
    return torch.cat(chunks)


def shared_part(objective: Any, z: torch.Tensor) -> torch.Tensor:
    """The part of an embedding that both modalities share: all of it without a bottleneck."""
    bottleneck = next((m for m in objective.modules() if isinstance(m, Bottleneck)), Bottleneck())
    return bottleneck.shared(z)
