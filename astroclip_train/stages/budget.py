"""What a preflight says about the machine: memory of all ranks, disk space and inodes where the run will write."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..distributed.collectives import geometry
from ..errors import RunError

__all__ = ["budget"]

FILES = 2000  # a run writes a few hundred, beside the folders of its loggers
SPARE_GB = 1.0


def budget(rows: Sequence[dict[str, Any]], folders: Sequence[Path]) -> list[str]:
    """Lines for the user.

    Arguments:
        rows: of the plan, with the peak memory of a fit in GB.
        folders: where the run and its caches go.

    Raises:
        RunError: a disk has no space or no inodes left.
    """
    lines = []
    for folder in dict.fromkeys(_existing(f) for f in folders):
        free = shutil.disk_usage(folder).free / 1e9
        state = os.statvfs(folder)
        inodes = state.f_favail if state.f_files else None  # some file systems do not count them
        if free < SPARE_GB or (inodes is not None and inodes < FILES):
            left = "" if inodes is None else f" and {inodes:,} inodes"
            raise RunError(
                f"{folder} has {free:.1f} GB{left} free, a run needs {SPARE_GB:.0f} GB and {FILES:,} files: free some, "
                "or choose another run.root or data.cache_root."
            )
        lines.append(
            f"{folder}: {free:,.0f} GB free" + (f", {inodes:,} inodes" if inodes is not None else "")
        )
    ranks = geometry().local_world_size
    peak = max((row["memory"] or 0.0 for row in rows), default=0.0)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if ranks > 1:
        lines.append(
            f"{ranks} ranks on this machine, {peak:.1f} GB each at the peak, {total:,.0f} GB of memory"
        )
    if ranks * peak > 0.9 * total:
        lines.append("that is more than 90 % of the memory: lower batch_size, or set objective.chunk_size.")
    return lines


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
