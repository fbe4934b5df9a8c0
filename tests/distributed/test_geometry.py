"""Ranks, tasks and devices are counted before anything starts, and a wrong count is one sentence."""

import os

import pytest

from astroclip_train.distributed.geometry import (
    Geometry,
    Machine,
    check_geometry,
    find_geometry,
    first_host,
    machine_of,
    show_only,
)
from astroclip_train.errors import ConfigError

SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}  # fmt: skip
TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}  # fmt: skip


def machine(devices: int | str = 1, nodes: int = 1) -> Machine:
    return Machine(devices, nodes, "auto", "auto")


def test_srun_and_torchrun_are_read() -> None:
    found = find_geometry(SRUN)
    assert (found.rank, found.world_size, found.local_rank, found.local_world_size) == (5, 8, 1, 4)
    assert (found.node_rank, found.num_nodes, found.master_addr) == (1, 2, "gpu03")
    assert 20000 <= found.master_port < 40000
    found = find_geometry(TORCHRUN)
    assert found == Geometry(3, 4, 1, 2, 1, 2, "node1", 29500, "torchrun")
    assert find_geometry({}) == Geometry()


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291"])
def test_batch_and_interactive_shells_are_no_tasks(step: str | None) -> None:
    env = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"} | ({"SLURM_STEP_ID": step} if step else {})
    assert find_geometry(env).source == "single"


def test_half_an_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="has RANK but not WORLD_SIZE, LOCAL_RANK"):
        find_geometry({"RANK": "0"})
    with pytest.raises(ConfigError, match="contradict each other"):
        find_geometry({**TORCHRUN, "RANK": "4"})
    with pytest.raises(ConfigError, match="WORLD_SIZE is four, which is no number"):
        find_geometry({**TORCHRUN, "WORLD_SIZE": "four"})


def test_listed_devices_are_the_only_ones_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = machine_of({"stages": {"a": {"trainer": {"devices": [1, 3]}}}})
    assert (asked.devices, asked.numbers) == (2, (1, 3))
    for before, after in ((None, "1,3"), ("4,5,6,7", "5,7"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-b,GPU-d")):
        monkeypatch.delenv("ASTRO_TRAIN_DEVICES", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if before:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        show_only(asked, Geometry())
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after
        show_only(asked, Geometry(source="launcher"))  # in a rank, whose launcher has done it
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    monkeypatch.delenv("ASTRO_TRAIN_DEVICES")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match=r"devices=\[1,3\] counts from 0 in CUDA_VISIBLE_DEVICES=0,1"):
        show_only(asked, Geometry())
    with pytest.raises(
        ConfigError, match=r"lists devices, but slurm gives each task its own: set trainer.devices=2\."
    ):
        show_only(asked, find_geometry(SRUN))
    with pytest.raises(ConfigError, match="must list different devices"):
        machine_of({"stages": {"a": {"trainer": {"devices": [1, 1]}}}})


def test_tasks_must_be_devices_times_nodes() -> None:
    geometry = find_geometry(SRUN)
    check_geometry(geometry, machine(4, 2), SRUN)
    check_geometry(geometry, machine("auto", 2), SRUN)
    with pytest.raises(ConfigError, match=r"srun started 4 tasks on each of 2 nodes, but trainer.devices=8"):
        check_geometry(geometry, machine(8, 2), SRUN)
    with pytest.raises(ConfigError, match=r"trainer.num_nodes=1 ask for one task per device"):
        check_geometry(geometry, machine(4), SRUN)


def test_unequal_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="every node needs as many"):
        find_geometry({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4,3"})


def test_a_batch_shell_does_not_work_on_one_gpu_silently() -> None:
    env = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}
    with pytest.raises(
        ConfigError, match="batch shell of a job with 8 tasks: request --nodes=1 --ntasks-per-node=8"
    ):
        check_geometry(find_geometry(env), machine(8), env)
    one = {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"}
    with pytest.raises(ConfigError, match="srun step has one task"):
        check_geometry(find_geometry(one), machine(2), one)
    with pytest.raises(ConfigError, match="nothing started ranks on other machines"):
        check_geometry(Geometry(), machine(2, 2), {})
    check_geometry(Geometry(), machine(2), {})
    with pytest.raises(ConfigError, match="of which one process would use one: start with srun"):
        check_geometry(find_geometry(env), machine(1), env)
    check_geometry(find_geometry(one), machine(1), one)
    check_geometry(Geometry(), machine(1), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"})


def test_a_sweep_in_several_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from astroclip_train.cli.multirun import multirun

    for key, value in SRUN.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match="-m in 8 tasks would start every job once in each"):
        multirun(["+experiment=specclip", "run.seed=1,2"])


def test_one_group_serves_all_stages() -> None:
    stages = {"a": {"trainer": {"devices": 2}}, "b": {"trainer": {"devices": 2}, "tasks": {"t": {}}}}
    assert machine_of({"stages": stages}).devices == 2
    stages["b"]["tasks"]["t"] = {"trainer": {"devices": 1}}
    with pytest.raises(
        ConfigError, match=r"tasks.t.trainer.devices=1 differs from stages.a.trainer.devices=2"
    ):
        machine_of({"stages": stages})


@pytest.mark.parametrize(
    ("listed", "first"), [("gpu[03-05,9],cpu1", "gpu03"), ("a1", "a1"), ("n[1,4]", "n1"), ("x,y", "x")]
)
def test_first_host(listed: str, first: str) -> None:
    assert first_host(listed) == first
