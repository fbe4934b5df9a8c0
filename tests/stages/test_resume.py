"""The whole recipe, killed again and again, gives the losses of the run that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

COMMAND = [
    sys.executable,
    "-m",
    "astroclip_train.cli.train",
    "+experiment=specclip",
    "scale=tiny",
    "evaluation.report=false",
]
OVERRIDES = [
    f"stages.{s}.trainer.{k}=1" for s in ("lrs", "xp", "align", "heads") for k in ("log_every_steps",)
]
LIMIT = 400


def start(root: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, *OVERRIDES, f"run.root={root}", f"data.cache_root={root.parent / 'cache'}", *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(root: Path, *more: str) -> Path:
    process = start(root, *more)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return Path(out.strip().splitlines()[-1])


def rows(run: Path) -> int:
    file = run / "metrics.csv"
    return file.read_text().count("\n") if file.exists() else 0


def end_when(root: Path, target: int, how: signal.Signals, *more: str) -> None:
    """Starts the command and sends a signal once metrics.csv has so many rows; no process of it is left after."""
    process = start(root, *more)
    end = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < end:
        if any(rows(file.parent) >= target for file in root.glob("specclip/*/metrics.csv")):
            break
        time.sleep(0.005)
    process.send_signal(how)
    process.communicate(timeout=LIMIT)  # ends when the last rank, which shares the pipe, has gone
    runs = [p for p in (root / "specclip").iterdir() if p.is_dir()]
    assert len(runs) == 1, runs


def compare(run: Path, whole: Path) -> None:
    """Every loss and every prediction, bit for bit."""
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for file in sorted((whole / "predictions").glob("*.npz")):
        mine, other = np.load(run / "predictions" / file.name), np.load(file)
        for key in other.files:
            same = np.array_equal(mine[key], other[key], equal_nan=other[key].dtype.kind == "f")
            assert same, (file.name, key)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("resume") / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_recipe_is_the_same_recipe(whole: Path, workers: int) -> None:
    total = rows(whole)
    root = whole.parents[1].parent / f"killed{workers}"
    choose = random.Random(workers)
    for target in sorted(choose.sample(range(3, total - 3), 4)):
        end_when(root, target, signal.SIGKILL, f"data.num_workers={workers}")
    compare(finish(root, f"data.num_workers={workers}"), whole)


def kill_when(root: Path, pattern: str, *more: str) -> None:
    """Starts the command and kills it as soon as a file or folder of that name is in the cache."""
    process = start(root, *more)
    end = time.monotonic() + LIMIT
    while (
        process.poll() is None and time.monotonic() < end and not any((root.parent / "cache").glob(pattern))
    ):
        time.sleep(0.001)
    assert process.poll() is None, f"it ended before {pattern} was there: {process.communicate()[1]}"
    process.kill()
    process.communicate(timeout=LIMIT)


@pytest.mark.slow
def test_killed_while_caches_are_built(tmp_path: Path) -> None:
    """The store of mock stars, then the features of the first encoder: what is half there is never taken for whole."""
    some = ("dataset.n=9000", "run.stages=[lrs,xp,align]")
    whole = finish(tmp_path / "calm" / "runs", *some)
    root = tmp_path / "killed" / "runs"
    kill_when(root, "mock_stars/.*.tmp.h5", *some)
    assert not list((root.parent / "cache").glob("mock_stars/stars*.h5"))
    kill_when(root, "features/*.partial-*/features.bin", *some)
    assert not list((root.parent / "cache").glob("features/*/meta.json"))
    again = finish(root, *some)
    compare(again, whole)
    for mine in sorted((root.parent / "cache" / "features").glob("*/features.bin")):
        other = tmp_path / "calm" / "cache" / "features" / mine.parent.name / mine.name
        assert mine.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_two_ranks_ended_by_every_signal_are_the_undisturbed_two_ranks(tmp_path: Path) -> None:
    """kill -9 of the process that started the ranks, then SIGTERM and SIGUSR1 to it, with and without workers."""
    pair = ("trainer.accelerator=cpu", "trainer.devices=2")
    calm = finish(tmp_path / "calm", *pair)
    total, root = rows(calm), tmp_path / "ended"
    plan = [(signal.SIGKILL, 0), (signal.SIGTERM, 2), (signal.SIGUSR1, 0), (signal.SIGKILL, 2)]
    for i, (how, workers) in enumerate(plan):
        end_when(root, (i + 1) * total // 5, how, *pair, f"data.num_workers={workers}")
    compare(finish(root, *pair), calm)


@pytest.mark.slow
def test_finished_run_says_so_and_a_second_run_reuses_its_stages(whole: Path) -> None:
    root = whole.parents[1]
    process = start(root)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert "is finished" in out + err
    process = start(root, "run.stages=[lrs,xp,align]", "stages.align.objective.temperature=0.1")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert "stage lrs: already trained in" in err
    assert "stage align: already" not in err


@pytest.mark.slow
def test_heads_of_one_modality_follow_an_alignment_of_two(whole: Path) -> None:
    tasks = [f"~stages.heads.tasks.{t}" for t in ("linear", "knn", "cnn", "finetune", "flow")]
    process = start(whole.parents[1], *tasks, "stages.heads.tasks.mlp.inputs=[xp.single]")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert "stage align: already trained in" in err
    assert "no picture of lrs.aligned: no task of stages.heads reads lrs." in err
    run = Path(out.strip().splitlines()[-1])
    heads = json.loads((run / "metrics.json").read_text())["heads"]
    assert {name for label in heads.values() for head in label.values() for name in head} == {"xp.single"}
    assert (run / "embedding" / "xp.aligned.npz").exists()
    assert not (run / "embedding" / "lrs.aligned.npz").exists()
