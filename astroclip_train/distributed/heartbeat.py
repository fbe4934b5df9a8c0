"""Signs of life of a rank: when it last made progress, and where it stands when it makes none.

Under our launcher the sign is a file that the supervisor watches. Under srun and torchrun there is nobody to watch, so
a rank watches itself: `faulthandler` writes the stack of every thread and ends the process if no beat comes in time.
"""

import faulthandler
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["BEAT_FILE", "WAITING", "Beat", "beat"]

BEAT_FILE = "ASTRO_TRAIN_BEAT"
WAITING = "waiting"
INTERVAL = 0.5
TELL = 0.5  # seconds before the end at which it is told


class Beat:
    """Called wherever a rank makes progress: `beat("step 12")`; costs nothing until `start`."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.timeout: float | None = None
        self.stack: IO[Any] | None = None
        self._last = 0.0
        self._depth = 0
        self._where, self._deadline = "start", float("inf")
        self._name, self._terminal = "rank 0", 2

    def start(
        self, stall_timeout: float | None, stack: Path, name: str = "rank 0", terminal: int = 2
    ) -> None:
        """Begins to watch this process.

        Arguments:
            stall_timeout: seconds without progress; None never.
            stack: where the stacks go.
            name: who it is, for the last sentence.
            terminal: the file descriptor that a user reads.
        """
        self._name, self._terminal = name, terminal
        stack.parent.mkdir(parents=True, exist_ok=True)
        self.stack = open(stack, "a")  # noqa: SIM115 - it must stay open for the signal handler
        faulthandler.enable(self.stack)  # a SIGABRT of the supervisor writes the stacks
        file = os.environ.get(BEAT_FILE)
        self.path = Path(file) if file else None
        self.timeout = None if self.path else stall_timeout
        self("start")
        if self.timeout is not None:
            threading.Thread(target=self._announce, daemon=True, name="stall").start()

    def stop(self) -> None:
        """Ends the watch; a file in which nothing was written is removed."""
        self.path = self.timeout = None
        self._deadline = float("inf")
        faulthandler.cancel_dump_traceback_later()
        if self.stack is not None:
            faulthandler.disable()
            self.stack.close()
            with suppress(OSError):
                if Path(self.stack.name).stat().st_size == 0:
                    Path(self.stack.name).unlink()
            self.stack = None

    def __call__(self, where: str) -> None:
        """Books progress."""
        if self._depth or (self.path is None and self.timeout is None):
            return
        now = time.monotonic()
        if now - self._last < INTERVAL and where != WAITING:
            return
        self._last = now
        self._write(where)
        if self.timeout is not None:
            self._where, self._deadline = where, now + self.timeout
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=self.stack)  # type: ignore[arg-type]

    def _announce(self) -> None:
        """Tells, just before faulthandler ends the process, who stands still and where; ends with the watch."""
        while self.timeout is not None:
            left = self._deadline - time.monotonic()
            if left < TELL:
                stack = self.stack.name if self.stack is not None else "its stack file"
                host = socket.gethostname()
                text = (
                    f"astro-train: {self._name} on {host} has made no progress for {self.timeout:g} s after "
                    f"{self._where!r} and ends itself: {stack} has the calls it stands in.\n"
                )
                os.write(self._terminal, text.encode())
                return
            time.sleep(min(left - 0.5 * TELL, 1.0))

    def _write(self, where: str) -> None:
        if self.path is not None:
            with suppress(OSError):
                self.path.write_text(where)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a rank waits for another one, that other one is who must show progress."""
        self._depth += 1
        if self._depth == 1:
            self._write(WAITING)
            if self.timeout is not None:
                self._deadline = float("inf")
                faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._last = 0.0
                self("back")


beat = Beat()
