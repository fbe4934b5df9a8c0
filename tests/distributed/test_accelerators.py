"""What needs a GPU: the numbers of the CPU, exact resume, nccl, bf16 with compiled encoders."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gradients import aligned, batch, cases, gradients

from astroclip_train.objectives import Contrastive

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"
)
MPS = pytest.mark.skipif(
    not torch.backends.mps.is_available(), reason="needs an Apple GPU, and torch sees none here"
)
TWO = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two CUDA devices for nccl between ranks"
)
RECIPE = ["+experiment=specclip", "scale=tiny", "evaluation.report=false", "evaluation.bootstrap=20"]
EVERY = [f"stages.{s}.trainer.log_every_steps=1" for s in ("lrs", "xp", "align", "heads")]
EXACT = ["trainer.accelerator=gpu", "trainer.deterministic=true"]


def start(root: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "astroclip_train.cli.train", *RECIPE, *EVERY, f"run.root={root}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(root: Path, *words: str) -> Path:
    process = start(root, *words)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return root.parent / out.strip().splitlines()[-1]


def moved(module: torch.nn.Module, rows: dict[str, torch.Tensor], device: str) -> tuple:
    """The module and its batch on a device; frozen features follow their objects there."""
    module = module.to(device)
    if hasattr(module, "caches"):
        lookups = module.caches.value
        lookups |= {m: lambda index, read=read: read(index.cpu()).to(device) for m, read in lookups.items()}
    return module, {k: v.to(device) for k, v in rows.items()}


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("name", list(cases()))
def test_gradients_are_those_of_the_cpu(name: str) -> None:
    make, n = cases()[name]
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        system, rows = moved(make().double().train(), batch(n), device)
        system.loss(rows, epoch=0, stream="test")[0].backward()
        found.append({k: v.cpu() for k, v in gradients(system).items()})
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-8, atol=1e-10)


@pytest.mark.gpu
@CUDA
def test_recomputed_chunks_see_the_same_dropout_masks() -> None:
    torch.manual_seed(0)
    system, rows = moved(aligned(Contrastive(chunk_size=2), frozen=False).double().train(), batch(8), "cuda")
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    torch.manual_seed(1)
    system.loss(rows, epoch=0, stream="test")[0].backward()
    cached = gradients(system)
    system.zero_grad()
    torch.manual_seed(1)
    cut = [{k: v[i : i + 2] for k, v in rows.items()} for i in range(0, 8, 2)]
    parts = {m: torch.cat([system.embed(m, piece) for piece in cut]) for m in system.heads}
    system.objective(parts, rows)[0].backward()
    for key, value in gradients(system).items():
        torch.testing.assert_close(value, cached[key], rtol=1e-10, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.slow
@CUDA
def test_deterministic_run_killed_twice_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole = finish(tmp_path / "calm", *EXACT)
    total = (whole / "metrics.csv").read_text().count("\n")
    root = tmp_path / "killed"
    for share in (0.3, 0.7):
        process, end = start(root, *EXACT), time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            files = list(root.glob("specclip/*/metrics.csv"))
            if files and files[0].read_text().count("\n") >= share * total:
                break
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    again = finish(root, *EXACT)
    assert (again / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.gpu
@pytest.mark.slow
@CUDA
def test_bf16_with_compiled_encoders_comes_close_to_the_cpu(tmp_path: Path) -> None:
    """The same seed on another device: other roundings, the same training."""
    losses = {}
    for name, words in {"cpu": ["trainer=cpu"], "gpu": ["trainer=gpu"]}.items():
        run = finish(tmp_path / name, "run.stages=[lrs]", *words)
        rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
        column = next(i for i, head in enumerate(rows[0]) if "loss" in head)
        losses[name] = [float(row[column]) for row in rows[1:] if row[column]]
    assert len(losses["cpu"]) == len(losses["gpu"])
    torch.testing.assert_close(torch.tensor(losses["cpu"]), torch.tensor(losses["gpu"]), rtol=0.05, atol=0.02)


@pytest.mark.gpu
@pytest.mark.slow
@CUDA
@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=TWO)])
def test_torchrun_with_nccl(tmp_path: Path, devices: int) -> None:
    words = ["trainer.accelerator=gpu", f"trainer.devices={devices}", f"run.root={tmp_path}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    command = [*torchrun, "-m", "astroclip_train.cli.train", *RECIPE, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("specclip/*/run.json")
    assert json.loads(run.read_text())["status"] == "finished"


@pytest.mark.slow
@MPS
def test_the_recipe_on_an_apple_gpu(tmp_path: Path) -> None:
    run = finish(tmp_path, "trainer=mps")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
