"""How fast a stage runs: samples per second, share of time waiting for data, model FLOPs utilisation, memory."""

import functools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Throughput", "count_flops", "peak_flops", "peak_memory_gb"]

# Dense bf16 peaks of common accelerators in FLOP/s, from the vendors' data sheets.
_GPU_BF16_PEAK = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A40": 150e12, "V100": 125e12, "4090": 165e12,
}  # fmt: skip


@functools.cache
def peak_flops(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """FLOP/s that counts as 100 %: the vendor's dense peak on a known GPU, else a measured `size`³ matmul.

    The median of five products after one warm-up; on a CPU it depends on the thread count in force.
    """
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for key, peak in _GPU_BF16_PEAK.items():
            if key in name and dtype in (torch.bfloat16, torch.float16):
                return peak
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        _synchronise(device)
        start = time.perf_counter()
        a @ b
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def count_flops(step: Callable[[], torch.Tensor]) -> int:
    """Model FLOPs of one forward and backward pass: `step` returns the loss.

    Counts matrix products, convolutions and attention; element-wise work is not model FLOPs.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        step().backward()
    return counter.get_total_flops()


def peak_memory_gb(device: str = "cpu") -> float:
    """Peak memory of this process in GB: allocated on the GPU, else resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


@dataclass
class Throughput:
    """Accumulates the times of a fit; pauses (validation, probes, checkpoints) are kept apart.

    Attributes:
        compute: seconds in training steps.
        wait: seconds between steps spent waiting for a batch.
        other: seconds in validation, probes and checkpoints.
        samples: samples trained on.
        step_seconds: compute of the last micro-batch, free of the first one's warm-up.
        flops_per_sample: model FLOPs, forward and backward.
    """

    flops_per_sample: float = 0.0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    compute: float = 0.0
    wait: float = 0.0
    other: float = 0.0
    samples: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    _mark: float = field(default_factory=time.perf_counter)

    def lap(self, kind: str) -> float:
        """Books the time since the last lap under `kind` and returns it."""
        now = time.perf_counter()
        spent = now - self._mark
        setattr(self, kind, getattr(self, kind) + spent)
        self._mark = now
        return spent

    @property
    def rate(self) -> float:
        """Samples per second of training, waiting included."""
        return self.samples / max(1e-9, self.compute + self.wait)

    def summary(self) -> dict[str, float]:
        """Numbers for `timing.<stage>` of metrics.json."""
        busy = max(1e-9, self.compute + self.wait)
        peak = peak_flops(self.device, self.dtype)
        return {
            "seconds": self.compute + self.wait + self.other,
            "train_seconds": busy,
            "steps": self.steps,
            "samples": self.samples,
            "samples_per_second": self.samples / busy,
            "data_wait": self.wait / busy,
            "mfu": self.samples * self.flops_per_sample / busy / peak,
            "peak_memory_gb": peak_memory_gb(self.device),
            "step_seconds": self.step_seconds,
        }

    def state_dict(self) -> dict[str, float]:
        """Totals so far, so that a resumed stage reports the whole."""
        return {k: getattr(self, k) for k in ("compute", "wait", "other", "samples", "steps")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores totals."""
        for key, value in state.items():
            setattr(self, key, value)
