r"""Batch normalisation by the statistics of the whole batch, whatever number of ranks it lies on.

.. math:: \mu = \frac{1}{N} \sum_r \sum_{i \in r} x_i, \qquad
          \sigma^2 = \frac{1}{N} \sum_r \sum_{i \in r} (x_i - \mu)^2

with sums over ranks that carry gradients. `torch.nn.SyncBatchNorm` does the same on GPUs only.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .collectives import sum_over_ranks, summed, world_size

__all__ = ["GlobalBatchNorm", "globalise_batch_norm"]


class GlobalBatchNorm(_BatchNorm):
    """A BatchNorm layer, of any number of dimensions and with the same state, over all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (b, c, …) over everything but channels."""
        if world_size() == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        kind = x.dtype
        x = (
            x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        )  # sums of half precision are no sums
        axes = [i for i in range(x.ndim) if i != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = sum_over_ranks(torch.tensor(float(x.numel() // max(1, x.shape[1])), device=x.device))
        mean = summed(x.sum(dim=axes)) / count
        centred = x - mean.reshape(shape)
        variance = summed(centred.square().sum(dim=axes)) / count
        if self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        y = centred * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.affine:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y.to(kind)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        tracked = cast(Tensor, self.num_batches_tracked)
        tracked += 1
        rate = 1.0 / float(tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(new.to(cast(Tensor, running).dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def globalise_batch_norm(module: nn.Module) -> None:
    """Lets every BatchNorm layer of a module take its statistics over all ranks; parameters and names stay."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = GlobalBatchNorm
