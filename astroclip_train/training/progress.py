"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..distributed.heartbeat import beat
from ..terminal import put

__all__ = ["Reporter", "answer", "keep_log", "say"]

LINE_SECONDS = 10.0


_log: list[Path] = []  # where lines are kept besides


def say(message: str) -> None:
    """One line for the user, on standard error, so that standard output stays for results; kept in the run's log."""
    put(message)
    for path in _log:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as handle:
                handle.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {message}\n")


def answer(text: str) -> None:
    """The result of the command, on standard output."""
    put(text, sys.stdout)


def keep_log(path: Path | None) -> None:
    """Lets `say` write to a file too; None ends that."""
    _log.clear()
    if path is not None:
        _log.append(path)


class Reporter:
    """Shows a counted piece of work.

    Arguments:
        title: its name.
        total: its length.
        start: what is done already.
    """

    def __init__(self, title: str, total: int, start: int = 0) -> None:
        self.title, self.total, self.start = title, total, start
        self.began = self.spoke = time.monotonic()
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
            self.task = self.bar.add_task(title, total=total, completed=start, note="")
            self.bar.start()

    def update(self, done: int, note: str = "") -> None:
        """Tells how far the work is, at most one plain line in ten seconds."""
        beat(f"{self.title} {done}")
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.spoke >= LINE_SECONDS and done < self.total:
            self.spoke = now
            speed = (done - self.start) / max(1e-9, now - self.began)
            eta = (self.total - done) / speed if speed > 0 else float("nan")
            say(f"  {self.title}: {done:,}/{self.total:,}  {note}  ETA {eta:.0f} s")

    def close(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.stop()

    @classmethod
    @contextmanager
    def shown(cls, title: str, total: int, start: int = 0) -> Iterator["Reporter"]:
        """A reporter that is closed whatever happens."""
        reporter = cls(title, total, start)
        try:
            yield reporter
        finally:
            reporter.close()
