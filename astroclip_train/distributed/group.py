"""Opens the process group of a run, before anything of Lightning, and tells Lightning about it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from ..errors import ConfigError, RunError
from . import collectives
from .geometry import Geometry, Machine

__all__ = ["RunEnvironment", "device_kind", "open_group", "self_test"]

MEET = timedelta(minutes=10)  # until every rank has started
PATIENCE = timedelta(
    days=7
)  # one rank may build a cache for hours; a rank that hangs is found by its heartbeat


def device_kind(accelerator: str) -> str:
    """cpu, cuda or mps for a value of `trainer.accelerator`."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("gpu", "mps", "auto") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def check_devices(geometry: Geometry, machine: Machine) -> str:
    """The kind of device of this rank.

    Raises:
        ConfigError: there are fewer devices than ranks here, or they cannot work together.
    """
    kind = device_kind(machine.accelerator)
    if kind == "mps" and geometry.world_size > 1:
        raise ConfigError(
            f"trainer.devices={machine.devices}: MPS has one device, take trainer.devices=1 or trainer=cpu."
        )
    if kind == "cuda":
        there = torch.cuda.device_count()
        # srun may show each task only its own device
        if there < geometry.local_world_size and there != 1:
            raise ConfigError(
                f"{geometry.local_world_size} ranks on this machine but torch sees {there} GPUs: lower "
                "trainer.devices, or ask for as many GPUs as tasks."
            )
        if there == 1 and geometry.local_world_size > 1 and geometry.source != "slurm":
            raise ConfigError(
                f"{geometry.local_world_size} ranks on this machine but torch sees one GPU: set trainer.devices=1."
            )
        _check_architecture(_cuda_index(geometry))
    return kind


def _cuda_index(geometry: Geometry) -> int:
    return geometry.local_rank if torch.cuda.device_count() > 1 else 0


def _check_architecture(index: int) -> None:
    """Raises where the installed torch has no kernels for the GPU, which otherwise fails at the first operation."""
    major, minor = torch.cuda.get_device_capability(index)
    built = [a.rpartition("_")[2].rstrip("a") for a in torch.cuda.get_arch_list()]
    numbers = [int(a) for a in built if a.isdigit()]
    mine = 10 * major + minor
    # binaries run on the same major generation, PTX (compute_xx) on any later one
    ok = any(n // 10 == major and n <= mine for n in numbers) or any(
        a.startswith("compute") and int(a.rpartition("_")[2].rstrip("a")) <= mine
        for a in torch.cuda.get_arch_list()
    )
    if numbers and not ok:
        name = torch.cuda.get_device_name(index)
        raise ConfigError(
            f"{name} has compute capability {major}.{minor}, but torch {torch.__version__} was built for "
            f"{', '.join(torch.cuda.get_arch_list())}: install a torch build for this GPU."
        )


@contextmanager
def open_group(geometry: Geometry, kind: str) -> Iterator[None]:
    """The process group of all ranks, nccl on CUDA and gloo elsewhere, and a gloo group for what is on the CPU.

    Raises:
        RunError: the ranks do not find each other.
    """
    if geometry.world_size == 1:
        yield
        return
    if geometry.num_nodes == 1 and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    options: dict[str, Any] = {}
    if kind == "cuda":
        index = _cuda_index(geometry)
        torch.cuda.set_device(index)
        options["device_id"] = torch.device("cuda", index)
    try:
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo", store=_store(geometry), rank=geometry.rank,
            world_size=geometry.world_size, timeout=PATIENCE, **options,
        )  # fmt: skip
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{geometry.master_addr}:{geometry.master_port}"
        raise RunError(
            f"rank {geometry.rank} of {geometry.world_size} could not join the others at {where} "
            f"({str(error).splitlines()[0]}): check that all ranks started and that MASTER_ADDR is reachable."
        ) from error
    before = collectives._world
    collectives._geometry = geometry
    collectives._world = collectives._World(geometry.rank, geometry.world_size, control)
    try:
        yield
    finally:
        collectives._world, collectives._geometry = before, Geometry()
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(geometry: Geometry) -> Any:
    if geometry.source == "torchrun":
        from torch.distributed.rendezvous import rendezvous

        store, _, _ = next(rendezvous("env://", timeout=MEET))
        return store
    return dist.TCPStore(
        geometry.master_addr, geometry.master_port, geometry.world_size, geometry.rank == 0, timeout=MEET
    )


def self_test(kind: str) -> None:
    """Sums known numbers over all ranks on their devices and compares.

    Raises:
        RunError: the sum is wrong.
    """
    world = collectives.world_size()
    if world == 1:
        return
    mine = torch.arange(1024, dtype=torch.float64) + collectives.rank()
    expected = world * torch.arange(1024, dtype=torch.float64) + world * (world - 1) / 2
    for where in {"cpu", kind}:
        total = collectives.sum_over_ranks(mine.to(where)).cpu()
        if not torch.equal(total, expected):
            raise RunError(
                f"the sum over {world} ranks on {where} is wrong on rank {collectives.rank()}: the network or its "
                "drivers damage data, so nothing that is trained here can be trusted."
            )


class RunEnvironment(ClusterEnvironment):
    """Tells Lightning the geometry that is open already; it starts no process and handles no signal."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @property
    def creates_processes_externally(self) -> bool:
        """All ranks exist."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 listens."""
        return self.geometry.master_addr

    @property
    def main_port(self) -> int:
        """Its port."""
        return self.geometry.master_port

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning itself."""
        return False

    def world_size(self) -> int:
        """All ranks."""
        return self.geometry.world_size

    def set_world_size(self, size: int) -> None:
        """Fixed."""

    def global_rank(self) -> int:
        """This rank."""
        return self.geometry.rank

    def set_global_rank(self, rank: int) -> None:
        """Fixed."""

    def local_rank(self) -> int:
        """Its number on this machine."""
        return self.geometry.local_rank

    def node_rank(self) -> int:
        """This machine."""
        return self.geometry.node_rank
