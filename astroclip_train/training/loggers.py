"""Loggers beside metrics.csv: TensorBoard and Weights & Biases, both optional, both usable without an account."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import read_json, write_json
from .interruption import Interrupted

__all__ = ["open_loggers"]


@contextmanager
def open_loggers(config: dict[str, Any], folder: Path, name: str) -> Iterator[list[Any]]:
    """Opens the loggers that the configuration asks for and finishes them whatever happens.

    The id of a Weights & Biases run is made before training, kept in the run directory and read by every
    restart, so that
    a requeued job goes on in the same run.
    """
    loggers: list[Any] = []
    wandb = None
    if config.get("tensorboard"):
        require("tensorboard", extra="tensorboard")
        from pytorch_lightning.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(save_dir=str(folder), name="tensorboard", version=""))
    if config.get("wandb"):
        wandb = require("wandb", extra="wandb")
        loggers.append(_wandb_logger(wandb, dict(config["wandb"]), folder, name))
    outcome = "success"
    try:
        yield loggers
    except BaseException as error:
        outcome = "failed"
        if wandb is not None and wandb.run is not None and isinstance(error, Interrupted):
            wandb.run.mark_preempting()  # shown as preempted, not as crashed, until the next start goes on
        raise
    finally:
        for logger in loggers:
            logger.finalize(outcome)
        if wandb is not None:
            wandb.finish(exit_code=0 if outcome == "success" else 1)


def _wandb_logger(wandb: Any, options: dict[str, Any], folder: Path, name: str) -> Any:
    from pytorch_lightning.loggers import WandbLogger

    record = folder / "wandb.json"
    identity = read_json(record)["id"] if record.exists() else uuid.uuid4().hex[:8]
    write_json(record, {"id": identity})
    return WandbLogger(
        project=options.get("project", "astro-train"),
        name=name,
        id=identity,
        resume="allow",
        save_dir=str(folder),
        mode=options.get("mode", "offline"),
        settings=wandb.Settings(silent=True),
    )
