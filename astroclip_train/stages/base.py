"""What every stage does alike: fingerprint, reuse within and across runs, the fit and its record."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from ..config.fingerprint import fingerprint
from ..config.keys import stage_identity
from ..config.targets import build, build_optimizer
from ..data.source import DataSource
from ..distributed import agree, is_main, on_main
from ..distributed.collectives import rank, world_size
from ..files import read_json, write_json
from ..training.claims import claimed
from ..training.fit import FitJob, FitResult, FitSettings, fit
from ..training.progress import say
from .context import RunContext
from .module import System

__all__ = ["Stage", "sized"]

log = logging.getLogger(__name__)


class Stage:
    """One named step of a run.

    Subclasses define `modalities`, `inputs` and `train`; `evaluate` where they leave test artefacts.

    Arguments:
        context: what the run's stages share.
        name: its key under `stages`.
    """

    def __init__(self, context: RunContext, name: str) -> None:
        self.context, self.name = context, name
        self.config: dict[str, Any] = context.config["stages"][name]
        self.folder = Path(context.run_dir.stage_dir(name))
        self._mark: str | None = None

    # -- what subclasses say ------------------------------------------------------------------------------------------

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that its batches hold."""
        raise NotImplementedError(f"{type(self).__name__} must name its modalities")

    def inputs(self) -> list[Any]:
        """References to earlier stages, checkpoints or exported folders."""
        return []

    def train(self) -> dict[str, Any]:
        """Does the work and returns what `done.json` records: at least `best`, `last`, `timing`."""
        raise NotImplementedError(f"{type(self).__name__} must train")

    def evaluate(self) -> None:
        """Writes test artefacts; called once, by the final evaluation."""

    # -- identity -----------------------------------------------------------------------------------------------------

    @property
    def source(self) -> DataSource:
        """The stage's data."""
        return self.context.source(self.name, self.modalities)

    def fingerprint(self) -> str:
        """Hash of the identity keys, the data's content and the inputs' fingerprints; rank 0 opens the data first."""
        if self._mark is None:
            self._mark = on_main(self._fingerprint)
        return self._mark

    def _fingerprint(self) -> str:
        known = [self.input_fingerprint(node) for node in self.inputs()]
        identity = stage_identity(OmegaConf.create(self.context.config), self.name)
        planned = self.context.run_dir.planned.get(self.name)
        if planned is not None:  # a lengthened schedule goes on from the checkpoints of the planned one
            identity["trainer"]["max_steps"] = planned
        return fingerprint([identity, self.source.content_hash, known, self.context.limit])

    def input_fingerprint(self, node: Any) -> str:
        """Hash of the weights that an input names; of a stage that is still to be trained, that it is."""
        origin = str(node["from"] if isinstance(node, dict) else node)
        own = origin in self.context.config["stages"]
        if own and not (self.context.stage_folder(origin) / "done.json").exists():
            return f"unfinished {origin}"
        return self.context.weights(node)

    def is_of(self, record: dict[str, Any]) -> bool:
        """Whether a finished stage was made with this configuration and these inputs; asked on one rank."""
        return record["fingerprint"] == self._fingerprint()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Reuses a finished stage of equal fingerprint, here or in another run; else trains it."""
        mark = self.fingerprint()
        if on_main(lambda: self._finished_here(mark) or self._finished_elsewhere(mark)):
            return
        agree("data with content", self.source.content_hash, "every machine must read the same files")
        if self.context.limit is not None:
            self._train(mark)
            return
        with contextlib.ExitStack() as held:  # the claim is the main rank's; the others wait for its answer

            def claim() -> bool:
                held.enter_context(claimed(self._index(mark).with_suffix(".lease.json"), self._waiting))
                return self._finished_elsewhere(mark)  # it may have been finished meanwhile

            if not on_main(claim):
                self._train(mark)

    def _waiting(self, holder: dict[str, Any]) -> None:
        say(
            f"stage {self.name}: process {holder.get('pid')} on {holder.get('host')} is training the very same one, "
            "waiting for it."
        )

    def _train(self, mark: str) -> None:
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "reused.json").unlink(missing_ok=True)
        say(f"stage {self.name}")
        extended = self.name in self.context.run_dir.planned
        launch = self.context.run_dir.record.get("launch")
        record = {
            "fingerprint": mark, "stage": self.name, "extended": extended, "launch": launch, **self.train(),
        }  # fmt: skip
        on_main(lambda: self._book(mark, record))

    def _book(self, mark: str, record: dict[str, Any]) -> None:
        write_json(self.folder / "done.json", record)
        if self.context.limit is None and not record["extended"]:
            write_json(self._index(mark), {"folder": str(self.folder.resolve())})

    def _index(self, mark: str) -> Path:
        return Path(self.context.config["run"]["root"]) / ".stages" / f"{mark}.json"

    def _finished_here(self, mark: str) -> bool:
        folder = self.context.stage_folder(self.name)
        path = folder / "done.json"
        record = read_json(path) if path.exists() else {}
        borrowed = (self.folder / "reused.json").exists()
        if record.get("fingerprint") == mark and not (borrowed and record.get("extended")):
            if _whole(folder, record):
                return self._long_enough(record)
            say(f"{self.name}: {folder} has lost its checkpoints, it is trained again.")
        elif record or borrowed:
            say(f"{self.name}: inputs or configuration changed, its old files are removed.")
        if record or borrowed:
            self.context.forget(self.name)
            self.context.run_dir.metrics.cut(self.name, -1)
        return False

    def _long_enough(self, record: dict[str, Any]) -> bool:
        longer = self.context.run_dir.extension.get(self.name, 0)
        return record.get("stopped", False) or longer <= record.get("step", longer)

    def _finished_elsewhere(self, mark: str) -> bool:
        index = self._index(mark)
        if not index.exists():
            return False
        folder = Path(read_json(index)["folder"])
        record = folder / "done.json"
        done = read_json(record) if record.exists() else {}
        if done.get("fingerprint") != mark or done.get("extended") or folder == self.folder.resolve():
            return False
        if not _whole(folder, done) or not self._long_enough(done):
            return False
        mine = self.context.run_dir.record
        if mine.get("fresh") and done.get("launch") != mine.get("launch"):
            return False  # only what this very launch has trained, as the jobs of a sweep share stages
        say(f"stage {self.name}: already trained in {folder}, reused.")
        write_json(self.folder / "reused.json", {"folder": str(folder)})
        return True

    # -- fitting ------------------------------------------------------------------------------------------------------

    def settings(self, node: dict[str, Any] | None = None, **changes: Any) -> FitSettings:
        """The trainer settings, cut to two steps in a preflight."""
        merged = {**self.config.get("trainer", {}), **(node or {})}
        if self.context.limit:
            size = min(int(merged.get("batch_size", 64)), self.context.limit)
            changes |= {
                "max_steps": 2,
                "val_batches": 1,
                "val_every_steps": 2,
                "batch_size": size,
                "accumulate": 1,
            }
        return FitSettings.from_config(merged, **changes)

    def fit(
        self,
        name: str,
        system: System,
        settings: FitSettings,
        folder: Path,
        node: dict[str, Any],
        **more: Any,
    ) -> FitResult:
        """Fits a system with the optimiser and schedule of `node`, falling back on the stage's."""
        optimizer = dict(node.get("optimizer") or self.config["optimizer"])
        decay = float(optimizer.pop("weight_decay", 0.0))
        scheduler = {
            k: v for k, v in (node.get("scheduler") or self.config["scheduler"]).items() if v is not None
        }
        job = FitJob(
            name=name,
            system=system,
            settings=settings,
            optimizer=lambda groups: build_optimizer(optimizer, groups),
            weight_decay=decay,
            scheduler=scheduler,
            seed=self.context.seed,
            folder=folder,
            metrics=self.context.run_dir.metrics,
            loggers=self.context.loggers,
            callbacks={n: build(c) for n, c in (self.context.config.get("callbacks") or {}).items()},
            guard=self.context.run_dir.lease.check,
            **more,
        )
        return fit(job)

    def loaders(
        self, source: DataSource, settings: FitSettings, train: np.ndarray, validation: np.ndarray
    ) -> dict[str, Any]:
        """Train and validation loaders for `FitJob`: micro-batches of all ranks, of which this one reads its part."""
        workers = int(self.context.config["data"]["num_workers"])
        size = settings.batch_size // settings.accumulate
        part = {"rank": rank(), "world_size": world_size(), "seed": self.context.seed}

        def train_loader(start: int, total: int) -> Any:
            return source.loader(
                train, size, shuffle=True, num_workers=workers, start_batch=start, total_batches=total, **part
            )

        def val_loader() -> Any:
            return source.loader(validation, size, shuffle=False, **part)

        return {"train_loader": train_loader, "val_loader": val_loader}

    def split(self, split: str) -> np.ndarray:
        """Samples of a split of the stage's data."""
        return self.context.samples(self.source, split)

    @staticmethod
    def record(result: FitResult, folder: Path) -> dict[str, Any]:
        """A fit's entry for `done.json`, paths relative to the stage's folder."""
        return {
            "best": str(result.best.relative_to(folder)),
            "last": str(result.last.relative_to(folder)),
            "step": result.step,
            "stopped": result.stopped,
            "best_step": result.best_step,
            "best_value": result.best_value,
            "timing": result.timing,
        }

    @torch.no_grad()
    def encode(
        self, encoder: torch.nn.Module, source: DataSource, modality: str, samples: np.ndarray
    ) -> torch.Tensor:
        """Tokens (b, n, d) of samples, in eval mode, in micro-batches of 256."""
        device = self.context.device
        encoder = encoder.to(device).eval()
        chunks = []
        for start in range(0, len(samples), 256):
            arrays = source.arrays(modality, samples[start : start + 256])
            tensors = {k: torch.as_tensor(v).to(device) for k, v in arrays.items()}
            chunks.append(encoder(tensors["flux"], tensors.get("ivar"), tensors.get("mask")).float().cpu())
        return torch.cat(chunks)


def _whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the weights that `done.json` names are there: somebody may have freed the disk."""
    return (folder / record["best"]).exists()


def sized(node: dict[str, Any], encoder: Any) -> dict[str, Any]:
    """A pooling's or alignment head's configuration with the encoder's number of tokens and width."""
    return {"n_tokens": encoder.n_tokens, "width": encoder.width, **node}
