"""One owner of signals: SIGUSR1 and SIGTERM end a run with a whole checkpoint, wherever it is.

In a fit the signal waits for the end of the optimiser step, whose checkpoint is then written; everywhere else the run
leaves at once, because every file is written whole or not at all and finished work is found again. Signals that come
later change nothing: a second one cannot interrupt the saving.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

__all__ = ["Interrupted", "Interruption", "current"]

SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, n))
WARNINGS = tuple(s for s in SIGNALS if s != signal.SIGTERM)  # sent by SLURM some time before the job's end


class Interrupted(BaseException):
    """Ends a run from within; no Exception, so that no code takes it for an error of its own.

    Arguments:
        signum: the signal that asked for it; None where another rank received it.
        step: the optimiser step whose checkpoint was written; None outside a fit.
    """

    def __init__(self, signum: int | None = None, step: int | None = None) -> None:
        self.signum, self.step = signum, step
        super().__init__(signal.Signals(signum).name if signum else "another rank was interrupted")


class Interruption:
    """The signals that a process received and whether it may leave at once.

    Attributes:
        received: signal numbers in their order.
        requeue: `run.requeue` of the run.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.requeue: str | bool = "auto"
        self._deferred = 0
        self._pid: int | None = None

    def install(self) -> "Interruption":
        """Takes the signals over; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is threading.main_thread():
            self._pid = os.getpid()
            for number in SIGNALS:
                signal.signal(number, self._handle)
        return self

    def ignore(self) -> None:
        """Later signals cannot spoil the exit code, not even while the interpreter is taken down."""
        if self._pid == os.getpid() and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def requested(self) -> bool:
        """Whether the run should save and leave."""
        return bool(self.received)

    @property
    def signum(self) -> int | None:
        """The first signal."""
        return self.received[0] if self.received else None

    @property
    def warned(self) -> bool:
        """Whether SLURM announced the end, and nobody asked to stop: such a job goes on later by itself."""
        return bool(self.received) and all(s in WARNINGS for s in self.received)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal is noted and the caller asks `requested`; on leaving, a noted one ends the run."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.received and not self._deferred:
            raise Interrupted(self.signum)

    def _handle(self, number: int, _: object) -> None:
        if os.getpid() != self._pid:
            return  # a loader worker that has not yet installed its own handlers
        self.received.append(number)
        if len(self.received) == 1 and not self._deferred:
            raise Interrupted(number)


_current = Interruption()


def current() -> Interruption:
    """The one of this process; without `install` it never asks for anything."""
    return _current
