"""One rank of several: joins the others, checks that all do the same, and runs what one process would run."""

import ctypes
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..distributed.geometry import LAUNCHER, Geometry, check_geometry, machine_of, show_only
from ..distributed.heartbeat import beat
from ..distributed.launch import LOGS, launch, log_file
from ..errors import AstroTrainError, ConfigError, RunError
from ..training.interruption import Interrupted, current
from ._console import say

__all__ = ["launch_ranks", "rank_0_tells", "run_rank", "wanted_ranks"]

LOST = re.compile(
    "closed by peer|Connection reset|Broken pipe|Socket|recvValue|NCCL|store|heartbeat|Gloo|gloo",
    re.IGNORECASE,
)
TELL = 2.0  # seconds in which rank 0 tells an error that it has too
FIRST = 25.0  # seconds in which rank 0 meets an error of the configuration that another rank has met already
FOLLOW = 5.0  # seconds in which the launcher tells who failed first


def wanted_ranks(cfg: Any, geometry: Geometry) -> int:
    """Ranks that this machine should get from our launcher; 1 where nothing is to be launched.

    Raises:
        ConfigError: what was started is not what the configuration asks for.
    """
    machine = machine_of(cfg)
    show_only(machine, geometry)
    check_geometry(geometry, machine)
    if geometry.world_size > 1 or geometry.source in ("torchrun", "slurm"):
        if geometry.world_size == 1 and machine.devices == "auto" and machine.accelerator != "cpu":
            _one_device_is_seen(geometry)
        return 1
    if machine.devices != "auto":
        return int(machine.devices)
    if machine.accelerator == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


def _one_device_is_seen(geometry: Geometry) -> None:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 1
    if there > 1:
        raise ConfigError(
            f"trainer.devices=auto sees {there} GPUs, but {geometry.source} started one task: start {there} tasks, or "
            "set trainer.devices=1."
        )


def launch_ranks(
    run_dir: Any, ranks: int, overrides: Sequence[str], dirs: Sequence[str], allowed: Sequence[str]
) -> int:
    """Starts the ranks of one job on this machine and waits for them."""
    options = [f"--config-dir={folder}" for folder in dirs] + [f"--allow-target={p}" for p in allowed]
    os.environ["ASTRO_TRAIN_LAUNCH"] = run_dir.launch
    say(f"{ranks} ranks on this machine; what the others than rank 0 say is in {run_dir.path / 'logs'}")
    return launch(
        [*options, *overrides], ranks, run_dir.path / "logs", run_dir.cfg["trainer"].get("stall_timeout")
    )


def rank_0_tells(error: AstroTrainError, geometry: Geometry) -> None:
    """Leaves an error that every rank meets to rank 0, which srun would end if this rank were the first to leave.

    Returns where nobody ended this rank in that time: rank 0 does not have the error, or it may not end the others.
    The first rank of each node is the first to return.

    Raises:
        SystemExit: with the error's code, where this rank was ended.
    """
    if geometry.source == "launcher":
        raise SystemExit(error.exit_code) from error
    try:
        time.sleep(2 * FIRST if geometry.local_rank else FIRST)
    except Interrupted:
        current().ignore()
        raise SystemExit(error.exit_code) from error
    say(f"rank {geometry.rank} on {socket.gethostname()}:")


def run_rank(run_dir: Any, geometry: Geometry) -> int:
    """Runs one rank to the end of the run.

    Raises:
        AstroTrainError: the same on every rank where rank 0 or all of them meet it.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported
    if geometry.source == "launcher":
        _die_with_parent()
    logs = Path(os.environ.get(LOGS, run_dir.path / "logs"))
    stack = Path(os.environ["ASTRO_TRAIN_BEAT"]).with_name(f"stack-{geometry.rank}") if geometry.source == "launcher" \
        else logs / f"rank-{geometry.rank}.stack"  # fmt: skip
    with _own_log(geometry, logs) as terminal, _lost_contact(geometry):
        beat.start(run_dir.cfg["trainer"].get("stall_timeout"), stack, f"rank {geometry.rank}", terminal)
        from ..distributed import group

        kind = group.check_devices(geometry, machine_of(run_dir.cfg))
        with group.open_group(geometry, kind):
            group.self_test(kind)
            code = _together(run_dir)
        beat.stop()
        return code


def _together(run_dir: Any) -> int:
    from ..distributed import collectives
    from ..distributed.follower import Follower
    from ..stages.runner import preflight, run

    _check_sameness(run_dir)
    collectives.on_main(lambda: _validate(run_dir))
    work = preflight if run_dir.preflight else run
    if not collectives.is_main():
        collectives.on_main(lambda: None)  # the lease
        return work(run_dir.cfg, Follower(run_dir, Path(collectives.broadcast(None))))
    collectives.on_main(lambda: run_dir.open() and None)
    try:
        collectives.broadcast(str(run_dir.path))
        code = work(run_dir.cfg, run_dir)
    except BaseException:
        run_dir.__exit__(*sys.exc_info())
        raise
    run_dir.__exit__(None, None, None)
    return code


def _validate(run_dir: Any) -> None:
    from .train import check

    check(run_dir)


def _check_sameness(run_dir: Any) -> None:
    """Every rank composed the same configuration with the same program.

    Raises:
        RunError: one did not.
    """
    import numpy
    import torch
    from omegaconf import OmegaConf

    from .. import __version__
    from ..config.fingerprint import fingerprint
    from ..distributed import collectives

    versions = {
        "astro-train": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
    for name, version in versions.items():
        collectives.agree(name, version, "use one environment on all machines")
    config = fingerprint(OmegaConf.to_container(run_dir.cfg))[:12]
    collectives.agree(
        "configuration", config, "start all ranks with the same command and the same config files"
    )
    if not run_dir.preflight:
        advice = "run.root must be one folder that all machines share"
        collectives.agree("the run directory", str(run_dir.path.absolute()), advice)
        collectives.agree("its status", run_dir.status, advice)


@contextmanager
def _own_log(geometry: Geometry, logs: Path) -> Any:
    """What ranks other than 0 print goes to a file of their own; their last word also to where it went before."""
    if geometry.rank == 0:
        yield 2
        return
    logs.mkdir(parents=True, exist_ok=True)
    handle = open(log_file(logs, geometry.rank), "a", buffering=1)  # noqa: SIM115 - it becomes our output
    terminal = os.dup(2)
    handle.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} rank {geometry.rank} on {socket.gethostname()}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle.fileno(), 1)
    os.dup2(handle.fileno(), 2)
    try:
        yield terminal
    except AstroTrainError as error:
        if geometry.source == "launcher":
            time.sleep(TELL)  # most errors meet all ranks, and then rank 0 tells it
        elif not error.shared:
            os.write(
                terminal, f"astro-train: rank {geometry.rank} on {socket.gethostname()}: {error}\n".encode()
            )
        raise


@contextmanager
def _lost_contact(geometry: Geometry) -> Any:
    """Losing another rank is told in one sentence, after the launcher had time to tell what happened to it."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, AstroTrainError) or not LOST.search(str(error)):
            raise
        time.sleep(FOLLOW)
        raise RunError(
            f"rank {geometry.rank} lost contact with another rank ({str(error).splitlines()[0][:120]}): see what the "
            "other ranks say in the run's logs folder; the same command goes on from the newest checkpoint."
        ) from error


def _die_with_parent() -> None:
    """Asks Linux to end this rank when the launcher is killed, so that no orphan keeps a device."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ[LAUNCHER]):
        os._exit(1)
