"""What a sweep refuses before anything starts, each in one sentence, and the commands that it makes."""

import pytest

from astroclip_train.cli.train import main
from astroclip_train.errors import ConfigError
from astroclip_train.sweeps.plan import plan_of
from astroclip_train.sweeps.trial import child_environment

BASE = ["+experiment=specclip", "scale=tiny", "+sweep=optuna"]
RATE = "stages.align.optimizer.lr=tag(log,interval(1e-4,1e-2))"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)


def plan(*words, metric="align.val_loss"):
    made = plan_of([*BASE, *([f"sweep.metric={metric}"] if metric else []), *words], [], [])
    assert made is not None
    return made


def test_a_trial_trains_what_its_metric_needs_and_sees_no_test_objects():
    made = plan(RATE, "variant=clip,clip_p", "run.seed=3")
    point = {"stages.align.optimizer.lr": 0.002, "variant": "clip"}
    assert made.trial_overrides(point) == [
        "+experiment=specclip", "scale=tiny", "run.seed=3", "stages.align.optimizer.lr=0.002", "variant=clip",
        "run.stages=[lrs,xp,align]", "run.evaluate=false",
    ]  # fmt: skip
    assert made.overrides(point)[-2:] == ["stages.align.optimizer.lr=0.002", "variant=clip"]
    assert made.max_steps == 8
    assert plan("stages.lrs.optimizer.lr=1e-3,2e-3", metric="lrs.val_loss").stages == ["lrs"]
    heads = plan(RATE, metric="heads.mlp__lrs.single.val_loss")
    assert (heads.metric.fit, heads.metric.column) == ("heads/mlp__lrs.single", "val_loss")
    assert heads.stages == ["lrs", "xp", "align", "heads"]


def test_the_folder_is_a_function_of_what_is_searched():
    first = plan(RATE)
    assert first.folder.parts[:2] == ("runs", "specclip")
    assert first.folder.name.startswith("sweep-optuna-align.val_loss-")
    assert plan(RATE, "sweep.n_trials=99", "sweep.workers=4", "data.num_workers=2").folder == first.folder
    for other in ([RATE, "sweep.seed=1"], [RATE, "labels.n=9"]):
        assert plan(*other).folder != first.folder
    assert plan(RATE, "sweep.name=mine").folder.name == "sweep-mine"


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("", "sweep.metric is not set: name a validation metric, one of align.val_loss"),
        ("align.val_los.s", ""),
        ("retrieval.lrs_to_xp.recall@10", "is measured on test objects, which a sweep must not see"),
        ("heads.teff.flow.lrs.aligned.sigma", "is measured on test objects"),
        ("align.test_loss", "is measured on test objects"),
        ("algin.val_loss", "is not a metric of this experiment: did you mean align.val_loss?"),
        ("heads.mlp__lrs.val_loss", "did you mean heads.mlp__lrs.raw.val_loss?"),
        ("heads.linear__lrs.aligned.val_loss", "is not a metric of this experiment"),
        (
            "align.loss",
            "is not a validation metric, whose names begin with val_ or probe_: did you mean align.val_loss?",
        ),
    ],
)
def test_which_metrics_are_refused(metric, told):
    if not told:
        plan(RATE, metric=metric)  # only the run can tell that a column is absent
        return
    with pytest.raises(ConfigError) as caught:
        plan(RATE, metric=metric)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the sweep varies nothing"),
        (["stages.align.optimizer.lrr=1,2"], "did you mean stages.align.optimizer.lr?"),
        (["stages.align.optimizer.lr=1e-3,fast"], "stages.align.optimizer.lr=fast"),
        (["variant=clip,clop"], "variant=clop does not exist"),
        (["stages.heads.optimizer.lr=1e-3,1e-2"], "does not depend on stage heads: take a metric of heads"),
        (["data.num_workers=0,1"], "data.num_workers has values that make the same run"),
        (["sweep.seed=1,2"], "sweep.seed is a setting of the sweep"),
        ([RATE, "run.name=x"], "run.name=x does not go with a sweep"),
        ([RATE, "run.fresh=true"], "run.fresh=True does not go with a sweep"),
        ([RATE, "trainer.num_nodes=2"], "start the same command on several"),
        ([RATE, "run.stages=[lrs]"], "which run.stages leaves out"),
        ([RATE, "sweep.kind=tpe"], "sweep.kind=tpe must be one of grid, random, optuna"),
        (
            [RATE, "sweep.pruner.name=medain"],
            "sweep.pruner.name=medain must be one of none, median, hyperband",
        ),
        ([RATE, "sweep.n_trails=3"], "did you mean sweep.n_trials?"),
    ],
)
def test_which_sweeps_are_refused(words, told):
    with pytest.raises(ConfigError) as caught:
        plan(*words)
    assert told in str(caught.value)


def test_a_sweep_file_of_ones_own(tmp_path):
    folder = tmp_path / "conf/sweep"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [optuna, _self_]\nsweep:\n  metric: align.val_loss\n"
        "  space: {stages.align.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, variant: [clip, clip_p]}\n"
    )
    words = ["+experiment=specclip", "scale=tiny", "+sweep=mine"]
    made = plan_of(words, [str(tmp_path / "conf")], [])
    assert made is not None
    assert [d.name for d in made.space] == ["stages.align.optimizer.lr", "variant"]
    same = plan_of([*BASE, "sweep.metric=align.val_loss", RATE, "variant=clip,clip_p"], [], [])
    assert same is not None
    assert same.folder == made.folder
    with open(folder / "mine.yaml", "a") as handle:
        handle.write("labels: {n: 5}\n")
    with pytest.raises(ConfigError, match="sets labels beside sweep"):
        plan_of(words, [str(tmp_path / "conf")], [])


def test_ranks_do_not_start_sweeps_of_their_own(monkeypatch, capsys):
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["-m", *BASE, "sweep.metric=align.val_loss", RATE]) == 2
    told = capsys.readouterr().err
    assert "-m in 2 tasks would start every job once in each: start it by itself, without torchrun." in told


def test_a_trial_has_its_own_process_group_and_its_share_of_the_machine(monkeypatch):
    for name, value in {
        "RANK": "0",
        "SLURM_NTASKS": "2",
        "MASTER_PORT": "1",
        "CUDA_VISIBLE_DEVICES": "4,5,6,7",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = child_environment("launch", worker=1, workers=2, devices=2)
    assert not {"RANK", "SLURM_NTASKS", "MASTER_PORT"} & set(made)
    assert (made["CUDA_VISIBLE_DEVICES"], made["ASTRO_TRAIN_LAUNCH"]) == ("6,7", "launch")
    assert int(made["OMP_NUM_THREADS"]) >= 1
    assert child_environment("launch", worker=0, workers=1, devices=1)["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"


def test_other_sweeps_are_no_studies(capsys):
    assert plan_of(["+experiment=specclip", "+sweep=labels"], [], []) is None
    assert plan_of(["+experiment=specclip", "run.seed=1,2"], [], []) is None
    assert main([*BASE, "sweep.metric=align.val_loss"]) == 2
    assert capsys.readouterr().err == "astro-train: +sweep makes many runs: add -m.\n"
