"""`astro-train -m hydra/launcher=slurm`: the jobs of a sweep as one SLURM job array, submitted through submitit."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.compose import compose_raw
from ..config.fingerprint import fingerprint
from ..config.keys import CONTENT, classify, flat, stage_identity
from ..config.rules import references
from ..errors import ConfigError, RunError, require
from ..files import read_json, write_json
from ._console import INTERRUPTED, say

if TYPE_CHECKING:
    from .multirun import Job

__all__ = ["MINE", "common_stages", "submit", "take_launcher"]

MINE = ("hydra/launcher=", "hydra.launcher.")
QUEUED = "queued.json"  # run -> job of what was submitted last
POLL = 5.0  # seconds between questions to the controller while waiting


def take_launcher(
    overrides: Sequence[str], config_dirs: Sequence[str]
) -> tuple[list[str], dict[str, Any] | None]:
    """The overrides of the jobs, and the launcher's settings where one is chosen.

    Raises:
        ConfigError: an unknown launcher or key, or a value of the wrong type.
    """
    from omegaconf import OmegaConf

    mine = [o for o in overrides if o.lstrip("+").startswith(MINE)]
    others = [o for o in overrides if o not in mine]
    if not mine:
        return others, None
    if not any(o.lstrip("+").startswith(MINE[0]) for o in mine):
        raise ConfigError(f"{mine[0]} is a setting of a launcher: add hydra/launcher=slurm.")
    node = compose_raw(mine, config_dirs)["hydra"]["launcher"]
    settings: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    if "_target_" in settings:
        return others, None  # Hydra's own basic launcher: jobs run here
    from ..config.schema_launch import SlurmLauncher
    from ..config.validate import check_node

    check_node(settings, SlurmLauncher, "hydra.launcher")
    return others, settings


def submit(
    jobs: Sequence["Job"], settings: Mapping[str, Any], config_dirs: Sequence[str], allowed: Sequence[str]
) -> int:
    """Submits what is not finished, and waits for it where `wait` is set.

    Returns:
        0 after submitting, or after all runs have finished; 1 if one has not; 130 if waiting was stopped.

    Raises:
        ConfigError: submitit or SLURM is missing here.
        RunError: SLURM refuses the jobs.
    """
    submitit = require("submitit", extra="slurm")
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm needs sbatch, which is not on the PATH: use a login node, or leave the launcher "
            "out to run the jobs here."
        )
    owed = [job for job in jobs if not job.run_dir.finished]
    for job in jobs:
        if job not in owed:
            say(f"finished already: {job.run_dir.path}")
    if not owed:
        return 0
    first = owed[0].run_dir
    folder = (first.root / first.experiment / "slurm").absolute()
    earlier = _still_queued(folder)
    waiting = [(job, earlier[str(job.run_dir.path)]) for job in owed if str(job.run_dir.path) in earlier]
    for job, number in waiting:
        say(f"in the queue already, job {number}: {job.run_dir.path}")
    owed = [job for job in owed if str(job.run_dir.path) not in earlier]
    if not owed:
        return _wait([], waiting, folder) if settings["wait"] else 0
    options = [f"--config-dir={Path(d).absolute()}" for d in config_dirs]
    options += [f"--allow-target={p}" for p in allowed]
    options += _geometry(settings, owed[0].overrides)
    with _clean_environment():
        after = _submit_common(submitit, owed, settings, folder, options)
        words = [[*options, *job.overrides] for job in owed]
        numbers = _submit(submitit, words, settings, folder, after, owed[0].run_dir.launch)
    for job, number in zip(owed, numbers, strict=True):
        say(f"job {number}: {' '.join(job.differing)} -> {job.run_dir.path}")
    submitted = {str(job.run_dir.path): number for job, number in zip(owed, numbers, strict=True)}
    write_json(folder / QUEUED, earlier | submitted)
    print(numbers[0].partition("_")[0])
    if not settings["wait"]:
        return 0
    return _wait(after, [*waiting, *zip(owed, numbers, strict=True)], folder)


def _still_queued(folder: Path) -> dict[str, str]:
    """Runs of earlier commands whose jobs are pending or running: path -> job."""
    file = folder / QUEUED
    if not file.exists():
        return {}
    command = ["squeue", "--me", "--noheader", "--array", "--format", "%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    alive = set(done.stdout.split())
    return {path: number for path, number in read_json(file).items() if number in alive}


def common_stages(jobs: Sequence["Job"]) -> list[str]:
    """The stages that are the same in all jobs, inputs included, so that training them once is enough."""
    configs = [job.run_dir.cfg for job in jobs]
    contents = {
        fingerprint({k: v for k, v in flat(c).items() if classify(k) == CONTENT and v is not None})
        for c in configs
    }
    if len(contents) > 1:
        return []
    chosen = configs[0]["run"]["stages"]
    common: list[str] = []
    for name, node in configs[0]["stages"].items():
        inputs = [o for _, o in references(node) if o in configs[0]["stages"]]
        wanted = (chosen is None or name in chosen) and all(i in common for i in inputs)
        if wanted and len({fingerprint(stage_identity(c, name)) for c in configs}) == 1:
            common.append(str(name))
    return common


def _submit_common(
    submitit: Any, owed: Sequence["Job"], settings: Mapping[str, Any], folder: Path, options: list[str]
) -> list[str]:
    if not settings["common_first"] or len(owed) == 1:
        return []
    names = common_stages(owed)
    leader = owed[0]
    names = [n for n in names if not (leader.run_dir.stage_dir(n) / "done.json").exists()]
    if not names:
        return []
    words = [*options, *leader.overrides, f"run.stages=[{','.join(names)}]"]
    numbers = _submit(submitit, [words], settings, folder, [], leader.run_dir.launch)
    say(f"job {numbers[0]}: {', '.join(names)}, which all jobs share -> {leader.run_dir.path}")
    return numbers


def _submit(
    submitit: Any,
    commands: list[list[str]],
    settings: Mapping[str, Any],
    folder: Path,
    after: list[str],
    launch: str,
) -> list[str]:
    from .slurm_job import become

    executor = submitit.SlurmExecutor(folder=folder)
    further = {"signal": f"USR1@{settings['signal_delay_s']}", "requeue": True, **settings["options"]}
    if after:
        further |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    threads = "${SLURM_CPUS_PER_TASK:-1}"
    setup = [f"export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=passive SRUN_CPUS_PER_TASK={threads}"]
    setup.append(f"export ASTRO_TRAIN_LAUNCH={launch}")  # the shared stages and the points are one launch
    parameters = {
        "job_name": "astro-train",
        "time": settings["timeout_min"],
        "nodes": settings["nodes"],
        "ntasks_per_node": settings["tasks_per_node"],
        "gpus_per_node": settings["gpus_per_node"] or None,
        "cpus_per_task": settings["cpus_per_task"],
        "mem": f"{settings['mem_gb']}G" if settings["mem_gb"] else None,
        "array_parallelism": settings["array_parallelism"],
        "setup": setup + list(settings["setup"]),
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1"],  # a task that fails ends the others, which would wait for it
        "additional_parameters": further,
        **{k: settings[k] for k in ("partition", "account", "qos", "constraint")},
    }
    executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    try:
        if len(commands) == 1:
            return [executor.submit(become, commands[0]).job_id]
        with executor.batch():
            jobs = [executor.submit(become, words) for words in commands]
        return [job.job_id for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        lines = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise RunError(
            f"SLURM refused the job ({lines[-1].strip()}): correct hydra.launcher.* or ask for less."
        ) from error


def _geometry(settings: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """trainer.devices and num_nodes for the tasks that are asked for, where the command does not give them."""
    given = {o.split("=")[0].lstrip("+") for o in overrides}
    wanted = {"trainer.devices": settings["tasks_per_node"], "trainer.num_nodes": settings["nodes"]}
    return [f"{key}={n}" for key, n in wanted.items() if n > 1 and key not in given]


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Hides the job that this process may itself belong to, whose variables sbatch would pass on."""
    mine = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("SLURM_") and k != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(mine)


def _wait(before: Sequence[str], owed: Sequence[tuple["Job", str]], folder: Path) -> int:
    bases = sorted({n.partition("_")[0] for n in (*before, *(number for _, number in owed))})
    where = os.path.relpath(folder)
    say(f"waiting; logs are in {where}; Ctrl-C stops the waiting, `scancel {' '.join(bases)}` the jobs")
    try:
        while _queued(bases):
            time.sleep(POLL)
    except KeyboardInterrupt:
        say("the jobs go on; the same command says later what became of them.")
        return INTERRUPTED
    unfinished = 0
    for job, number in owed:
        record = job.run_dir.path / "run.json"
        content = read_json(record) if record.exists() else {}
        status = content.get("status", "not started")
        if status not in ("finished", "partial"):
            unfinished += 1
            reason = f": {content['error']}" if "error" in content else ""
            say(f"  {status}: {' '.join(job.differing)} (job {number}, {job.run_dir.path}){reason}")
    say(f"{len(owed) - unfinished} of {len(owed)} jobs done")
    return 1 if unfinished else 0


def _queued(bases: Sequence[str]) -> bool:
    """Whether any of the jobs is pending or running; a controller that does not answer is asked again."""
    command = ["squeue", "--noheader", "--jobs", ",".join(bases), "--format", "%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return bool(done.stdout.strip())
