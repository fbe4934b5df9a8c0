"""Ranks that are killed go on bit for bit, and numbers do not depend on how many ranks share a batch."""

import csv
from pathlib import Path

import pytest
import torch
from ranks import run, start

from astroclip_train.training.checkpoint import CheckpointFolder, load_checkpoint


def killed(folder: Path, world: int, step: int, strategy: str = "ddp") -> None:
    processes = start("toy_ranks.py", world, str(folder), str(step), strategy)
    for process in processes:
        process.communicate(timeout=120)
    assert -9 in [p.returncode for p in processes]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(CheckpointFolder(folder / "checkpoints").rolling()[0])["modules"]["net"]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run("toy_ranks.py", 2, str(folder), "-", timeout=120)
    return folder


def test_two_ranks_killed_twice_give_bit_identical_losses_and_weights(whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, 2, 7)
    killed(tmp_path, 2, 18)
    run("toy_ranks.py", 2, str(tmp_path), "-", timeout=120)
    assert (tmp_path / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    first, second = weights(tmp_path), weights(whole)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_another_number_of_ranks_goes_on_with_the_same_batches(whole: Path, tmp_path: Path) -> None:
    """Half on two ranks, half on one: the first half is the same, the rest differs by dropout masks alone."""
    killed(tmp_path, 2, 15)
    run("toy_ranks.py", 1, str(tmp_path), "-", timeout=120)
    mine, other = rows(tmp_path), rows(whole)
    assert [r["step"] for r in mine] == [r["step"] for r in other]
    assert [r["loss"] for r in mine[:16]] == [r["loss"] for r in other[:16]]
    assert float(mine[-1]["loss"]) == pytest.approx(float(other[-1]["loss"]), rel=0.5)


def test_sharded_weights_train_alike_resume_and_load_in_one_process(whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, 2, 13, "fsdp2")
    run("toy_ranks.py", 2, str(tmp_path), "-", "fsdp2", timeout=120)
    mine, other = rows(tmp_path), rows(whole)
    assert [r["step"] for r in mine] == [r["step"] for r in other]
    for sharded, copied in zip(mine, other, strict=True):
        for key in ("loss", "val_loss"):
            assert bool(sharded[key]) == bool(copied[key])
            assert float(sharded[key] or 0) == pytest.approx(float(copied[key] or 0), rel=1e-4)
    first, second = weights(tmp_path), weights(whole)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert type(value) is torch.Tensor
        torch.testing.assert_close(value, second[key], rtol=1e-3, atol=1e-4)
