"""How close an hour on two cores comes to the bound: raw CNN, raw MLP, frozen and fine-tuned encoder, trained longer.

    python benchmarks/long_run.py [--root runs] [--factor 1.0] [--seed 0] [--name long]

Three times the demo's stars and 12 to 20 times its steps, wider heads; stages `xp` and `align` are left out. The same
command again goes on, or prints the numbers of the finished run. Extra words are overrides of the run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from _common import header
from demo import line, pulls

STEPS = {"lrs": 20_000, "mlp": 20_000, "cnn": 36_000, "finetune": 20_000}


def overrides(options: argparse.Namespace) -> list[str]:
    """The run's command line after `astro-train`."""
    steps = {k: max(20, int(n * options.factor)) for k, n in STEPS.items()}
    tasks = "stages.heads.tasks"
    words = [
        "+experiment=specclip", f"run.name={options.name}", f"run.root={options.root}", f"run.seed={options.seed}",
        "run.stages=[lrs,heads]", f"dataset.n={options.stars}",
        "~stages.xp", "~stages.align", "~stages.heads.encoders.xp", "stages.heads.aligned=null",
        "stages.heads.embeddings=[]", *[f"~{tasks}.{t}" for t in ("linear", "knn", "flow")],
        f"{tasks}.mlp.inputs=[lrs.raw,lrs.single]", f"~{tasks}.mlp.per_input",
        f"{tasks}.cnn.inputs=[lrs.raw]", f"~{tasks}.cnn.per_input",
        f"stages.lrs.trainer.max_steps={steps['lrs']}",
    ]  # fmt: skip
    for task in ("mlp", "cnn", "finetune"):
        every = max(10, steps[task] // 6)
        words += [f"{tasks}.{task}.trainer.max_steps={steps[task]}"]
        words += [f"++{tasks}.{task}.trainer.{k}_every_steps={every}" for k in ("val", "checkpoint")]
    words += [f"{tasks}.mlp.head.widths=[1024,512]", f"{tasks}.cnn.head.widths=[512]"]
    return words + options.more


def main() -> None:
    """Trains, then prints pulls of every label."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--root", type=Path, default=Path("runs"))
    options.add_argument("--factor", type=float, default=1.0, help="of the steps")
    options.add_argument("--stars", type=int, default=240_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--name", default="long", help="of the run")
    chosen, chosen.more = options.parse_known_args()
    header()
    command = [sys.executable, "-m", "astroclip_train.cli.train", *overrides(chosen)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)
    metrics = json.loads((chosen.root / "specclip" / chosen.name / "metrics.json").read_text())
    for name, task, part in (
        ("raw CNN", "cnn", "lrs.raw"),
        ("raw MLP", "mlp", "lrs.raw"),
        ("frozen pretrained embedding + head", "mlp", "lrs.single"),
        ("fine-tuned", "finetune", "lrs.single"),
    ):
        line(name, pulls(metrics, task, part), "aimed at: 1.15")
    for stage, timing in metrics["timing"].items():
        print(f"{stage:32s} {timing['seconds']:7.1f} s")


if __name__ == "__main__":
    main()
