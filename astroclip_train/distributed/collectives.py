"""What ranks do together: sums, gathers with gradient, agreement. In one process every function is the identity.

Convention: what an objective or head returns, loss and metrics alike, is this rank's *share*, a number whose mean over
ranks is the value of the whole batch. `DistributedDataParallel` averages gradients, so the gradient of the shares is
that of one process with the whole batch, also where ranks have different numbers of objects, pixels or labels.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .. import errors
from ..errors import AstroTrainError, RunError
from .geometry import Geometry
from .heartbeat import beat

__all__ = [
    "agree",
    "alone",
    "any_rank",
    "barrier",
    "broadcast",
    "gather",
    "gather_rows",
    "geometry",
    "global_mean",
    "is_main",
    "on_main",
    "rank",
    "row_counts",
    "share",
    "shift_rows",
    "sum_over_ranks",
    "summed",
    "world_size",
]

T = TypeVar("T")


@dataclass
class _World:
    """The group that is open; `control` is a gloo group for what lives on the CPU."""

    rank: int = 0
    size: int = 1
    control: Any = None
    alone: int = 0


_world = _World()
_geometry = Geometry()


def geometry() -> Geometry:
    """The open geometry."""
    return _geometry


def rank() -> int:
    """The number of this process, also inside `alone`."""
    return _world.rank


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return _world.rank == 0


def world_size() -> int:
    """Ranks that compute together now: 1 inside `alone`."""
    return 1 if _world.alone else _world.size


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this rank computes as if it were the only process; nothing waits for another."""
    _world.alone += 1
    try:
        yield
    finally:
        _world.alone -= 1


def _group(tensor: Tensor) -> Any:
    return _world.control if tensor.device.type == "cpu" else None


# -- sums -------------------------------------------------------------------------------------------------------------


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone().contiguous()
    dist.all_reduce(total, group=_group(total))
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_over_ranks(grads[0])


def summed(value: Tensor) -> Tensor:
    """The sum over ranks, with gradient to every rank's part."""
    return value if world_size() == 1 else _Sum.apply(value)


def global_mean(total: Tensor, count: Tensor | int, floor: float = 1.0) -> Tensor:
    """This rank's share of a mean over the whole batch: W x (local sum) / (global count).

    Arguments:
        total: the local sum, any shape.
        count: how many (or how much weight) it is a sum of, broadcastable to it.
        floor: smallest global count that is divided by.
    """
    count = torch.as_tensor(count, device=total.device)
    if world_size() == 1:
        return total / count.clamp_min(floor)
    return total * world_size() / sum_over_ranks(count).clamp_min(floor)


def share(values: Tensor, count: int) -> Tensor:
    """This rank's share of the mean of `values` (b,) over `count` objects of all ranks."""
    return values.sum() * world_size() / max(1, count)


# -- rows -------------------------------------------------------------------------------------------------------------


def row_counts(rows: int) -> list[int]:
    """The rows of every rank."""
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(_world.size, dtype=torch.int64)
    counts[_world.rank] = rows
    return sum_over_ranks(counts).tolist()


class _Gather(torch.autograd.Function):
    """All-gather of uneven rows; the gradient is summed over ranks and cut, so that no term is lost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        return _gathered(x, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        first = sum(ctx.counts[: _world.rank])
        total = sum_over_ranks(grads[0])
        return total[first : first + ctx.counts[_world.rank]], None


def _gathered(x: Tensor, counts: Sequence[int]) -> Tensor:
    longest = max(counts)
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: len(x)] = x.detach()
    flat = padded.view(torch.uint8) if padded.dtype == torch.bool else padded
    parts = [torch.empty_like(flat) for _ in counts]
    dist.all_gather(parts, flat, group=_group(flat))
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)]).view(x.dtype)


def gather_rows(x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows of all ranks in rank order, with gradient: (b, …) -> (sum of b, …).

    Arguments:
        x: this rank's rows, as many as `counts` says.
        counts: `row_counts(len(x))`, where it is known already.
    """
    if world_size() == 1:
        return x
    counts = row_counts(len(x)) if counts is None else counts
    if max(counts) == 0:
        return x
    return _Gather.apply(x, tuple(counts)) if x.requires_grad else _gathered(x, counts)


class _Shift(torch.autograd.Function):
    """Rows go to the next rank, their gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, outgoing: int, incoming: int) -> Tensor:
        ctx.rows = (outgoing, incoming)
        return _pass(x, incoming, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _pass(grads[0], ctx.rows[0], -1), None, None


def _pass(x: Tensor, rows: int, step: int) -> Tensor:
    """Sends `x` by `step` ranks and returns the rows that come from the other side."""
    received = x.new_empty(rows, *x.shape[1:])
    to, origin = (_world.rank + step) % _world.size, (_world.rank - step) % _world.size
    group, sent = _group(x), x.detach().contiguous()
    works = [dist.P2POp(dist.isend, sent, to, group), dist.P2POp(dist.irecv, received, origin, group)]
    for work in dist.batch_isend_irecv(works):
        work.wait()
    return received


def shift_rows(x: Tensor, counts: Sequence[int], turn: int) -> Tensor:
    """One turn of a ring: after `turn` turns a rank holds the rows of the rank `turn` places before it.

    Arguments:
        x: the rows of rank - turn + 1.
        counts: rows of every rank.
        turn: 1 for the first exchange.
    """
    outgoing = counts[(_world.rank - turn + 1) % _world.size]
    incoming = counts[(_world.rank - turn) % _world.size]
    return _Shift.apply(x, outgoing, incoming) if x.requires_grad else _pass(x, incoming, 1)


# -- agreement --------------------------------------------------------------------------------------------------------


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank: a sum of one number on the CPU."""
    if world_size() == 1:
        return bool(flag)
    return bool(sum_over_ranks(torch.tensor(int(flag))) > 0)


def barrier() -> None:
    """Waits until every rank is here."""
    if world_size() > 1:
        with beat.waiting():
            dist.barrier(group=_world.control)


def broadcast(value: Any) -> Any:
    """Plain data of rank 0, on every rank."""
    if world_size() == 1:
        return value
    content = json.dumps(value).encode() if is_main() else b""
    size = sum_over_ranks(torch.tensor(len(content)))
    data = torch.zeros(int(size), dtype=torch.uint8)
    if is_main():
        data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(data, 0, group=_world.control)
    return json.loads(bytes(data.numpy()).decode())


def gather(value: Any) -> list[Any]:
    """Plain data of every rank, on every rank."""
    if world_size() == 1:
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    counts = row_counts(len(content))
    whole = bytes(_gathered(content, counts).numpy())
    edges = [sum(counts[:i]) for i in range(len(counts) + 1)]
    return [json.loads(whole[a:b].decode()) for a, b in itertools.pairwise(edges)]


def on_main(work: Callable[[], T]) -> T:
    """Does something on rank 0 while the others wait; its plain result, or its error, is everybody's.

    Raises:
        AstroTrainError: the one that rank 0 raised.
    """
    if world_size() == 1:
        return work()
    if not is_main():
        with beat.waiting():
            answer = broadcast(None)
        if "error" in answer:
            raise _shared(getattr(errors, answer["error"], RunError)(answer["message"]))
        return answer["value"]
    try:
        with alone():
            value = work()
    except AstroTrainError as error:
        broadcast({"error": type(error).__name__, "message": str(error)})
        raise
    broadcast({"value": value})
    return value


def agree(what: str, value: Any, advice: str) -> None:
    """Checks that every rank has the same plain value.

    Raises:
        RunError: one has another.
    """
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise _shared(
                RunError(f"rank {number} has {what} {other}, but rank 0 has {values[0]}: {advice}.")
            )


def _shared(error: AstroTrainError) -> AstroTrainError:
    """Marks an error that rank 0 tells, too."""
    error.shared = True
    return error
