"""What the tests in this folder submit with."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TRAIN = ROOT / "slurm" / "train.sbatch"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL")
TINY = ["+experiment=specclip", "scale=tiny", "evaluation.report=false", "evaluation.bootstrap=20"]
EVERY_STEP = [f"stages.{s}.trainer.log_every_steps=1" for s in ("lrs", "xp", "align", "heads")]


class Cluster:
    """Submits from a folder and waits, always for a bounded time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "RANK"))}
        self.environment = variables | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }

    def run(self, *words: object, limit: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            list(map(str, words)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def submit(self, script: Path | str, *words: str, options: tuple[str, ...] = ()) -> str:
        """`sbatch OPTIONS SCRIPT WORDS`; the log of job N is N.log."""
        out = ["--output=%A_%a.log"] if any(o.startswith("--array") for o in options) else ["--output=%j.log"]
        done = self.run("sbatch", "--parsable", *out, *options, script, *words)
        return done.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        text = self.run("scontrol", "show", "job", "-o", job).stdout.splitlines()[0]
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def state(self, job: str) -> str:
        return self.show(job)["JobState"]

    def wait(self, job: str, limit: float = 240) -> dict[str, str]:
        """The job's record once it is over."""
        self.until(lambda: self.state(job) in OVER, limit, job)
        return self.show(job)

    def until(self, condition, limit: float = 120, job: str | None = None) -> None:
        end = time.monotonic() + limit
        while not condition():
            told = f"\n{self.show(job)}\n{self.log(job)[-3000:]}" if job else ""
            assert time.monotonic() < end, f"still waiting after {limit} s{told}"
            time.sleep(0.2)

    def log(self, job: str) -> str:
        file = self.folder / f"{job}.log"
        return file.read_text() if file.exists() else ""

    def rows(self) -> int:
        """Rows of the metrics of all runs in this folder."""
        return sum(f.read_text().count("\n") for f in self.folder.glob("runs/*/*/metrics.csv"))

    def warn(self, job: str, number: int, rows: int) -> None:
        """SIGUSR1 once the metrics have so many rows, and the job's return to the queue for the number-th time."""
        self.until(lambda: self.rows() >= rows, 240, job)
        self.run("scancel", "--signal=USR1", job)
        self.until(lambda: self.log(job).count("is queued again") >= number, 60, job)
        self.until(lambda: self.show(job).get("Restarts") == str(number), 60, job)

    def close(self) -> None:
        """Cancels what was submitted from this folder, by whatever command: the next test gets an idle node."""
        end = time.monotonic() + 90
        while jobs := self.queued():
            self.run("scancel", "--quiet", *jobs, check=False)
            assert time.monotonic() < end, f"jobs {jobs} did not end within 90 s of scancel"
            time.sleep(0.2)

    def queued(self) -> list[str]:
        """The jobs of this folder that are pending, running or ending."""
        lines = self.run("squeue", "--noheader", "--format=%A %Z").stdout.splitlines()
        return sorted({job for job, folder in map(str.split, lines) if folder == str(self.folder.resolve())})


def task_of(job: str, number: int) -> int:
    """The process of a task of a job on this machine."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={number}".encode()}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = set((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if wanted <= variables and any(b"astro-train" in word for word in words[:2]):
            return int(entry.name)
    raise AssertionError(f"job {job} has no task {number} here")
