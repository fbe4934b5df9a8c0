"""Schedules, averages, selection and checkpoints against few-line references."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from astroclip_train.errors import RunError
from astroclip_train.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from astroclip_train.training.ema import WeightAverage
from astroclip_train.training.schedules import SCHEDULES, schedule_from
from astroclip_train.training.selection import Selection
from astroclip_train.training.throughput import Throughput, count_flops, peak_flops


def test_warmup_cosine_against_numpy() -> None:
    rule = schedule_from("warmup_cosine", max_steps=100, warmup_steps=10, floor=0.05)
    steps = np.arange(120)
    cosine = 0.05 + 0.95 * (1 + np.cos(np.pi * np.clip((steps - 10) / 90, 0, 1))) / 2
    expected = np.where(steps < 10, (steps + 1) / 10, cosine)
    np.testing.assert_allclose([rule(s) for s in steps], expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_small_and_never_leave_the_unit_interval(name: str) -> None:
    rule = schedule_from(name, max_steps=50, warmup_steps=10, floor=0.01)
    values = [rule(s) for s in range(60)]
    assert 0 < values[0] <= 0.2
    assert max(values) == pytest.approx(1.0)
    assert all(0 < v <= 1 for v in values)


def test_average_follows_the_recursion() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(layer, 0.9)
    expected = layer.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        average.update(layer)
        beta = min(0.9, (1 + step) / (10 + step))
        expected = beta * expected + (1 - beta) * step
    with average.applied(layer):
        assert layer.weight.item() == pytest.approx(expected, rel=1e-12)
    assert layer.weight.item() == 29.0


def test_selection_keeps_k_best_and_ignores_nan() -> None:
    selection = Selection(mode="max", keep_best=2, patience=2)
    kept = [selection.take(step, value) for step, value in enumerate([0.1, 0.5, math.nan, 0.3, 0.2])]
    assert kept == [True, True, False, True, False]
    assert selection.records == [(1, 0.5), (3, 0.3)]
    assert selection.stopped
    other = Selection(mode="max", keep_best=2, patience=2)
    other.load_state_dict(selection.state_dict())
    assert other == selection


def test_checkpoint_refuses_foreign_and_executable_files(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "foreign.ckpt")
    with pytest.raises(RunError, match="not an 'astro-train checkpoint 1' file"):
        load_checkpoint(tmp_path / "foreign.ckpt")
    torch.save({"format": "x", "code": Path}, tmp_path / "code.ckpt")
    with pytest.raises(RunError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "code.ckpt")
    with pytest.raises(RunError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_newest_whole_checkpoint(tmp_path: Path, keep: float, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (3, 7, 12):
        folder.save(step, {"step": step})
    assert [p.name for p in folder.rolling()] == ["step-00000012.ckpt", "step-00000007.ckpt"]
    newest = folder.rolling()[0]
    newest.write_bytes(newest.read_bytes()[: int(keep * newest.stat().st_size)])
    (tmp_path / ".step-00000099.abc.tmp.ckpt").write_bytes(b"half")
    found = folder.newest_whole()
    assert found is not None
    assert found[1]["step"] == 7
    assert "step-00000012.ckpt is damaged" in caplog.text


def test_full_disk_is_one_sentence_and_leaves_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    from astroclip_train.errors import DataError
    from astroclip_train.files import atomic_write

    folder = Path("/dev/shm")
    before = set(folder.iterdir())

    def fill() -> None:
        with atomic_write(folder / "x.bin") as path:
            path.write_bytes(b"")
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"could not be written .*free space"):
        fill()
    assert set(folder.iterdir()) == before


def test_flops_of_a_linear_layer() -> None:
    layer, x = nn.Linear(32, 16), torch.randn(8, 32, requires_grad=True)
    assert count_flops(lambda: layer(x).sum()) == 3 * 2 * 8 * 32 * 16


def test_throughput_adds_up() -> None:
    clock = Throughput(flops_per_sample=1e6)
    for kind in ("wait", "compute", "other"):
        clock.lap(kind)
    clock.samples, clock.steps, clock.compute = 10, 1, 2.0
    summary = clock.summary()
    assert summary["seconds"] == pytest.approx(clock.wait + clock.compute + clock.other)
    assert summary["mfu"] == pytest.approx(
        10 * 1e6 / (clock.wait + clock.compute) / peak_flops("cpu", torch.float32)
    )


def test_save_is_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", {"step": 1, "modules": {"m": {"w": torch.ones(3)}}})
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]
    assert load_checkpoint(tmp_path / "a.ckpt")["modules"]["m"]["w"].tolist() == [1, 1, 1]


def test_slow_but_steady_improvement_does_not_stop() -> None:
    """min_delta counts from the last improvement that counted, as smaller ones add up."""
    selection = Selection(patience=3, min_delta=0.01)
    for step in range(20):
        selection.take(step, 1.0 - 0.005 * step)
        assert not selection.stopped
        again = Selection(patience=3, min_delta=0.01)
        again.load_state_dict(selection.state_dict())
        assert again.state_dict() == selection.state_dict()
        selection = again
    for step in range(20, 24):
        selection.take(step, 0.9)
    assert selection.stopped
