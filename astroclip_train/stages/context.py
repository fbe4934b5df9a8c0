"""What the stages of one run share: configuration, data sources, devices, and the parts that earlier stages left."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import __version__
from ..config.fingerprint import fingerprint
from ..config.targets import build
from ..data.source import DataSource
from ..data.staging import stage
from ..data.store import Store
from ..errors import ConfigError, RunError
from ..files import read_json
from ..randomness import hash64
from ..training.checkpoint import load_checkpoint
from ..training.weights import weights_hash

__all__ = ["RunContext"]


class RunContext:
    """Opens data once, builds modules with seeded weights, and finds what earlier stages made.

    Arguments:
        config: the composed and validated configuration.
        run_dir: the run directory, already leased.
        limit: at most so many samples of each split (preflight).
    """

    def __init__(self, config: DictConfig, run_dir: Any, limit: int | None = None) -> None:
        self.config: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        for stage_node in self.config["stages"].values():
            _name_references(stage_node)
        self.run_dir = run_dir
        self.limit = limit
        self.seed = int(self.config["run"]["seed"])
        self.loggers: list[Any] = []
        root = self.config["data"].get("cache_root")
        self.cache_root = Path(root) if root else Path(self.config["run"]["root"]) / ".cache"
        self.feature_root = self.cache_root if limit is None else self.path / "cache"
        self._sources: dict[str, DataSource] = {}

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.run_dir.path)

    @property
    def device(self) -> torch.device:
        """Where features are computed: CUDA or MPS where there is one and no stage asks for the CPU."""
        wanted = {s.get("trainer", {}).get("accelerator", "auto") for s in self.config["stages"].values()}
        if "cpu" in wanted:
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    # -- data -------------------------------------------------------------------------------------------------------

    def source(self, stage: str, modalities: tuple[str, ...], require: str = "all") -> DataSource:
        """The data of a stage: its own dataset where it names one, else the run's.

        Raises:
            DataError: a file is damaged, a modality or label is missing, a split is empty.
        """
        node = self.config["stages"][stage].get("dataset") or self.config["dataset"]
        key = fingerprint([node, list(modalities), require])
        if key not in self._sources:
            self._sources[key] = self._open(node, modalities, require)
        return self._sources[key]

    def _open(self, node: Any, modalities: tuple[str, ...], require: str) -> DataSource:
        data = self.config["data"]
        members = node if isinstance(node, list) else [{"dataset": node, "weight": 1.0}]
        stores, weights, shown = [], [], []
        for member in members:
            dataset = build(member["dataset"])
            paths = dataset.prepare(self.cache_root)
            if data["stage_to"] and self.limit is None:
                paths = stage(paths, data["stage_to"])
            folds = getattr(dataset, "folds", None)
            stores.append(Store(paths, max_bad_fraction=data["max_bad_fraction"], folds=folds))
            weights.append(float(member.get("weight", 1.0)))
            shown.append(bool(member.get("labels", True)))
        source = DataSource(
            stores,
            modalities=modalities,
            labels=tuple(self.config["labels"]["names"]),
            require=require,
            weights=weights if len(stores) > 1 else None,
            block=data["block"],
            show_labels=shown,
        )
        return source

    def samples(self, source: DataSource, split: str) -> np.ndarray:
        """The samples of a split; fewer in a preflight.

        Raises:
            DataError: the split is empty.
        """
        chosen = source.samples(split)
        if not self.limit:
            return chosen
        share = -(-self.limit // len(source.stores))  # of every store, so that none is empty
        return np.concatenate([part[:share] for part in source.by_store(chosen)])

    # -- modules ----------------------------------------------------------------------------------------------------

    def build(self, stage: str, name: str, node: dict[str, Any], **extra: Any) -> nn.Module:
        """Builds a module with weights that depend on (seed, stage, name) alone."""
        torch.manual_seed(hash64("init", self.seed, stage, name) & 0x7FFFFFFFFFFFFFFF)
        return build(node, **extra)

    def stage_folder(self, stage: str) -> Path:
        """Where a stage's files are, following a reused stage to the run that trained it."""
        folder = Path(self.run_dir.stage_dir(stage))
        link = folder / "reused.json"
        return Path(read_json(link)["folder"]) if link.exists() else folder

    def reference(self, node: dict[str, Any] | str) -> dict[str, Any]:
        """The checkpoint that `{from: STAGE|FILE|EXPORT, which: best|last}` names.

        Raises:
            RunError: the stage has not run, or the file is missing or damaged.
        """
        node = {"from": node} if isinstance(node, str) else node
        origin, which = str(node["from"]), node.get("which", "best")
        if origin in self.config["stages"]:
            folder = self.stage_folder(origin)
            record = folder / "done.json"
            if not record.exists():
                raise RunError(
                    f"stage {origin} is not finished in {self.path}: run it first, with run.stages=[{origin}]."
                )
            return load_checkpoint(folder / read_json(record)[which])
        path = Path(origin)
        if path.is_dir():
            from ..hub.load import checkpoint_of

            return checkpoint_of(path)
        return load_checkpoint(path)

    def weights(self, node: dict[str, Any] | str) -> str:
        """Hash of the weights that a reference names, which is what a stage that takes them depends on.

        Raises:
            RunError: see `reference`.
        """
        return weights_hash(self.reference(node))

    def encoder(
        self, node: dict[str, Any] | str, modality: str
    ) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
        """Rebuilds the encoder of a modality: (module, its architecture, the checkpoint's metadata).

        A pretraining stage offers `encoder`, an exported folder `single.<m>` (before alignment) or `encoders.<m>`.

        Raises:
            ConfigError: the checkpoint has no such part.
        """
        checkpoint = self.reference(node)
        modules, plans = checkpoint["modules"], checkpoint["architecture"]
        for name in ("encoder", f"single.{modality}", f"encoders.{modality}"):
            if name in modules:
                module = build(plans[name])
                module.load_state_dict(modules[name])
                return module, plans[name], checkpoint["metadata"]
        known = ", ".join(modules)
        raise ConfigError(f"the checkpoint named by {node} has no encoder of {modality}: it holds {known}.")

    def metadata(self, source: DataSource) -> dict[str, Any]:
        """What a user of the weights must know: grids, units, normalisations, labels, versions."""
        folds = [list(store.folds) for store in source.stores if store.folds]
        return {
            **({"folds": folds[0]} if folds else {}),
            "modalities": {m: source.infos[m].to_attributes() for m in source.modalities},
            "labels": list(source.label_names),
            "label_units": dict(source.label_units),
            "data": source.content_hash,
            "version": __version__,
            "torch": str(torch.__version__),
        }

    def forget(self, stage: str) -> None:
        """Removes what a stage left."""
        folder = Path(self.run_dir.stage_dir(stage))
        if folder.exists():
            shutil.rmtree(folder)


def _name_references(stage: dict[str, Any]) -> None:
    """`encoders.lrs: NAME` and `aligned: NAME` are short for `{from: NAME, which: best}`."""
    nodes = stage.get("encoders")
    for holder, key in [(nodes, m) for m in nodes or {}] + [(stage, "aligned")]:
        if isinstance(holder.get(key), str):
            holder[key] = {"from": holder[key]}
        if isinstance(holder.get(key), dict):
            holder[key].setdefault("which", "best")
