"""Names, identity, generations and extensions of run directories."""

import contextlib
import functools
import json

import h5py
import pytest

from astroclip_train.config.compose import compose
from astroclip_train.errors import ConfigError, RunError
from astroclip_train.training.environment import content_hashes, environment
from astroclip_train.training.run_dir import RunDir


@functools.cache  # composing takes longer than all the rest
def composed(*command):
    return compose(command)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make("key=value", …) -> the run directory of that command, under a temporary root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("ASTRO_TRAIN_LAUNCH", raising=False)

    def build(*extra, launch=None):
        command = ["+experiment=specclip", "scale=tiny", *extra]
        return RunDir(composed(*command), command, launch=launch)

    return build


def finish(run_dir):
    with run_dir:
        run_dir.mark("finished")
    return run_dir


def test_the_name_is_a_function_of_the_command(make):
    assert str(make().path) == "runs/specclip/tiny-mock_stars-s0"
    assert make("run.seed=3").name == "tiny-mock_stars-s3"
    hashed = make("stages.lrs.optimizer.lr=3e-4").name
    assert hashed.startswith("tiny-mock_stars-s0-")
    assert len(hashed) == len("tiny-mock_stars-s0-") + 7
    assert make("stages.lrs.optimizer.lr=0.0003", "data.num_workers=2").name == hashed
    assert make("stages.lrs.optimizer.lr=5e-4").name != hashed
    assert make("variant=clip").name != make().name
    assert make("variant=clip_pr").name == make().name, "a default that is spelt out is no change"


def test_operational_overrides_do_not_change_the_name(make):
    plain = make()
    for extra in (
        "run.stages=[lrs]",
        "trainer=cpu",
        "logger=tensorboard",
        "data.num_workers=4",
        "run.root=./runs",
    ):
        assert make(extra).name == plain.name, extra


def test_stores_are_told_apart_by_their_path(make):
    names = {make("dataset=store", f"dataset.path={p}").name for p in ("a.h5", "b.h5")}
    assert len(names) == 2
    assert all(n.startswith("tiny-store-s0-") for n in names)


def test_files_of_a_run(make):
    with make("run.seed=1") as run_dir:
        run_dir.metrics.write("lrs", 1, {"loss": 1.0})
        assert run_dir.lease.held
        assert (run_dir.path / "lease.json").exists()
        run_dir.mark("finished")
    names = {p.name for p in run_dir.path.iterdir()}
    assert names == {"config.yaml", "overrides.txt", "environment.json", "run.json", "metrics.csv"}
    assert (
        run_dir.path.joinpath("overrides.txt").read_text() == "+experiment=specclip\nscale=tiny\nrun.seed=1\n"
    )
    assert "${" not in run_dir.path.joinpath("config.yaml").read_text()
    record = json.loads(run_dir.path.joinpath("run.json").read_text())
    assert (record["status"], record["generation"]) == ("finished", 1)
    assert record["identity"]["run.seed"] == 1


def test_the_same_command_finds_its_run_again(make):
    assert make().status is None
    with pytest.raises(ZeroDivisionError), make():
        raise ZeroDivisionError("a bug")
    again = make()
    assert (again.status, again.finished) == ("failed", False)
    assert again.record["error"] == "ZeroDivisionError: a bug"
    with pytest.raises(KeyboardInterrupt), make():
        raise KeyboardInterrupt
    assert make().status == "interrupted"
    finish(make())
    assert make().finished
    assert make("run.stages=[lrs]", "data.num_workers=2").finished
    assert not make("run.seed=1").finished


def test_a_name_given_by_hand_with_other_settings_is_refused(make):
    finish(make("run.name=mine"))
    assert make("run.name=mine", "data.num_workers=2").finished
    with pytest.raises(RunError) as refusal:
        make("run.name=mine", "stages.lrs.trainer.max_steps=9", "run.seed=4")
    told = str(refusal.value)
    assert "run.seed: 0 there, 4 here" in told
    assert "stages.lrs.trainer.max_steps: 8 there, 9 here" in told
    assert "run.fresh=true to start g002" in told
    fresh = make("run.name=mine", "run.seed=4", "run.fresh=true")
    assert (fresh.generation, fresh.path.name) == (2, "mine.g002")


def fail(run_dir, error=RunError, folder=None):
    with contextlib.suppress(error), run_dir as run:
        if folder:
            (run.path / folder).mkdir()
        raise error("a label is missing.")


def test_a_run_that_failed_before_its_first_stage_gives_its_name_back(make):
    fail(make("run.name=mine", "run.seed=1", "run.stages=[lrs]", "run.extend=99"))
    with make("run.name=mine", "run.seed=2") as again:
        assert (again.generation, again.extension) == (1, {})
        assert len(again.record["launches"]) == 1
        again.mark("failed")
    fail(make("run.name=mine", "run.seed=2"), folder="stages")
    with pytest.raises(RunError, match="made with other settings"):
        make("run.name=mine", "run.seed=1")


def test_an_interrupted_run_keeps_its_name(make):
    fail(make("run.name=mine", "run.seed=1"), KeyboardInterrupt)
    with pytest.raises(RunError, match="made with other settings"):
        make("run.name=mine", "run.seed=2")


def test_a_name_that_another_took_in_the_meantime_is_refused(make):
    fail(make("run.name=mine", "run.seed=1"))
    late = make("run.name=mine", "run.seed=2")
    with make("run.name=mine", "run.seed=3") as quick:
        (quick.path / "stages").mkdir()
        quick.mark("finished")
    with pytest.raises(RunError, match="made with other settings"):
        late.open()
    assert not late.lease.held
    assert make("run.name=mine", "run.seed=3").finished


def test_fresh_starts_once_per_launch(make, monkeypatch):
    assert make("run.fresh=true").generation == 1, "there is nothing to leave beside"
    finish(make())
    second = make("run.fresh=true", launch="slurm-7")
    assert second.path.name == "tiny-mock_stars-s0.g002"
    with second:
        pass
    assert make("run.fresh=true", launch="slurm-7").generation == 2, "a requeued job does not start over"
    assert make("run.fresh=true", launch="slurm-8").generation == 3
    assert make().generation == 2, "without it the newest generation goes on"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert make("run.fresh=true").generation == 2


def test_extend_lengthens_one_stage_and_is_remembered(make):
    finish(make())
    longer = make("run.extend=20", "run.stages=[lrs]")
    assert not longer.finished
    assert longer.path == make().path
    assert longer.cfg.stages.lrs.trainer.max_steps == 20
    finish(longer)
    assert make("run.extend=20", "run.stages=[lrs]").finished, "the same command again has nothing to add"
    plain = make()
    assert plain.finished
    assert plain.cfg.stages.lrs.trainer.max_steps == 20
    with pytest.raises(ConfigError, match="is shorter than the 20 steps"):
        make("run.extend=10", "run.stages=[lrs]")
    with pytest.raises(ConfigError, match="needs one stage"):
        make("run.extend=30")


def test_a_second_live_writer_is_kept_out(make):
    with make(), pytest.raises(RunError, match="is being written by process"):
        make().open()


def test_preflight_writes_nothing_in_the_run(make, tmp_path):
    run_dir = make("run.preflight=true", "run.stages=[align]")
    with run_dir:
        assert tmp_path not in run_dir.path.resolve().parents
        assert run_dir.stage_dir("align").is_relative_to(run_dir.path)
        assert run_dir.stage_dir("lrs") == run_dir.home / "stages" / "lrs"
    assert not (tmp_path / "runs").exists()
    assert not run_dir.path.exists()


def test_inputs_of_the_chosen_stages_must_be_finished(make):
    run_dir = make("run.stages=[align]")
    with pytest.raises(RunError, match="stage align needs stage lrs, which is not finished in"):
        run_dir.check_inputs()
    for stage, file in (("lrs", "done.json"), ("xp", "reused.json")):
        (run_dir.stage_dir(stage)).mkdir(parents=True)
        (run_dir.stage_dir(stage) / file).write_text("{}")
    run_dir.check_inputs()
    make().check_inputs()


def test_changed_content_under_the_same_path_is_noticed(make, tmp_path):
    def store(content):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs["content_hash"] = content

    command = ("dataset=store", "dataset.path=a.h5")
    store("one")
    finish(make(*command))
    assert make(*command).finished
    store("two")
    with pytest.raises(RunError, match=r"content of dataset\.path: one there, two here"):
        make(*command)
    (tmp_path / "a.h5").write_bytes(b"damaged")
    assert content_hashes(make(*command).cfg) == {"dataset.path": None}


def test_environment_is_plain_and_complete():
    seen = json.loads(json.dumps(environment()))
    assert seen["packages"]["torch"]
    assert seen["git"] is None or len(seen["git"]["commit"]) == 40


@pytest.mark.parametrize("form", ["list", "folder"])
def test_shards_with_other_content_are_another_run(make, tmp_path, form):
    """Lists and folders of shards count by their content like single files."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(2):
            with h5py.File(tmp_path / name / f"{k}.h5", "w") as file:
                file.attrs["content_hash"] = f"{name}{k}"
    paths = {n: f"[{n}/0.h5,{n}/1.h5]" if form == "list" else n for n in "ab"}
    words = ("dataset=store", "run.name=mine")
    finish(make(*words, f"dataset.path={paths['a']}"))
    assert make(*words, f"dataset.path={paths['a']}").finished
    with pytest.raises(RunError, match=r"content of dataset\.path"):
        make(*words, f"dataset.path={paths['b']}")


def test_what_cannot_be_lengthened_is_said_with_a_way_that_works(make, tmp_path):
    user = tmp_path / "runs/specclip/user/stages/xp"
    user.mkdir(parents=True)
    run_dir = finish(make())
    (run_dir.path / "stages/xp").mkdir(parents=True)
    (user / "reused.json").write_text(json.dumps({"folder": str((run_dir.path / "stages/xp").resolve())}))
    with pytest.raises(RunError, match=r"user uses stage xp .* set stages\.xp\.trainer\.max_steps instead"):
        make("run.extend=20", "run.stages=[xp]")
    assert not make("run.extend=20", "run.stages=[lrs]").finished
    with pytest.raises(ConfigError, match="one of lrs, xp, align"):
        make("run.extend=20", "run.stages=[heads]")
