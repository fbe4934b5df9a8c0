"""Runs a command that signals may end: it saves, says how it goes on, and queues its SLURM job again."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..training.interruption import SIGNALS, Interrupted, Interruption, current
from ..training.requeue import leave
from ._console import say

__all__ = ["forwarding", "interruptible"]


def interruptible(work: Callable[..., int], *arguments: Any) -> int:
    """Runs `work` with SIGUSR1 and SIGTERM taken over, see `training.interruption`.

    Returns:
        Its code, or 128 + the signal's number where a signal ended it.
    """
    interruption = current()
    try:
        interruption.install()
        return work(*arguments)
    except Interrupted as stop:
        return _leave(stop, interruption)
    except Exception as error:
        if not interruption.requested():
            raise
        # another rank or a loader worker was quicker to leave, and its silence is not what ended the run
        say(f"astro-train: after the signal: {type(error).__name__}: {error}")
        return _leave(Interrupted(interruption.signum), interruption)


def _leave(stop: Interrupted, interruption: Interruption) -> int:
    interruption.ignore()
    code, what_now = leave(stop, interruption)
    saved = f" after step {stop.step:,}, whose checkpoint is written" if stop.step is not None else ""
    say(f"astro-train: stopped by {stop}{saved}; {what_now}")
    return code


@contextmanager
def forwarding(child: subprocess.Popen) -> Iterator[list[int]]:
    """Signals that reach this process go on to its child, which saves and leaves; the parent must outlive that.

    Yields:
        The signals that came. A child that had just begun or ended cannot have answered them: its parent must.
    """
    came: list[int] = []

    def forward(number: int, _: object) -> None:
        came.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
