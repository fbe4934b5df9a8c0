"""The parts of a trained model, whatever they come from: a checkpoint, a run directory or an exported folder.

Names of parts in `model.safetensors`:

- `encoders.<m>`: spectrum (b, l) -> tokens (b, n, d), the encoder of the last stage that has one;
- `single.<m>`: the encoder before alignment, only where alignment changed it;
- `heads.<m>`: tokens -> aligned embedding (b, k);
- `objective`: the pair objective with its decoders and bottleneck;
- `predictors.<fit>`: features -> labels, a fit being `<head>__<input>`;
- `pools.<fit>/<input part>`: its pooling; `tuned.<fit>/<input part>`: its own encoder, where it has one;
- `domain.<input>`: distance from the training set.

A *route* is the list of parts that leads from a spectrum to an input, such as
`lrs.aligned: [encoders.lrs, heads.lrs]`; `lrs.raw` is the empty route.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, RunError
from ..files import read_json
from ..training.checkpoint import CheckpointFolder, load_checkpoint

__all__ = ["CONFIG_FORMAT", "Parts", "best_checkpoint", "plain", "read_parts"]

CONFIG_FORMAT = "astro-train model 1"
KEPT = (
    "modalities",
    "labels",
    "label_units",
    "predictors",
    "preferred",
    "dataset",
    "folds",
    "origins",
    "data",
    "version",
    "torch",
)


@dataclass
class Parts:
    """State dicts, the configurations that rebuild their modules, and what users of the weights must know."""

    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = ""


def read_parts(path: str | Path) -> Parts:
    """Reads the parts of a run directory, a checkpoint file or an exported folder.

    Raises:
        RunError: nothing of the kind lies there, or it is damaged.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        path = path.parent
    if path.is_file():
        return _merged([path])
    if (path / "model.safetensors").exists():
        return _from_export(path)
    if (path / "stages").is_dir():
        own = _merged([c for stage in _stage_order(path) for c in _checkpoints(stage)], str(path))
        return _with_adapted(own, path)
    if (path / "checkpoints").is_dir():
        return _merged([best_checkpoint(path)])
    raise RunError(
        f"{path} is not a run directory, a checkpoint or an exported folder: "
        "give a folder with stages/ or model.safetensors, or a .ckpt file."
    )


def _with_adapted(own: Parts, run: Path) -> Parts:
    """A run of heads alone stands on the encoders of another model: those that its references name are added.

    Raises:
        RunError: that model is no longer there.
    """
    stages = {p.name for p in (run / "stages").iterdir()}
    origins = {o for o in own.metadata.pop("origins", {}).values() if o and o not in stages}
    for origin in sorted(origins):
        found = Path(origin) if Path(origin).is_absolute() else _beside(run, Path(origin))
        if found is None:
            raise RunError(
                f"{run} has heads on the encoders of {origin}, which is not there any more: put it back, or start "
                "from a folder where it is."
            )
        theirs = read_parts(found)
        wanted = [
            n for n in theirs.modules if n.startswith(("encoders.", "single.", "heads.")) or n == "objective"
        ]
        for name in wanted:
            own.modules.setdefault(name, theirs.modules[name])
            own.architecture.setdefault(name, theirs.architecture[name])
        own.metadata["modalities"] = {
            **theirs.metadata.get("modalities", {}),
            **own.metadata.get("modalities", {}),
        }
    return own


def _beside(run: Path, origin: Path) -> Path | None:
    """A relative path as the command that trained had it: from here, or from a folder above the run."""
    folders = [Path.cwd(), *run.resolve().parents]
    return next((folder / origin for folder in folders if (folder / origin).exists()), None)


def best_checkpoint(fit: Path) -> Path:
    """The checkpoint of a fit's folder that validation chose, else its newest whole one.

    Raises:
        RunError: the folder has no readable checkpoint.
    """
    if (fit / "done.json").exists():
        name = read_json(fit / "done.json").get("best")
        if name and (fit / name).exists():
            return fit / name
    best = sorted((fit / "checkpoints").glob("best-*.ckpt"))
    if best:
        return best[-1]
    found = CheckpointFolder(fit / "checkpoints").newest_whole()
    if found is None:
        raise RunError(f"{fit} holds no whole checkpoint: train this stage first.")
    return found[0]


def _merged(paths: Iterable[Path], source: str = "") -> Parts:
    """Parts of several checkpoints; an encoder that a later stage tuned stays as `single.<m>`."""
    total = Parts(source=source)
    for path in paths:
        total.source = total.source or str(path)
        new = _from_checkpoint(path)
        for name, state in new.modules.items():
            if name.startswith("encoders.") and name in total.modules:
                single = name.replace("encoders.", "single.", 1)
                if not _same_state(total.modules[name], state):
                    total.modules.setdefault(single, total.modules[name])
                    total.architecture.setdefault(single, total.architecture[name])
            total.modules[name] = state
            total.architecture[name] = new.architecture[name]
        _merge(total.metadata, {k: v for k, v in new.metadata.items() if k in KEPT})
    if not total.modules:
        raise RunError(f"{source} holds no checkpoint yet: let at least one stage of the run finish.")
    return total


def _from_checkpoint(path: Path) -> Parts:
    content = load_checkpoint(path)
    missing = [key for key in ("modules", "architecture", "metadata") if key not in content]
    if missing:
        raise RunError(
            f"{path} has no {', '.join(missing)}: it was not written whole by a stage of astro-train."
        )
    metadata = dict(content["metadata"])
    names = _names(content, metadata, path)
    unknown = [old for old in names if old not in content["architecture"]]
    if unknown:
        raise RunError(f"{path} does not say how {', '.join(unknown)} is built: train the stage again.")
    return Parts(
        {new: content["modules"][old] for old, new in names.items()},
        {new: content["architecture"][old] for old, new in names.items()},
        metadata,
        str(path),
    )


def _names(content: dict[str, Any], metadata: dict[str, Any], path: Path) -> dict[str, str]:
    """Name of a part in its stage's checkpoint -> in the whole model; adds a predictor to the metadata."""
    modules = content["modules"]
    if "encoder" in modules:
        modality = metadata.get("modality") or next(iter(metadata.get("modalities", {})), None)
        if modality is None:
            raise RunError(f"{path} does not name the modality of its encoder: train the stage again.")
        return {"encoder": f"encoders.{modality}"}
    if "head" not in modules:
        return {name: name for name in modules}
    fit = str(content.get("stage", "head__unknown")).rsplit("/", 1)[-1]
    head, _, source = fit.partition("__")
    names = {"head": f"predictors.{fit}"}
    for name in modules:
        kind, _, part = name.partition(".")
        if kind in ("pools", "encoders"):
            names[name] = f"{'pools' if kind == 'pools' else 'tuned'}.{fit}/{part}"
    metadata["origins"] = {
        m: node["from"] if isinstance(node, dict) else node
        for m, node in (metadata.get("encoders") or {}).items()
    }
    metadata["predictors"] = {fit: {"head": head, "input": source, "labels": metadata.get("labels", [])}}
    return names


def _stage_order(run: Path) -> list[Path]:
    """Stage folders, as listed in the run's configuration; those unknown to it come last."""
    folders = sorted(p for p in (run / "stages").iterdir() if p.is_dir() and not p.name.startswith("."))
    names: list[str] = []
    if (run / "config.yaml").exists():
        import yaml

        names = list(
            (yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}).get("stages", {})
        )
    folders.sort(key=lambda p: names.index(p.name) if p.name in names else len(names))
    return [_followed(folder) for folder in folders]


def _followed(folder: Path) -> Path:
    """A stage that was reused lies in the run that trained it."""
    link = folder / "reused.json"
    return Path(read_json(link)["folder"]) if link.exists() else folder


def _checkpoints(stage: Path) -> list[Path]:
    """One checkpoint for each fit in a stage's folder, and those written in one piece beside the fits."""
    fits = sorted(p.parent for p in stage.rglob("checkpoints") if p.is_dir() and any(p.glob("*.ckpt")))
    whole = sorted(
        p for p in stage.rglob("*.ckpt") if p.parent.name != "checkpoints" and not p.name.startswith(".")
    )
    return [best_checkpoint(fit) for fit in fits] + whole


def _same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _from_export(folder: Path) -> Parts:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != CONFIG_FORMAT:
        raise RunError(f"{folder / 'config.json'} is not an '{CONFIG_FORMAT}' file: export the model again.")
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{weights} is damaged or cut short ({str(error).splitlines()[0]}): copy or export it again."
        ) from error
    architecture = config["architecture"]
    modules: dict[str, dict[str, Tensor]] = {name: {} for name in architecture}
    for key, tensor in tensors.items():
        owner = max((n for n in architecture if key.startswith(n + ".")), key=len, default=None)
        if owner is None:
            raise RunError(
                f"{weights} holds {key}, which belongs to no part of config.json: export the model again."
            )
        modules[owner][key[len(owner) + 1 :]] = tensor
    return Parts(modules, architecture, config["metadata"], str(folder))


def plain(value: Any) -> Any:
    """A copy of plain containers that JSON can hold.

    Raises:
        DataError: the value holds something else, such as an object or a tensor.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"model metadata is not plain data ({error}): keep only numbers, text, lists and tables."
        ) from error
