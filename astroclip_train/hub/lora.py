"""Low-rank adaptation of linear layers: a frozen weight plus a trainable product of two thin matrices."""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError

__all__ = ["LoRALinear", "adapt", "adapted", "apply", "merge"]


class LoRALinear(nn.Module):
    r"""A frozen linear layer with a trainable update of rank r.

    .. math:: y = x W^\top + c + \frac{\alpha}{r}\, x A^\top B^\top

    A (r, in) is random and B (out, r) zero, so that training starts at the layer itself
    (Hu et al. 2021, arXiv:2106.09685).
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        self.a = nn.Parameter(
            torch.empty(rank, linear.in_features, dtype=linear.weight.dtype, device=linear.weight.device)
        )
        self.b = nn.Parameter(
            torch.zeros(linear.out_features, rank, dtype=linear.weight.dtype, device=linear.weight.device)
        )
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    @property
    def weight(self) -> Tensor:
        """The effective weight (out, in), for code that reads a layer's weight."""
        return self.linear.weight + self.scale * self.b @ self.a

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias (out,)."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) -> (…, out)."""
        return self.linear(x) + self.scale * functional.linear(functional.linear(x, self.a), self.b)


def apply(module: nn.Module, rank: int = 8, alpha: float = 16.0, pattern: str = ".*") -> list[str]:
    """Freezes `module` and wraps its linear layers whose dotted name matches `pattern`; returns their names.

    Raises:
        ConfigError: the rank is not positive, or no linear layer matches.
    """
    if rank < 1:
        raise ConfigError(f"lora rank is {rank}: give at least 1.")
    module.requires_grad_(False)
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    chosen = [name for name in linears if re.search(pattern, name)]
    if not chosen:
        have = ", ".join(linears) or "none"
        raise ConfigError(f"no linear layer matches the lora pattern '{pattern}': the layers are {have}.")
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, LoRALinear(linears[name], rank, alpha))
    return chosen


def adapted(encoder: nn.Module, rank: int = 8, alpha: float = 16.0, pattern: str = ".*") -> nn.Module:
    """The encoder with low-rank updates on its linear layers, as a checkpoint's architecture records it."""
    apply(encoder, rank, alpha, pattern)
    return encoder


def merge(module: nn.Module) -> nn.Module:
    """Replaces every `LoRALinear` by one linear layer with the sum of both weights, in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            with torch.no_grad():
                layer.linear.weight.copy_(layer.weight)
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.linear.requires_grad_(True))
    return module


def adapt(
    module: nn.Module, how: str, *, rank: int = 8, alpha: float = 16.0, pattern: str = ".*"
) -> list[nn.Parameter]:
    """Prepares an encoder for fine-tuning and returns what is trained: nothing, updates or all of it.

    Raises:
        ConfigError: `how` is none of probe, lora, full.
    """
    if how == "probe":
        module.requires_grad_(False)
    elif how == "lora":
        apply(module, rank, alpha, pattern)
    elif how == "full":
        module.requires_grad_(True)
    else:
        raise ConfigError(f"adapt={how} is not known: use probe, lora or full.")
    return [p for p in module.parameters() if p.requires_grad]
