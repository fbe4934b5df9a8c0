"""Checkpoints: plain tensors and containers, written whole, loaded with `weights_only=True`.

A checkpoint is a dictionary with

- `format`, `stage`, `step`, `fingerprint`;
- `modules`: name -> state dict of each part, usable without Lightning;
- `architecture`: name -> plain configuration (`_target_` and arguments) that rebuilds the part;
- `metadata`: grids, units, labels, versions: what a user of the weights must know;
- `training`: optimiser, EMA, best-k and early stopping, callbacks: what only the resumed run needs.
"""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError
from ..files import atomic_write

__all__ = ["FORMAT", "CheckpointFolder", "load_checkpoint", "save_checkpoint"]

FORMAT = "astro-train checkpoint 1"
_NAME = re.compile(r"step-(\d{8})\.ckpt$")
log = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint to a temporary name, syncs and renames it.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise OSError(28, f"torch.save failed: {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without executing anything in it.

    Raises:
        RunError: the file is missing, truncated, or not a checkpoint of this program.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise RunError(
            f"{path} does not exist: train the stage that writes it, or correct the path."
        ) from error
    except Exception as error:
        raise RunError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}): remove it, and the run goes on from "
            "an older one."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is not an '{FORMAT}' file: point to a checkpoint written by astro-train.")
    return content


class CheckpointFolder:
    """The checkpoints of one fit: rolling `step-XXXXXXXX.ckpt` to resume from, and the best by validation.

    Arguments:
        folder: where they lie.
        keep_last: rolling checkpoints kept; two, so that a damaged newest one costs little.
    """

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.folder = Path(folder)
        self.keep_last = keep_last

    def rolling(self) -> list[Path]:
        """Rolling checkpoints, newest first."""
        found = [p for p in self.folder.glob("step-*.ckpt") if _NAME.search(p.name)]
        return sorted(found, reverse=True)

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Writes the rolling checkpoint of `step` and removes those no longer needed."""
        path = self.folder / f"step-{step:08d}.ckpt"
        save_checkpoint(path, content)
        for old in self.rolling()[self.keep_last :]:
            old.unlink(missing_ok=True)
        return path

    def newest_whole(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read; damaged ones are named in the log and passed over."""
        for path in self.rolling():
            try:
                return path, load_checkpoint(path)
            except RunError as error:
                log.warning("%s", error)
        return None

    def best_path(self, step: int) -> Path:
        """Where the weights of a validation record at `step` are kept."""
        return self.folder / f"best-{step:08d}.ckpt"

    def remove_best_except(self, steps: set[int]) -> None:
        """Removes the weights of records that fell out of the best k."""
        for path in self.folder.glob("best-*.ckpt"):
            if int(path.stem.split("-")[1]) not in steps:
                path.unlink(missing_ok=True)
