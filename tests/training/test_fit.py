"""A fit that is killed goes on as if nothing had happened, and says so."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from toy_fit import batches, job

from astroclip_train.errors import RunError
from astroclip_train.stages.module import TrainingModule
from astroclip_train.training.checkpoint import CheckpointFolder, load_checkpoint
from astroclip_train.training.fit import fit

HERE = Path(__file__).parent


def run_toy(folder: Path, kill: int | None) -> int:
    command = [sys.executable, str(HERE / "toy_fit.py"), str(folder), "-" if kill is None else str(kill)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(job(folder))
    return folder


def same_weights(a: Path, b: Path) -> bool:
    first, second = (load_checkpoint(p)["modules"]["net"] for p in (a, b))
    return all(torch.equal(first[k], second[k]) for k in first)


def test_killed_twice_gives_bit_identical_losses_and_weights(uninterrupted: Path, tmp_path: Path) -> None:
    assert run_toy(tmp_path, 7) == -9
    assert run_toy(tmp_path, 18) == -9
    assert run_toy(tmp_path, None) == 0
    assert (tmp_path / "metrics.csv").read_text() == (uninterrupted / "metrics.csv").read_text()
    mine, other = CheckpointFolder(tmp_path / "checkpoints"), CheckpointFolder(uninterrupted / "checkpoints")
    assert same_weights(mine.rolling()[0], other.rolling()[0])
    names = {p.name for p in mine.folder.iterdir()}
    assert names == {p.name for p in other.folder.iterdir()}


def test_truncated_checkpoint_is_passed_over(uninterrupted: Path, tmp_path: Path) -> None:
    assert run_toy(tmp_path, 13) == -9
    newest = CheckpointFolder(tmp_path / "checkpoints").rolling()[0]
    assert newest.name == "step-00000010.ckpt"
    newest.write_bytes(newest.read_bytes()[:-200])
    fit(job(tmp_path))
    assert (tmp_path / "metrics.csv").read_text() == (uninterrupted / "metrics.csv").read_text()


def test_finished_fit_is_not_repeated(uninterrupted: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.is_file()}
    result = fit(job(uninterrupted))
    assert result.step == 24
    after = {p: p.stat().st_mtime_ns for p in before if p.name != "metrics.csv"}
    assert after.items() <= before.items()


def test_other_fingerprint_starts_anew(
    uninterrupted: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run_toy(tmp_path, 13) == -9
    other = job(tmp_path)
    other.fingerprint = "changed"
    fit(other)
    assert "another configuration" in capfd.readouterr().err
    assert (tmp_path / "metrics.csv").read_text() == (uninterrupted / "metrics.csv").read_text()


def test_non_finite_loss_stops_with_advice(tmp_path: Path) -> None:
    broken = job(tmp_path)

    def poisoned(start: int, total: int):
        for number, batch in enumerate(batches(start, total)):
            yield {**batch, "x": batch["x"] * float("nan")} if number == 6 else batch

    broken.train_loader = poisoned
    with pytest.raises(RunError, match=r"loss became nan at step 4: lower optimizer\.lr"):
        fit(broken)


def test_data_that_end_early_are_an_error(tmp_path: Path) -> None:
    short = job(tmp_path)
    short.train_loader = lambda start, total: batches(start, 5)
    with pytest.raises(RunError, match="its data ended"):
        fit(short)


def test_early_stopping_keeps_best(tmp_path: Path) -> None:
    stopping = job(tmp_path, early_stopping_patience=1, early_stopping_min_delta=1e9)
    result = fit(stopping)
    assert result.step < 24
    assert result.best.exists()
    again = fit(job(tmp_path, early_stopping_patience=1, early_stopping_min_delta=1e9))
    assert (again.step, again.best) == (result.step, result.best)


def test_best_is_chosen_by_validation_and_holds_the_average(tmp_path: Path) -> None:
    result = fit(job(tmp_path))
    best, last = load_checkpoint(result.best), load_checkpoint(result.last)
    assert best["validation"]["val_loss"] == result.best_value
    average = last["training"]["ema"]["average"]["net.0.weight"]
    if best["step"] == last["step"]:
        assert torch.equal(best["modules"]["net"]["0.weight"], average)
    assert not torch.equal(last["modules"]["net"]["0.weight"], average)


@pytest.mark.parametrize(("after", "best"), [((1.5, 0.8), (12, 0.8)), ((1.5, 2.0), (4, 1.0))])
def test_best_weights_outlive_a_kill_before_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: tuple[float, float], best: tuple[int, float]
) -> None:
    """Killed at step 8, between a better validation and its checkpoint; on another machine step 8 comes out worse."""

    class Killed(BaseException):
        pass

    steps = {"max_steps": 12, "val_every_steps": 4, "checkpoint_every_steps": 4}
    made = job(tmp_path, **steps, keep_best=1, validate_first=False)
    values = iter((1.0, 0.5, *after))
    monkeypatch.setattr(TrainingModule, "evaluate_loader", lambda *_: {"val_loss": next(values)})
    save, seen = CheckpointFolder.save, []

    def dying(self: CheckpointFolder, step: int, content: dict) -> Path:
        if step == 8 and not seen:
            seen.append(step)
            raise Killed
        return save(self, step, content)

    monkeypatch.setattr(CheckpointFolder, "save", dying)
    with pytest.raises(Killed):
        fit(made)
    result = fit(made)
    assert (result.best_step, result.best_value) == best
    assert result.load()["validation"] == {"val_loss": best[1]}
    assert [p.name for p in result.best.parent.glob("best-*")] == [f"best-{best[0]:08d}.ckpt"]


class Counting(pl.Callback):
    """A callback with a state."""

    def __init__(self, name: str = "n") -> None:
        self.seen, self.name = 0, name

    @property
    def state_key(self) -> str:
        return self.name

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_callbacks_go_on_by_name_and_a_timer_is_set_again(tmp_path: Path) -> None:
    """Every start has the whole time, and callbacks may come and go between two starts."""
    first = replace(
        job(tmp_path, max_steps=10**6, early_stopping_patience=10**6),
        callbacks={"n": Counting(), "timer": Timer("00:00:00:01")},
    )
    stopped = [pytest.raises(RunError, match="stopped by a callback") for _ in range(2)]
    with stopped[0]:
        fit(first)
    steps = [first.callbacks["n"].seen // 2]
    second = replace(
        job(tmp_path, max_steps=10**6, early_stopping_patience=10**6),
        callbacks={"timer": Timer("00:00:00:01"), "n": Counting()},
    )
    with stopped[1]:
        fit(second)
    steps.append(second.callbacks["n"].seen // 2)
    assert steps[1] > steps[0] + 1, "the second start had no time"
    third = replace(
        job(tmp_path, max_steps=steps[1] + 3, early_stopping_patience=10**6),
        fingerprint="abc",
        callbacks={"n": Counting(), "new": Counting("new")},
    )
    fit(third)
    assert third.callbacks["n"].seen == 2 * (steps[1] + 3)
    assert third.callbacks["new"].seen == 6
