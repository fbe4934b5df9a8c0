"""Sweeps of real training at the smallest scale: upstream stages once, test objects once, several ranks alike."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from astroclip_train.sweeps.table import read_sweep

COMMAND = [sys.executable, "-m", "astroclip_train.cli.train", "-m", "+experiment=specclip", "scale=tiny"]
TEST_FILES = ("metrics.json", "predictions", "retrieval", "translation", "crb", "report.html")


def sweep(folder, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [*COMMAND, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("runs/specclip/sweep-*")
    return read_sweep(found)


@pytest.mark.slow
def test_two_workers_train_upstream_stages_once_and_test_objects_are_seen_once(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    told = sweep(
        tmp_path, "+sweep=grid", "sweep.metric=align.val_loss", "sweep.workers=2",
        "stages.align.optimizer.lr=1e-3,2e-3,3e-3", "evaluation.report=false",
    )  # fmt: skip
    assert {t["state"] for t in told["trials"]} == {"complete"}
    runs = [Path(t["run"]) for t in told["trials"]]
    for stage in ("lrs", "xp"):
        trained = [r for r in runs if (r / "stages" / stage / "done.json").exists()]
        reused = [r for r in runs if (r / "stages" / stage / "reused.json").exists()]
        assert (len(trained), len(reused)) == (1, 2), stage
    seen = [r for r in runs if any((r / name).exists() for name in TEST_FILES)]
    assert seen == [Path(told["best"]["run"])]
    assert json.loads((seen[0] / "run.json").read_text())["status"] == "finished"
    assert not any((r / "stages/heads").exists() for r in runs if r not in seen)
    for trial in told["trials"]:
        rows = csv.DictReader(Path(trial["run"], "metrics.csv").read_text().splitlines())
        values = [float(r["val_loss"]) for r in rows if r["stage"] == "align" and r["val_loss"]]
        assert trial["value"] == min(values)


@pytest.mark.slow
def test_every_rank_of_a_trial_trains_the_trials_configuration(tmp_path, monkeypatch):
    """Nothing is drawn inside a rank: two ranks of each trial finish, and give one value."""
    pytest.importorskip("optuna")
    if importlib.util.find_spec("astroclip_train.distributed") is None:
        pytest.skip("this version trains on one device only")
    monkeypatch.chdir(tmp_path)
    told = sweep(
        tmp_path, "+sweep=random", "sweep.metric=xp.val_loss", "sweep.n_trials=2", "sweep.evaluate=false",
        "stages.xp.optimizer.lr=tag(log,interval(1e-4,1e-2))", "trainer.devices=2", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert {t["state"] for t in told["trials"]} == {"complete"}
    assert len({t["params"]["stages.xp.optimizer.lr"] for t in told["trials"]}) == 2
    for trial in told["trials"]:
        kept = json.loads((Path(trial["run"]) / "run.json").read_text())["identity"]
        assert kept["stages.xp.optimizer.lr"] == trial["params"]["stages.xp.optimizer.lr"]
