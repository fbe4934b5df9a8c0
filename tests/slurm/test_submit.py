"""Submitted jobs, arrays and chains, and two jobs that want the same run directory."""

import json

import pytest
from slurm_cluster import ROOT, TINY, TRAIN, Cluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
ONE_CORE = "--cpus-per-task=1"
LRS = [*TINY, "run.stages=[lrs]"]


def test_two_submits_of_one_command(cluster: Cluster) -> None:
    """One works; the other says who holds the lease, and ends at once."""
    long = [*LRS, "stages.lrs.trainer.max_steps=100000", "stages.lrs.trainer.val_every_steps=100000"]
    pair = [cluster.submit(TRAIN, *long, options=(ONE_CORE,)) for _ in range(2)]
    cluster.until(lambda: any(cluster.state(j) == "FAILED" for j in pair), 120, pair[0])
    (refused,) = (j for j in pair if cluster.state(j) == "FAILED")
    (working,) = (j for j in pair if j != refused)
    assert cluster.show(refused)["ExitCode"] == "2:0"
    assert f"(job {working})" in cluster.log(refused)
    assert "is being written by process" in cluster.log(refused)
    cluster.until(lambda: cluster.rows() > 0, 120, working)
    cluster.run("scancel", working)
    assert cluster.wait(working, 60)["JobState"] == "CANCELLED"


def test_an_array_runs_one_line_of_a_file_in_each_task(cluster: Cluster) -> None:
    """A warned task of the array is requeued, and only that one."""
    points = cluster.folder / "points.txt"
    points.write_text("run.seed=1\n# a comment\nrun.seed=2 run.stages=[xp]\n")
    script = ROOT / "slurm" / "array.sbatch"
    job = cluster.submit(script, str(points), *LRS, options=("--array=1-2", ONE_CORE))
    cluster.until(lambda: cluster.rows() > 3, 120)
    cluster.run("scancel", "--signal=USR1", f"{job}_1")
    states = [cluster.wait(f"{job}_{i}")["JobState"] for i in (1, 2)]
    assert states == ["COMPLETED", "COMPLETED"], cluster.log(f"{job}_1") + cluster.log(f"{job}_2")
    names = sorted(p.parent.name for p in cluster.folder.glob("runs/specclip/*/run.json"))
    assert names == ["tiny-mock_stars-s1", "tiny-mock_stars-s2"]
    assert cluster.show(f"{job}_2")["Restarts"] == "0"


def test_a_chain_trains_each_stage_in_a_job_of_its_own(cluster: Cluster) -> None:
    done = cluster.run(ROOT / "slurm" / "chain.sh", "lrs,xp", "align", "--", *TINY)
    jobs = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert list(jobs) == ["lrs,xp", "align"]
    assert "afterok" in cluster.show(jobs["align"])["Dependency"]
    assert cluster.wait(jobs["align"], 300)["JobState"] == "COMPLETED"
    (run,) = cluster.folder.glob("runs/specclip/*")
    assert {p.parent.name for p in run.glob("stages/*/done.json")} == {"lrs", "xp", "align"}
    assert [x["job"] for x in json.loads((run / "run.json").read_text())["launches"]] == list(jobs.values())


def test_a_chain_stops_where_a_stage_fails(cluster: Cluster) -> None:
    done = cluster.run(ROOT / "slurm" / "chain.sh", "lrs", "xp", "--", *TINY, "stages.lrs.optimizer.lr=1e30")
    first, second = (line.split()[1] for line in done.stdout.splitlines())
    assert cluster.wait(first, 120)["JobState"] == "FAILED"
    assert cluster.wait(second, 60)["JobState"] == "CANCELLED"  # SLURM removes what can never start


def test_a_warned_sweep_is_queued_again_and_finishes_its_trials(cluster: Cluster) -> None:
    """The signal reaches the sweep and its trial; the sweep alone queues the job again, and no trial is lost."""
    words = ["-m", *LRS, "+sweep=grid", "sweep.metric=lrs.val_loss", "sweep.evaluate=false"]
    rates = "stages.lrs.optimizer.lr=1e-4,3e-4,1e-3"
    job = cluster.submit(TRAIN, *words, rates, options=(ONE_CORE,))
    cluster.until(lambda: cluster.rows() > 1, 120, job)
    cluster.run("scancel", "--signal=USR1", job)
    assert cluster.wait(job, 300)["JobState"] == "COMPLETED", cluster.log(job)
    told = cluster.log(job)
    assert "stopped by SIGUSR1; the same command goes on with the trials still owed." in told
    assert f"job {job} is queued again and goes on from there." in told
    assert cluster.show(job)["Restarts"] == "1"
    (sweep,) = cluster.folder.glob("runs/specclip/sweep-*")
    assert json.loads((sweep / "best.json").read_text())["params"].keys() == {"stages.lrs.optimizer.lr"}
    assert len(list(sweep.glob("trials/*/log.txt"))) == 3


def test_torchrun_started_by_srun(cluster: Cluster) -> None:
    """torchrun's two ranks are ranks, though SLURM knows of one task."""
    script = cluster.folder / "torchrun.sbatch"
    module = "-m torch.distributed.run --standalone --nproc-per-node=2 -m astroclip_train.cli.train"
    script.write_text(
        f'#!/bin/bash\nexec srun --ntasks=1 python {module} trainer=cpu trainer.devices=2 "$@"\n'
    )
    job = cluster.submit(script, *LRS)
    assert cluster.wait(job)["JobState"] == "COMPLETED", cluster.log(job)
    (run,) = cluster.folder.glob("runs/specclip/*")
    assert (run / "logs" / "rank-1.log").read_text().count("rank 1 on ") == 1
    assert json.loads((run / "run.json").read_text())["status"] == "partial"


def test_a_forgotten_job_does_not_hold_the_node(cluster: Cluster) -> None:
    forgotten = cluster.submit(ROOT / "slurm" / "train.sbatch", *LRS, "stages.lrs.trainer.max_steps=100000")
    cluster.until(lambda: cluster.state(forgotten) == "RUNNING", 60, forgotten)
    cluster.run(ROOT / "slurm" / "start_test_slurm.sh", "--empty", limit=120)
    assert cluster.state(forgotten) == "CANCELLED"
    assert cluster.queued() == []
