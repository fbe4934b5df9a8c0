"""How a process shares its machine: set before torch is imported, and before the first large array."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "tune_process"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)


def tune_process() -> None:
    """Sets what is not set in the environment: sleeping OpenMP threads, and memory that is kept between steps."""
    # on a shared machine threads that spin are several times slower than ones that sleep, at times tens of times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Tells glibc to use freed memory again instead of giving it back to the kernel.

    A training step frees its activations and asks for as much again; each time the kernel would hand out pages one by
    one and fill them with zeros, a tenth of the time of a small step on a CPU. A process so keeps nearly as much as it
    ever needed at once. Where `MALLOC_*` or `GLIBC_TUNABLES` are in the environment their author decides.

    Returns:
        Whether the C library took it; others than glibc do not.
    """
    if sys.platform != "linux" or any(n.startswith(("MALLOC_", "GLIBC_TUNABLES")) for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # old versions take at most 32 MiB for the size from which an array is mapped and unmapped by itself
    mapped = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)
    return bool(mapped and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
