"""SLURM as a run sees it: which job it is, whether a job still lives, and how an interrupted one is queued again.

Imports nothing heavy and never fails: where SLURM is absent or silent, the answer is that nothing is known.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import RunError
from .interruption import WARNINGS, Interrupted, Interruption

__all__ = [
    "CACHE_PROGRESS",
    "Job",
    "check_progress",
    "exit_code",
    "job_is_over",
    "leave",
    "newest_progress",
    "own_job",
    "rank",
]

PATIENCE = 30.0  # seconds for an answer of SLURM's controller
FRUITLESS = 5  # starts of one job without a new checkpoint after which it is not started again
CACHE_PROGRESS = "cache-progress.json"  # in a stage's folder, written while its features are computed
LIVE = ("CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class Job:
    """A SLURM job.

    Attributes:
        id: its number, different for every task of an array.
        name: what `scontrol` calls it: the number, or ARRAY_TASK.
        restart: how often it was requeued.
        cluster: where it runs.
    """

    id: str
    name: str
    restart: int
    cluster: str | None


def own_job() -> Job | None:
    """The job this process belongs to."""
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Job(
        id=number,
        name=f"{array}_{task}" if array and task else number,
        restart=int(restart) if restart.isdigit() else 0,
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
    )


def check_progress(folder: Path, launches: Sequence[Mapping[str, Any]], latest: float) -> None:
    """Ends a job that would queue itself again for ever, because its time is too short for one step.

    Arguments:
        folder: of the run or sweep, for the message.
        launches: earlier starts, each with `time` and `job`, as run.json lists them.
        latest: when it last got on, in seconds since 1970.

    Raises:
        RunError: the last `FRUITLESS` starts were this job's, and none left a checkpoint or finished a stage.
    """
    job = own_job()
    last = [launch for launch in launches[-FRUITLESS:] if job is not None and launch.get("job") == job.name]
    if job is None or len(last) < FRUITLESS:
        return
    began = datetime.strptime(last[0]["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    if latest < began:
        raise RunError(
            f"job {job.name} has started {FRUITLESS} times in {folder} without a new checkpoint: give it more time, or "
            "a shorter --signal, and submit it again."
        )


def newest_progress(folder: Path) -> float:
    """When a run last saved, noted progress of a feature cache or ended a stage: seconds since 1970, or 0."""
    patterns = ("*.ckpt", "done.json", "reused.json", CACHE_PROGRESS)
    left = (f for pattern in patterns for f in (folder / "stages").rglob(pattern))
    return max((f.stat().st_mtime for f in left), default=0.0)


def rank() -> int:
    """The number of this process among those of the job."""
    for name in ("RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def job_is_over(number: str, cluster: str | None) -> bool:
    """Whether SLURM says that a job of this cluster no longer runs; False where it cannot be known."""
    if shutil.which("squeue") is None or cluster != _cluster():
        return False
    done = _ask("squeue", "--noheader", "--jobs", number, "--states", "all", "--format", "%T")
    if done is None:
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    states = done.stdout.split()
    return not any(state in LIVE for state in states)


def _cluster() -> str | None:
    inside = os.environ.get("SLURM_CLUSTER_NAME")
    if inside:
        return inside
    done = _ask("scontrol", "show", "config")
    for line in (done.stdout if done else "").splitlines():
        if line.startswith("ClusterName"):
            return line.partition("=")[2].strip()
    return None


def exit_code(stop: Interrupted) -> int:
    """128 + the signal's number, as a shell has it: 143 for SIGTERM, 138 for SIGUSR1."""
    return 128 + (stop.signum or WARNINGS[0])


def leave(stop: Interrupted, interruption: Interruption) -> tuple[int, str]:
    """Queues the job again where that is wanted; the run directory must be closed by now.

    A warning (SIGUSR1, from `sbatch --signal`) requeues. SIGTERM does where SLURM says that the job is being preempted,
    which would count as failed if it just left within its grace time, or has reached its time limit; not after
    `scancel`.

    Arguments:
        stop: what ended the run.
        interruption: the signals received, and what `run.requeue` says.

    Returns:
        The exit code, and a sentence for the user.
    """
    job, code, setting = own_job(), exit_code(stop), interruption.requeue
    if rank() != 0:
        return 0, "rank 0 says how it goes on."  # a failing rank would make srun or torchrun kill rank 0
    if job is None:
        missing = "run.requeue=true needs a SLURM job, and this is none; " if setting is True else ""
        return code, f"{missing}the same command goes on from there."
    if setting is False or not (interruption.warned or _taken_away(job)):
        return code, "submit the same command again to go on."
    if shutil.which("scontrol") is None:
        return code, (
            f"there is no scontrol here (a container without SLURM's commands?) to requeue job {job.name}: "
            "submit the same command again to go on."
        )
    done = _ask("scontrol", "requeue", job.name)
    if done is None or done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done and done.stderr.strip() else "no answer"
        return (
            code,
            f"job {job.name} could not be requeued ({reason}): submit the same command again to go on.",
        )
    return code, f"job {job.name} is queued again and goes on from there."


def _taken_away(job: Job) -> bool:
    """Whether SLURM ends the job for others' sake: a preemption whose grace time runs, or the time limit."""
    done = _ask("scontrol", "show", "job", "--oneliner", job.name)
    if done is None or done.returncode:
        return False
    fields = dict(re.findall(r"(\w+)=(\S*)", done.stdout))
    if fields.get("JobState") == "RUNNING":
        when = fields.get("PreemptTime", "None")
        return when[:1].isdigit() and when >= fields.get("StartTime", "")
    return fields.get("Reason") == "TimeLimit"


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
