"""What a run directory says about where it was made: versions, machine, git state, and the content of its stores."""

import os
import platform
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from .. import __version__
from ..config.fingerprint import fingerprint
from ..config.keys import CONTENT, classify, flat
from ..data.checks import find_paths
from ..errors import DataError

__all__ = ["content_hashes", "environment", "git_state"]

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scipy",
    "h5py",
    "astropy",
    "zuko",
)
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CLUSTER_NAME",
    "WORLD_SIZE",
)


def environment() -> dict[str, Any]:
    """Versions, machine and git state, as plain data."""
    return {
        "astro_train": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": git_state(Path(__file__).resolve().parents[2]),
        "command": [_redacted(word) for word in sys.argv],
    }


def _redacted(word: str) -> str:
    """A word of the command without credentials in a URL."""
    return re.sub(r"(\w+://)[^\s/@]+@", r"\1(hidden)@", word)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether the checkout differs from it; None where the package is not a checkout."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {
            "commit": commit,
            "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def content_hashes(cfg: DictConfig) -> dict[str, str | None]:
    """The content hash of every store that the configuration names by path, None where it cannot be read yet."""
    named = {
        k: v for k, v in flat(cfg).items() if v and classify(k) == CONTENT and k.split(".")[-1] == "path"
    }
    return {key: _content_of(value) for key, value in named.items()}


def _content_of(value: Any) -> str | None:
    """The hash of one store, or one hash of those of its shards in their order."""
    try:
        paths = find_paths(value)
    except (DataError, TypeError):
        return None
    hashes = [_content_hash(path) for path in paths]
    if None in hashes:
        return None
    return hashes[0] if len(hashes) == 1 else fingerprint(hashes)


def _content_hash(path: Path) -> str | None:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return str(file.attrs["content_hash"])
    except (OSError, KeyError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
