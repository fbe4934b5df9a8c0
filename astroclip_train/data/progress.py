"""Progress of long conversions: a bar with rate and time left on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..distributed.heartbeat import beat

__all__ = ["track"]

T = TypeVar("T")
EVERY = 10.0  # seconds between lines in a log file


def track(items: Iterable[T], total: int | None, what: str, *, shown: bool = True) -> Iterator[T]:
    """Passes `items` on and shows on stderr how many of `total` are done."""
    items = _beating(items, what)
    if not shown:
        yield from items
    elif sys.stderr.isatty():
        yield from _bar(items, total, what)
    else:
        yield from _lines(items, total, what)


def _beating(items: Iterable[T], what: str) -> Iterator[T]:
    for done, item in enumerate(items):
        beat(f"{what} {done}")
        yield item


def _bar(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        Left(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


def _lines(items: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    began = told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told >= EVERY:
            told = now
            rate = done / (now - began)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            of = f" of {total}" if total else ""
            print(f"{what}: {done}{of}, {rate:.3g}/s{left}", file=sys.stderr, flush=True)
