"""From the artefacts of a run to metrics.json."""

from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json
from .artefacts import Prediction, RunFiles
from .calibration import calibration_metrics
from .metrics import label_metrics
from .retrieval import retrieval_metrics
from .schema import SCHEMA_VERSION, validate_metrics
from .translation import translation_metrics

__all__ = ["assemble", "compute_metrics"]

Tree = dict[str, Any]


def assemble(run_path: str | Path, replicates: int = 200, seed: int = 0) -> Tree:
    """Computes every metric of a run from its files and writes metrics.json beside them.

    Arguments:
        run_path: the run directory.
        replicates: bootstrap resamples behind every error.
        seed: of the bootstrap.

    Returns:
        The content of metrics.json (see docs/metrics.md); sections whose artefacts are absent are empty.

    Raises:
        DataError: a file is damaged, or the result does not follow the schema.
    """
    files = RunFiles(run_path)
    metrics = compute_metrics(files, replicates, seed)
    validate_metrics(metrics)
    write_json(files.path / "metrics.json", metrics)
    return metrics


def compute_metrics(files: RunFiles, replicates: int = 200, seed: int = 0) -> Tree:
    """The content of metrics.json, not written."""
    predictions = files.predictions()
    units = {label: unit for p in predictions for label, unit in p.units.items()}
    crb = _crb(files, predictions)
    for label in crb:
        units.setdefault(label, "")
    return {
        "version": SCHEMA_VERSION,
        "run": files.path.name,
        "bootstrap": replicates,
        "labels": {label: {"unit": unit} for label, unit in units.items()},
        "heads": _heads(predictions, replicates, seed),
        "crb": crb,
        "retrieval": _retrieval(files),
        "translation": _translation(files, replicates, seed),
        "information": _information(files),
        "calibration": _calibration(predictions),
        "timing": _timing(files.json("timing.json")),
    }


def _put(tree: Tree, keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _heads(predictions: list[Prediction], replicates: int, seed: int) -> Tree:
    tree: Tree = {}
    for p in predictions:
        for label in p.labels:
            truth, mean = p.pair(label)
            std, bound = p.column("std", label), p.column("crb", label)
            if np.isfinite(truth).any():
                values = label_metrics(
                    truth, mean, std, p.get("snr"), bound, replicates=replicates, seed=seed
                )
                _put(tree, (label, p.head, p.input), values)
    return tree


def _crb(files: RunFiles, predictions: list[Prediction]) -> Tree:
    """Median bounds by label and modality: from crb/<modality>.npz, else from single-modality predictions."""
    tree: Tree = {}
    for modality, arrays in files.folder("crb").items():
        for j, label in enumerate(map(str, arrays["labels"])):
            _put_crb(tree, label, modality, arrays["sigma"][:, j], arrays.get("snr"))
    for p in predictions:
        modality = p.input.split(".")[0]
        for label in p.labels if "+" not in p.input else []:
            bound = p.column("crb", label)
            if bound is not None and modality not in tree.get(label, {}):
                _put_crb(tree, label, modality, bound, p.get("snr"))
    return tree


def _put_crb(tree: Tree, label: str, modality: str, bound: Any, snr: Any) -> None:
    bound = np.asarray(bound, np.float64)
    good = np.isfinite(bound) & (bound > 0)
    bright = good & (np.asarray(snr) > 50) if snr is not None else np.zeros_like(good)
    if good.any():
        value = {
            "all": float(np.median(bound[good])),
            "snr50": float(np.median(bound[bright])) if bright.any() else None,
            "n": int(good.sum()),
            "n_snr50": int(bright.sum()),
        }
        _put(tree, (label, modality), value)


def _retrieval(files: RunFiles) -> Tree:
    return {
        name: retrieval_metrics(a["rank"], len(a["gallery_sample"]), a.get("oracle_rank"), a.get("n_correct"))
        for name, a in files.folder("retrieval").items()
    }


def _translation(files: RunFiles, replicates: int, seed: int) -> Tree:
    tree: Tree = {}
    for name, a in files.folder("translation").items():
        tree[name] = translation_metrics(
            a["truth"], a["prediction"], a.get("ivar"), a.get("mask"), replicates=replicates, seed=seed
        )
        if "unit" in a:
            tree[name]["unit"] = str(a["unit"])
    return tree


def _information(files: RunFiles) -> Tree:
    tree: Tree = {}
    for name, a in files.folder("information").items():
        good = np.isfinite(a["gain"]) & (a["n"] > 0)
        values, share = a["gain"][good], a["n"][good] / max(1, a["n"][good].sum())
        if values.size:
            k, mean = values.size, float(share @ values)  # every object counts alike, whatever its batch
            error = float(np.sqrt(k / (k - 1) * (share**2 @ (values - mean) ** 2))) if k > 1 else None
            tree[name] = {"n": int(a["n"][good].sum()), "batches": int(k), "gain": mean, "gain_err": error}
    return tree


def _calibration(predictions: list[Prediction]) -> Tree:
    tree: Tree = {}
    for p in predictions:
        values = calibration_metrics(
            p.labels,
            p.arrays["truth"],
            p.arrays["mean"],
            std=p.get("std"),
            quantiles=p.get("samples_q"),
            pit=p.get("pit"),
            log_prob=p.get("log_prob"),
        )
        if values is not None:
            _put(tree, (p.head, p.input), values)
    return tree


def _timing(stages: Tree) -> Tree:
    """timing.json with the four promised keys always there; a stage that did not measure one has null."""
    promised = ("seconds", "samples_per_second", "data_wait", "mfu")
    return {name: {**dict.fromkeys(promised), **values} for name, values in stages.items()}
