"""One trial: an ordinary `astro-train` process, watched through its metrics.csv."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..distributed.geometry import usable_cores
from ..errors import AstroTrainError
from ..files import read_json
from ..training.claims import live_holder
from ..training.progress import say

__all__ = ["Ending", "child_environment", "run_trial", "why"]

POLL = 0.5  # seconds between looks at metrics.csv
GRACE = 600.0  # seconds a process has to end its step and validation, save and leave
LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "ROLE_", "PMI_", "PMIX_", "OMPI_")


@dataclass
class Ending:
    """How a trial's process ended.

    Attributes:
        code: of exit; negative for a signal.
        verdict: what the watcher said when it stopped the process.
        stopped: whether the sweep itself is stopping.
    """

    code: int
    verdict: Any = None
    stopped: bool = False

    @property
    def killed(self) -> bool:
        """Whether a signal from outside ended it, at once (negative) or after it had saved (128 + number)."""
        return (self.code < 0 or self.code > 128) and self.verdict is None and not self.stopped


def child_environment(launch: str, worker: int, workers: int, devices: int) -> dict[str, str]:
    """The environment of a trial: its own process group, its share of the GPUs and cores, the sweep's launch."""
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHER and not k.startswith(LAUNCHERS)}
    kept["ASTRO_TRAIN_LAUNCH"] = launch
    if workers > 1:
        given = kept.get("OMP_NUM_THREADS", "")
        threads = int(given) if given.isdigit() else usable_cores()
        kept["OMP_NUM_THREADS"] = str(max(1, threads // workers))
        visible = _gpus(kept)
        if visible:
            first = worker * devices
            kept["CUDA_VISIBLE_DEVICES"] = ",".join(
                visible[(first + i) % len(visible)] for i in range(min(devices, len(visible)))
            )
    return kept


def _gpus(environment: dict[str, str]) -> list[str]:
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [d for d in listed.split(",") if d.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def run_trial(
    overrides: Sequence[str], options: Sequence[str], run: Path, log: Path, environment: dict[str, str],
    watch: Callable[[], Any], stop: threading.Event,
) -> Ending:  # fmt: skip
    """Runs a trial's command to its end, to a verdict of `watch`, or until the sweep stops.

    A process that a killed sweep left behind is waited for; the command then goes on from what it did.

    Arguments:
        overrides, options: of the command.
        run: its run directory.
        log: gets what it prints.
        environment: see `child_environment`.
        watch: called every POLL seconds; anything but None stops the process and becomes the verdict.
        stop: set when the sweep is stopping.
    """
    told = False
    while (holder := live_holder(run / "lease.json")) is not None:
        if not told:
            say(
                f"  {run} is still being trained by process {holder['pid']} on {holder['host']}: waiting for it"
            )
        told = True
        if stop.wait(POLL):
            return Ending(0, stopped=True)
    command = [sys.executable, "-m", "astroclip_train.cli.train", *options, *overrides]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as handle:
        return _attend(command, environment, handle, watch, stop)


def _attend(
    command: list[str],
    environment: dict[str, str],
    log: IO[bytes],
    watch: Callable[[], Any],
    stop: threading.Event,
) -> Ending:
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while True:
            try:
                return Ending(child.wait(timeout=POLL))
            except subprocess.TimeoutExpired:
                pass
            if stop.is_set():
                return Ending(_end(child), stopped=True)
            verdict = watch()
            if verdict is not None:
                return Ending(_end(child), verdict=verdict)
    finally:
        if child.poll() is None:
            _end(child)


def _end(child: subprocess.Popen) -> int:
    """Asks a process to save and leave; one that does not is killed."""
    child.send_signal(signal.SIGTERM)
    try:
        return child.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def why(run: Path, log: Path, code: int) -> str:
    """The reason of a failure: what the run wrote, else the last line of the log."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    try:
        record = read_json(run / "run.json")
    except AstroTrainError:
        record = {}
    if record.get("status") == "failed" and record.get("error"):
        return str(record["error"])
    text = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return text[-1].removeprefix("astro-train: ") if text else f"exit code {code}"
