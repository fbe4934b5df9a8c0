"""What checkpoints cost, how long a warned job needs to leave, and how long a restarted one needs to go on.

python benchmarks/checkpointing.py [--share] [--signal] [--restart]       (default: all three)

--share    seconds in saving over seconds of training, demo scale, at the default interval (wanted: at most 2 %)
--signal   SIGUSR1 to a whole checkpoint and the end of the process, scale=paper, local disk (wanted: at most 10 s)
--restart  start of the command to the first new row of metrics.csv, demo scale (wanted: at most 15 s)
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import Timing, header, summarise

COMMAND = [sys.executable, "-m", "astroclip_train.cli.train", "+experiment=specclip", "run.stages=[lrs]"]
QUIET = ["evaluation.report=false", "stages.lrs.probe=null", "stages.lrs.trainer.log_every_steps=1"]
LIMIT = 900.0


def start(root: Path, *words: str) -> subprocess.Popen:
    """The command in the background, with its data kept between the measurements."""
    command = [*COMMAND, *QUIET, f"run.root={root}", f"data.cache_root={root.parent / 'cache'}", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(root: Path) -> int:
    """Rows in metrics.csv."""
    return sum(f.read_text().count("\n") for f in root.glob("specclip/*/metrics.csv"))


def until(process: subprocess.Popen, condition) -> None:
    """Waits while the process lives.

    Raises:
        SystemExit: it ended, or it took too long.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise SystemExit(f"the run ended too early or hung: {process.args}")
        time.sleep(0.02)


def stop(process: subprocess.Popen, number: int = signal.SIGTERM) -> None:
    """Asks the process to save and leave."""
    process.send_signal(number)
    process.wait(timeout=LIMIT)


def share(root: Path) -> None:
    """Times one save and one step of the demo in a run of their own."""
    from astroclip_train.training.checkpoint import load_checkpoint, save_checkpoint

    every = 200
    process = start(root, "scale=demo")
    until(process, lambda: rows(root) >= 3)
    began, first = time.perf_counter(), rows(root)
    until(process, lambda: rows(root) >= first + 40)
    step = (time.perf_counter() - began) / (rows(root) - first)
    stop(process)
    (path,) = root.glob("specclip/*/stages/lrs/checkpoints/step-*.ckpt")
    content = load_checkpoint(path)

    def once() -> float:
        before = time.perf_counter()
        save_checkpoint(root / "copy.ckpt", content)
        return time.perf_counter() - before

    saving = summarise([once() for _ in range(7)])
    size = path.stat().st_size / 1e6
    print(f"demo, stage lrs: a step takes {step:.4g} s, a checkpoint of {size:.1f} MB {saving}")
    print(
        f"share at the default interval of {every} steps: {saving.median / (saving.median + every * step):.3%}"
    )


def signal_to_end(root: Path) -> None:
    """SIGUSR1 in the middle of paper-scale training."""
    whole, ended = [], []
    for number in range(3):
        folder = root / str(number)
        small = "stages.lrs.trainer.batch_size=4"  # a step of the paper's batch takes minutes on a CPU
        process = start(folder, "scale=paper", small, "dataset.n=2000")
        until(process, lambda f=folder: rows(f) >= 3)
        time.sleep(0.5)
        began = time.perf_counter()
        process.send_signal(signal.SIGUSR1)
        until(process, lambda f=folder: any(f.glob("specclip/*/stages/lrs/checkpoints/step-*.ckpt")))
        whole.append(time.perf_counter() - began)
        process.wait(timeout=LIMIT)
        ended.append(time.perf_counter() - began)
        (path,) = folder.glob("specclip/*/stages/lrs/checkpoints/step-*.ckpt")
        size = path.stat().st_size / 1e6
        shutil.rmtree(folder)
    print(f"paper, stage lrs, checkpoint of {size:.0f} MB: signal to whole checkpoint {summarise(whole)}")
    print(f"signal to the end of the process {summarise(ended)}")


def restart(root: Path) -> None:
    """The same command again, to its first new row."""
    process = start(root, "scale=demo")
    until(process, lambda: rows(root) >= 3)
    stop(process)
    seconds = []
    for _ in range(3):
        had = rows(root)
        began = time.perf_counter()
        process = start(root, "scale=demo")
        until(process, lambda had=had: rows(root) > had)
        seconds.append(time.perf_counter() - began)
        stop(process)
    found: Timing = summarise(seconds)
    print(f"demo: start to first new step {found}  (wanted: at most 15 s)")


def main() -> None:
    """Measures what was asked for."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"share": share, "signal": signal_to_end, "restart": restart}
    for name in parts:
        options.add_argument(f"--{name}", action="store_true")
    chosen = vars(options.parse_args())
    header()
    print(f"threads: OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    with tempfile.TemporaryDirectory(prefix="checkpointing-") as folder:
        for name, work in parts.items():
            if chosen[name] or not any(chosen.values()):
                work(Path(folder) / name)


if __name__ == "__main__":
    main()
