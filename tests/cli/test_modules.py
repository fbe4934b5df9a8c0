"""The commands also run as modules, as torchrun and schedulers start them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["train", "data", "model"])
def test_every_command_runs_as_a_module(name: str) -> None:
    command = [sys.executable, "-m", f"astroclip_train.cli.{name}"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert helped.returncode == 0
    assert f"astro-{name}" in helped.stdout
    wrong = subprocess.run([*command, "--nope"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
