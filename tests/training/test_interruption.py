"""Signals, sent for real to processes that train: a whole checkpoint, an exit code, and the same losses later."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy_fit import job

from astroclip_train.training.checkpoint import CheckpointFolder
from astroclip_train.training.fit import fit
from astroclip_train.training.interruption import Interrupted, Interruption

HERE = Path(__file__).parent
TOY = """
import os, signal, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy_fit import job
from astroclip_train.cli.interruptible import interruptible
from astroclip_train.training.fit import fit

folder, step, numbers, storm = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), sys.argv[5] == "storm"
made = job(folder)

def probe(system, at):
    if at == step:
        if storm:  # a process of its own goes on sending while the checkpoint is written
            words = f"for i in $(seq 400); do kill -{numbers[0]} {os.getpid()} || exit; sleep 0.002; done"
            made.sender = subprocess.Popen(["bash", "-c", words])
        for number in numbers:
            os.kill(os.getpid(), getattr(signal, "SIG" + number))
    return {}

made.probes = [probe]
sys.exit(interruptible(lambda: fit(made) and 0))
"""


def run(folder: Path, step: int, numbers: str, storm: str = "-") -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    words = [sys.executable, "-c", TOY, str(HERE), str(folder), str(step), numbers, storm]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    fit(job(folder))
    return (folder / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("numbers", "code", "storm"),
    [("USR1", 138, "-"), ("USR1,TERM,USR1", 138, "-"), ("TERM", 143, "storm"), ("USR1", 138, "storm")],
)
def test_the_step_is_saved_and_the_rest_is_the_same(
    undisturbed: str, tmp_path: Path, numbers: str, code: int, storm: str
) -> None:
    """Step 7 is no multiple of the checkpoint interval, so its checkpoint comes from the signal."""
    returned, told = run(tmp_path, 7, numbers, storm)
    assert returned == code, told
    assert "after step 7, whose checkpoint is written; the same command goes on from there" in told
    assert "Traceback" not in told
    saved = CheckpointFolder(tmp_path / "checkpoints")
    assert saved.rolling()[0].name == "step-00000007.ckpt"
    assert saved.newest_whole()[1]["step"] == 7
    assert not list(saved.folder.glob("*.tmp*"))
    fit(job(tmp_path))
    assert (tmp_path / "metrics.csv").read_text() == undisturbed


def test_outside_a_fit_the_signal_ends_at_once() -> None:
    interruption = Interruption().install()
    try:
        with pytest.raises(Interrupted, match="SIGUSR1"):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # later ones change nothing
        assert interruption.received == [signal.SIGUSR1, signal.SIGTERM]
        assert not interruption.warned  # somebody asked to stop, so the job is not queued again
    finally:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)


def test_deferred_signals_wait_for_the_end() -> None:
    interruption = Interruption().install()
    try:
        reached = []
        with pytest.raises(Interrupted, match="SIGTERM"):  # noqa: PT012, SIM117 - the with block is what is tested
            with interruption.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append(interruption.requested())
        assert reached == [True]
    finally:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)


def test_threads_may_ask_but_not_install() -> None:
    made: list[Interruption] = []
    thread = threading.Thread(target=lambda: made.append(Interruption().install()))
    thread.start()
    thread.join()
    assert not made[0].requested()


COMMAND = [
    sys.executable,
    "-m",
    "astroclip_train.cli.train",
    "+experiment=specclip",
    "scale=tiny",
    "run.stages=[lrs]",
]
COMMAND += ["evaluation.report=false", "stages.lrs.trainer.max_steps=100000", "data.num_workers=2"]


@pytest.mark.slow
def test_the_whole_process_group_is_signalled(tmp_path: Path) -> None:
    """As SLURM does it: workers get the signals too, and must live until the checkpoint is written."""
    child = subprocess.Popen(
        COMMAND, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
    )  # fmt: skip
    end = time.monotonic() + 200
    while time.monotonic() < end and not list(tmp_path.glob("runs/*/*/stages/lrs/checkpoints/*.ckpt")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGUSR1)
    for _ in range(5):
        os.killpg(child.pid, signal.SIGTERM)
        time.sleep(0.05)
    _, told = child.communicate(timeout=100)
    assert child.returncode in (138, 143), told
    assert "whose checkpoint is written" in told
    assert "Traceback" not in told
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(child.pid, 0)
    assert not list(tmp_path.glob("runs/*/*/lease.json"))
