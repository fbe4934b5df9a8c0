"""The fixed structure of what starts many runs: the SLURM launcher and sweeps. No key here enters a run's identity."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .constraints import AtLeast, Count, Positive

__all__ = ["Pruner", "SlurmLauncher", "Sweep"]


@dataclass
class SlurmLauncher:
    """How `-m hydra/launcher=slurm` submits; null leaves a choice to the cluster."""

    partition: str | None
    """Queue."""
    account: str | None
    """Who pays."""
    qos: str | None
    """Quality of service."""
    constraint: str | None
    """Features of the nodes."""
    nodes: Positive
    """Machines of one job."""
    tasks_per_node: Positive
    """Ranks on each, one per device."""
    gpus_per_node: Count
    """GPUs of each."""
    cpus_per_task: Positive
    """Cores of a rank."""
    mem_gb: Positive | None
    """Memory of a node."""
    timeout_min: Positive
    """Time limit."""
    signal_delay_s: Positive
    """How long before it the job is warned."""
    array_parallelism: Positive
    """Jobs that run at once."""
    setup: list[str]
    """Shell lines before the job."""
    options: dict[str, Any]
    """Further sbatch options."""
    common_first: bool
    """Whether stages that all jobs share are trained first, once."""
    wait: bool
    """Whether the command waits for its jobs."""


@dataclass
class Pruner:
    """When a trial that does worse than others is stopped early."""

    name: Literal["none", "median", "hyperband"] = "none"
    """median: worse than the median of the others at the same step; hyperband: successive halving in brackets."""
    startup_trials: Count = 5
    """Finished trials before the median stops any."""
    warmup_steps: Count = 0
    """Steps of a trial before it can be stopped; for hyperband the smallest budget."""
    reduction: Annotated[int, AtLeast(2)] = 3
    """hyperband: one trial in so many goes on at each rung."""


@dataclass
class Sweep:
    """A search over configurations by one validation metric; no key of it enters the identity of a run."""

    kind: Literal["grid", "random", "optuna"]
    """Every combination, independent draws, or tree-structured Parzen estimators."""
    metric: str | None = None
    """Validation metric of a stage, e.g. align.val_loss or heads.<task>__<input>.val_loss."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more of it is better."""
    space: dict[str, Any] = None  # type: ignore[assignment]
    """Key -> list of values, or {low, high, log, step, int}."""
    n_trials: Positive | None = None
    """Trials in all, failed and pruned ones included; null is the whole grid."""
    seed: Count = 0
    """Trial i is a function of the seed and of the trials before it."""
    startup_trials: Count = 10
    """optuna: random trials before the model of the metric is used."""
    workers: Positive = 1
    """Trials trained at once by this command; the same command elsewhere adds its own."""
    max_failures: Count = 5
    """Failed trials beyond which the sweep stops."""
    pruner: Pruner = None  # type: ignore[assignment]
    """When bad trials are stopped early."""
    storage: str | None = None
    """Optuna storage; null is a journal file in the sweep's folder, safe for several workers and on NFS."""
    name: str | None = None
    """Folder name; null makes one of kind, metric and a hash of what is searched."""
    evaluate: bool = True
    """Whether the selected trial is evaluated on test objects at the end."""
