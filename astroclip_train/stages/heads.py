"""Downstream heads: for each task and input a head on frozen features, or with an encoder trained along."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config.fingerprint import fingerprint
from ..config.keys import IDENTITY, classify
from ..config.rules import for_input
from ..config.targets import build
from ..distributed import on_main
from ..encoders import Pool
from ..errors import ConfigError
from ..files import read_json, write_json
from ..training.checkpoint import load_checkpoint, save_checkpoint
from ..training.progress import say
from .artefacts import write_crb, write_embedding, write_predictions
from .base import Stage
from .features import FeatureBank, InputPart, split_input
from .systems import HeadSystem

__all__ = ["HeadsStage"]

STATISTICS_OBJECTS = 8192
CLOSED_FORM = Path("checkpoints", "best-00000000.ckpt")  # of a head that is not trained by steps


class HeadsStage(Stage):
    """Fits every task of `tasks` on each of its inputs, on the labelled subset `labels.n` of the train split.

    A task has `head`; `inputs`; `pooling` of tokens; for a raw baseline `encoder`, trained from scratch;
    for fine-tuning
    `finetune: true` and `init`, the task whose head and pooling it starts from; and its own optimizer, scheduler and
    trainer where they differ from the stage's.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """Every modality that an input names."""
        names = [
            p.modality for t in self.config["tasks"].values() for i in t["inputs"] for p in split_input(i)
        ]
        return tuple(dict.fromkeys(names))

    def inputs(self) -> list[Any]:
        """Encoders before and after alignment."""
        nodes = list((self.config.get("encoders") or {}).values())
        return nodes + ([self.config["aligned"]] if self.config.get("aligned") else [])

    def train(self) -> dict[str, Any]:
        """Fits the tasks in the order of the configuration; finished ones are passed over."""
        self.bank = FeatureBank(self)
        totals = {
            "seconds": 0.0,
            "samples": 0,
            "steps": 0,
            "busy": 0.0,
            "wait": 0.0,
            "flops": 0.0,
            "peak": 0.0,
        }
        best = None
        timings: dict[str, Any] = {}
        for task, node in self.config["tasks"].items():
            for name in node["inputs"]:
                record = self._task(task, node, name)
                best = best or record["best"]
                timing = record["timing"]
                timings[f"{task}__{name}"] = timing
                totals["seconds"] += timing["seconds"]
                totals["samples"] += timing.get("samples", 0)
                totals["steps"] += timing.get("steps", 0)
                totals["busy"] += timing.get("train_seconds", 0.0)
                totals["wait"] += timing.get("train_seconds", 0.0) * timing.get("data_wait", 0.0)
                totals["flops"] += timing.get("train_seconds", 0.0) * timing.get("mfu", 0.0)
                totals["peak"] = max(totals["peak"], timing.get("peak_memory_gb", 0.0))
        busy = max(1e-9, totals["busy"])
        timing = {
            "seconds": totals["seconds"], "steps": totals["steps"], "samples": totals["samples"],
            "samples_per_second": totals["samples"] / busy, "data_wait": totals["wait"] / busy,
            "mfu": totals["flops"] / busy, "peak_memory_gb": totals["peak"],
        }  # fmt: skip
        return {"best": best, "last": best, "timing": timing, "tasks": timings}

    # -- one task -----------------------------------------------------------------------------------------------------

    def labelled(self) -> np.ndarray:
        """Training samples with at least one label: the first `labels.n` by the label hash, so that subsets nest.

        Raises:
            DataError: no object of the train split has any of the labels.
        """
        if self.context.limit:
            return self.split("train")
        return self.source.samples("train", labelled_only=True, n_labels=self.context.config["labels"]["n"])

    def _task_folder(self, task: str, name: str) -> Any:
        return self.folder / "tasks" / f"{task}__{name}"

    def _task(self, task: str, node: dict[str, Any], name: str) -> dict[str, Any]:
        node = for_input(node, name)
        folder = self._task_folder(task, name)
        mark = fingerprint([self.fingerprint(), task, name, _mathematics(node)])
        done = folder / "task.json"
        finished = on_main(lambda: _read(done, mark))
        if finished:
            return finished
        system, architecture = self._system(task, node, name)
        if system.head.closed_form:
            timing = on_main(lambda: self._closed_form(system, name, folder, mark, architecture))
            best = folder / CLOSED_FORM
        else:
            timing, best = self._gradient(task, node, name, system, folder, mark, architecture)
        record = {"fingerprint": mark, "best": str(best.relative_to(self.folder)), "timing": timing}
        on_main(lambda: write_json(done, record))
        say(f"  {task} on {name}: {timing['seconds']:.1f} s")
        return record

    def _system(self, task: str, node: dict[str, Any], name: str) -> tuple[HeadSystem, dict[str, Any]]:
        """The task's modules, initialised from another task where `init` says so."""
        parts, label = split_input(name), f"{task}__{name}"
        encoders: dict[str, nn.Module] = {}
        plans: dict[str, Any] = {}
        for part in parts:
            if node.get("finetune") or node.get("encoder"):
                encoders[part.name], plans[f"encoders.{part.name}"] = self._encoder(label, node, part)
        pools = {p.name: self._pool(label, node, p, encoders.get(p.name), plans) for p in parts}
        width = sum(getattr(pools[p.name], "features", None) or self.bank.size(p)["length"] for p in parts)
        head_node = node["head"] or for_input(self.config["tasks"][node["init"]], name)["head"]
        plan = {**head_node, "in_features": width, "labels": list(self.source.label_names)}
        plans["head"] = plan
        head = self.context.build(self.name, f"{label}/head", plan)
        lookups = {p.name: self.bank.lookup(p) for p in parts if p.name not in encoders}
        system = HeadSystem(
            head, pools, lookups, encoders=encoders, modalities={p.name: p.modality for p in parts},
            encoder_rate=node.get("encoder_rate") or 1.0, layer_decay=node.get("layer_decay") or 1.0,
            **self._augmentation(node, [p for p in parts if p.name not in encoders]),
        )  # fmt: skip
        if node.get("init"):
            self._initialise(system, node["init"], name)
        else:
            self._statistics(system, parts)
        return system, plans

    def _augmentation(self, node: dict[str, Any], frozen: list[InputPart]) -> dict[str, Any]:
        """What changes training spectra, and the encoders that must see the changed ones."""
        if not node.get("augment"):
            return {}
        encoders = {p.name: self.bank.encoder(p.modality)[0] for p in frozen if p.kind == "single"}
        return {"augment": build(node["augment"]), "frozen": encoders, "seed": self.context.seed}

    def _encoder(self, label: str, node: dict[str, Any], part: InputPart) -> tuple[nn.Module, dict[str, Any]]:
        if node.get("finetune"):
            if part.kind != "single":
                raise ConfigError(
                    f"fine-tuning takes inputs <modality>.single, not {part.name}: change its inputs."
                )
            encoder, plan = self.bank.encoder(part.modality)
            if node.get("lora"):
                plan = {"_target_": "astroclip_train.hub.lora.adapted", "encoder": plan, **node["lora"]}
                state = encoder.state_dict()
                encoder = self.context.build(self.name, f"{label}/encoder", plan)
                load_into_adapted(encoder, state)
            return encoder, plan
        plan = {**node["encoder"], "length": self.source.lengths[part.modality]}
        return self.context.build(self.name, f"{label}/encoder", plan), plan

    def _pool(
        self, label: str, node: dict[str, Any], part: InputPart, encoder: Any, plans: dict[str, Any]
    ) -> nn.Module:
        tokens = encoder is not None or part.kind == "single"
        if not tokens:
            plans[f"pools.{part.name}"] = {"_target_": "torch.nn.Identity"}
            return nn.Identity()
        pooling = node.get("pooling") or self._pooling_of(node, part)
        size = (
            {"n_tokens": encoder.n_tokens, "width": encoder.width}
            if encoder is not None
            else self.bank.size(part)
        )
        plan = {**size, **pooling}
        plans[f"pools.{part.name}"] = plan
        return self.context.build(self.name, f"{label}/{part.name}/pool", plan)

    def _pooling_of(self, node: dict[str, Any], part: InputPart) -> dict[str, Any]:
        if node.get("init"):
            inherited = self.config["tasks"][node["init"]].get("pooling")
            if inherited:
                return inherited
        return self.config["pooling"][part.modality]

    def _initialise(self, system: HeadSystem, origin: str, name: str) -> None:
        """Head and pooling of a finished task on the same input."""
        record = self._task_folder(origin, name) / "task.json"
        if not record.exists():
            raise ConfigError(
                f"task init={origin} on {name} is not trained before the task that starts from it: list it first."
            )
        modules = load_checkpoint(self.folder / read_json(record)["best"])["modules"]
        for part, module in system.parts().items():
            if part in modules:
                module.load_state_dict(modules[part])

    @torch.no_grad()
    def _statistics(self, system: HeadSystem, parts: list[InputPart]) -> None:
        """Standardisation of features and labels from training objects only."""
        few = self.labelled()[:STATISTICS_OBJECTS]
        batches = list(self.source.loader(few, 512, seed=0, shuffle=False))
        system.eval()
        for part in parts:
            pool = system.pools[part.name.replace(".", "__")]
            if isinstance(pool, Pool) and part.name in system.lookups.value:
                pool.fit([system.lookups.value[part.name](b) for b in batches])
        # features of an encoder from scratch that normalises by the batch have their scale only in training mode
        fresh = [m for m in system.encoders.modules() if isinstance(m, _BatchNorm)]
        for module in fresh:
            module.train()
        features = torch.cat([system.features(b) for b in batches])
        if not system.head.closed_form:
            # the range of the labels is that of all objects, not of those whose features are averaged
            system.head.prepare(features, torch.from_numpy(self.source.labels(self.labelled())))
        system.train()

    # -- fitting ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _closed_form(
        self, system: HeadSystem, name: str, folder: Any, mark: str, architecture: dict[str, Any]
    ) -> dict[str, float]:
        start = time.perf_counter()
        labelled = self.labelled()
        system.eval()
        batches = list(self.source.loader(labelled, 1024, seed=0, shuffle=False))
        features = torch.cat([system.features(b) for b in batches])
        system.head.fit(features, torch.cat([b["labels"] for b in batches]))
        content = {
            "stage": f"{self.name}/{folder.name}", "step": 0, "fingerprint": mark,
            "modules": {n: m.state_dict() for n, m in system.parts().items()},
            "architecture": architecture, "metadata": self._metadata(name),
        }  # fmt: skip
        save_checkpoint(folder / CLOSED_FORM, content)
        return {"seconds": time.perf_counter() - start, "samples": len(labelled)}

    def _gradient(
        self, task: str, node: dict[str, Any], name: str, system: HeadSystem, folder: Any, mark: str,
        architecture: dict[str, Any],
    ) -> tuple[dict[str, float], Any]:  # fmt: skip
        changes = {"validate_first": True} if node.get("init") else {}
        settings = self.settings(node.get("trainer"), **changes)
        validation = self.split("validation")
        result = self.fit(
            f"{self.name}/{task}__{name}", system, settings, folder, node,
            fingerprint=mark, architecture=architecture, metadata=self._metadata(name),
            **self.loaders(self.source, settings, self.labelled(), validation),
        )  # fmt: skip
        return result.timing, result.best

    def _metadata(self, name: str) -> dict[str, Any]:
        return {**self.context.metadata(self.source), "input": name, "encoders": self.config.get("encoders"),
                "aligned": self.config.get("aligned")}  # fmt: skip

    # -- test ---------------------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Predictions of every task for the test split, all labels in one pass over the features."""
        self.bank = FeatureBank(self)
        test = self.split("test")
        folder = self.context.stage_folder(self.name)
        samples = int(self.context.config["evaluation"]["posterior_samples"])
        for task, node in self.config["tasks"].items():
            for name in node["inputs"]:
                record = read_json(folder / "tasks" / f"{task}__{name}" / "task.json")
                system = self.restore(folder / record["best"], name)
                write_predictions(
                    self.context.path, self.source, system, test, task, name, samples, self.context.seed
                )
        write_crb(self.context.path, self.source, test)
        for name in self.config.get("embeddings") or []:
            parts = split_input(name)
            missing = sorted({p.modality for p in parts} - set(self.modalities))
            if missing:
                say(f"no picture of {name}: no task of stages.{self.name} reads {' or '.join(missing)}.")
                continue
            rows = torch.cat([self.bank.rows(p, test[:2000]).flatten(1) for p in parts], dim=1)
            write_embedding(self.context.path, self.source, test[:2000], name, rows)

    def restore(self, folder: Path, name: str) -> HeadSystem:
        """A finished task from its checkpoint alone, in eval mode."""
        checkpoint = load_checkpoint(folder)
        modules = {n: build(plan) for n, plan in checkpoint["architecture"].items()}
        for part, module in modules.items():
            module.load_state_dict(checkpoint["modules"][part])
        parts = split_input(name)
        encoders = {p.name: modules[f"encoders.{p.name}"] for p in parts if f"encoders.{p.name}" in modules}
        system = HeadSystem(
            modules["head"], {p.name: modules[f"pools.{p.name}"] for p in parts},
            {p.name: self.bank.lookup(p) for p in parts if p.name not in encoders},
            encoders=encoders, modalities={p.name: p.modality for p in parts},
        )  # fmt: skip
        return system.to(self.context.device).eval()


def _mathematics(node: dict[str, Any]) -> dict[str, Any]:
    """A task on one input without what changes no number: how often it is saved, and what differs on other inputs."""
    kept = {k: v for k, v in node.items() if k != "per_input"}
    for part in ("trainer", "optimizer"):
        if part == "trainer" or node.get(part):
            items = (node.get(part) or {}).items()
            kept[part] = {k: v for k, v in items if classify(f"stages.s.tasks.t.{part}.{k}") == IDENTITY}
    return kept


def _read(done: Path, mark: str) -> dict[str, Any] | None:
    record = read_json(done) if done.exists() else {}
    return record if record.get("fingerprint") == mark else None


def load_into_adapted(encoder: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads a plain encoder's weights into one whose linear layers were wrapped by low-rank updates."""
    own = encoder.state_dict()
    for name, value in state.items():
        parent, _, leaf = name.rpartition(".")
        own[name if name in own else f"{parent}.linear.{leaf}"].copy_(value)
