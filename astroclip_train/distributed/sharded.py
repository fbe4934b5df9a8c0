"""`trainer.strategy=fsdp2`: weights, gradients and optimiser state divided among the ranks (torch's `fully_shard`).

Every transformer block is a unit that is gathered for its own forward and backward pass; what is left is one more.
Checkpoints hold whole tensors and load in one process, or on any number of ranks.

References:
    PyTorch FSDP, Zhao et al. 2023, https://arxiv.org/abs/2304.11277
"""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..encoders.blocks import Block
from ..errors import ConfigError
from .collectives import world_size

__all__ = ["ShardedStrategy", "check_shardable", "shard", "shard_state", "whole"]


def check_shardable(system: nn.Module, ema_decay: float | None) -> None:
    """Refuses what cannot be sharded.

    Raises:
        ConfigError: a moving average, or parameters of no dimension.
    """
    if ema_decay:
        raise ConfigError(
            "trainer.ema_decay cannot be used with trainer.strategy=fsdp2: set it to null, or take strategy=ddp."
        )
    for name, parameter in system.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(
                f"{name} is a single number, which trainer.strategy=fsdp2 cannot shard: take strategy=ddp, or a fixed "
                "temperature and loss=infonce."
            )


def shard(system: nn.Module) -> None:
    """Shards a module in place, after every rank has taken the weights of rank 0."""
    for value in system.state_dict().values():
        dist.broadcast(value, 0)
    device = next(system.parameters()).device.type
    mesh = init_device_mesh(device, (world_size(),))
    for part in system.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(system, mesh=mesh)


class ShardedStrategy(DDPStrategy):
    """Lightning's way of several processes, with a sharded model in place of copies."""

    def configure_ddp(self) -> None:
        """Shards the system of the training module before its optimiser is made."""
        shard(self.model.system)  # type: ignore[union-attr, arg-type]


def whole(value: Any) -> Any:
    """Nested containers with whole tensors in place of shards; every rank calls it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    return [whole(v) for v in value] if isinstance(value, list) else value


def shard_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's whole state, divided as its parameters are; unchanged where they are not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    divided = {
        i: {k: part(v, parameters[i]) for k, v in entries.items()} for i, entries in state["state"].items()
    }
    return {**state, "state": divided}
