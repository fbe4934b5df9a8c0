"""Starts real ranks for a test and waits for all of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(script: str, world: int, *arguments: str) -> list[subprocess.Popen]:
    """`python SCRIPT ARGUMENTS` on every rank, on one thread each."""
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            env={**common, "RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(world)
    ]


def run(script: str, world: int, *arguments: str, timeout: float = 300) -> None:
    """Runs to the end; the first rank's failure is shown."""
    processes = start(script, world, *arguments)
    try:
        errors = [p.communicate(timeout=timeout)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    for number, (process, error) in enumerate(zip(processes, errors, strict=True)):
        assert process.returncode == 0, f"rank {number}: {error[-3000:]}"
