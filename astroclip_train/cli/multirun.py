"""`astro-train -m`: every combination of a sweep, checked before the first starts, run one after another."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.compose import compose, normalise, sweep_parameters
from ..config.fingerprint import fingerprint
from ..distributed.geometry import find_geometry
from ..errors import ConfigError
from ..files import write_json
from ..training.interruption import Interrupted, current
from ..training.run_dir import RunDir, launch_id
from ._console import INTERRUPTED, STOPPED, say
from .interruptible import forwarding
from .slurm_launcher import submit, take_launcher

__all__ = ["Job", "jobs_of", "multirun"]


@dataclass
class Job:
    """One point of a sweep.

    Attributes:
        overrides: of the whole command.
        differing: those that the sweep varies.
        run_dir: where it runs.
    """

    overrides: list[str]
    differing: list[str]
    run_dir: RunDir


def jobs_of(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """(all overrides, varied ones) of each job, in Hydra's order: the last key varies fastest.

    Raises:
        ConfigError: an override cannot be read, or asks for a sweep without a list of values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, OverrideParseException

    plain = [normalise(o) for o in overrides]
    plain = [o for o in sweep_parameters(plain, config_dirs) if o.split("=")[0] not in _keys(plain)] + plain
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    try:
        parsed = OverridesParser.create().parse_overrides([o for o in plain if not o.startswith("+sweep=")])
        (batch,) = BasicSweeper.split_arguments(parsed, None)
    except (OverrideParseException, HydraException) as error:
        compose(overrides, config_dirs)  # tells an unreadable override by itself
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the sweep cannot be expanded ({reason}): give lists such as a=1,2.") from error
    varied = {o.get_key_element() for o in parsed if o.is_sweep_override()}
    return [(list(job), [o for o in job if o.split("=", 1)[0] in varied]) for job in batch]


def _keys(overrides: Sequence[str]) -> set[str]:
    return {o.split("=")[0].lstrip("+") for o in overrides}


def multirun(overrides: Sequence[str], config_dirs: Sequence[str] = (), allowed: Sequence[str] = ()) -> int:
    """Checks all jobs, then runs each in a process of its own; a failing one is recorded and the others go on.

    With `+sweep=grid|random|optuna` the jobs are the trials of a study, see `sweeps.worker`.

    Returns:
        0 if all succeeded, 2 if all failures were users' errors, else 1; 130, 138 or 143 after a signal.
    """
    from ..sweeps.plan import plan_of
    from .train import prepare

    geometry = find_geometry()
    if geometry.world_size > 1:
        how = (
            "a step of one task, srun --ntasks=1"
            if geometry.source == "slurm"
            else "itself, without torchrun"
        )
        raise ConfigError(
            f"-m in {geometry.world_size} tasks would start every job once in each: start it by {how}."
        )
    overrides, launcher = take_launcher(overrides, config_dirs)
    plan = plan_of(overrides, config_dirs, allowed)
    if plan is not None:
        if launcher is not None:
            raise ConfigError(
                "hydra/launcher=slurm submits lists of values, not studies: submit the study itself, as often as it "
                "shall have workers, with sbatch slurm/train.sbatch -m +sweep=... sweep.workers=1."
            )
        from ..sweeps.worker import run_sweep

        return run_sweep(plan, prepare)
    jobs = []
    points = jobs_of(overrides, config_dirs)
    for number, (full, differing) in enumerate(points, 1):
        try:
            jobs.append(Job(full, differing, prepare(full, config_dirs, allowed if number == 1 else ())))
        except ConfigError as error:
            point = " ".join(differing) or "the only one"
            raise ConfigError(f"job {number} of {len(points)} ({point}): {error}") from error
    _distinct(jobs)
    if launcher is not None:
        return submit(jobs, launcher, config_dirs, allowed)
    sweep = fingerprint([sorted(j.overrides) for j in jobs])[:7]
    record = jobs[0].run_dir.root / jobs[0].run_dir.experiment / f"sweep-{sweep}.json"
    results: list[dict[str, Any]] = []
    environment = {**os.environ, "ASTRO_TRAIN_LAUNCH": launch_id()}
    for number, job in enumerate(jobs, 1):
        say(f"job {number} of {len(jobs)}: {' '.join(job.differing)} -> {job.run_dir.path}")
        start = time.monotonic()
        code, came = _run(job, config_dirs, allowed, environment)
        results.append(
            {"overrides": job.overrides, "run": str(job.run_dir.path), "exit": code,
             "seconds": round(time.monotonic() - start, 1)}
        )  # fmt: skip
        write_json(record, {"jobs": results, "of": len(jobs)})
        if code in STOPPED:
            say(f"stopped in job {number} of {len(jobs)}; the same command goes on with the jobs still owed.")
            return code
        if came and (
            code or number < len(jobs)
        ):  # the job was too young or too old to answer: the sweep does
            current().received.extend(came)  # a warning queues the job of a sweep again, like that of a run
            raise Interrupted(came[0])
    return _summary(jobs, results, record)


def _distinct(jobs: Sequence[Job]) -> None:
    seen: dict[Path, int] = {}
    for number, job in enumerate(jobs, 1):
        path = job.run_dir.path
        if path in seen:
            raise ConfigError(
                f"jobs {seen[path]} and {number} of the sweep would both write to {path}: "
                "leave out run.name, and vary keys that change the mathematics."
            )
        seen[path] = number


def _run(
    job: Job, config_dirs: Sequence[str], allowed: Sequence[str], environment: dict[str, str]
) -> tuple[int, list[int]]:
    """The exit code of a job, and the signals that came while it ran."""
    options = [f"--config-dir={folder}" for folder in config_dirs] + [f"--allow-target={p}" for p in allowed]
    command = [sys.executable, "-m", "astroclip_train.cli.train", *options, *job.overrides]
    child = subprocess.Popen(command, env=environment)
    try:
        with forwarding(child) as came:
            code = child.wait()
    except KeyboardInterrupt:  # the terminal sent it to the child too, which ends in its own way
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
        return INTERRUPTED, []
    if code < 0:
        say(f"  ended by {signal.Signals(-code).name}: {shlex.join(job.overrides)}")
    return INTERRUPTED if code == -signal.SIGINT else code, came


def _summary(jobs: Sequence[Job], results: Sequence[dict[str, Any]], record: Path) -> int:
    failed = [(job, result["exit"]) for job, result in zip(jobs, results, strict=True) if result["exit"]]
    say(f"{len(jobs) - len(failed)} of {len(jobs)} jobs done; {record}")
    for job, code in failed:
        say(f"  failed with exit code {code}: {' '.join(job.differing)} ({job.run_dir.path})")
    if not failed:
        return 0
    return 2 if all(code == 2 for _, code in failed) else 1
