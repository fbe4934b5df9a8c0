"""Jobs that are warned, preempted, cancelled or timed out: they go on by themselves, with the losses of an
undisturbed run, or stop for good where that is meant."""

import json
import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import EVERY_STEP, TINY, TRAIN, Cluster, task_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
ONE_CORE = "--cpus-per-task=1"  # sums depend on the number of threads
LRS = [*TINY, *EVERY_STEP, "run.stages=[lrs]"]
LONG = [*LRS, "stages.lrs.trainer.max_steps=100000", "stages.lrs.trainer.val_every_steps=100000"]
LONG += ["stages.lrs.trainer.checkpoint_every_steps=100000"]
WORKERS = "data.num_workers=2"  # SLURM's signals reach them, too


def launches(cluster: Cluster) -> list[dict]:
    (file,) = cluster.folder.glob("runs/*/*/run.json")
    return json.loads(file.read_text())["launches"]


def checkpoints(cluster: Cluster) -> list[Path]:
    return sorted(cluster.folder.glob("runs/*/*/stages/lrs/checkpoints/step-*.ckpt"))


def test_requeued_twice_is_the_undisturbed_run(cluster: Cluster, whole: Path) -> None:
    total = (whole / "metrics.csv").read_text().count("\n")
    job = cluster.submit(TRAIN, *TINY, *EVERY_STEP, "logger=wandb_offline", options=(ONE_CORE,))
    cluster.warn(job, 1, total // 4)
    cluster.warn(job, 2, total // 2)
    assert cluster.wait(job)["JobState"] == "COMPLETED", cluster.log(job)
    (run,) = (f.parent for f in cluster.folder.glob("runs/specclip/*/run.json"))
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert [(x["job"], x["restart"]) for x in launches(cluster)] == [(job, 0), (job, 1), (job, 2)]
    identity = json.loads((run / "wandb.json").read_text())["id"]
    segments = list((run / "wandb").glob("offline-run-*"))
    assert len(segments) >= 3
    assert all(s.name.endswith(identity) for s in segments)


def test_two_tasks_requeued_twice(cluster: Cluster, whole: Path) -> None:
    pytest.importorskip("astroclip_train.distributed", reason="training on several ranks is not there yet")
    two = (ONE_CORE, "--ntasks-per-node=2", "--gpus-per-node=0")
    script = TRAIN.with_name("train_node.sbatch")
    calm = Cluster(cluster.folder / "calm")
    calm.folder.mkdir()
    first = calm.submit(script, *TINY, *EVERY_STEP, options=two)
    assert calm.wait(first, 400)["JobState"] == "COMPLETED", calm.log(first)
    total = calm.rows()
    job = cluster.submit(script, *TINY, *EVERY_STEP, options=two)
    cluster.warn(job, 1, total // 4)
    cluster.warn(job, 2, total // 2)
    assert cluster.wait(job, 400)["JobState"] == "COMPLETED", cluster.log(job)
    (there,) = calm.folder.glob("runs/specclip/*/metrics.csv")
    (here,) = cluster.folder.glob("runs/specclip/*/metrics.csv")
    assert here.read_text() == there.read_text()


def test_a_task_that_is_killed_ends_the_job_and_the_same_command_goes_on(cluster: Cluster) -> None:
    options = (ONE_CORE, "--ntasks-per-node=2", "--gpus-per-node=0")
    words = [*LRS, "stages.lrs.trainer.max_steps=40", "stages.lrs.trainer.checkpoint_every_steps=5"]
    script = TRAIN.with_name("train_node.sbatch")
    job = cluster.submit(script, *words, options=options)
    cluster.until(lambda: cluster.rows() >= 7, 240, job)
    os.kill(task_of(job, 1), signal.SIGKILL)
    assert cluster.wait(job, 60)["JobState"] == "FAILED"
    again = cluster.submit(script, *words, options=options)
    assert cluster.wait(again)["JobState"] == "COMPLETED", cluster.log(again)
    assert "goes on from step" in cluster.log(again)


def test_a_time_limit_is_announced_and_the_job_goes_on(cluster: Cluster) -> None:
    """SLURM sends the signal between 40 s and 100 s before the end of the two minutes."""
    job = cluster.submit(TRAIN, *LONG, options=(ONE_CORE, "--time=2", "--signal=USR1@40"))
    cluster.until(lambda: "is queued again" in cluster.log(job), 150, job)
    cluster.until(lambda: cluster.show(job).get("Restarts") == "1", 60, job)
    assert "stopped by SIGUSR1 after step" in cluster.log(job)
    assert launches(cluster)[0]["restart"] == 0
    first = checkpoints(cluster)[-1].name
    cluster.until(lambda: "goes on from step" in cluster.log(job), 120, job)
    assert f"goes on from step {int(first[5:13]):,} of" in cluster.log(job)


def test_cancel_saves_and_does_not_requeue(cluster: Cluster) -> None:
    job = cluster.submit(TRAIN, *LONG, WORKERS, options=(ONE_CORE,))
    cluster.until(lambda: cluster.rows() >= 5, 120, job)
    cluster.run("scancel", job)
    assert cluster.wait(job, 60)["JobState"] == "CANCELLED"
    assert "stopped by SIGTERM after step" in cluster.log(job)
    assert len(checkpoints(cluster)) == 1
    assert not list(cluster.folder.glob("runs/*/*/lease.json"))
    assert cluster.show(job)["Restarts"] == "0"


def test_a_preempted_job_goes_on(cluster: Cluster) -> None:
    """A job that leaves within its grace time has failed, to SLURM: so it queues itself again."""
    job = cluster.submit(TRAIN, *LONG, WORKERS, options=(ONE_CORE,))
    cluster.until(lambda: cluster.rows() >= 5, 120, job)
    hurried = cluster.run(
        "sbatch", "--parsable", "-p", "urgent", "--exclusive", "--wrap", "sleep 1"
    ).stdout.strip()
    assert cluster.wait(hurried, 120)["JobState"] == "COMPLETED"
    assert "stopped by SIGTERM after step" in cluster.log(job)
    saved = checkpoints(cluster)[-1]
    cluster.until(lambda: f"goes on from step {int(saved.name[5:13]):,} of" in cluster.log(job), 120, job)
    assert [x["restart"] for x in launches(cluster)] == [0, 1]


def test_killed_without_a_warning_then_requeued_by_hand(cluster: Cluster) -> None:
    """Nobody could save or give the lease back: the newest checkpoint counts, and the lease is taken over at once."""
    job = cluster.submit(TRAIN, *LONG, "stages.lrs.trainer.checkpoint_every_steps=5", options=(ONE_CORE,))
    cluster.until(lambda: len(checkpoints(cluster)) == 2, 120, job)
    (lease,) = cluster.folder.glob("runs/*/*/lease.json")
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
    cluster.until(lambda: cluster.state(job) == "FAILED", 60, job)
    assert lease.exists()
    newest = checkpoints(cluster)[-1]
    cluster.run("scontrol", "requeue", job)
    cluster.until(lambda: f"goes on from step {int(newest.name[5:13]):,} of" in cluster.log(job), 120, job)


def test_without_scontrol_the_end_says_how_to_go_on(cluster: Cluster) -> None:
    """As in a container: the job's PATH has everything but SLURM's commands."""
    bare = cluster.folder / "bin"
    bare.mkdir()
    for name in ("astro-train", "python3", "git", "bash", "env"):
        found = cluster.run("which", name).stdout.strip()
        (bare / name).symlink_to(found)
    script = cluster.folder / "container.sbatch"
    script.write_text(f'#!/bin/bash\nexec /usr/bin/srun env PATH={bare} astro-train "$@"\n')
    job = cluster.submit(script, *LONG)
    cluster.until(lambda: cluster.rows() >= 5, 120, job)
    cluster.run("scancel", "--signal=USR1", job)
    assert cluster.wait(job, 60)["ExitCode"] == "138:0"
    assert "there is no scontrol here" in cluster.log(job)
    assert "submit the same command again to go on" in cluster.log(job)
    assert len(checkpoints(cluster)) == 1
