"""A small fit in a process of its own, killed where the test asks: `python toy_fit.py FOLDER KILL_STEP|- [WHERE]`."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from astroclip_train.stages.module import System
from astroclip_train.training.fit import FitJob, FitSettings, fit
from astroclip_train.training.metrics_log import MetricsLog


class Toy(System):
    """Everything that a careless resume gets wrong: dropout, running statistics, accumulation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 32), nn.Dropout(0.2), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1)
        )

    def parts(self):
        return {"net": self.net}

    def loss(self, batch, *, epoch, stream):
        loss = (self.net(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        return loss, {"mse": loss}


def batches(start, total):
    for number in range(start, total):
        generator = torch.Generator().manual_seed(number)
        yield {
            "x": torch.randn(16, 8, generator=generator),
            "index": torch.arange(16),
            "epoch": torch.tensor(0),
        }


def job(folder: Path, kill: int | None = None, where: str = "step", **changes) -> FitJob:
    """The fit; `kill` ends the process with SIGKILL after that step, before its checkpoint."""

    def killer(system, step):
        if where == "step" and step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    settings = {
        "max_steps": 24, "accumulate": 2, "checkpoint_every_steps": 5, "val_every_steps": 4, "log_every_steps": 1,
        "ema_decay": 0.9, "early_stopping_patience": 50, "validate_first": True, "keep_best": 2, "accelerator": "cpu",
    }  # fmt: skip
    torch.manual_seed(0)
    return FitJob(
        name="toy",
        system=Toy(),
        settings=FitSettings(**{**settings, **changes}),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
        weight_decay=0.1,
        scheduler={"name": "warmup_cosine", "warmup_steps": 5},
        seed=0,
        train_loader=batches,
        val_loader=lambda: batches(1000, 1003),
        folder=folder,
        metrics=MetricsLog(folder / "metrics.csv"),
        fingerprint="abc",
        probes=[killer],
        probe_every=1,
    )


if __name__ == "__main__":
    chosen = Path(sys.argv[1])
    chosen.mkdir(parents=True, exist_ok=True)
    fit(job(chosen, None if sys.argv[2] == "-" else int(sys.argv[2])))
