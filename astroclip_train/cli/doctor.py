"""`astro-model doctor RUN`: what one sends to support, without secrets, also where nothing else works any more."""

import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError
from ..files import read_json, write_text
from ..training.environment import PACKAGES

__all__ = ["doctor", "redact"]

LINES = 25  # of each log
WIDTH = 300  # characters of each line
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|COOKIE|AUTH", re.IGNORECASE)
ASSIGNED = re.compile(
    r"(?P<name>[\w.-]*(?:key|token|secret|passwd|password|passphrase|credentials?|cookie|authorization))"
    r"(?P<sign>['\"]?\s*[=:]\s*)(?:bearer\s+)?"
    r"(?!(?:[\d.e+-]+|null|none|true|false)\b)(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;'\"}\]]+)",  # numbers are no secrets
    re.IGNORECASE,
)
URL = re.compile(r"(?P<scheme>\w+://)[^\s/@]+@")
PREFIXES = (
    "SLURM_",
    "CUDA_",
    "NCCL_",
    "GLOO_",
    "TORCH_",
    "OMP_",
    "MKL_",
    "HDF5_",
    "ASTRO_TRAIN_",
    "WANDB_",
    "PYTHON",
)
NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PATH",
)
HIDDEN = "(hidden)"


def doctor(run: str, output: str | None = None) -> int:
    """Prints what is known about a run and this machine, or writes it to a file.

    Returns:
        0.

    Raises:
        ConfigError: the folder is not a run directory.
    """
    folder = Path(run)
    if not (folder / "run.json").exists():
        raise ConfigError(
            f"{folder} is not a run directory (it has no run.json): give a folder such as runs/EXPERIMENT/NAME."
        )
    parts: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("run", lambda: _run(folder)),
        ("lease", lambda: _lease(folder)),
        ("stages", lambda: _stages(folder)),
        ("made by", lambda: _made_by(folder)),
        ("this machine", _machine),
        ("variables", _variables),
        ("disk", lambda: _disk(folder)),
        ("logs", lambda: _logs(folder)),
        ("configuration", lambda: _config(folder)),
    ]
    text = "\n".join(f"== {title}\n" + "\n".join(_safely(part)) + "\n" for title, part in parts)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        print(output)
    return 0


def redact(text: str) -> str:
    """Hides the values of what is called a key, token, secret or password, and credentials in URLs."""
    text = URL.sub(lambda m: f"{m['scheme']}{HIDDEN}@", text)
    return ASSIGNED.sub(lambda m: f"{m['name']}{m['sign']}{HIDDEN}", text)


def _safely(part: Callable[[], Iterator[str]]) -> Iterator[str]:
    """One damaged file must not hide the rest."""
    try:
        yield from (f"  {line}" for line in part())
    except Exception as error:
        yield f"  could not be read: {redact(f'{type(error).__name__}: {error}')}"


def _run(folder: Path) -> Iterator[str]:
    record = read_json(folder / "run.json")
    yield f"folder      {folder.absolute()}"
    for key in ("experiment", "name", "generation", "status", "created", "changed"):
        yield f"{key:<11} {record.get(key)}"
    if "error" in record:
        yield f"error       {redact(record['error'])}"
    overrides = folder / "overrides.txt"
    if overrides.exists():
        yield f"command     astro-train {redact(' '.join(overrides.read_text().split()))}"
    for number, launch in enumerate(record.get("launches", []), 1):
        job = f", job {launch['job']} restart {launch['restart']}" if "job" in launch else ""
        yield f"launch {number:<4} {launch['time']} on {launch.get('host', '?')}, process {launch['pid']}{job}"


def _lease(folder: Path) -> Iterator[str]:
    file = folder / "lease.json"
    if not file.exists():
        yield "free"
        return
    owner = read_json(file)
    age = time.time() - file.stat().st_mtime
    job = f", job {owner['job']} restart {owner.get('restart', 0)}" if owner.get("job") else ""
    yield f"held by process {owner.get('pid')} on {owner.get('host')}{job}; last heartbeat {age:.0f} s ago"


def _stages(folder: Path) -> Iterator[str]:
    for stage in sorted((folder / "stages").glob("*")):
        done = next((f for f in ("done.json", "reused.json") if (stage / f).exists()), None)
        saved = sorted(p.name for p in stage.rglob("step-*.ckpt"))
        newest = f", newest checkpoint {saved[-1]}" if saved else ""
        yield f"{stage.name:<11} {done or 'not finished'}{newest}"


def _made_by(folder: Path) -> Iterator[str]:
    record = read_json(folder / "environment.json")
    for key in ("astro_train", "python", "platform", "host", "cpus", "git", "geometry"):
        if record.get(key) is not None:
            yield f"{key:<11} {record[key]}"
    yield f"packages    {_listed(record.get('packages', {}))}"
    variables = {
        k: HIDDEN if SECRET.search(k) else redact(str(v)) for k, v in record.get("variables", {}).items()
    }
    yield f"variables   {_listed(variables)}"


def _machine() -> Iterator[str]:
    yield f"host        {socket.gethostname()}, {os.cpu_count()} cores, {platform.platform()}"
    yield f"python      {sys.version.split()[0]} at {sys.executable}"
    yield f"packages    {_listed({'astro-train': __version__, **{p: _version(p) for p in PACKAGES}})}"
    yield f"commands    {_listed({c: shutil.which(c) or 'none' for c in ('srun', 'scontrol', 'nvidia-smi')})}"
    import torch

    if not torch.cuda.is_available():
        yield f"torch       built for CUDA {torch.version.cuda}, sees no GPU"
        return
    yield f"torch       built for CUDA {torch.version.cuda}, architectures {' '.join(torch.cuda.get_arch_list())}"
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield f"GPU {number:<7} {about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}"


def _variables() -> Iterator[str]:
    for name in sorted(os.environ):
        if name in NAMES or name.startswith(PREFIXES):
            yield f"{name}={HIDDEN if SECRET.search(name) else redact(os.environ[name])}"


def _disk(folder: Path) -> Iterator[str]:
    size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    use, nodes = shutil.disk_usage(folder), os.statvfs(folder)
    yield f"the run     {size / 1e6:,.1f} MB in {sum(1 for _ in folder.rglob('*')):,} files and folders"
    yield f"its disk    {use.free / 1e9:,.1f} of {use.total / 1e9:,.1f} GB free, {nodes.f_favail:,} inodes free"


def _config(folder: Path) -> Iterator[str]:
    yield from map(redact, (folder / "config.yaml").read_text().splitlines())


def _logs(folder: Path) -> Iterator[str]:
    """The last lines of each rank's log, and the last rows of metrics.csv."""
    found = sorted((folder / "logs").glob("*")) if (folder / "logs").is_dir() else []
    for file in [*(f for f in found if f.is_file()), folder / "metrics.csv"]:
        if not file.exists():
            continue
        lines = file.read_text(errors="replace").splitlines()
        kept = lines[-LINES:] if file.suffix != ".csv" else [*lines[:1], *lines[-3:]]
        yield f"{file.relative_to(folder)}, {len(lines):,} lines:"
        yield from (f"  {redact(line)[:WIDTH]}" for line in kept)
    if not found:
        yield "no logs folder: one process writes to where it was started, such as astro-train-JOB.out under SLURM"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None) or "none"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
