"""One fit with exact resume: Lightning trains, this module decides what is kept and where it goes on.

Lightning's own checkpoint has no random state and replays a data loader from its start; here the position of the
data stream, every seed and the learning rate are functions of the optimiser step, so that weights, optimiser and step
are the whole state.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from ..distributed import on_main, world_size
from ..distributed.batch_norm import globalise_batch_norm
from ..distributed.lightning import own_no_signals, placement
from ..distributed.sharded import check_shardable
from ..errors import RunError
from ..files import appear, read_json, write_json
from ..stages.module import System, TrainingModule
from .checkpoint import CheckpointFolder, load_checkpoint
from .interruption import Interruption, current
from .keeper import Keeper
from .progress import say
from .schedules import schedule_from

__all__ = ["FitJob", "FitResult", "FitSettings", "fit"]

log = logging.getLogger(__name__)


@dataclass
class FitSettings:
    """The trainer settings of one fit; every field is a key of `stages.<s>.trainer`."""

    max_steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    val_every_steps: int = 200
    val_batches: int | None = None
    validate_first: bool = False
    checkpoint_every_steps: int = 200
    log_every_steps: int = 10
    keep_best: int = 1
    monitor: str = "val_loss"
    mode: str = "min"
    early_stopping_patience: int | None = None
    early_stopping_min_delta: float = 0.0
    precision: str = "32-true"
    gradient_clip: float | None = 1.0
    ema_decay: float | None = None
    compile: bool = False
    deterministic: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"

    @classmethod
    def from_config(cls, node: dict[str, Any], **changes: Any) -> "FitSettings":
        """Takes the keys it knows from a composed `trainer` node."""
        known = {f.name for f in fields(cls)}
        return cls(**{**{k: v for k, v in node.items() if k in known}, **changes})


class MetricsSink(Protocol):
    """Where rows of (stage, step) go."""

    def write(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Adds one row."""

    def cut(self, stage: str, step: int) -> None:
        """Removes the rows of `stage` beyond `step`."""


@dataclass
class FitJob:
    """Everything one fit needs.

    Attributes:
        name: stage or task name, part of seeds and of metrics rows.
        system: what is trained.
        settings: see `FitSettings`.
        optimizer: parameter groups -> optimiser.
        weight_decay: for matrices.
        scheduler: name, warm-up and floor of the schedule.
        seed: the run's seed.
        train_loader: (first micro-batch, number of micro-batches in all) -> batches.
        val_loader: -> validation batches, or None.
        folder: where checkpoints and done.json go.
        metrics: where numbers go.
        fingerprint: of everything above; a checkpoint with another one is not used.
        architecture: part name -> plain configuration.
        metadata: for users of the weights.
        guard: called before every checkpoint; raises when this process may no longer write.
        probes: called as probe(system, step) every `probe_every` steps.
        interruption: asked after every step whether to save and leave.
    """

    name: str
    system: System
    settings: FitSettings
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    weight_decay: float
    scheduler: dict[str, Any]
    seed: int
    train_loader: Callable[[int, int], Iterable]
    val_loader: Callable[[], Iterable] | None
    folder: Path
    metrics: MetricsSink
    fingerprint: str
    architecture: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    probes: Sequence[Callable[[System, int], dict[str, float]]] = ()
    probe_every: int | None = None
    loggers: Sequence[Any] = ()
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    guard: Callable[[], Any] | None = None
    interruption: Interruption = field(default_factory=current)
    flops: bool = True


@dataclass
class FitResult:
    """What a fit leaves: steps done, the best validation, the checkpoint to use, and its timing."""

    step: int
    best_step: int | None
    best_value: float | None
    best: Path
    last: Path
    timing: dict[str, float]
    stopped: bool = False

    def load(self, which: str = "best") -> dict[str, Any]:
        """The content of the best or last checkpoint."""
        return load_checkpoint(self.best if which == "best" else self.last)


def fit(job: FitJob) -> FitResult:
    """Trains, or goes on where a killed process stopped, or returns what is finished.

    Raises:
        RunError: the loss is not finite, or a finished fit has lost its checkpoint.
    """
    done = on_main(lambda: _finished(job))
    if done is not None:
        return _result(job, done)
    folder = CheckpointFolder(job.folder / "checkpoints")
    newest = on_main(lambda: _resumable(job, folder))
    state = load_checkpoint(appear(newest)) if newest is not None else None
    if state is not None and state["training"].get("ranks", 1) != world_size():
        say(
            f"{job.name}: {state['training'].get('ranks', 1)} ranks before, {world_size()} now: every batch holds the "
            "same objects, but dropout masks and the order of sums differ from here on."
        )
    module = TrainingModule(
        job.system,
        stage=job.name,
        seed=job.seed,
        make_optimizer=job.optimizer,
        weight_decay=job.weight_decay,
        schedule=schedule_from(max_steps=job.settings.max_steps, **job.scheduler),
        accumulate=job.settings.accumulate,
    )
    keeper = Keeper(job, folder, state)
    module.start_step = keeper.step
    job.metrics.cut(job.name, keeper.step)
    if keeper.step < job.settings.max_steps and not keeper.selection.stopped:
        _train(job, module, keeper)
    return _result(job, on_main(lambda: _finish(job, keeper, folder)))


def _result(job: FitJob, record: dict[str, Any]) -> FitResult:
    best, last = job.folder / record["best"], job.folder / record["last"]
    return FitResult(
        record["step"], record["best_step"], record["best_value"], best, last, record["timing"],
        bool(record.get("stopped")),
    )  # fmt: skip


def _finished(job: FitJob) -> dict[str, Any] | None:
    path = job.folder / "done.json"
    if not path.exists():
        return None
    record = read_json(path)
    if record["fingerprint"] != job.fingerprint:
        say(f"{job.name}: its configuration, data or inputs changed, so it is trained anew.")
        path.unlink()
        for old in (job.folder / "checkpoints").glob("*.ckpt"):
            old.unlink()
        job.metrics.cut(job.name, -1)
        return None
    stopped = bool(record.get("stopped"))
    if record["step"] < job.settings.max_steps and not stopped:
        return None  # its schedule was lengthened
    for kept in (job.folder / record["best"], job.folder / record["last"]):
        if not kept.exists():
            raise RunError(
                f"{kept} is missing though {path} says it was written: remove {path} to train again."
            )
    return record


def _resumable(job: FitJob, folder: CheckpointFolder) -> str | None:
    """The newest whole checkpoint of this fit, found by rank 0."""
    newest = folder.newest_whole()
    if newest is None:
        return None
    path, state = newest
    if state["fingerprint"] != job.fingerprint:
        say(f"{job.name}: {path.name} belongs to another configuration, so the stage starts anew.")
        for old in folder.folder.glob("*.ckpt"):
            old.unlink()
        return None
    say(f"{job.name}: goes on from step {state['step']:,} of {job.settings.max_steps:,}.")
    return str(path)


def _train(job: FitJob, module: TrainingModule, keeper: Keeper) -> None:
    settings = job.settings
    quiet_lightning()
    trainer = pl.Trainer(
        **placement(settings),
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic or None,
        gradient_clip_val=settings.gradient_clip,
        accumulate_grad_batches=settings.accumulate,
        max_steps=settings.max_steps,
        max_epochs=1,  # the whole stream is one epoch of Lightning; ours are counted by the sampler
        callbacks=[*job.callbacks.values(), keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    own_no_signals(trainer)
    if world_size() > 1:
        globalise_batch_norm(job.system)
        if settings.strategy == "fsdp2":
            check_shardable(job.system, settings.ema_decay)
    total = settings.max_steps * settings.accumulate
    loader = job.train_loader(keeper.step * settings.accumulate, total)
    with job.interruption.deferred():  # a signal waits for the end of the step
        try:
            trainer.fit(module, train_dataloaders=loader)
        finally:
            keeper.close()
            if hasattr(loader, "close"):
                loader.close()  # its workers, before the next fit has its own
    if trainer.interrupted or keeper.interrupted:
        raise KeyboardInterrupt
    if keeper.step < settings.max_steps and trainer.should_stop and not keeper.selection.stopped:
        raise RunError(
            f"{job.name} was stopped by a callback at step {keeper.step:,} of {settings.max_steps:,}: the same command "
            "goes on from there."
        )
    if keeper.step < settings.max_steps and not keeper.selection.stopped:
        raise RunError(
            f"{job.name} stopped at step {keeper.step} of {settings.max_steps} because its data ended: "
            "the train split must hold at least one batch; lower stages.*.trainer.batch_size."
        )


def _finish(job: FitJob, keeper: Keeper, folder: CheckpointFolder) -> dict[str, Any]:
    last = folder.rolling()[0]
    best = keeper.selection.best
    best_path = folder.best_path(best[0]) if best else last
    if not best_path.exists():
        raise RunError(
            f"{best_path} is missing though step {keeper.step:,} names it as the best: remove {folder.folder} to train "
            "again."
        )
    folder.remove_best_except({step for step, _ in keeper.selection.records})
    record = {
        "fingerprint": job.fingerprint,
        "step": keeper.step,
        "stopped": keeper.selection.stopped,
        "best_step": best[0] if best else None,
        "best_value": best[1] if best else None,
        "best": str(best_path.relative_to(job.folder)),
        "last": str(last.relative_to(job.folder)),
        "timing": keeper.throughput.summary(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(job.folder / "done.json", record)
    return record


def quiet_lightning() -> None:
    """Keeps Lightning's advice, which does not apply to our loaders, out of the user's log."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*`?train_dataloader`? .*", ".*IterableDataset.*",
                    ".*GPU available but not used.*", ".*LeafSpec.*", ".*`srun` command.*", ".*in eval mode.*",
                    ".*`broadcast_buffers` is deprecated.*", ".*number of training batches.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)
