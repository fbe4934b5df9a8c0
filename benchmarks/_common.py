"""What every benchmark prints: machine, commit, command; medians of repeated timings with their spread."""

import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Timing(NamedTuple):
    """Seconds: median, smallest and largest of `n` repetitions."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.4g} s (median of {self.n}, {self.low:.4g}–{self.high:.4g})"

    def rate(self, amount: float, unit: str) -> str:
        """Amount over time with its spread."""
        low, high = amount / self.high, amount / self.low
        return f"{amount / self.median:.4g} {unit} (median of {self.n}, {low:.4g}–{high:.4g})"


def header() -> None:
    """Prints machine, versions, commit and command."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} threads{_gpu()}"
    print(f"machine: {_processor()}, {cores} cores")
    print(f"         {platform.platform()}, Python {platform.python_version()}")
    print(f"         torch {torch.__version__}, {threads}")
    print(f"commit:  {_commit()}")
    print(f"command: {shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])}", flush=True)


def median_of(fn: Callable[[], object], n: int = 5, warmup: int = 1) -> Timing:
    """Runs `fn` n times after `warmup` unmeasured runs."""
    for _ in range(warmup):
        fn()
    return summarise([_timed(fn) for _ in range(n)])


def alternated(functions: dict[str, Callable[[], object]], n: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Times several functions in turn, so that a slow spell of a shared machine meets all of them."""
    for _ in range(warmup):
        for fn in functions.values():
            fn()
    rounds = [{name: _timed(fn) for name, fn in functions.items()} for _ in range(n)]
    return {name: summarise([r[name] for r in rounds]) for name in functions}


def summarise(seconds: list[float]) -> Timing:
    """The timing of given repetitions."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def _timed(fn: Callable[[], object]) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    return commit + (" with local changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            return next(line.split(":", 1)[1].strip() for line in handle if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu() -> str:
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
