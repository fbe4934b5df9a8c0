"""Lines for the user, whose reader may have left."""

import os
import sys
from typing import TextIO

__all__ = ["put", "silence"]


def put(text: str, stream: TextIO | None = None) -> None:
    """One line on standard error, or on another stream.

    A reader that has left, such as `| head` or a `tee` that died, must not end a training.
    """
    chosen = stream or sys.stderr
    try:
        print(text, file=chosen, flush=True)
    except BrokenPipeError:
        silence(chosen)


def silence(stream: TextIO) -> None:
    """Sends what is still written to a stream to nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
