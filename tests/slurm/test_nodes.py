"""Two nodes with a network between them: each has its own host name, loopback and processes' view of the cluster."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from slurm_cluster import EVERY_STEP, ROOT, TINY, TRAIN, Cluster, task_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
NODES = ROOT / "slurm" / "train_nodes.sbatch"
ONE_CORE = "--cpus-per-task=1"
LRS = [*TINY, *EVERY_STEP, "run.stages=[lrs]", "stages.lrs.trainer.max_steps=40"]
LRS += ["stages.lrs.trainer.checkpoint_every_steps=5"]
ENDLESS = [*LRS, "stages.lrs.trainer.max_steps=100000"]


@pytest.fixture
def names(cluster: Cluster) -> list[str]:
    """The two nodes of the partition `pair`."""
    listed = cluster.run("sinfo", "-h", "-p", "pair", "-N", "-o", "%N", check=False).stdout.split()
    if len(listed) < 2:
        pytest.skip("this SLURM has one node: slurm/start_test_slurm.sh makes two where `ip netns` works")
    cluster.environment["GLOO_SOCKET_IFNAME"] = "astro0"  # the interface between the nodes
    return listed


def two_nodes(tasks: int = 1) -> tuple[str, ...]:
    return (
        "-p",
        "pair",
        "--nodes=2",
        f"--ntasks-per-node={tasks}",
        "--gpus-per-node=0",
        "--mem=8G",
        ONE_CORE,
    )


def run_of(folder: Path) -> Path:
    (found,) = (f.parent for f in folder.glob("runs/*/*/run.json"))
    return found


def test_two_nodes_requeued_twice_train_what_two_tasks_of_one_node_do(
    cluster: Cluster, names: list[str]
) -> None:
    """The loss curve is that of one node, and each node reads from a disk of its own."""
    calm = Cluster(cluster.folder / "calm")
    calm.folder.mkdir()
    one = ("--ntasks-per-node=2", "--gpus-per-node=0", ONE_CORE)
    first = calm.submit(TRAIN.with_name("train_node.sbatch"), *LRS, options=one)
    stage = f"data.stage_to={cluster.folder}/disk-$SLURMD_NODENAME"
    job = cluster.submit(NODES, *LRS, stage, options=two_nodes())
    cluster.warn(job, 1, 8)
    cluster.warn(job, 2, 20)
    assert cluster.wait(job, 300)["JobState"] == "COMPLETED", cluster.log(job)
    assert calm.wait(first, 300)["JobState"] == "COMPLETED", calm.log(first)
    run = run_of(cluster.folder)
    assert (run / "metrics.csv").read_text() == (run_of(calm.folder) / "metrics.csv").read_text()
    launches = json.loads((run / "run.json").read_text())["launches"]
    other = set(re.findall(r"rank 1 on (\S+)", (run / "logs" / "rank-1.log").read_text()))
    assert ({x["host"] for x in launches}, other) == ({names[0]}, {names[1]})
    for name in names:
        assert list((cluster.folder / f"disk-{name}").rglob("*.h5")), f"{name} staged nothing"
    assert [x["restart"] for x in launches] == [0, 1, 2]


def test_the_lease_holds_between_nodes(cluster: Cluster, names: list[str]) -> None:
    """One node works, the other says who does; after SIGKILL the other takes over without waiting for 90 s."""
    options = ("-p", "pair", "--gpus-per-node=0", ONE_CORE)
    here = cluster.submit(TRAIN, *ENDLESS, options=(*options, "-w", names[0]))
    cluster.until(lambda: cluster.rows() >= 7, 120, here)
    there = cluster.submit(TRAIN, *ENDLESS, options=(*options, "-w", names[1]))
    assert cluster.wait(there, 60)["ExitCode"] == "2:0"
    assert "is being written by process" in cluster.log(there)
    assert f"on {names[0]} (job {here})" in cluster.log(there)
    lease = next(cluster.folder.glob("runs/*/*/lease.json"))
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
    cluster.until(lambda: cluster.state(here) == "FAILED", 60, here)
    again = cluster.submit(TRAIN, *ENDLESS, options=(*options, "-w", names[1]))
    cluster.until(lambda: "goes on from step" in cluster.log(again), 60, again)


def test_a_rank_killed_on_the_other_node_ends_the_job(cluster: Cluster, names: list[str]) -> None:
    job = cluster.submit(NODES, *ENDLESS, options=two_nodes())
    cluster.until(lambda: cluster.rows() >= 7, 120, job)
    os.kill(task_of(job, 1), signal.SIGKILL)
    assert cluster.wait(job, 60)["JobState"] == "FAILED", cluster.log(job)


def test_torchrun_over_two_nodes(cluster: Cluster, names: list[str]) -> None:
    script = cluster.folder / "torchrun.sbatch"
    meet = f"--nnodes=2 --node-rank=\\$SLURM_NODEID --master-addr={names[0]} --master-port=29711 --nproc-per-node=2"
    train = "-m astroclip_train.cli.train trainer=cpu trainer.devices=2 trainer.num_nodes=2"
    script.write_text(f'#!/bin/bash\nexec srun bash -c "python -m torch.distributed.run {meet} {train} $*"\n')
    job = cluster.submit(script, *LRS, options=two_nodes())
    assert cluster.wait(job, 200)["JobState"] == "COMPLETED", cluster.log(job)
    logs = sorted(run_of(cluster.folder).glob("logs/rank-*.log"))
    assert len(logs) == 4


def test_a_node_too_few_is_said(cluster: Cluster, names: list[str]) -> None:
    """What eight GPUs of which four work looks like: no silence."""
    words = ("trainer=cpu", "trainer.devices=1", "trainer.num_nodes=3")
    job = cluster.submit(NODES, *LRS, *words, options=two_nodes())
    assert cluster.wait(job, 60)["ExitCode"] == "2:0"
    assert (
        "srun started 1 task on each of 2 nodes, but trainer.devices=1 and trainer.num_nodes=3"
        in cluster.log(job)
    )
