"""What a submitted job does: it becomes `astro-train`, so that nothing is left of submitit's signal handlers."""

import os
import sys

__all__ = ["become"]


def become(words: list[str]) -> None:
    """Replaces this process by `astro-train WORDS`: one owner of signals, and its exit code is the job's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-u", "-m", "astroclip_train.cli.train", *words])
