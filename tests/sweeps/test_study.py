"""Sweeps that are stopped, that fail, that share a study: real processes whose trials take milliseconds."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from astroclip_train.cli.model import main as model
from astroclip_train.sweeps.table import read_sweep
from astroclip_train.training.requeue import FRUITLESS
from tests.sweeps.stand_in import STEPS, loss

RATE = "stages.xp.optimizer.lr"
LOG = f"{RATE}=tag(log,interval(1e-4,1e-1))"


def by_number(folder):
    return sorted(read_sweep(folder)["trials"], key=lambda t: t["number"])


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def ended(folder):
    return [t for t in by_number(folder) if t["state"] in ("complete", "pruned", "failed")]


def test_the_best_trial_is_selected_and_alone_evaluated(sweeps, capsys):
    assert sweeps.here(LOG, "sweep.n_trials=4") == 0
    told = read_sweep(sweeps.only())
    values = {t["number"]: t["value"] for t in told["trials"]}
    assert len(values) == 4
    for trial in told["trials"]:
        assert trial["value"] == pytest.approx(loss(trial["params"][RATE], STEPS))
    best = told["best"]
    assert best["value"] == min(values.values())
    assert best["evaluated"]
    evaluated = [Path(t["run"]).name for t in told["trials"] if (Path(t["run"]) / "metrics.json").exists()]
    assert evaluated == [Path(best["run"]).name]
    assert best["command"] in capsys.readouterr().err
    assert f"{RATE}=" in best["command"]
    assert "+sweep" not in best["command"]
    # the same command again has nothing left to do, and more trials are added to those that are there
    steps = {t["number"]: Path(t["run"], "steps.txt").read_text() for t in told["trials"]}
    assert sweeps.here(LOG, "sweep.n_trials=5") == 0
    again = by_number(sweeps.only())
    assert len(again) == 5
    assert {t["number"]: Path(t["run"], "steps.txt").read_text() for t in again[:4]} == steps
    capsys.readouterr()
    assert model(["sweep", str(sweeps.only()), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["value"] <= best["value"]


def test_a_killed_sweep_is_the_sweep_that_nobody_disturbed(sweeps):
    """kill -9 of the sweep in the middle of a trial: the trial goes on under its number, nothing is repeated."""
    words = (LOG, "sweep.n_trials=5", "+vars.pause=0.1", "sweep.startup_trials=3", "sweep.pruner.name=none")
    process = sweeps.start(*words, kind="optuna")
    wait_for(lambda: _begun(sweeps.folder) > 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert sweeps.here(*words, kind="optuna") == 0
    trials = by_number(sweeps.only())
    assert [t["number"] for t in trials] == list(range(5))
    assert {t["state"] for t in trials} == {"complete"}
    for trial in trials:
        steps = (sweeps.folder / trial["run"] / "steps.txt").read_text().split()
        assert steps == [str(s) for s in range(1, STEPS + 1)], trial["number"]
    assert sweeps.here(*words, "run.root=undisturbed", "++vars.pause=0", kind="optuna") == 0
    (other,) = (sweeps.folder / "undisturbed/one").glob("sweep-*")
    assert [(t["params"], t["value"]) for t in trials] == [
        (t["params"], t["value"]) for t in by_number(other)
    ]


def _begun(folder):
    return len(list(folder.glob("runs/one/sweep-*/trials/*/log.txt")))


def test_terminated_sweep_stops_its_trial_and_says_how_to_go_on(sweeps):
    words = (LOG, "sweep.n_trials=2", "+vars.pause=0.3")
    process = sweeps.start(*words)
    wait_for(lambda: list(sweeps.folder.glob("runs/one/*/steps.txt")))
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on with the trials still owed" in told
    assert [t["state"] for t in by_number(sweeps.only())] == ["owed"]
    assert sweeps.here(*words) == 0
    assert [t["state"] for t in by_number(sweeps.only())] == ["complete"] * 2


def test_a_job_in_which_no_trial_gets_on_stops(sweeps, monkeypatch, capsys):
    """As a SLURM job that queues itself again for ever, because no trial fits into its time."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert sweeps.here(LOG, "sweep.n_trials=1") == 0
    file = sweeps.only() / "launches.jsonl"
    begun = json.loads(file.read_text())
    assert begun["job"] == "77"
    later = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() + 60))
    file.write_text("".join(json.dumps({"time": later, "job": "77"}) + "\n" for _ in range(FRUITLESS)))
    capsys.readouterr()
    assert sweeps.here(LOG, "sweep.n_trials=2") == 2
    assert f"job 77 has started {FRUITLESS} times in " in capsys.readouterr().err
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert sweeps.here(LOG, "sweep.n_trials=2") == 0


def test_nan_and_failed_and_killed_trials_are_recorded_and_the_others_go_on(sweeps, capsys):
    words = (f"{RATE}=1e-3,2e-3,3e-3,4e-3", "+vars.nan=1.5e-3", "+vars.die=2.5e-3", "+vars.fail=3.5e-3")
    assert sweeps.here(*words, kind="grid") == 0
    trials = by_number(sweeps.only())
    assert [t["state"] for t in trials] == ["complete", "failed", "failed", "failed"]
    assert trials[1]["reason"] == "xp.val_loss is nan"
    assert trials[2]["reason"] == "ended by SIGKILL"
    assert trials[3]["reason"] == "xp: the encoder caught fire: buy another one."
    assert model(["sweep", str(sweeps.only())]) == 0
    assert "trial 3 failed: xp: the encoder caught fire" in capsys.readouterr().out


def test_too_many_failures_end_the_sweep_with_a_sentence(sweeps, capsys):
    words = (f"{RATE}=1e-3,2e-3,3e-3,4e-3,5e-3", "+vars.fail=1e-4", "sweep.max_failures=2")
    assert sweeps.here(*words, kind="grid") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "3 trials of" in told
    assert "more than sweep.max_failures=2 (the last: xp: the encoder caught fire" in told
    assert len(by_number(sweeps.only())) == 3
    assert sweeps.here(*words, kind="grid") == 2  # and does not begin another
    assert len(by_number(sweeps.only())) == 3


def test_two_processes_with_two_workers_share_a_study(sweeps):
    words = (LOG, "sweep.n_trials=6", "sweep.workers=2", "+vars.pause=0.1")
    processes = [sweeps.start(*words) for _ in range(2)]
    told = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], told
    trials = by_number(sweeps.only())
    assert [t["number"] for t in trials] == list(range(6))
    assert {t["state"] for t in trials} == {"complete"}
    assert len({t["run"] for t in trials}) == 6
    for trial in trials:
        assert len((sweeps.folder / trial["run"] / "steps.txt").read_text().split()) == STEPS
    assert all("trial" in t for t in told)  # both had some
    assert sum("is selected" in t for t in told) == 1


def test_a_trial_worse_than_the_others_is_pruned(sweeps):
    rates = "3.2e-3,3e-3,2.8e-3,2.6e-3,1e-1"
    words = (
        f"{RATE}={rates}",
        "sweep.pruner.name=median",
        "sweep.pruner.startup_trials=2",
        "+vars.pause=0.8",
    )
    assert sweeps.here(*words, kind="grid") == 0
    trials = by_number(sweeps.only())
    assert trials[-1]["state"] == "pruned"
    assert trials[-1]["step"] < STEPS
    assert trials[0]["state"] == "complete"
    assert len((sweeps.folder / trials[-1]["run"] / "steps.txt").read_text().split()) < STEPS


def test_a_metric_that_is_not_measured_stops_the_first_trial(sweeps, capsys):
    assert sweeps.here(LOG, "sweep.n_trials=3", metric="xp.val_mze") == 2
    assert (
        "sweep.metric=xp.val_mze is not measured by stage xp: did you mean xp.val_mse?"
        in capsys.readouterr().err
    )
    assert len(by_number(sweeps.only())) == 1


def test_sqlite_is_for_one_worker(sweeps, capsys):
    assert sweeps.here(LOG, "sweep.n_trials=2", "sweep.storage='sqlite:///s.db'", "sweep.workers=2") == 2
    assert "which several workers damage" in capsys.readouterr().err
    words = ("sweep.n_trials=2", "sweep.storage='sqlite:///s.db'", "sweep.pruner.name=hyperband")
    assert sweeps.here(LOG, *words) == 0
    states = [t["state"] for t in by_number(sweeps.only())]
    assert states[0] == "complete"  # nothing to compare with yet
    assert states[1] in ("complete", "pruned")  # as hyperband has it


def test_a_trial_whose_worker_died_before_its_parameters_were_written_gets_them(sweeps):
    """The narrowest moment: the trial has its number, and nothing else."""
    from astroclip_train.sweeps.plan import plan_of
    from astroclip_train.sweeps.study import SweepStudy

    words = ["+experiment=one", "+sweep=optuna", "sweep.metric=xp.val_loss", "sweep.n_trials=3", LOG]
    folders = [str(sweeps.folder / "conf")]
    plan, other = (plan_of([*words, f"run.root={root}"], folders, []) for root in ("a", "b"))
    whole, torn = SweepStudy(plan), SweepStudy(other)
    expected = whole.next()
    torn.study.sampler = torn._sampler(0)
    torn.study.ask()  # and the worker dies here
    found = torn.next()
    assert (found.number, found.resumed, found.params) == (0, True, expected.params)
    assert torn.next().number == 1  # the first is held now


def test_a_named_study_is_of_one_configuration(sweeps, capsys):
    words = ("sweep.name=mine", f"{RATE}=1e-3,2e-3", "sweep.evaluate=false")
    assert sweeps.here(*words, kind="grid") == 0
    assert sweeps.here(*words, kind="grid") == 0
    capsys.readouterr()
    assert sweeps.here(*words, "run.seed=1", kind="grid") == 2
    assert "holds another sweep (its runs differ)" in capsys.readouterr().err
