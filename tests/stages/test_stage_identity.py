"""What a stage depends on: the weights it takes, not the name or the configuration of what made them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from astroclip_train.training.weights import weights_hash

TINY = ["+experiment=specclip", "scale=tiny", "evaluation.report=false", "run.evaluate=false"]


def train(folder: Path, *words: str) -> str:
    """What `astro-train` says."""
    command = [sys.executable, "-m", "astroclip_train.cli.train", *TINY, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_hash_follows_every_tensor_and_the_architecture() -> None:
    def made(value: float = 1.0, kind: torch.dtype = torch.float32, width: int = 3, name: str = "w") -> dict:
        return {
            "modules": {"encoder": {name: torch.full((2, 3), value, dtype=kind)}},
            "architecture": {"width": width},
        }

    mine = weights_hash(made())
    assert weights_hash({**made(), "step": 7, "metadata": {"x": 1}}) == mine
    others = [made(1.0000001), made(kind=torch.bfloat16), made(width=4), made(name="v")]
    assert len({mine, *map(weights_hash, others)}) == 5


@pytest.mark.slow
def test_alignment_follows_the_runs_that_it_is_given(tmp_path: Path) -> None:
    """Runs, stage folders and checkpoints are known by their weights; a cache of other weights is not taken."""
    for seed in (1, 2):
        train(tmp_path, "run.stages=[lrs,xp]", f"run.seed={seed}", f"run.name=made{seed}")
    told = {}
    for seed in (1, 2):
        home = f"runs/specclip/made{seed}"
        given = [f"stages.align.encoders.lrs.from={home}/stages/lrs", f"stages.align.encoders.xp.from={home}"]
        told[seed] = train(tmp_path, "run.stages=[align]", f"run.name=from{seed}", *given)
    for text in told.values():
        assert "reused" not in text
        assert len(re.findall("encoder: feature cache of", text)) == 2
    first, second = ((tmp_path / f"runs/specclip/from{s}/metrics.csv").read_text() for s in (1, 2))
    assert first != second
    again = train(tmp_path, "run.stages=[align]", "run.name=from3", *given)
    assert "stage align: already trained in" in again  # the same weights


@pytest.mark.slow
def test_a_fresh_run_trains_everything_again(tmp_path: Path) -> None:
    train(tmp_path, "run.stages=[lrs,xp]")
    told = train(tmp_path, "run.stages=[lrs,xp]", "run.fresh=true")
    assert "reused" not in told
    assert (tmp_path / "runs/specclip/tiny-mock_stars-s0.g002/stages/lrs/checkpoints").is_dir()
    assert "already trained" in train(tmp_path, "run.stages=[lrs]", "run.name=another")


@pytest.mark.slow
def test_mixed_precision_trains_every_head(tmp_path: Path) -> None:
    """Densities and widths need more digits than bfloat16 has; frozen features are those of the cache."""
    mixed = ("trainer.precision=bf16-mixed", f"data.cache_root={tmp_path}/cache")
    train(tmp_path, *mixed, "run.name=cached")
    more = ("run.root=others", "run.name=computed", "run.stages=[lrs,xp,align]", "stages.align.cache=false")
    train(tmp_path, *mixed, *more)
    cached, computed = (
        [line for line in file.read_text().splitlines() if line.startswith("align,")]
        for file in sorted(tmp_path.glob("*/specclip/*/metrics.csv"))
    )
    assert len(cached) > 3
    assert cached == computed
