"""Two real ranks through the command: the report, a rank that dies, a rank that hangs, a refused machine."""

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from astroclip_train.cli import spmd
from astroclip_train.distributed.geometry import Geometry
from astroclip_train.errors import ConfigError
from astroclip_train.training import interruption

LIMIT = 400
OPTIONS = ["+experiment=specclip", "scale=tiny", "trainer.accelerator=cpu", "trainer.devices=2"]
EVERY = [f"stages.{s}.trainer.log_every_steps=1" for s in ("lrs", "xp", "align", "heads")]


def start(root: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "astroclip_train.cli.train", *OPTIONS, f"run.root={root}", *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition, seconds: float = LIMIT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def rank_pid(supervisor: int, number: int) -> int | None:
    """The process of a rank, found by its environment among the supervisor's children."""
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        try:
            environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={number}".encode() in environ:
            return int(child)
    return None


def rows(root: Path) -> int:
    files = list(root.glob("specclip/*/metrics.csv"))
    return files[0].read_text().count("\n") if files else 0


@pytest.mark.slow
def test_two_ranks_make_the_whole_run(tmp_path: Path) -> None:
    process = start(tmp_path, *EVERY, "stages.align.objective.chunk_size=5")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    report = Path(out.strip().splitlines()[-1])
    assert report.name == "report.html"
    assert report.exists()
    table = list(csv.DictReader((report.parent / "metrics.csv").open()))
    keys = [(r["stage"], r["step"]) for r in table]
    assert len(keys) == len(set(keys)), "a rank other than 0 has written rows"
    assert {p.name for p in (report.parent / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    process = start(tmp_path, *EVERY, "stages.align.objective.chunk_size=5")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert err.count("is finished") == 1


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, *EVERY, "evaluation.report=false")
    until(lambda: rows(tmp_path) >= 4)
    os.kill(rank_pid(process.pid, 1), signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=LIMIT)
    assert time.monotonic() - began < 60
    assert process.returncode == 128 + 9
    lines = [line for line in err.splitlines() if line.startswith("astro-train: ")]
    assert lines[0].startswith("astro-train: rank 1 of 2 was ended by SIGKILL")
    _, err = (again := start(tmp_path, *EVERY, "run.stages=[lrs]")).communicate(timeout=LIMIT)
    assert again.returncode == 0, err


@pytest.mark.slow
def test_a_rank_that_hangs_is_reported_with_its_stack(tmp_path: Path) -> None:
    process = start(tmp_path, *EVERY, "trainer.stall_timeout=40", "stages.lrs.trainer.max_steps=100000")
    until(lambda: rows(tmp_path) >= 4 or process.poll() is not None)
    os.kill(rank_pid(process.pid, 1), signal.SIGSTOP)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert re.search(r"rank 1 of 2 has made no progress for \d+ s .*; it stood at .*Its stack:", err)
    assert "File " in err
    assert {p.name for p in next(tmp_path.glob("specclip/*/logs")).glob("*.stack")} == {
        "rank-0.stack",
        "rank-1.stack",
    }


def test_more_machines_than_were_started_are_refused(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.num_nodes=2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "nothing started ranks on other machines" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("ended", [True, False])
def test_an_error_that_every_rank_meets_is_told_by_rank_0(monkeypatch, capsys, ended: bool) -> None:
    """srun ends the other tasks at the first bad exit: a silent rank that left first would take the message along."""
    error = ConfigError("the configuration is wrong.")
    monkeypatch.setattr(spmd, "FIRST", 30.0 if ended else 0.01)
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.current().install()
    try:
        if ended:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with pytest.raises(SystemExit) as left:
                spmd.rank_0_tells(error, Geometry(rank=1, world_size=2))
            assert left.value.code == error.exit_code
            assert capsys.readouterr().err == ""
        else:
            spmd.rank_0_tells(error, Geometry(rank=1, world_size=2))
            assert "rank 1 on" in capsys.readouterr().err
            with pytest.raises(SystemExit):  # our launcher has told it
                spmd.rank_0_tells(error, Geometry(rank=1, world_size=2, source="launcher"))
    finally:
        interruption.current().received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
