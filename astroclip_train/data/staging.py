"""`data.stage_to`: copies of a run's stores on a disk of the node, made once per node and checked."""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..distributed.heartbeat import beat
from ..errors import DataError
from ..files import atomic_write
from .progress import track

__all__ = ["stage"]

CHUNK = 16 << 20
POLL = 0.5
PATIENCE = 120.0  # seconds without progress after which a waiting rank gives up


def stage(paths: Sequence[Path], folder: str | Path, local_rank: int | None = None) -> list[Path]:
    """Copies files into `folder` and returns the copies; a copy that is there is taken as it is.

    A copy's name holds the size and the time of the original, so that a changed original is copied again. Local rank 0
    copies under a temporary name, reads the copy back, compares checksums and renames; the others wait for the name.

    Arguments:
        paths: the originals.
        folder: a folder on a local disk; `$TMPDIR` and the like are replaced.
        local_rank: this process among those of the node; null asks the environment.

    Raises:
        DataError: no room, a variable that is not set, a copy that differs, or local rank 0 has died.
    """
    target = _folder(folder)
    rank = _local_rank() if local_rank is None else local_rank
    return [_stage(Path(path).absolute(), target, rank) for path in paths]


def _folder(folder: str | Path) -> Path:
    text = os.path.expandvars(os.path.expanduser(str(folder)))
    if "$" in text:
        raise DataError(
            f"data.stage_to={folder} names a variable that is not set on this node: give a folder."
        )
    return Path(text) / "astro-train-stage"


def _stage(path: Path, folder: Path, rank: int) -> Path:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct the dataset's path.") from error
    mark = hashlib.sha256(f"{path} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = folder / f"{path.stem}-{mark}{path.suffix}"
    if copy.exists():
        return copy
    if rank:
        return _await(copy, path)
    _make_room(folder, path, status.st_size)
    with atomic_write(copy) as temporary:
        _copy(path, temporary, status.st_size)
    return copy


def _make_room(folder: Path, path: Path, size: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(
            f"data.stage_to: {folder} cannot be made ({error.strerror}): give a folder on a local disk."
        ) from error
    if size > 0.95 * free:
        raise DataError(
            f"data.stage_to: {path} has {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: give another "
            "folder, or leave data.stage_to out."
        )


def _copy(path: Path, temporary: Path, size: int) -> None:
    read = hashlib.sha256()
    with open(path, "rb") as source, open(temporary, "wb") as sink:
        blocks = -(-size // CHUNK) + 1
        for _ in track(range(blocks), blocks, f"stage {path.name}"):
            chunk = source.read(CHUNK)
            beat(f"copy of {path.name}")
            read.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
        if hasattr(os, "posix_fadvise"):  # what is compared shall come from the disk
            os.posix_fadvise(sink.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    written = hashlib.sha256()
    with open(temporary, "rb") as handle:
        while chunk := handle.read(CHUNK):
            written.update(chunk)
            os.utime(temporary)  # a sign of life for those who wait
            beat(f"check of {path.name}")
    if written.digest() != read.digest() or temporary.stat().st_size != size:
        raise DataError(
            f"data.stage_to: the copy of {path} differs from it (was it being written, or is the disk of "
            f"{temporary.parent} failing?): start again, or give another folder."
        )


def _await(copy: Path, path: Path) -> Path:
    """Waits while the copy grows or is compared."""
    seen, since = (-1, 0.0), time.monotonic()
    while not copy.exists():
        parts = copy.parent.glob(f".{copy.stem}.*.tmp{copy.suffix}")
        found = [_status(p) for p in parts]
        state = (sum(size for size, _ in found), max((when for _, when in found), default=0.0))
        if state != seen:
            seen, since = state, time.monotonic()
            beat(f"waiting for the copy of {path.name}")
        elif time.monotonic() - since > PATIENCE:
            raise DataError(
                f"data.stage_to: local rank 0 of this node did not copy {path} to {copy.parent}: see what it says."
            )
        time.sleep(POLL)
    return copy


def _status(path: Path) -> tuple[int, float]:
    """Size and time of the last change; nothing where it has gone."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def _local_rank() -> int:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
