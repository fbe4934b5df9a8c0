"""A one-stage experiment, and sweeps of it over trials that take milliseconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from astroclip_train.cli.train import main

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """\
# @package _global_
# One encoder, for tests.
defaults:
  - /scale: tiny
  - /encoder@stages.xp.encoder: xp_autoencoder_tiny
  - /objective@stages.xp.objective: autoencode
  - /optimizer@stages.xp.optimizer: adamw
  - /scheduler@stages.xp.scheduler: constant
  - /stage_trainer@stages.xp.trainer: default
  - _self_
dataset: {n: 60}
stages:
  xp:
    _stage_: pretrain
    modality: xp
    dataset: null
    probe: null
    encoder: {length: 64}
    trainer: {max_steps: 4, batch_size: 8, val_every_steps: 2, checkpoint_every_steps: 2, log_every_steps: 1}
"""
DRIVER = """\
import sys
from astroclip_train.cli.train import main
sys.executable = {stand_in!r}
sys.exit(main(sys.argv[1:]))
"""


class Sweeps:
    """Starts sweeps in a folder of their own, in this process or in one that can be killed."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        (folder / "conf/experiment").mkdir(parents=True)
        (folder / "conf/experiment/one.yaml").write_text(EXPERIMENT)
        stand_in = Path(__file__).with_name("stand_in.py")
        self.stand_in = folder / "interpreter"
        self.stand_in.write_text(f'#!/bin/sh\nshift 2\nexec {python} {stand_in} "$@"\n')
        self.stand_in.chmod(0o755)
        (folder / "driver.py").write_text(DRIVER.format(stand_in=str(self.stand_in)))

    def words(self, *more: str, kind: str = "random", metric: str = "xp.val_loss") -> list[str]:
        """A command of a sweep."""
        first = ["-m", "--config-dir", str(self.folder / "conf"), "+experiment=one", f"+sweep={kind}"]
        return [*first, f"sweep.metric={metric}", *more]

    def here(self, *more: str, **which: str) -> int:
        """Runs a sweep in this process."""
        return main(self.words(*more, **which))

    def start(self, *more: str, **which: str) -> subprocess.Popen:
        """Starts a sweep in another process."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [self.python, self.folder / "driver.py", *self.words(*more, **which)],
            cwd=self.folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def only(self) -> Path:
        """The one sweep's folder."""
        (found,) = (self.folder / "runs/one").glob("sweep-*")
        return found


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    """Sweeps whose trials are those of `stand_in.py`."""
    pytest.importorskip("optuna")
    made = Sweeps(tmp_path, sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(made.stand_in))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return made
