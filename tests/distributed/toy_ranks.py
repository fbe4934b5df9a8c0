"""One rank of a small fit, `python toy_ranks.py FOLDER KILL_STEP|- [STRATEGY]`: all end themselves after that step."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from toy_fit import batches, job

from astroclip_train.distributed.collectives import is_main, rank, world_size
from astroclip_train.distributed.follower import _Nothing
from astroclip_train.distributed.geometry import find_geometry
from astroclip_train.distributed.group import open_group
from astroclip_train.stages.module import TrainingModule
from astroclip_train.training.fit import fit


def parts(start: int, total: int):
    for whole in batches(start, total):
        yield {k: v[rank() :: world_size()] if v.ndim else v for k, v in whole.items()}


def main(folder: Path, kill: int | None, strategy: str) -> None:
    """Trains, and ends every rank by SIGKILL in the micro-batch after `kill` steps."""
    made = job(folder, strategy=strategy, ema_decay=None)
    made.train_loader, made.val_loader = parts, lambda: parts(1000, 1003)
    if not is_main():
        made.metrics = _Nothing()
    step = TrainingModule.training_step

    def killed(self: TrainingModule, batch: dict, index: int):
        if kill is not None and self.start_step + index // self.accumulate == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    TrainingModule.training_step = killed  # type: ignore[method-assign]
    fit(made)


if __name__ == "__main__":
    chosen = Path(sys.argv[1])
    chosen.mkdir(parents=True, exist_ok=True)
    with open_group(find_geometry({**os.environ, "ASTRO_TRAIN_RANKS": "1"}), "cpu"):
        main(chosen, None if sys.argv[2] == "-" else int(sys.argv[2]), *(sys.argv[3:] or ["ddp"]))
