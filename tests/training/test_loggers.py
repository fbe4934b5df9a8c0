"""TensorBoard and Weights & Biases write without an account, and a restart goes on in the same run."""

import json
import signal
from pathlib import Path

import pytest

from astroclip_train.training.interruption import Interrupted
from astroclip_train.training.loggers import open_loggers


def write(folder: Path, config: dict, step: int) -> None:
    with open_loggers(config, folder, "a run") as loggers:
        assert len(loggers) == sum(bool(v) for v in config.values())
        for logger in loggers:
            logger.log_metrics({"lrs/loss": 1.0 / step}, step=step)


def test_no_logger_is_needed(tmp_path: Path) -> None:
    write(tmp_path, {"tensorboard": False, "wandb": None}, 1)
    assert not list(tmp_path.iterdir())


def test_tensorboard_events_can_be_read(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, {"tensorboard": True}, 7)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalar = events.Scalars("lrs/loss")[0]
    assert (scalar.step, scalar.value) == (7, pytest.approx(1 / 7))


def test_wandb_offline_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = {"wandb": {"project": "test", "mode": "offline"}}
    write(tmp_path, config, 1)
    identity = json.loads((tmp_path / "wandb.json").read_text())["id"]
    write(tmp_path, config, 2)
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] == identity
    folders = [p.name for p in (tmp_path / "wandb").iterdir() if p.name.startswith("offline-run")]
    assert folders
    assert all(name.endswith(identity) for name in folders)


def test_an_interrupted_run_is_closed_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = {"wandb": {"project": "test", "mode": "offline"}}
    with pytest.raises(Interrupted), open_loggers(config, tmp_path, "a run") as (logger,):  # noqa: PT012
        logger.log_metrics({"lrs/loss": 1.0}, step=1)
        raise Interrupted(signal.SIGUSR1, 1)
    assert wandb.run is None
    write(tmp_path, config, 2)
    identity = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert all(identity in p.name for p in (tmp_path / "wandb").glob("offline-run-*"))
