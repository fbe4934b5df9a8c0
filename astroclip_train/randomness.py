"""Counter-based randomness: every draw is a function of (seed, epoch, object, slot), never of worker, rank or batch.

The generator is SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195) used as a hash of its counter, on
int64 tensors, so that the same bits come out on every device and for every batch size.
"""

import functools
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["even_normals", "hash64", "normal", "object_hash", "seed_torch", "step_seed", "uniform"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def hash64(*parts: int | str) -> int:
    """A stable signed 64-bit hash of integers and strings, equal on every machine and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def object_hash(object_ids: np.ndarray) -> np.ndarray:
    """The int64 hash of each object id: ids of shape (N,) -> (N,)."""
    return np.fromiter((hash64(str(i)) for i in object_ids), dtype=np.int64, count=len(object_ids))


def step_seed(seed: int, stage: str, step: int, rank: int = 0) -> int:
    """The seed of dropout and the like for one optimiser step, non-negative as `torch.manual_seed` wants it."""
    return hash64("step", seed, stage, step, rank) & 0x7FFFFFFFFFFFFFFF


def seed_torch(seed: int) -> None:
    """`torch.manual_seed`, without its bookkeeping for accelerators (half a millisecond) where there is none."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _on_cpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes where there is float64 and returns float32 to a device, such as Apple's, that has none."""

    @functools.wraps(function)
    def draw(seed: int, epoch: int | Tensor, objects: Tensor, slots: int, stream: str = "") -> Tensor:
        if objects.device.type != "mps":
            return function(seed, epoch, objects, slots, stream)
        epochs = epoch.cpu() if isinstance(epoch, Tensor) else epoch
        return function(seed, epochs, objects.cpu(), slots, stream).float().to(objects.device)

    return draw


@_on_cpu
def uniform(seed: int, epoch: int | Tensor, objects: Tensor, slots: int, stream: str = "") -> Tensor:
    """Uniform draws in [0, 1) with 53 random bits, float64.

    Arguments:
        seed: the run's seed.
        epoch: the pass over the data, an integer or a tensor of shape (b,).
        objects: the objects' int64 hashes, shape (b,).
        slots: draws for each object.
        stream: names the use, so that masks and noise of one object are independent.

    Returns:
        A tensor of shape (b, slots).
    """
    key = torch.tensor(hash64("uniform", seed, stream), dtype=torch.int64, device=objects.device)
    epochs = torch.as_tensor(epoch, dtype=torch.int64, device=objects.device)
    state = _mix(objects ^ _mix(key + epochs * _GOLDEN))
    counter = torch.arange(1, slots + 1, dtype=torch.int64, device=objects.device) * _GOLDEN
    bits = _mix(state[:, None] + counter[None, :])
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


@_on_cpu
def normal(seed: int, epoch: int | Tensor, objects: Tensor, slots: int, stream: str = "") -> Tensor:
    """Standard normal draws of shape (b, slots), float64, by the inverse of the normal distribution function."""
    return torch.special.ndtri(uniform(seed, epoch, objects, slots, stream).clamp(2.0**-54, 1 - 2.0**-53))


def even_normals(n: int, dimensions: int, shift: Tensor | None = None) -> Tensor:
    """A scrambled Sobol sequence mapped to normals, float32 of shape (n, d): the same in every call.

    Their means converge like 1/n instead of 1/sqrt(n) (Owen 1997, doi:10.1214/aos/1031594731).

    Arguments:
        n: points.
        dimensions: of each.
        shift: uniform numbers (b, d) by which each object's points are moved around the unit cube, so that no two
            objects share their errors (Cranley and Patterson 1976, doi:10.1137/0713071); the answer is (b, n, d).
    """
    points = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=0).draw(n)
    if shift is not None:
        points = torch.remainder(points.to(shift.device) + shift.float()[:, None], 1.0)
    return torch.special.ndtri(points.clamp(2.0**-24, 1 - 2.0**-24))
