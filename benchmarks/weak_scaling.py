"""Weak scaling of masked pretraining: the same spectra per rank on one process and on two, one thread each.

    python benchmarks/weak_scaling.py [--batch 16] [--steps 12] [--rounds 9] [--width 256] [--depth 6]

Every rank is a process of its own with the product's process group, settings of gradient averaging, optimiser and
allocator. Rounds of one and of two processes alternate, so that a slow spell of a shared machine meets both.
Efficiency is the time of a step on one process over that on two; 1 is ideal. It is given of the medians of all rounds,
and as the median of the rounds, each compared with its own neighbour in time. Two processes apart, at once, show what
the machine itself loses: memory and caches are shared, and on a shared host with strangers.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import torch
from _common import header, summarise


def rank_main(options: argparse.Namespace) -> None:
    """One rank: warms up, measures, prints seconds of every step as JSON."""
    from torch.nn.parallel import DistributedDataParallel

    from astroclip_train.cli.process import tune_process
    from astroclip_train.distributed.geometry import find_geometry
    from astroclip_train.distributed.group import open_group
    from astroclip_train.encoders import MaskedTransformer
    from astroclip_train.objectives import MaskedReconstruction

    tune_process()
    torch.set_num_threads(1)
    with open_group(find_geometry(), "cpu"):
        torch.manual_seed(0)
        encoder = MaskedTransformer(
            length=1462, width=options.width, depth=options.depth, heads=4, masking="drop"
        )
        module = _Loss(encoder, MaskedReconstruction(n_chunks=6, chunk_width=10))
        world = int(os.environ["WORLD_SIZE"])
        settings = {
            "find_unused_parameters": True,
            "broadcast_buffers": False,
            "gradient_as_bucket_view": True,
        }
        model = DistributedDataParallel(module, **settings) if world > 1 else module
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
        seconds = []
        for _ in range(options.steps + 2):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            model(torch.randn(options.batch, 1462)).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        if os.environ["RANK"] == "0":
            print(json.dumps(seconds[2:]), flush=True)


class _Loss(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module, objective: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        draws = torch.rand(len(x), self.objective.n_uniforms(self.encoder))
        return self.objective(self.encoder, x, None, None, draws)[0]


def start(world: int) -> list[subprocess.Popen]:
    """The ranks of one job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
              "ASTRO_TRAIN_RANKS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
    command = [sys.executable, *sys.argv, "--rank"]
    return [
        subprocess.Popen(
            command, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )
        for r in range(world)
    ]  # fmt: skip


def measure(jobs: list[int]) -> list[float]:
    """Seconds of the steps of rank 0 of the first of several jobs of so many ranks, which run at once."""
    ranks = [rank for world in jobs for rank in start(world)]
    outputs = [rank.communicate()[0] for rank in ranks]
    return json.loads(outputs[0].strip().splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 16), ("steps", 12), ("rounds", 9), ("width", 256), ("depth", 6)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.rank:
        rank_main(options)
        return
    header()
    kinds = {"1 process": [1], "2 processes": [2], "2 processes that know nothing of each other": [1, 1]}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, jobs in kinds.items():
            seconds[name].append(statistics.median(measure(jobs)))
    for name, values in seconds.items():
        rate = summarise(values).rate(sum(kinds[name]) * options.batch, "spectra/s")
        print(f"{name}, {options.batch} spectra each: {rate}")
    one, two, apart = (statistics.median(values) for values in seconds.values())
    print(f"weak-scaling efficiency from 1 to 2 processes: {one / two:.1%} of ideal")
    rounds = sorted(a / b for a, b in zip(seconds["1 process"], seconds["2 processes"], strict=True))
    print(f"round by round: {statistics.median(rounds):.1%} ({rounds[0]:.1%}–{rounds[-1]:.1%})")
    print(
        f"of it the machine itself loses {1 - one / apart:.1%}; of what it gives two processes: {apart / two:.1%}"
    )


if __name__ == "__main__":
    main()
