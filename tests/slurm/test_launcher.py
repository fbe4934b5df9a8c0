"""`astro-train -m hydra/launcher=slurm`: what is checked without SLURM, and whole sweeps on a real one."""

import json

import pytest
from slurm_cluster import TINY, Cluster

from astroclip_train.cli.multirun import Job, jobs_of
from astroclip_train.cli.slurm_launcher import common_stages, take_launcher
from astroclip_train.cli.train import main
from astroclip_train.config.compose import compose
from astroclip_train.errors import ConfigError
from astroclip_train.training.run_dir import RunDir

POINTS = "stages.align.objective.temperature=0.07,0.1"


def jobs(*words: str) -> list[Job]:
    return [Job(full, varied, RunDir(compose(full), full)) for full, varied in jobs_of([*TINY, *words], [])]


def test_its_keys_are_taken_out_and_checked():
    others, settings = take_launcher(["run.seed=1,2", "hydra/launcher=slurm", "hydra.launcher.nodes=2"], [])
    assert others == ["run.seed=1,2"]
    assert (settings["nodes"], settings["signal_delay_s"]) == (2, 300)
    assert take_launcher(["run.seed=1,2"], []) == (["run.seed=1,2"], None)
    assert take_launcher(["hydra/launcher=basic"], []) == ([], None)
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.nodes=many must be"):
        take_launcher(["hydra/launcher=slurm", "hydra.launcher.nodes=many"], [])
    with pytest.raises(ConfigError, match="node"):
        take_launcher(["hydra/launcher=slurm", "hydra.launcher.node=2"], [])
    with pytest.raises(ConfigError, match="add hydra/launcher=slurm"):
        take_launcher(["hydra.launcher.nodes=2"], [])


def test_it_belongs_to_sweeps(capsys):
    assert main([*TINY, "hydra/launcher=slurm"]) == 2
    assert "add -m, or use sbatch" in capsys.readouterr().err


def test_without_slurm_it_says_so(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-m", *TINY, POINTS, "hydra/launcher=slurm"]) == 2
    assert "needs sbatch, which is not on the PATH" in capsys.readouterr().err


def test_common_stages_are_those_with_equal_inputs():
    assert common_stages(jobs(POINTS)) == ["lrs", "xp"]
    assert common_stages(jobs("run.seed=1,2")) == []
    assert common_stages(jobs("labels.n=10,20")) == ["lrs", "xp", "align"]
    assert common_stages(jobs(POINTS, "run.stages=[xp,align]")) == ["xp"]


@pytest.mark.slow
@pytest.mark.slurm
def test_a_sweep_trains_what_is_shared_once(cluster: Cluster):
    """One of the array's jobs is warned on the way, and goes on by itself; the command waits for all of them."""
    pytest.importorskip("submitit")
    small = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"]
    words = ["astro-train", "-m", *TINY, POINTS, "run.stages=[lrs,xp,align]", *small]
    submitted = cluster.run(*words, "hydra.launcher.wait=false", limit=90)
    base = submitted.stdout.strip()
    common = submitted.stderr.split("job ", 1)[1].split(":")[0]
    assert "lrs, xp, which all jobs share" in submitted.stderr
    second = cluster.run(*words, "hydra.launcher.wait=false", limit=90)
    assert second.stderr.count(f"in the queue already, job {base}_") == 2
    assert second.stdout == ""  # nothing was submitted
    assert cluster.wait(common)["JobState"] == "COMPLETED"
    cluster.until(lambda: cluster.state(f"{base}_1") == "RUNNING", 60)
    states = [cluster.wait(f"{base}_{i}")["JobState"] for i in (0, 1)]
    logs = "".join(f.read_text() for f in cluster.folder.glob("runs/specclip/slurm/*_log.out"))
    assert states == ["COMPLETED", "COMPLETED"], logs
    runs = sorted(p.parent for p in cluster.folder.glob("runs/specclip/*/run.json"))
    assert [json.loads((r / "run.json").read_text())["status"] for r in runs] == ["partial", "partial"]
    trained = [r for r in runs if (r / "stages/lrs/checkpoints").is_dir()]
    assert len(trained) == 1  # the other one reuses it
    again = cluster.run(*words, "hydra.launcher.wait=true", limit=200)
    assert "2 of 2 jobs done" in again.stderr


@pytest.mark.slow
@pytest.mark.slurm
def test_a_warned_array_task_has_one_owner_of_its_signal(cluster: Cluster):
    """Neither submitit nor Lightning answers: the job saves, is queued again once, and goes on."""
    pytest.importorskip("submitit")
    words = ["astro-train", "-m", *TINY, "run.seed=1,2", "run.stages=[lrs]", "hydra/launcher=slurm"]
    words += [
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.wait=false",
        "stages.lrs.trainer.max_steps=300",
    ]
    base = cluster.run(*words, limit=90).stdout.strip()
    cluster.until(lambda: len(list(cluster.folder.glob("runs/*/*-s2*/metrics.csv"))) == 1, 120)
    cluster.run("scancel", "--signal=USR1", f"{base}_1")
    assert [cluster.wait(f"{base}_{i}")["JobState"] for i in (0, 1)] == ["COMPLETED", "COMPLETED"]
    log = "".join(f.read_text() for f in cluster.folder.glob(f"runs/specclip/slurm/{base}_1_*.out"))
    assert log.count("is queued again") == 1
    assert "goes on from step" in log
    assert "Bypassing" not in log
