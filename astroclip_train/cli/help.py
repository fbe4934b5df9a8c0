"""The help of `astro-train`, with the groups and their choices read from the file names of `conf/`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..config.folder import HIDDEN, conf_folder, groups

__all__ = ["train_help"]

USAGE = """\
astro-train [options] +experiment=NAME [group=choice ...] [key=value ...]

Trains the stages of an experiment in order, evaluates it once and writes a report. The same command again continues
where it stopped, or says that it is done and where.
"""

EXAMPLES = """\
Examples
  astro-train +experiment=specclip                            the whole recipe on embedded mock stars, minutes
  astro-train +experiment=specclip scale=tiny                 the same in seconds, to see that it works
  astro-train +experiment=specclip run.preflight=true         check everything, two real steps, print the plan
  astro-train +experiment=specclip run.stages=[align]         one stage; its inputs must exist
  astro-train +experiment=specclip dataset=store dataset.path=pairs.h5
  astro-train -m +experiment=specclip stages.align.objective.temperature=0.05,0.07,0.1
  astro-train -m +experiment=specclip +sweep=optuna sweep.metric=align.val_loss stages.align.optimizer.lr=1e-3,3e-3
"""

OPTIONS = """\
Options
  --cfg job [--resolve] [--package KEY]   print the composed configuration (or one part of it) and end
  -m, --multirun          run every combination of comma-separated values, one after another;
                          with hydra/launcher=slurm as one SLURM job array
  -cd, --config-dir DIR   search DIR for files of your own, e.g. DIR/experiment/mine.yaml; may be repeated
  --allow-target PKG      allow _target_ names of a package that you trust; may be repeated
  --version               print the version and end
  -h, --help              this page
"""

KEYS = """\
Keys of every run
  run.name  run.seed  run.root  run.stages  run.fresh  run.extend  run.preflight  run.requeue
  labels.names  labels.n  data.num_workers  stages.STAGE.{encoder,objective,optimizer,scheduler,trainer}.KEY
"""


def train_help(config_dirs: Sequence[str] = ()) -> str:
    """The whole page."""
    found = groups([conf_folder(), *map(Path, config_dirs)])
    lines = ["Groups and their choices (group=choice; in one stage: group@stages.STAGE.group=choice)"]
    first = [g for g in ("experiment", "scale", "variant", "dataset") if g in found]
    for group in [*first, *(g for g in found if g not in first and not g.startswith(HIDDEN))]:
        sign = "+" if group in ("experiment", "sweep") else " "
        text = textwrap.fill(", ".join(found[group]), 110, initial_indent="", subsequent_indent=" " * 16)
        lines.append(f" {sign}{group:<14}{text}")
    return "\n".join([USAGE, EXAMPLES, *lines, "", OPTIONS, KEYS]).rstrip()
