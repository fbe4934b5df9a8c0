"""The LightningModule that trains any system: it owns optimiser, schedule and seeds, not the mathematics."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ..distributed.collectives import row_counts, sum_over_ranks, world_size
from ..distributed.heartbeat import beat
from ..randomness import seed_torch, step_seed

__all__ = ["System", "TrainingModule", "mean_over_ranks", "parameter_groups"]


class System(nn.Module):
    """What a stage trains: modules plus the rule that turns a batch into a loss.

    `parts` names the modules that go into the checkpoint, each with the configuration that rebuilds it.
    """

    def parts(self) -> dict[str, nn.Module]:
        """Name -> module, as saved under `modules` in a checkpoint."""
        raise NotImplementedError(f"{type(self).__name__} must name its parts")

    def loss(
        self, batch: dict[str, Tensor], *, epoch: Tensor | int, stream: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss and 0-d metrics of a batch; random draws come from (stream, epoch, object)."""
        raise NotImplementedError(f"{type(self).__name__} must define its loss")

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, as a call: where weights are sharded it gathers them."""
        return self.loss(*args, **kwargs)

    def groups(self) -> list[tuple[float, Sequence[nn.Parameter]]]:
        """(learning-rate factor, parameters) pairs; one group with factor 1 unless layers decay."""
        return [(1.0, [p for p in self.parameters() if p.requires_grad])]

    def compilable(self) -> Sequence[nn.Module]:
        """The parts worth `torch.compile`: encoders; compiling the LightningModule breaks its logging."""
        return []


def parameter_groups(
    groups: list[tuple[float, Sequence[nn.Parameter]]], weight_decay: float
) -> list[dict[str, Any]]:
    """Splits each group in matrices, which decay, and vectors (biases, norms, tokens), which do not."""
    result = []
    for factor, parameters in groups:
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.requires_grad and p.ndim > 1]),
            (0.0, [p for p in parameters if p.requires_grad and p.ndim <= 1]),
        ):
            if chosen:
                result.append({"params": chosen, "weight_decay": decay, "lr_factor": factor})
    return result


class TrainingModule(pl.LightningModule):
    """Trains a `System` for a number of optimiser steps.

    Dropout and the like are seeded before every micro-batch by (seed, stage, micro-step, rank), and the
    learning rate is
    a pure function of the step: so the state of a run is its weights, its optimiser and one integer.

    Arguments:
        system: what is trained.
        stage: its name, part of every seed.
        seed: the run's seed.
        make_optimizer: parameter groups -> optimiser.
        weight_decay: for matrices only.
        schedule: step -> factor on the peak learning rate.
        accumulate: micro-batches of one optimiser step.
    """

    def __init__(
        self,
        system: System,
        *,
        stage: str,
        seed: int,
        make_optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        weight_decay: float,
        schedule: Callable[[int], float],
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.system = system
        self.stage = stage
        self.seed = seed
        self.make_optimizer = make_optimizer
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.accumulate = accumulate
        self.start_step = 0
        self.last_metrics: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over matrices (decayed) and vectors (not decayed)."""
        self.optimizer = self.make_optimizer(parameter_groups(self.system.groups(), self.weight_decay))
        for group in self.optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # Lightning would take it for an optimiser that unscales gradients in its step, and refuse to clip them
            self.optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return self.optimizer

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One micro-batch; sets its seed and, at the first of a step, the learning rate."""
        micro = self.start_step * self.accumulate + batch_index
        seed_torch(step_seed(self.seed, self.stage, micro, self.global_rank))
        if batch_index % self.accumulate == 0:
            self._set_rate(micro // self.accumulate)
        loss, metrics = self.system(batch, epoch=batch["epoch"], stream=f"{self.stage}/train")
        self.last_metrics = {"loss": loss.detach(), **{k: v.detach() for k, v in metrics.items()}}
        return loss

    def _set_rate(self, step: int) -> None:
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * group["lr_factor"] * factor

    @torch.no_grad()
    def evaluate_loader(self, loader: Any, limit: int | None = None) -> dict[str, float]:
        """Mean metrics over a validation loader, weighted by batch size; the draws are those of epoch 0.

        Every rank evaluates its part of each batch; the mean of the shares is the value of the whole batch.
        """
        was_training = self.training
        self.eval()
        totals: dict[str, float] = {}
        count = 0
        precision = self.trainer.precision_plugin
        for number, batch in enumerate(loader):
            if limit is not None and number >= limit:
                break
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            with precision.val_step_context():
                loss, metrics = self.system(batch, epoch=0, stream=f"{self.stage}/validation")
            size = sum(row_counts(len(batch["index"])))
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * size
            count += size
            beat(f"validation of {self.stage}, batch {number}")
        self.train(was_training)
        whole = mean_over_ranks(totals)
        return {f"val_{name}": value / max(1, count) for name, value in whole.items()}


def mean_over_ranks(shares: dict[str, float]) -> dict[str, float]:
    """Values of the whole batch from the shares of every rank, which have the same names."""
    if world_size() == 1 or not shares:
        return shares
    total = sum_over_ranks(torch.tensor([float(v) for v in shares.values()], dtype=torch.float64))
    return dict(zip(shares, (total / world_size()).tolist(), strict=True))
