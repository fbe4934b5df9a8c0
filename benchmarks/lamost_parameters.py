"""Scatter on real stars of the five folds of `+experiment=lamost_parameters`, pooled, with bootstrap intervals.

    python benchmarks/lamost_parameters.py runs/lamost_parameters/*

Every star is in the test fold once. Intervals are 68 % of bootstrap resamples over objects.
"""

import argparse
from pathlib import Path

import numpy as np
from _common import header

from astroclip_train.evaluation.metrics import biweight_scale


def pooled(runs: list[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Task -> arrays of all test folds, one after another."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        for file in sorted((run / "predictions").glob("*.npz")):
            with np.load(file) as arrays:
                found.setdefault(file.stem, []).append(
                    {k: arrays[k] for k in ("truth", "mean", "snr", "labels")}
                )
    return {
        task: {k: parts[0][k] if k == "labels" else np.concatenate([p[k] for p in parts]) for k in parts[0]}
        for task, parts in found.items()
    }


def interval(residual: np.ndarray, resamples: int = 500) -> tuple[float, float, float]:
    """Biweight scatter and its 68 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [
        biweight_scale(residual[rng.integers(0, len(residual), len(residual))]) for _ in range(resamples)
    ]
    return float(biweight_scale(residual)), *np.quantile(draws, [0.16, 0.84])


def main() -> None:
    """Prints one line for each task and S/N cut."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", nargs="+", type=Path)
    runs = [r for r in options.parse_args().runs if (r / "predictions").is_dir()]
    header()
    print(f"{len(runs)} folds")
    for task, arrays in pooled(runs).items():
        for name, chosen in (("all", np.full(len(arrays["snr"]), True)), ("S/N > 50", arrays["snr"] > 50)):
            words = []
            for i, label in enumerate(arrays["labels"]):
                truth, mean = arrays["truth"][chosen, i], arrays["mean"][chosen, i]
                sigma, low, high = interval((mean - truth).astype(np.float64))
                r2 = 1 - np.sum((mean - truth) ** 2) / np.sum((truth - truth.mean()) ** 2)
                words.append(f"{label} {sigma:.4g} [{low:.4g}, {high:.4g}] R² {r2:.3f}")
            print(f"{task:24s} {name:9s} n={int(chosen.sum()):5d}  " + "   ".join(words))


if __name__ == "__main__":
    main()
