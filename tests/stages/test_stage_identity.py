"""What a stage depends on: the weights it takes, not the name or the configuration of what made them."""

import json
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


def refuse(folder: Path, *words: str) -> str:
    """The sentence with which `astro-train` refuses."""
    command = [sys.executable, "-m", "astroclip_train.cli.train", *TINY, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
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


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_a_lengthened_stage_and_what_was_made_with_it(tmp_path: Path) -> None:
    """Heads on features of other weights are never evaluated; the plain command trains them again."""
    words = ("run.evaluate=true", "evaluation.bootstrap=10")
    train(tmp_path, *words)
    (run,) = (tmp_path / "runs/specclip").iterdir()
    before = metrics_of(run)
    told = train(tmp_path, *words, "run.stages=[lrs]", "run.extend=30")
    assert "goes on from step 8 of 30" in told
    assert "align, heads: made with other weights than those of now" in told
    assert json.loads((run / "run.json").read_text())["status"] == "partial"
    assert metrics_of(run) == before
    told = train(tmp_path, *words)
    assert "align: inputs or configuration changed" in told
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    sigma = [m["heads"]["teff"]["mlp"]["lrs.single"]["all"]["sigma"] for m in (before, metrics_of(run))]
    assert sigma[0] != sigma[1]
    assert "heads: made with other weights" in train(tmp_path, *words, "run.stages=[align]", "run.extend=20")


@pytest.mark.slow
def test_a_stage_that_others_use_is_not_lengthened_behind_their_backs(tmp_path: Path) -> None:
    train(tmp_path, "run.stages=[xp]")
    train(tmp_path, "run.stages=[xp]", "run.name=user")
    refused = refuse(tmp_path, "run.stages=[xp]", "run.extend=30")
    assert "runs/specclip/user uses stage xp" in refused
    assert "stages.xp.trainer.max_steps" in refused
    # the user itself may lengthen: it trains the longer schedule
    told = train(tmp_path, "run.stages=[xp]", "run.name=user", "run.extend=30")
    assert "reused" not in told
    done = json.loads((tmp_path / "runs/specclip/user/stages/xp/done.json").read_text())
    assert done["step"] == 30
    assert not (tmp_path / "runs/specclip/user/stages/xp/reused.json").exists()
    assert "whose schedule it lengthens" in refuse(tmp_path, "run.stages=[heads]", "run.extend=4000")


@pytest.mark.slow
def test_a_stage_whose_checkpoints_are_gone_is_trained_again(tmp_path: Path) -> None:
    train(tmp_path, "run.stages=[xp]")
    for file in (tmp_path / "runs").rglob("*.ckpt"):
        file.unlink()
    assert "reused" not in train(tmp_path, "run.stages=[xp]", "run.name=another")
    assert "has lost its checkpoints" in train(tmp_path, "run.stages=[xp]")


@pytest.mark.slow
def test_jobs_of_one_launch_are_one_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of slurm/chain.sh: each is a SLURM job of its own."""
    train(tmp_path, "run.stages=[xp]")
    monkeypatch.setenv("ASTRO_TRAIN_LAUNCH", "chain-1")
    for job, stages in (("101", "[lrs,xp]"), ("102", "[align]")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        train(tmp_path, f"run.stages={stages}", "run.fresh=true", "run.requeue=false")
    names = sorted(p.name for p in (tmp_path / "runs/specclip").iterdir())
    assert names == ["tiny-mock_stars-s0", "tiny-mock_stars-s0.g002"]
