"""Memory that a training step frees is used again by the next one."""

import os
import subprocess
import sys

import pytest

CODE = """
import numpy as np
from astroclip_train.cli.process import tune_process
tune_process()
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
before = resident()
blocks = [np.ones(8 << 20, np.uint8) for _ in range(20)]
held = resident() - before
del blocks
import os
print(held, resident() - before, os.environ["OMP_WAIT_POLICY"])
"""


def measured(**environment: str) -> list[str]:
    """MiB held with 160 MiB of arrays and after they were freed, and OpenMP's policy."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "OMP_WAIT"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="only glibc gives freed memory back to the kernel step by step",
)
def test_freed_memory_stays_unless_the_environment_says_otherwise() -> None:
    held, after, policy = measured()
    assert int(held) > 150
    assert int(after) > 150
    assert policy == "passive"
    held, after, policy = measured(MALLOC_MMAP_THRESHOLD_="1048576", OMP_WAIT_POLICY="active")
    assert int(held) > 150
    assert int(after) < 20
    assert policy == "active"
