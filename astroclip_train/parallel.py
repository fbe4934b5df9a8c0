"""Computations of many small operations: each on one core, and one beside the other."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

__all__ = ["Beside", "single_threaded"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for every operation of torch in a `with` block.

    Operations on a few hundred thousand numbers lose more by waiting for each other's threads than they gain, and
    their results do not depend on the number of cores then.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Beside:
    """A second thread with torch operations of its own: `with Beside() as beside: answer = beside.start(f, x)`.

    One thread alone, since forward differentiation has one level for the whole process. What has not begun when the
    block is left is not computed.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "beside", initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> "Beside":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=True)

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """Begins `function`; the answer is a call that waits for its result, or raises what it raised."""
        return self.pool.submit(function, *args, **kwargs).result
