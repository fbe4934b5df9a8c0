"""The whole tiny recipe as on an austere compute node: no network, and a file system without any file locks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "astroclip_train.cli.train", "+experiment=specclip", "scale=tiny"]
NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>
static int refuse(void) { errno = ENOSYS; return -1; }
int flock(int fd, int operation) { (void)fd; (void)operation; return refuse(); }
int lockf(int fd, int command, off_t length) { (void)fd; (void)command; (void)length; return refuse(); }
int lockf64(int fd, int command, off64_t length) { (void)fd; (void)command; (void)length; return refuse(); }
static int pass(const char *name, int fd, int command, void *argument) {
  if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW) return refuse();
  int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
  return real(fd, command, argument);
}
#define FORWARD(name) int name(int fd, int command, ...) { \
  va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list); \
  return pass(#name, fd, command, argument); }
FORWARD(fcntl)
FORWARD(fcntl64)
"""


@pytest.fixture
def no_locks(tmp_path: Path) -> Path:
    """A library that makes every lock fail with ENOSYS, as Lustre mounted without flock does."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the library that refuses file locks")
    source, library = tmp_path / "no_locks.c", tmp_path / "no_locks.so"
    source.write_text(NO_LOCKS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    check = "import fcntl, sys; fcntl.flock(sys.stdin, fcntl.LOCK_EX)"
    refused = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    assert "Function not implemented" in refused.stderr
    return library


def without_network() -> list[str]:
    """The prefix of a command that sees no network, not even loopback."""
    prefix = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("a namespace without network cannot be made here (unshare --net)")
    return prefix


@pytest.mark.slow
def test_the_recipe_needs_neither_network_nor_locks(no_locks: Path, tmp_path: Path) -> None:
    words = [
        *without_network(),
        *COMMAND,
        "evaluation.bootstrap=20",
        "data.num_workers=2",
        "data.stage_to=$STAGE",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    environment |= {"LD_PRELOAD": str(no_locks), "STAGE": str(tmp_path / "stage")}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip().splitlines()[-1]).name == "report.html"
    assert list((tmp_path / "stage").rglob("*.h5"))
