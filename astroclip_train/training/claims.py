"""Work that several processes want done once: the first does it, the others wait for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..distributed.heartbeat import beat
from ..errors import RunError
from .interruption import Interrupted
from .lease import Lease, _read

__all__ = ["claimed", "live_holder"]

POLL = 0.5


@contextmanager
def claimed(
    path: Path,
    waiting: Callable[[dict[str, Any]], None] | None = None,
    poll: float = POLL,
    stop: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Holds the lease of a piece of work, after waiting for whoever does it now; a dead holder is passed over.

    Arguments:
        path: the lease file.
        waiting: called once with the holder if there is one.
        poll: seconds between looks.
        stop: asked at every look whether to give up.

    Raises:
        Interrupted: `stop` said so.
    """
    lease, waited = Lease(path), False
    while True:
        try:
            lease.acquire()
            break
        except RunError:
            if not waited and waiting is not None:
                waiting(_read(path)[0])
            waited = True
            if stop is not None and stop():
                raise Interrupted from None
            beat("waiting for work that another process does")  # which is no stall, however long it takes
            time.sleep(poll)
    try:
        yield
    finally:
        lease.release()


def live_holder(path: Path) -> dict[str, Any] | None:
    """The process that holds a lease and lives, without taking it; None where nobody does."""
    owner, seen = _read(path)
    return owner if seen is not None and not Lease(path)._is_dead(owner, seen) else None
