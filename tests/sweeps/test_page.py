"""The table, the JSON and the page of a sweep, from a study with every kind of trial."""

import json
import math
import re
import shutil
import subprocess

import pytest

from astroclip_train.cli.model import main as model
from astroclip_train.files import write_json

SPACE = {
    "stages.a.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True, "step": None, "int": False},
    "stages.b.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True, "step": None, "int": False},
    "variant": ["clip", "'clip <b>'"],
    "stages.a.flag": ["true", "null"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve trials: eight complete, one pruned, one NaN, one failed, one whose worker is gone."""
    optuna = pytest.importorskip("optuna")
    from astroclip_train.sweeps.study import open_storage

    made = tmp_path_factory.mktemp("runs") / "sweep-x"
    definition = {
        "kind": "optuna", "metric": "a.val_loss", "direction": "maximize", "seed": 0, "startup_trials": 10,
        "space": SPACE, "order": list(SPACE),
    }  # fmt: skip
    texts = {
        "variant": [["clip", "clip"], ["clip <b>", "'clip <b>'"]],
        "stages.a.flag": [[True, "true"], [None, "null"]],
    }
    record = {
        "definition": definition,
        "n_trials": 12,
        "base": ["+experiment=one", "vars={a: 1}"],
        "config_dirs": ["c d"],
    }
    record |= {
        "allowed": [],
        "keys": {k: k for k in SPACE},
        "texts": texts,
        "study": "sweep",
        "storage": None,
    }
    write_json(made / "sweep.json", record)
    study = optuna.create_study(storage=open_storage(made, None), study_name="sweep", direction="maximize")
    rate = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    variant = optuna.distributions.CategoricalDistribution(("clip", "clip <b>"))
    flag = optuna.distributions.CategoricalDistribution((True, None))
    states = optuna.trial.TrialState
    for i in range(12):
        study.enqueue_trial(
            {"stages.a.optimizer.lr": 10 ** (-4 + i / 4), "stages.b.optimizer.lr": 10 ** (-1 - (i % 5) / 2),
             "variant": "clip <b>" if i % 2 else "clip", "stages.a.flag": None if i % 3 else True}
        )  # fmt: skip
        trial = study.ask(dict(zip(SPACE, (rate, rate, variant, flag), strict=True)))
        trial.set_user_attr("run", str(made.parent / f"run{i}"))
        for step in (1, 2):
            trial.report(-abs(i - 5.0) + step, step)
        if i == 8:
            study.tell(trial, state=states.PRUNED)
        elif i in (9, 10):
            trial.set_user_attr("reason", "a.val_loss is nan" if i == 9 else "it <i>broke</i>.")
            study.tell(trial, state=states.FAIL)
        elif i != 11:
            study.tell(trial, -abs(i - 5.0))
    return made


def test_json_has_everything_from_best_to_worst(folder, capsys):
    assert model(["sweep", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"complete": 8, "pruned": 1, "running": 0, "owed": 1, "failed": 2}
    assert [t["number"] for t in told["trials"]] == [5, 4, 6, 3, 7, 2, 1, 0, 8, 11, 9, 10]
    assert [t["rank"] for t in told["trials"][:8]] == list(range(1, 9))
    best = told["best"]
    assert (best["number"], best["value"], best["evaluated"]) == (5, 0.0, False)
    assert best["command"] == (
        "astro-train '--config-dir=c d' +experiment=one 'vars={a: 1}' "
        f"stages.a.optimizer.lr={10 ** (-4 + 5 / 4)!r} stages.b.optimizer.lr=0.1 'variant='\"'\"'clip <b>'\"'\"'' "
        "stages.a.flag=null"
    )
    assert math.isclose(told["trials"][8]["value"], -1.0)


def test_table_names_columns_briefly_and_failures_wholly(folder, capsys):
    assert model(["sweep", str(folder)]) == 0
    out = capsys.readouterr().out
    for word in (
        "a.optimizer.lr",
        "b.optimizer.lr",
        "pruned at 2",
        "owed",
        "trial 10 failed: it <i>broke</i>.",
    ):
        assert word in out
    assert "8 complete, 1 pruned, 1 owed, 2 failed of 12 trials" in out
    assert out.rstrip().endswith("sweep.html")


def test_page_is_self_contained_and_has_every_figure(folder, capsys):
    model(["sweep", str(folder), "--out", str(folder / "other.html")])
    page = (folder / "other.html").read_text()
    assert page.count("<img") == 5
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "it &lt;i&gt;broke&lt;/i&gt;." in page
    assert "clip &lt;b&gt;" in page


def test_a_study_without_trials_has_a_page(folder, tmp_path, capsys):
    from astroclip_train.sweeps.study import open_storage

    optuna = pytest.importorskip("optuna")
    shutil.copy(folder / "sweep.json", tmp_path / "sweep.json")
    optuna.create_study(storage=open_storage(tmp_path, None), study_name="sweep")
    assert model(["sweep", str(tmp_path)]) == 0
    assert "no trial is completed" in (tmp_path / "sweep.html").read_text()


def test_another_folder_is_refused_with_the_sweeps_below_it(folder, tmp_path, capsys):
    assert model(["sweep", str(folder.parent)]) == 2
    assert f"did you mean {folder}?" in capsys.readouterr().err
    assert model(["sweep", str(tmp_path)]) == 2
    assert "has no sweep.json: start one with" in capsys.readouterr().err


@pytest.mark.slow
def test_page_in_a_browser(folder, tmp_path, browser):
    model(["sweep", str(folder)])
    shot = tmp_path / "sweep.png"
    address = (folder / "sweep.html").as_uri()
    subprocess.run(
        [*browser, f"--screenshot={shot}", "--window-size=1100,4000", address], check=True, timeout=120
    )
    from matplotlib.image import imread

    pixels = imread(shot)
    assert pixels.shape[:2] == (4000, 1100)
    for part in range(0, 3000, 500):  # no stretch of it is blank
        assert pixels[part : part + 500].std() > 0.02
