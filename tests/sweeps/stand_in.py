"""A training process that takes milliseconds: real command line, run directory, lease and metrics.csv, invented losses.

The loss is a parabola in log10 of the learning rate. What goes wrong is asked for by `vars`: `vars.nan`, `vars.fail`
and `vars.die` are thresholds of the learning rate, `vars.pause` is seconds per step.
"""

import math
import os
import signal
import sys
import time

from astroclip_train.cli._console import guard
from astroclip_train.cli.train import parser
from astroclip_train.config.compose import compose
from astroclip_train.errors import RunError
from astroclip_train.files import write_json, write_text
from astroclip_train.training.run_dir import RunDir

STEPS = 4


def loss(rate: float, step: int) -> float:
    return (math.log10(rate) + 2.5) ** 2 + 1.0 / step


def train(argv: list[str]) -> int:
    options, _ = parser().parse_known_intermixed_args(argv)
    cfg = compose(options.overrides, options.config_dir)
    with RunDir(cfg, options.overrides, options.config_dir) as run_dir:
        trial, rate = not cfg.run.evaluate, float(cfg.stages.xp.optimizer.lr)
        for step in range((run_dir.metrics.last_step("xp") or 0) + 1, STEPS + 1):
            time.sleep(float(cfg.vars.get("pause", 0)))
            if rate > float(cfg.vars.get("fail", 1)):
                raise RunError("xp: the encoder caught fire: buy another one.")
            if rate > float(cfg.vars.get("die", 1)) and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            value = math.nan if rate > float(cfg.vars.get("nan", 1)) else loss(rate, step)
            run_dir.metrics.write("xp", step, {"loss": 1.0, "val_loss": value, "val_mse": value})
            with open(run_dir.path / "steps.txt", "a") as handle:
                handle.write(f"{step}\n")
        write_json(
            run_dir.path / "stages/xp/done.json", {"fingerprint": "x", "best": "b", "best_step": STEPS}
        )
        if not trial:
            write_text(run_dir.path / "metrics.json", "{}")
        run_dir.mark("partial" if trial else "finished")
    return 0


if __name__ == "__main__":
    sys.exit(guard("astro-train", train, sys.argv[1:]))
