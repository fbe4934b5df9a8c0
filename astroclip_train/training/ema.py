"""Exponential moving average of weights, the average that validation and export use."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    r"""Averages the trainable parameters of a module over optimiser steps.

    .. math:: \bar\theta \leftarrow \beta_t \bar\theta + (1 - \beta_t) \theta, \quad
              \beta_t = \min(\beta, (1 + t) / (10 + t))

    The ramp keeps a short run from being dominated by its initial weights.

    Arguments:
        module: whose parameters are averaged; buffers are taken as they are.
        decay: :math:`\beta`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes one more step of the weights into the average."""
        self.updates += 1
        beta = min(self.decay, (1 + self.updates) / (10 + self.updates))
        named = dict(module.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [named[n].detach() for n in self.average], 1 - beta)

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Puts the average into the module for the time of a `with` block."""
        named = dict(module.named_parameters())
        live = {n: named[n].detach().clone() for n in self.average}
        self._copy(named, self.average)
        try:
            yield
        finally:
            self._copy(named, live)

    @staticmethod
    @torch.no_grad()
    def _copy(named: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            named[name].copy_(value)

    def state_dict(self) -> dict:
        """The average and the number of its updates."""
        return {"updates": self.updates, "average": {n: v.clone() for n, v in self.average.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        self.updates = state["updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)
