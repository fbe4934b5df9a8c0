"""The numbers of a finished SpecCLIP demo run beside what is wanted of it.

    python benchmarks/demo.py RUN

RUN is the folder that `astro-train +experiment=specclip` made. Pulls are biweight(residual / bound) at S/N > 50.
"""

import argparse
import json
from pathlib import Path

from _common import header

LABELS = ("teff", "logg", "feh", "rv")


def pulls(metrics: dict, task: str, part: str) -> dict[str, float]:
    """pull_sigma at S/N > 50 of each label."""
    heads = metrics["heads"]
    return {k: heads[k][task][part]["snr50"]["pull_sigma"] for k in LABELS if part in heads[k].get(task, {})}


def line(name: str, values: dict[str, float], wanted: str) -> None:
    """One row: the pulls and the worst of them."""
    if values:
        shown = "  ".join(f"{k} {v:.2f}" for k, v in values.items())
        print(f"{name:34s} {shown}   worst {max(values.values()):.2f}  ({wanted})")


def main() -> None:
    """Reads metrics.json and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path)
    run = options.parse_args().run
    header()
    metrics = json.loads((run / "metrics.json").read_text())
    line("raw CNN", pulls(metrics, "cnn", "lrs.raw"), "wanted ≤ 1.5")
    line("raw MLP", pulls(metrics, "mlp", "lrs.raw"), "beside it")
    line("frozen pretrained embedding + head", pulls(metrics, "mlp", "lrs.single"), "wanted ≤ 2.0")
    line("fine-tuned", pulls(metrics, "finetune", "lrs.single"), "wanted ≤ 1.8")
    for name, r in metrics["retrieval"].items():
        print(
            f"retrieval {name}: recall@10 {r['recall@10']:.3f} among {r['gallery']:,} (wanted ≥ 0.30; "
            f"oracle {r['oracle@10']:.3f}, chance {r['chance@10']:.4f})"
        )
    for head, inputs in metrics.get("calibration", {}).items():
        for name, labels in inputs.items():
            print(f"calibration {head} on {name}: {json.dumps(labels)[:400]}")
    total = 0.0
    for stage, t in metrics["timing"].items():
        if "/" not in stage:
            total += t["seconds"]
            print(f"{stage:12s} {t['seconds']:7.1f} s   data wait {100 * (t.get('data_wait') or 0):.1f} %")
    print(f"sum          {total:7.1f} s")


if __name__ == "__main__":
    main()
