"""Gradient caching: eight times the batch of contrastive alignment in chunks, against one batch at once.

    python benchmarks/gradient_cache.py [--batch 32] [--factor 8] [--steps 3] [--rounds 3]

Both encoders are trained along. Every variant runs in a process of its own, whose peak memory is read at the end:
resident memory on a CPU, allocated on a GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from _common import header

from astroclip_train.encoders import AutoEncoder, MaskedTransformer
from astroclip_train.heads import AttentionHead, MLPBranchHead
from astroclip_train.objectives import Contrastive
from astroclip_train.stages.systems import AlignSystem
from astroclip_train.training.throughput import peak_memory_gb

PIXELS = {"lrs": 1462, "xp": 343}


def system(chunk: int | None) -> AlignSystem:
    """Encoders of demo size, heads and InfoNCE."""
    torch.manual_seed(0)
    encoders = {
        "lrs": MaskedTransformer(PIXELS["lrs"], width=192, depth=6, heads=4, masking="drop"),
        "xp": AutoEncoder(PIXELS["xp"], width=192, hidden=384),
    }
    heads = {
        "lrs": AttentionHead(encoders["lrs"].n_tokens, 192, features=128),
        "xp": MLPBranchHead(1, 192, features=128, hidden=256),
    }
    objective = Contrastive(chunk_size=chunk).bind(PIXELS, dict.fromkeys(PIXELS, 128))
    return AlignSystem(encoders, heads, objective, frozen=False)


def child(batch: int, chunk: int | None, steps: int) -> None:
    """Trains and prints peak memory and seconds per sample."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = system(chunk).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    rows = {m: torch.randn(batch, l, device=device) for m, l in PIXELS.items()}
    rows |= {"index": torch.arange(batch, device=device), "object": torch.arange(batch, device=device)}
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        model.loss(rows, epoch=0, stream="benchmark")[0].backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"memory": peak_memory_gb(device), "seconds": statistics.median(seconds[1:]) / batch}))


def main() -> None:
    """Measures and prints."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 32), ("factor", 8), ("steps", 3), ("rounds", 3), ("chunk", 0)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.child:
        child(options.child, options.chunk or None, options.steps)
        return
    header()
    large = options.batch * options.factor
    variants = {"at once": (options.batch, 0), "in chunks": (large, options.batch)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, (batch, chunk) in variants.items():
            command = [
                sys.executable,
                sys.argv[0],
                f"--child={batch}",
                f"--chunk={chunk}",
                f"--steps={options.steps}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    middle = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in found.items()}
    for name, (batch, chunk) in variants.items():
        values = middle[name]
        kind = f"chunks of {chunk}" if chunk else "one pass"
        print(
            f"batch {batch:5d}, {kind:13s}: peak {values['memory']:.2f} GB, "
            f"{1e3 * values['seconds']:.2f} ms per sample"
        )
    memory, seconds = (middle["in chunks"][k] / middle["at once"][k] for k in ("memory", "seconds"))
    print(
        f"{options.factor} x the batch: {memory:.2f} x the peak memory, {seconds:.2f} x the time per sample"
    )


if __name__ == "__main__":
    main()
