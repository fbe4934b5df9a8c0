"""Rate of a paper-size training step of the LRS encoder against a 2048³ matmul of the same dtype in the same run.

    python benchmarks/train_step.py [--batch 32] [--steps 5] [--dtypes float32 bfloat16] [--fills zero drop]

The step is forward, backward, gradient clipping and AdamW; only model FLOPs count (matrix products and
attention), and the
rate is also given in objects. Steps and matmuls alternate, so that a slow spell of a shared machine meets both.
"""

import argparse

import torch
from _common import Timing, alternated, header

from astroclip_train.encoders import MaskedTransformer
from astroclip_train.objectives import MaskedReconstruction
from astroclip_train.training.throughput import count_flops

SIZE = 2048


class Step:
    """One optimiser step of the published LRS encoder on spectra of random numbers."""

    def __init__(self, fill: str, dtype: torch.dtype, batch: int, device: str, compiled: bool) -> None:
        torch.manual_seed(0)
        kind = (
            {"masking": fill} if fill != "zero" else {"masking": "zero", "positions": 150, "keep_last": False}
        )
        self.encoder = MaskedTransformer(length=1462, **kind).to(device)
        self.objective = MaskedReconstruction(n_chunks=6, chunk_width=10).to(device)
        if compiled:
            self.encoder.compile()
        parameters = [*self.encoder.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.1, fused=True)
        self.x = torch.randn(batch, 1462, device=device)
        self.u = torch.rand(batch, self.objective.n_uniforms(self.encoder), device=device)
        self.autocast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
        self.device = device

    def loss(self) -> torch.Tensor:
        """The masked loss of the batch."""
        with self.autocast:
            return self.objective(self.encoder, self.x, None, None, self.u)[0]

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()


def matmul(dtype: torch.dtype, device: str):
    """A product of two 2048² matrices, several times so that it takes as long as a timer needs."""
    a, b = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))

    def run() -> None:
        for _ in range(4):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()

    return run, 4 * 2 * SIZE**3


def report(name: str, timing: Timing, flops: float, objects: int, peak: float) -> None:
    """One line: objects per second, GFLOP/s, share of the matmul rate."""
    rate = flops / timing.median
    print(
        f"{name:18s} {timing.rate(objects, 'objects/s'):58s} {rate / 1e9:8.1f} GFLOP/s  {rate / peak:6.1%} of matmul"
    )


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options.add_argument("--fills", nargs="+", default=["zero", "drop"])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--compile", action="store_true")
    chosen = options.parse_args()
    header()
    for name in chosen.dtypes:
        dtype = getattr(torch, name)
        product, work = matmul(dtype, chosen.device)
        steps = {f: Step(f, dtype, chosen.batch, chosen.device, chosen.compile) for f in chosen.fills}
        flops = {f: count_flops(s.loss) for f, s in steps.items()}
        timings = alternated({"matmul": product, **steps}, n=chosen.steps)
        peak = work / timings["matmul"].median
        print(f"{name}: 2048³ matmul {peak / 1e9:.1f} GFLOP/s")
        for fill in steps:
            report(f"  {fill}, batch {chosen.batch}", timings[fill], flops[fill], chosen.batch, peak)
        if {"zero", "drop"} <= set(steps):
            print(
                f"  drop / zero: {timings['zero'].median / timings['drop'].median:.2f} × the objects per second"
            )


if __name__ == "__main__":
    main()
