"""What Lightning must know of a group of ranks that is open already, and what it must leave alone."""

from dataclasses import replace
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy

from .collectives import geometry, world_size
from .group import RunEnvironment, device_kind
from .sharded import ShardedStrategy

__all__ = ["own_no_signals", "placement"]


class Placement(Protocol):
    """The settings that say where a fit runs."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str


def placement(settings: Placement) -> dict[str, Any]:
    """The arguments of `pl.Trainer` that place a fit on this process's group.

    Unused parameters are looked for in every backward pass: a batch may lack a modality on one rank, and with it the
    buckets of gradients keep their layout for the whole fit, so that a resumed fit sums in the same order.
    """
    if world_size() == 1:
        return {
            "accelerator": settings.accelerator,
            "devices": 1,
            "plugins": [RunEnvironment(geometry())],
        }
    kind = device_kind(settings.accelerator)
    # srun may show each task its own device alone, which then is number 0 for all of them
    own = kind == "cuda" and torch.cuda.device_count() == 1
    environment = RunEnvironment(replace(geometry(), local_rank=0) if own else geometry())
    strategy: Strategy
    if settings.strategy == "fsdp2":
        strategy = ShardedStrategy(cluster_environment=environment)
    else:
        strategy = DDPStrategy(
            cluster_environment=environment,
            find_unused_parameters=True,
            broadcast_buffers=False,  # they are computed from sums over ranks where they need to be
            gradient_as_bucket_view=True,
        )
    return {
        "accelerator": kind,
        "devices": 1 if own else geometry().local_world_size,
        "num_nodes": geometry().num_nodes,
        "strategy": strategy,
    }


def own_no_signals(trainer: pl.Trainer) -> None:
    """Keeps Lightning from installing signal handlers: who is told to stop, and who requeues, is ours to decide."""
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = _nothing
    connector.teardown = _nothing


def _nothing() -> None:
    pass
