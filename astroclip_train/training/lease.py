"""A lease keeps a second writer out of a run directory: exclusive creation and a heartbeat, no file locks."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from ..errors import RunError
from .requeue import job_is_over, own_job

__all__ = ["Lease"]

BEAT = 5.0  # seconds between heartbeats
STALE = 90.0  # seconds without one after which a writer on another host is taken for dead


class Lease:
    """The right to write in a folder, held by one process at a time.

    A writer is dead if its process is gone (same host); if it was an earlier start of this very SLURM job, or SLURM
    says that its job is over (other host); or if its heartbeat has stopped for `stale` s.
    A dead writer's lease is taken over: the contender that creates a file named after the lease's token exclusively may
    replace it, so that of two contenders one wins.

    Arguments:
        path: the lease file.
        beat: seconds between heartbeats.
        stale: seconds without a heartbeat after which a writer on another host is dead.
    """

    def __init__(self, path: str | Path, *, beat: float = BEAT, stale: float = STALE) -> None:
        self.path = Path(path)
        self.beat, self.stale = beat, stale
        self.owner = {"token": uuid.uuid4().hex, **_here()}
        self.lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lease."""
        return self._thread is not None

    def acquire(self) -> "Lease":
        """Takes the lease.

        Raises:
            RunError: a live process holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(20):
            if self._create(self.path):
                break
            other, seen = _read(self.path)
            if seen is None:
                continue  # released between the two looks
            if not self._is_dead(other, seen):
                raise RunError(
                    f"{self.path.parent} is being written by process {other.get('pid', 'unknown')} on "
                    f"{other.get('host', 'another machine')}{_job(other)}: "
                    "wait for it, stop it, or choose another run.name."
                )
            if self._take_over(other):
                break
        else:
            raise RunError(
                f"{self.path} changes hands all the time: see which jobs write to {self.path.parent}."
            )
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Gives the lease back; one that another process took over is left alone."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(timeout=2 * self.beat)
        self._thread = None
        if _read(self.path)[0].get("token") == self.owner["token"]:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises if another process took the lease, e.g. because this one was suspended.

        Raises:
            RunError: the lease is lost.
        """
        if self.lost or (self.held and _read(self.path)[0].get("token") != self.owner["token"]):
            self.lost = True  # nothing of the new owner's is written any more
            raise RunError(
                f"{self.path.parent} was taken over by another process while this one was suspended: "
                "stop one of the two and start the same command again."
            )

    def __enter__(self) -> "Lease":
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _create(self, path: Path) -> bool:
        """Creates a file with the owner in it; False if it exists."""
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as handle:
            json.dump(self.owner, handle)
            handle.flush()
            os.fsync(handle.fileno())
        return True

    def _is_dead(self, other: dict[str, Any], seen: float) -> bool:
        here = _here()
        if other.get("machine") == here["machine"]:
            return not _alive(other["pid"], other.get("started"))
        if _superseded(other, here) or (other.get("job") and job_is_over(other["job"], other.get("cluster"))):
            return True
        if time.time() - seen < self.stale:
            return False
        # clocks of two machines may differ: only a beat that stays away is dead
        time.sleep(min(2 * self.beat, 15.0))
        again, then = _read(self.path)
        return then == seen and again.get("token") == other.get("token")

    def _take_over(self, other: dict[str, Any]) -> bool:
        marker = self.path.with_name(f".{self.path.name}.{other.get('token', 'unreadable')}")
        if not self._create(marker):
            winner, seen = _read(marker)
            if seen is not None and self._is_dead(winner, seen):  # it died in the middle
                marker.unlink(missing_ok=True)
            time.sleep(0.05)
            return False
        try:
            if _read(self.path)[0].get("token") != other.get("token"):
                return False
            fresh = self.path.with_name(f".{self.path.name}.{self.owner['token']}.tmp")
            self._create(fresh)
            os.replace(fresh, self.path)
        finally:
            marker.unlink(missing_ok=True)
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self.beat):
            if _read(self.path)[0].get("token") != self.owner["token"]:
                self.lost = True
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _here() -> dict[str, Any]:
    """This process: host, what tells machines of one name apart, pid, start time, job."""
    machine = [socket.gethostname(), _first_line("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        machine.append(os.readlink("/proc/self/ns/pid"))
    return {
        "host": socket.gethostname(),
        "machine": "/".join(machine),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        **_own_job(),
    }


def _own_job() -> dict[str, Any]:
    job = own_job()
    return {"job": job.id, "restart": job.restart, "cluster": job.cluster} if job else {"job": None}


def _superseded(other: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether `here` is a later start of the same SLURM job, which SLURM only makes when the earlier one is gone."""
    same = here["job"] is not None and all(other.get(k) == here.get(k) for k in ("job", "cluster"))
    return same and here["restart"] > int(other.get("restart") or 0)


def _alive(pid: int, started: str | None) -> bool:
    """Whether the process runs and is not another one that was given the same number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    now = _started(pid)
    return now is None or started is None or (now == started)


def _started(pid: int) -> str | None:
    """Start time in clock ticks since boot; None for a zombie's sake too, or where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "zombie" if fields[0] == "Z" else fields[19]


def _read(path: Path) -> tuple[dict[str, Any], float | None]:
    """The owner and the time of its last heartbeat; an empty owner while the file is being written."""
    try:
        seen = path.stat().st_mtime
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError):
        return {}, time.time() if not path.exists() else path.stat().st_mtime
    return (content if isinstance(content, dict) else {}), seen


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _job(owner: dict[str, Any]) -> str:
    return f" (job {owner['job']})" if owner.get("job") else ""
