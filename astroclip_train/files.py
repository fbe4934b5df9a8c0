"""Files are written whole or not at all: temporary name, fsync, rename."""

import contextlib
import glob
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError

__all__ = [
    "appear",
    "atomic_write",
    "read_json",
    "remove_abandoned",
    "sync_folder",
    "write_json",
    "write_text",
]

ABANDONED = 86_400.0  # seconds


def appear(path: str | Path, seconds: float = 60.0) -> Path:
    """Waits until a file that another machine has written is seen here: NFS may remember for a while that it is not.

    Raises:
        DataError: it does not appear.
    """
    path, end = Path(path), time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise DataError(
                f"{path} was written by another rank but is not seen here: run.root and data.cache_root must be "
                "folders that all machines share."
            )
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # refreshes what the machine remembers of the folder
        time.sleep(0.2)
    return path


def sync_folder(folder: Path) -> None:
    """Flushes a folder entry, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed, on failure removed.

    The temporary name keeps the suffix of `path`, because several libraries choose a format by it.

    Raises:
        DataError: the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename and Path(error.filename) != temporary and error.errno not in (28, 122):
            raise  # reading something else failed, which is not about this file
        reason = error.strerror or str(error)
        raise DataError(
            f"{path} could not be written ({reason}): free space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk there is nothing to remove
            temporary.unlink(missing_ok=True)


def remove_abandoned(path: str | Path) -> None:
    """Removes what killed processes left of a large file; a day old, so that no living one is writing it."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON whole; NaN becomes null so that every reader can parse it."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): restore it or remove it.") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return None
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value
