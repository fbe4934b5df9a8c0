"""Starts the ranks of one machine as child processes, watches them, and ends all of them when one is lost.

Lightning would start them by sending the command line again, which under a sweep starts the whole sweep again in every
rank; here every rank gets the one job's overrides.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .geometry import LAUNCHER, usable_cores
from .heartbeat import BEAT_FILE, WAITING

__all__ = ["LOGS", "launch", "log_file"]

LOGS = "ASTRO_TRAIN_LOGS"
GRACE = 20.0  # seconds that the other ranks have after the first has failed
STOP_GRACE = 600.0  # seconds for a checkpoint after a signal from outside; whoever sent it may send SIGKILL
POLL = 0.1
TAIL = 25
FORWARDED = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")


def log_file(folder: Path, rank: int) -> Path:
    """Where a rank other than 0 writes what it says."""
    return folder / f"rank-{rank}.log"


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen
    beat: Path
    stack: Path

    def age(self) -> float:
        """Seconds since its last sign of progress."""
        return time.time() - self.beat.stat().st_mtime

    def where(self) -> str:
        """What it said last."""
        return self.beat.read_text() or "start"


def launch(arguments: Sequence[str], ranks: int, logs: Path, stall_timeout: float | None) -> int:
    """Runs `astro-train` with the arguments on so many ranks of this machine.

    Arguments:
        arguments: options and overrides of one job.
        ranks: how many.
        logs: folder of `rank-N.log`.
        stall_timeout: seconds without progress after which a rank is reported and the job ended; None never.

    Returns:
        The exit code of the rank that failed first, else 0.
    """
    state = Path(tempfile.mkdtemp(prefix="astro-train-ranks-"))
    job = _Job(state, logs, stall_timeout)
    try:
        with job.forwarding():
            job.start(arguments, ranks)
            return job.watch()
    finally:
        job.end(0.0)
        shutil.rmtree(state, ignore_errors=True)


class _Job:
    def __init__(self, state: Path, logs: Path, stall_timeout: float | None) -> None:
        self.state, self.logs, self.stall_timeout = state, logs, stall_timeout
        self.ranks: list[_Rank] = []
        self.signalled: float | None = None

    def start(self, arguments: Sequence[str], ranks: int) -> None:
        port = _free_port()
        for number in range(ranks):
            beat, stack = self.state / f"beat-{number}", self.state / f"stack-{number}"
            beat.write_text("")
            environment = {
                **os.environ, LAUNCHER: str(os.getpid()), LOGS: str(self.logs), BEAT_FILE: str(beat),
                "RANK": str(number), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(number),
                "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // ranks)))
            command = [sys.executable, "-m", "astroclip_train.cli.train", *arguments]
            # a group of its own: Ctrl-C of the terminal reaches the ranks once, through us
            process = subprocess.Popen(command, env=environment, process_group=0)
            self.ranks.append(_Rank(number, process, beat, stack))

    def watch(self) -> int:
        """Waits for the end; the first failure or stall ends everything."""
        while True:
            codes = [r.process.poll() for r in self.ranks]
            failed = next((r for r, c in zip(self.ranks, codes, strict=True) if c), None)
            if failed is not None:
                return self._failed(failed)
            if all(code == 0 for code in codes):
                return 0
            stalled = self._stalled()
            if stalled is not None:
                return self._report_stall(stalled)
            if self.signalled and time.monotonic() - self.signalled > STOP_GRACE:
                _say(f"the ranks did not end within {STOP_GRACE:.0f} s of the signal and are killed.")
                self.end(0.0)
            time.sleep(POLL)

    def _failed(self, rank: _Rank) -> int:
        code = rank.process.returncode
        expected = self.signalled is not None and (code in (130, 138, 140, 143) or code < 0)
        if not expected:
            self._tell(rank, code)
        self.end(STOP_GRACE if expected else GRACE)
        return 128 - code if code < 0 else code

    def _tell(self, rank: _Rank, code: int) -> None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        log = log_file(self.logs, rank.number)
        lines = log.read_text(errors="replace").splitlines()[-TAIL:] if rank.number and log.exists() else []
        if rank.number or code < 0:  # rank 0 has said it itself
            where = f"; its last lines, from {log}:" if lines and code > 0 else ""
            _say(f"astro-train: rank {rank.number} of {len(self.ranks)} {how}{where}")
        for line in lines if code > 0 else []:
            _say(f"  {line}")

    # -- ranks that stop answering ----------------------------------------------------------------------------------

    def _stalled(self) -> _Rank | None:
        if self.stall_timeout is None or self.signalled:
            return None
        alive = [r for r in self.ranks if r.process.poll() is None]
        stale = [r for r in alive if r.age() > self.stall_timeout]
        working = [r for r in stale if r.where() != WAITING]
        if not working and len(stale) < len(alive):
            return None
        candidates = working or stale
        stopped = [r for r in candidates if _state(r.process.pid) == "T"]
        return max(stopped or candidates, key=lambda r: r.age(), default=None)

    def _report_stall(self, rank: _Rank) -> int:
        where = rank.where()
        _say(
            f"astro-train: rank {rank.number} of {len(self.ranks)} has made no progress for {rank.age():.0f} s "
            f"(trainer.stall_timeout={self.stall_timeout:g}); it stood at {where}. Its stack:"
        )
        for other in self.ranks:
            _signal(other.process, signal.SIGABRT)  # faulthandler writes the stacks, then the process ends
            _signal(other.process, signal.SIGCONT)
        self.wait(GRACE / 2)  # a SIGTERM now would end them before they have written
        self.end(GRACE / 2)
        for line in _stack(rank.stack):
            _say(f"  {line}")
        self.logs.mkdir(parents=True, exist_ok=True)
        for other in self.ranks:
            if other.stack.exists():
                shutil.copy(other.stack, self.logs / f"rank-{other.number}.stack")
        _say(f"astro-train: the stacks of all ranks are in {self.logs}; the same command goes on.")
        return 1

    # -- signals ----------------------------------------------------------------------------------------------------

    def forwarding(self) -> "_Forwarding":
        return _Forwarding(self)

    def forward(self, number: int) -> None:
        """Passes a signal on to every rank."""
        self.signalled = self.signalled or time.monotonic()
        for rank in self.ranks:
            _signal(rank.process, number)

    def wait(self, seconds: float) -> None:
        """Gives the ranks time to end by themselves."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(r.process.poll() is None for r in self.ranks):
            time.sleep(POLL)

    def end(self, grace: float) -> None:
        """Ends what still runs: SIGTERM, then SIGKILL."""
        if grace:
            for rank in self.ranks:
                if not self.signalled:
                    _signal(rank.process, signal.SIGTERM)
            self.wait(grace)
        for rank in self.ranks:
            if rank.process.poll() is None:
                _signal(rank.process, signal.SIGKILL)
                rank.process.wait()


class _Forwarding:
    """Signals to the supervisor are for the ranks."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in FORWARDED:
            number = getattr(signal, name, None)
            if number is not None:
                self.before[number] = signal.signal(number, lambda n, _: self.job.forward(n))

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _signal(process: subprocess.Popen, number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _stack(path: Path) -> list[str]:
    """The main thread's part of a faulthandler dump, innermost call first."""
    if not path.exists():
        return ["(none was written)"]
    text = path.read_text(errors="replace")
    parts = text.split("\n\n")
    main = next((p for p in reversed(parts) if "Current thread" in p or p.startswith("Thread")), text)
    return main.splitlines()[:TAIL] or ["(none was written)"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
