"""What a run makes of SLURM's variables; the real thing is in tests/slurm."""

import os
import signal
import time
from pathlib import Path

import pytest

from astroclip_train.errors import RunError
from astroclip_train.training.interruption import Interrupted, Interruption
from astroclip_train.training.requeue import (
    CACHE_PROGRESS,
    FRUITLESS,
    check_progress,
    exit_code,
    job_is_over,
    leave,
    newest_progress,
    own_job,
)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Task 3 of array 12 in its second start, on a node without SLURM's commands."""
    for name in [n for n in os.environ if n.startswith("SLURM_")] + ["RANK"]:
        monkeypatch.delenv(name, raising=False)
    variables = {
        "JOB_ID": "15",
        "ARRAY_JOB_ID": "12",
        "ARRAY_TASK_ID": "3",
        "RESTART_COUNT": "1",
        "PROCID": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", str(tmp_path))


def received(*numbers: int) -> tuple[Interrupted, Interruption]:
    made = Interruption()
    made.received = list(numbers)
    return Interrupted(numbers[0], 7), made


def test_tasks_of_an_array_have_names_of_their_own(job) -> None:
    mine = own_job()
    assert (mine.id, mine.name, mine.restart) == ("15", "12_3", 1)


def test_codes_are_those_of_a_shell() -> None:
    assert [exit_code(Interrupted(s)) for s in (signal.SIGTERM, signal.SIGUSR1, None)] == [143, 138, 138]


def test_without_scontrol_the_sentence_says_what_to_do(job) -> None:
    code, told = leave(*received(signal.SIGUSR1))
    assert code == 138
    assert "there is no scontrol here" in told
    assert "12_3" in told
    assert leave(*received(signal.SIGTERM)) == (143, "submit the same command again to go on.")


def test_other_ranks_end_quietly(job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert leave(*received(signal.SIGUSR1))[0] == 0


def test_switched_off_it_only_saves(job) -> None:
    stop, interruption = received(signal.SIGUSR1)
    interruption.requeue = False
    assert leave(stop, interruption) == (138, "submit the same command again to go on.")


def test_nothing_is_known_without_slurm(job) -> None:
    assert not job_is_over("1", None)


def test_a_job_that_never_gets_anywhere_stops(job, tmp_path: Path) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 60))
    launches = [{"job": "12_3", "time": now} for _ in range(FRUITLESS)]
    check_progress(tmp_path, launches[1:], 0.0)
    check_progress(tmp_path, [*launches[1:], {"job": "12_4", "time": now}], 0.0)
    with pytest.raises(RunError, match=f"has started {FRUITLESS} times"):
        check_progress(tmp_path, launches, newest_progress(tmp_path))
    checkpoint = tmp_path / "stages/lrs/checkpoints/step-00000001.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    check_progress(tmp_path, launches, newest_progress(tmp_path))
    os.utime(checkpoint, (1, 1))
    with pytest.raises(RunError, match="give it more time"):
        check_progress(tmp_path, launches, newest_progress(tmp_path))
    (tmp_path / "stages/lrs" / CACHE_PROGRESS).touch()  # computing features is getting on, too
    check_progress(tmp_path, launches, newest_progress(tmp_path))
