"""The callback that keeps a fit: restores it, books its numbers, validates, saves, and tells when to stop."""

import contextlib
import copy
import logging
import math
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from ..distributed import alone, any_rank, is_main, world_size
from ..distributed.collectives import row_counts
from ..distributed.heartbeat import beat
from ..distributed.sharded import shard_state, whole
from ..errors import RunError
from ..stages.module import mean_over_ranks
from .checkpoint import CheckpointFolder, save_checkpoint
from .ema import WeightAverage
from .interruption import Interrupted
from .progress import Reporter, say
from .selection import Selection
from .throughput import Throughput, count_flops

if TYPE_CHECKING:
    from .fit import FitJob

__all__ = ["Keeper"]

log = logging.getLogger(__name__)
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class Keeper(pl.Callback):
    """Counts optimiser steps by itself, so that a resumed fit is the same fit.

    After optimiser step s: EMA, log row, validation, probes, checkpoint, in this order; all at multiples of their
    intervals and at the last step.
    """

    def __init__(self, job: "FitJob", folder: CheckpointFolder, state: dict[str, Any] | None) -> None:
        s = job.settings
        self.job, self.folder, self.state = job, folder, state
        self.step = int(state["step"]) if state else 0
        self.selection = Selection(
            s.monitor, s.mode, s.keep_best, s.early_stopping_patience, s.early_stopping_min_delta
        )
        self.ema: WeightAverage | None = None
        self.throughput = Throughput()
        self.reporter: Reporter | None = None
        self.interrupted = self._stop_asked = False
        self.sharded = s.strategy == "fsdp2" and world_size() > 1
        self.metrics: dict[str, Any] = {}
        self._whole: dict[str, float] | None = None
        self._saved: set[int] = set()  # best steps that the newest rolling checkpoint names
        self._named: set[int] = set()  # those that it and the one before name
        if state:
            self.selection.load_state_dict(state["training"]["selection"])
            self._saved = self._named = self._best_steps()
            self.throughput.load_state_dict(state["training"]["throughput"])
            self._load_modules(state["modules"])

    def _load_modules(self, modules: dict[str, Any]) -> None:
        for name, part in self.job.system.parts().items():
            part.load_state_dict(modules[name])

    # -- Lightning's hooks ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restores optimiser, average and user callbacks; Lightning has built the optimiser by now."""
        s = self.job.settings
        if s.ema_decay:
            self.ema = WeightAverage(self.job.system, s.ema_decay)
        if self.state:
            training = self.state["training"]
            optimizer = trainer.optimizers[0]
            optimizer.load_state_dict(shard_state(optimizer, training["optimizer"]))
            if training.get("precision"):
                trainer.precision_plugin.load_state_dict(training["precision"])
            if self.ema is not None:
                self.ema.load_state_dict(training["ema"])
            saved = training["callbacks"]
            if isinstance(saved, list):  # of versions before callbacks had names
                saved = dict(zip(self.job.callbacks, saved, strict=False))
            for name, callback in self._lasting().items():
                if name in saved:
                    callback.load_state_dict(saved[name])
            self.state = None
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        progress.total.completed = progress.total.ready = self.step
        kind = module.device.type
        self.throughput.device = kind
        key = "bf16" if "bf16" in s.precision else "16" if s.precision.startswith("16") else ""
        self.throughput.dtype = _DTYPES.get(key, torch.float32)
        if s.compile:
            for part in self.job.system.compilable():
                part.compile()
        self.reporter = Reporter(self.job.name, s.max_steps, self.step)
        self._try_monitor(module)
        if s.validate_first and self.step == 0:
            self._validate(module)
        self.throughput.lap("other")

    def _lasting(self) -> dict[str, Any]:
        """The user's callbacks that go on where they were; a timer is set again by every start."""
        return {n: c for n, c in self.job.callbacks.items() if not isinstance(c, pl.callbacks.Timer)}

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Books the time since the last step as waiting for data; counts FLOPs once."""
        self.throughput.lap("wait")
        if batch_idx == 0 and self.job.flops and is_main() and not self.sharded:
            with alone():
                self.throughput.flops_per_sample = self._flops(batch)
            self.throughput.lap("other")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Books a micro-batch, and at the end of an optimiser step does what its number asks for."""
        s = self.job.settings
        self.throughput.step_seconds = self.throughput.lap("compute")
        self.throughput.samples += sum(row_counts(len(batch["index"])))
        for name, value in module.last_metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value / s.accumulate
        beat(f"step {self.step + 1} of {self.job.name}")
        if (batch_idx + 1) % s.accumulate:
            self._stop_asked |= trainer.should_stop  # by a callback; the step is finished first, and saved
            trainer.should_stop = False
            return
        self.step += 1
        self.throughput.steps += 1
        if self.ema is not None:
            self.ema.update(self.job.system)
        last = self.step >= s.max_steps
        if last or self.step % s.log_every_steps == 0:
            self._log(module)
        if last or self.step % s.val_every_steps == 0:
            self._validate(module)
        if self.job.probe_every and (last or self.step % self.job.probe_every == 0):
            self._probe(module)
        trainer.should_stop = any_rank(trainer.should_stop or self._stop_asked)
        stopping = self.selection.stopped or trainer.should_stop
        leaving = any_rank(self.job.interruption.requested())
        if last or stopping or leaving or self.step % s.checkpoint_every_steps == 0:
            self._save(trainer)
        if leaving:
            raise Interrupted(self.job.interruption.signum, self.step)
        if self.selection.stopped:
            say(f"{self.job.name}: stopped early at step {self.step:,}, {s.monitor} no longer improves.")
            trainer.should_stop = True
        self.metrics, self._whole = {}, None
        self.throughput.lap("other")

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Notes an interrupt, which Lightning would swallow."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def close(self) -> None:
        """Ends the progress display."""
        if self.reporter is not None:
            self.reporter.close()

    # -- the work ---------------------------------------------------------------------------------------------------

    def _flops(self, batch: dict[str, torch.Tensor]) -> float:
        """Model FLOPs per sample, counted on a copy so that gradients and running statistics stay untouched."""
        few = {k: v[:4] if v.ndim else v for k, v in batch.items()}
        twin = copy.deepcopy(self.job.system)
        size = len(few["index"])
        try:
            return count_flops(lambda: twin.loss(few, epoch=0, stream="flops")[0]) / size
        except (RuntimeError, NotImplementedError) as error:
            log.info("%s: FLOPs not counted (%s)", self.job.name, error)
            return 0.0

    def _values(self) -> dict[str, float]:
        """The step's metrics of the whole batch: every rank calls it at the same steps."""
        if self._whole is None:
            self._whole = mean_over_ranks({k: float(v) for k, v in self.metrics.items()})
        return self._whole

    def _write(self, metrics: dict[str, float]) -> None:
        self.job.metrics.write(self.job.name, self.step, metrics)
        for logger in self.job.loggers:
            logger.log_metrics({f"{self.job.name}/{k}": v for k, v in metrics.items()}, step=self.step)

    def _log(self, module: Any) -> None:
        metrics = self._values()
        self._check_finite()
        group = module.optimizer.param_groups[0]
        self._write({**metrics, "lr": group["lr"]})
        if self.reporter is not None:
            wait = self.throughput.wait / max(1e-9, self.throughput.wait + self.throughput.compute)
            note = f"loss {metrics['loss']:.4g}  {self.throughput.rate:,.0f}/s  data wait {wait:.0%}"
            self.reporter.update(self.step, note)

    def _check_finite(self) -> None:
        loss = self._values()["loss"]
        if not math.isfinite(loss):
            raise RunError(
                f"{self.job.name}: the loss became {loss} at step {self.step}: lower optimizer.lr, raise "
                "scheduler.warmup_steps, or set trainer.precision=32-true; the last checkpoint is kept."
            )

    def _averaged(self) -> Any:
        return self.ema.applied(self.job.system) if self.ema is not None else contextlib.nullcontext()

    def _validate(self, module: Any) -> None:
        if self.job.val_loader is None:
            return
        s = self.job.settings
        with self._averaged():
            metrics = module.evaluate_loader(self.job.val_loader(), s.val_batches)
            self._check_monitor(metrics)
            self._write(metrics)
            if self.selection.take(self.step, metrics[s.monitor]):
                self._save_best(metrics)
        if is_main():
            self.folder.remove_best_except(self._best_steps() | self._named)

    def _try_monitor(self, module: Any) -> None:
        """Tells of a wrong name before training, on one validation batch."""
        if self.job.settings.monitor != "val_loss" and self.job.val_loader is not None:
            self._check_monitor(module.evaluate_loader(self.job.val_loader(), limit=1))

    def _check_monitor(self, metrics: dict[str, float]) -> None:
        if self.job.settings.monitor not in metrics:
            raise RunError(
                f"{self.job.name}: trainer.monitor={self.job.settings.monitor} is not measured; choose one of "
                f"{', '.join(sorted(metrics))}."
            )

    def _best_steps(self) -> set[int]:
        return {step for step, _ in self.selection.records}

    def _save_best(self, metrics: dict[str, float]) -> None:
        content = {**self._content(), "validation": metrics}
        if is_main():
            save_checkpoint(self.folder.best_path(self.step), content)

    def _probe(self, module: Any) -> None:
        if not is_main() or self.sharded:  # a probe runs on one rank, which then has a part of the weights
            return
        was_training = module.training
        module.eval()
        with self._averaged(), torch.no_grad(), alone():
            for probe in self.job.probes:
                self._write(probe(self.job.system, self.step))
        module.train(was_training)

    def _content(self) -> dict[str, Any]:
        parts = self.job.system.parts()
        return {
            "stage": self.job.name,
            "step": self.step,
            "fingerprint": self.job.fingerprint,
            "modules": {name: _tensors(part.state_dict()) for name, part in parts.items()},
            "architecture": self.job.architecture,
            "metadata": self.job.metadata,
        }

    def _save(self, trainer: pl.Trainer) -> None:
        self._check_finite()
        if self.job.guard is not None:
            self.job.guard()
        training = {
            "optimizer": whole(trainer.optimizers[0].state_dict()),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "precision": trainer.precision_plugin.state_dict(),  # the gradient scaler's, of 16-mixed
            "selection": self.selection.state_dict(),
            "throughput": self.throughput.state_dict(),
            "callbacks": {name: c.state_dict() for name, c in self._lasting().items()},
            "ranks": world_size(),
        }
        content = {**self._content(), "training": training}
        if is_main():
            self.folder.save(self.step, content)
            # a run that goes on from the checkpoint before this one knows other best ones
            self._named, self._saved = self._saved | self._best_steps(), self._best_steps()
            self.folder.remove_best_except(self._named)


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    return {k.replace("_orig_mod.", ""): whole(v) for k, v in state.items()}
