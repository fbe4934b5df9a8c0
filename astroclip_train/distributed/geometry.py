"""How many ranks there are and which one this process is, told by our launcher, torchrun or SLURM.

Everything is checked against `trainer.devices` and `trainer.num_nodes` before anything heavy is imported, because the
usual mistake, eight GPUs of which one works, raises no error anywhere else.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["Geometry", "Machine", "check_geometry", "find_geometry", "first_host", "machine_of", "show_only"]

LAUNCHER = "ASTRO_TRAIN_RANKS"  # set by our own launcher
SHOWN = "ASTRO_TRAIN_DEVICES"  # set where the devices of a list are the only ones seen
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NOT_A_TASK = ("4294967290", "4294967291", "4294967292")  # SLURM's interactive, batch and external steps


@dataclass(frozen=True)
class Geometry:
    """The place of this process.

    Attributes:
        rank, world_size: among all processes.
        local_rank, local_world_size: among those of this machine.
        node_rank, num_nodes: the machine.
        master_addr, master_port: where rank 0 listens.
        source: "single", "launcher" (ours), "torchrun" or "slurm".
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    num_nodes: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    source: str = "single"


@dataclass(frozen=True)
class Machine:
    """What the configuration asks for.

    Attributes:
        devices: how many on each machine; "auto" is all there are.
        num_nodes: machines.
        accelerator: auto, cpu, gpu, cuda or mps.
        strategy: auto, ddp or fsdp2.
        numbers: of the devices, where the configuration lists them.
    """

    devices: int | str
    num_nodes: int
    accelerator: str
    strategy: str
    numbers: tuple[int, ...] = ()


def machine_of(config: Mapping[str, Any]) -> Machine:
    """The one machine that all stages of a run ask for.

    Raises:
        ConfigError: two stages ask for different ones, or devices are listed wrongly.
    """
    first: dict[str, tuple[str, Any]] = {}
    for where, node in _trainers(config):
        for key in ("devices", "num_nodes", "strategy", "accelerator"):
            if key not in node:
                continue
            value = node[key]
            known = first.setdefault(key, (where, value))
            if known[1] != value and (key != "accelerator" or _many(first)):
                raise ConfigError(
                    f"{where}.{key}={value} differs from {known[0]}.{key}={known[1]}: all stages of a run share one "
                    f"group of processes, so set trainer.{key} alone."
                )
    get = lambda key, default: first[key][1] if key in first else default  # noqa: E731
    devices = get("devices", 1)
    devices = devices if isinstance(devices, int | str) else list(devices)
    if isinstance(devices, list) and (not devices or min(devices) < 0 or len(set(devices)) < len(devices)):
        raise ConfigError(f"trainer.devices={devices} must list different devices, counted from 0.")
    return Machine(
        devices=len(devices) if isinstance(devices, list) else devices,
        num_nodes=int(get("num_nodes", 1)),
        accelerator=str(get("accelerator", "auto")),
        strategy=str(get("strategy", "auto")),
        numbers=tuple(devices) if isinstance(devices, list) else (),
    )


def _trainers(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    nodes = []
    for name, stage in config["stages"].items():
        nodes.append((f"stages.{name}.trainer", stage.get("trainer") or {}))
        for task, node in (stage.get("tasks") or {}).items():
            nodes.append((f"stages.{name}.tasks.{task}.trainer", node.get("trainer") or {}))
    return nodes or [("trainer", config.get("trainer") or {})]


def _many(first: Mapping[str, tuple[str, Any]]) -> bool:
    return first.get("devices", ("", 1))[1] != 1 or first.get("num_nodes", ("", 1))[1] != 1


def show_only(machine: Machine, geometry: Geometry) -> None:
    """Hides all GPUs but those that `trainer.devices` lists, from this process and those that it starts.

    To be called before torch looks at the GPUs, which it does once.

    Raises:
        ConfigError: the tasks have their devices from srun or torchrun, or a number is not there.
    """
    if not machine.numbers or machine.accelerator == "cpu" or os.environ.get(SHOWN):
        return
    text = f"trainer.devices=[{','.join(map(str, machine.numbers))}]"
    if geometry.source != "single":
        raise ConfigError(
            f"{text} lists devices, but {geometry.source} gives each task its own: set "
            f"trainer.devices={machine.devices}."
        )
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [d.strip() for d in listed.split(",") if d.strip()] if listed is not None else None
    if visible is not None and max(machine.numbers) >= len(visible):
        raise ConfigError(f"{text} counts from 0 in CUDA_VISIBLE_DEVICES={listed}: choose among those.")
    chosen = [str(n) if visible is None else visible[n] for n in machine.numbers]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    os.environ[SHOWN] = ",".join(chosen)


def usable_cores() -> int:
    """Cores that this process may use: those of its job, not of the whole node."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def find_geometry(environ: Mapping[str, str] | None = None) -> Geometry:
    """Reads the environment that a launcher left.

    Raises:
        ConfigError: it is incomplete or contradicts itself.
    """
    env = os.environ if environ is None else environ
    if env.get(LAUNCHER):
        return _from_torchrun(env, "launcher")
    given = [k for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if k in env]
    if given and "SLURM_STEP_ID" not in env:
        return _from_torchrun(env, "torchrun")
    if len(given) == 3:
        return _from_torchrun(env, "torchrun")  # torchrun started by srun
    if env.get("SLURM_STEP_ID", NOT_A_TASK[0]) not in NOT_A_TASK and "SLURM_PROCID" in env:
        return _from_slurm(env)
    return Geometry()


def _from_torchrun(env: Mapping[str, str], source: str) -> Geometry:
    missing = [k for k in TORCHRUN if k not in env]
    if missing:
        there = ", ".join(k for k in TORCHRUN if k in env)
        raise ConfigError(
            f"the environment has {there} but not {', '.join(missing)}: start the ranks with torchrun or srun, "
            "or unset them to run one process."
        )
    numbers = {k: _number(env, k) for k in TORCHRUN if k != "MASTER_ADDR"}
    world, local = numbers["WORLD_SIZE"], numbers["LOCAL_WORLD_SIZE"]
    if not (0 <= numbers["RANK"] < world and 0 <= numbers["LOCAL_RANK"] < local and world % local == 0):
        raise ConfigError(
            f"RANK={numbers['RANK']} of WORLD_SIZE={world} and LOCAL_RANK={numbers['LOCAL_RANK']} of "
            f"LOCAL_WORLD_SIZE={local} contradict each other: start the ranks with torchrun or srun."
        )
    return Geometry(
        numbers["RANK"], world, numbers["LOCAL_RANK"], local, numbers["RANK"] // local, world // local,
        env["MASTER_ADDR"], numbers["MASTER_PORT"], source,
    )  # fmt: skip


def _from_slurm(env: Mapping[str, str]) -> Geometry:
    world = _number(env, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS")
    layout = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", str(world)))
    counts = _expand(layout)
    if len(set(counts)) > 1:
        raise ConfigError(
            f"SLURM gave the nodes {layout} tasks: every node needs as many, so set --ntasks-per-node."
        )
    nodes = len(counts)
    job, step = _number(env, "SLURM_JOB_ID"), _number(env, "SLURM_STEP_ID")
    listed = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    return Geometry(
        rank=_number(env, "SLURM_PROCID"),
        world_size=world,
        local_rank=_number(env, "SLURM_LOCALID"),
        local_world_size=counts[0],
        node_rank=_number(env, "SLURM_NODEID"),
        num_nodes=nodes,
        master_addr=env.get("MASTER_ADDR", first_host(listed) if nodes > 1 else "127.0.0.1"),
        master_port=int(env.get("MASTER_PORT", 20000 + (job * 7 + step) % 20000)),
        source="slurm",
    )


def _number(env: Mapping[str, str], key: str) -> int:
    try:
        return int(env[key])
    except (KeyError, ValueError) as error:
        shown = env.get(key, "not set")
        raise ConfigError(
            f"{key} is {shown}, which is no number: start the ranks with srun or torchrun."
        ) from error


def _expand(layout: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    counts: list[int] = []
    for piece in layout.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", piece.strip())
        if match:
            counts += [int(match[1])] * int(match[2] or 1)
    return counts or [1]


def first_host(nodelist: str) -> str:
    """The first name of a SLURM node list: "gpu[03-05,9],cpu1" is gpu03."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodelist)
    return (match[1] + (match[2] or "")) if match else nodelist


def check_geometry(geometry: Geometry, machine: Machine, environ: Mapping[str, str] | None = None) -> None:
    """Compares what was started with what the configuration asks for.

    Raises:
        ConfigError: they differ.
    """
    env = os.environ if environ is None else environ
    wanted, nodes = machine.devices, machine.num_nodes
    if geometry.world_size > 1 or geometry.source == "torchrun":
        local = geometry.local_world_size if wanted == "auto" else int(wanted)
        if (geometry.local_world_size, geometry.num_nodes) != (local, nodes):
            raise ConfigError(
                f"{_starter(geometry)} started {_tasks(geometry.local_world_size)} on each of {geometry.num_nodes} "
                f"nodes, but trainer.devices={wanted} and trainer.num_nodes={nodes} ask for one task per device, "
                f"{local} on each of {nodes}: set trainer.devices={geometry.local_world_size} "
                f"trainer.num_nodes={geometry.num_nodes}, or {_remedy(geometry, local, nodes)}."
            )
        return
    ranks = nodes * (1 if wanted == "auto" else int(wanted))
    tasks = env.get("SLURM_NTASKS", "1")
    if geometry.source == "single" and "SLURM_JOB_ID" in env and ranks == 1 and tasks not in ("", "1"):
        raise ConfigError(
            f"this is the batch shell of a job with {tasks} tasks, of which one process would use one: start with "
            "srun astro-train … trainer.devices=TASKS_PER_NODE, or request --ntasks=1."
        )
    if "SLURM_JOB_ID" in env and ranks > 1:
        inside = geometry.source == "slurm"
        what = (
            "this srun step has one task"
            if inside
            else f"this is the batch shell of a job with {tasks} tasks"
        )
        raise ConfigError(
            f"trainer.devices={wanted} and trainer.num_nodes={nodes} ask for {ranks} ranks, but {what}: request "
            f"--nodes={nodes} --ntasks-per-node={wanted} and start with srun astro-train …"
        )
    if nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}, but nothing started ranks on other machines: start with srun "
            f"--nodes={nodes} --ntasks-per-node={wanted}, or torchrun --nnodes={nodes}."
        )


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"


def _starter(geometry: Geometry) -> str:
    return {"slurm": "srun", "launcher": "the launcher"}.get(geometry.source, geometry.source)


def _remedy(geometry: Geometry, local: int, nodes: int) -> str:
    if geometry.source == "slurm":
        return f"start with srun --nodes={nodes} --ntasks-per-node={local}"
    return f"start with torchrun --nnodes={nodes} --nproc-per-node={local}"
