"""Writes a trained model as a folder to share: model.safetensors, config.json and a card."""

import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..errors import AstroTrainError, DataError, RunError
from ..files import read_json, write_json, write_text
from .card import card
from .domain import DomainGuard
from .load import assemble
from .model import AstroModel
from .parts import CONFIG_FORMAT, Parts, plain, read_parts

__all__ = ["add_domain", "export", "training_features"]

log = logging.getLogger(__name__)


def export(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    licence: str = "cc-by-4.0",
    training: dict[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a run directory or checkpoint as an exported folder, whole or not at all.

    Arguments:
        source: a run directory, a checkpoint, or an exported folder.
        out: the folder to write.
        name: title of the card; the name of `out` by default.
        licence: of the weights, as Hugging Face spells it.
        training: input name -> features (b, k) of training objects, from which the domain is learned.
        overwrite: replaces an earlier export at `out`.

    Raises:
        RunError: the source is not a model, or `out` holds something else; DataError: the disk is full.
    """
    out = Path(out)
    if out.exists() and not (overwrite and (out / "model.safetensors").exists()):
        raise RunError(
            f"{out} exists: choose another folder, or give --overwrite to replace an earlier export."
        )
    parts = read_parts(source)
    parts.metadata.setdefault("dataset", _dataset(Path(source)))
    if training:
        add_domain(parts, training)
    model = assemble(parts)  # a model that cannot be rebuilt is found before anything is written
    temporary = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir(parents=True)
    try:
        _write(temporary, parts, model, name or out.name, licence, _metrics(source))
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    except OSError as error:
        raise DataError(
            f"{out} could not be written ({error.strerror}): free space or choose another."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def add_domain(parts: Parts, training: dict[str, Tensor]) -> None:
    """Adds a `domain.<input>` part for each input, fitted to features (b, k) of training objects."""
    for name, features in training.items():
        guard = DomainGuard(features.shape[1]).fit(features)
        parts.modules[f"domain.{name}"] = dict(guard.state_dict())
        parts.architecture[f"domain.{name}"] = {
            "_target_": "astroclip_train.hub.domain.DomainGuard",
            "features": features.shape[1],
        }


def _write(
    folder: Path, parts: Parts, model: AstroModel, name: str, licence: str, metrics: dict[str, Any] | None
) -> None:
    tensors = {
        f"{part}.{key}": tensor.detach().cpu().contiguous().clone()
        for part in parts.architecture
        for key, tensor in parts.modules[part].items()
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    with open(weights, "rb+") as handle:
        os.fsync(handle.fileno())
    weights.chmod(
        0o644
    )  # safetensors writes files that only their owner can read, and an export is to be shared
    counts = {part: sum(p.numel() for p in model.part(part).parameters()) for part in parts.architecture}
    config = {
        "format": CONFIG_FORMAT,
        "name": name,
        "licence": licence,
        "versions": {"astro-train": __version__, "torch": torch.__version__},
        "architecture": plain(parts.architecture),
        "metadata": plain(parts.metadata),
        "parameters": counts,
    }
    write_json(folder / "config.json", config)
    write_text(folder / "README.md", card(config, model, metrics))


def _dataset(source: Path) -> dict[str, Any] | None:
    """The data set that a run's configuration names."""
    if not (source / "config.yaml").exists():
        return None
    import yaml

    return (yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8")) or {}).get("dataset")


def _metrics(source: str | Path) -> dict[str, Any] | None:
    """metrics.json of a run, or of the run that a checkpoint lies in."""
    for folder in (Path(source), *list(Path(source).parents)[:5]):
        if (folder / "metrics.json").exists():
            return read_json(folder / "metrics.json")
    return None


def training_features(
    source: str | Path, stores: Sequence[str | Path] | None = None, most: int = 10_000
) -> dict[str, Tensor]:
    """Aligned embeddings of training objects, from which the domain is learned; empty without data.

    Arguments:
        source: the model.
        stores: training data; by default those that the run's configuration names, if they are still there.
        most: objects at most.
    """
    from .answers import embeddings
    from .inputs import Inputs, open_inputs

    model = assemble(read_parts(source))
    wanted = [m for m in model.modalities if f"{m}.aligned" in model.routes]
    paths = list(stores) if stores else _stores_of_run(Path(source))
    if not wanted or not paths:
        return {}
    found = {}
    for m in wanted:
        inputs = open_inputs(paths, model, [m], Path(), "train")
        good = inputs.samples[inputs.quality() == "good"][:most]
        if len(good) >= 4:
            found[f"{m}.aligned"] = embeddings(model, Inputs(inputs.store, (m,), good), "aligned")
    return found


def _stores_of_run(run: Path) -> list[Path]:
    """Stores that a run was trained on, where its data set is already prepared."""
    if not (run / "config.yaml").exists():
        return []
    from omegaconf import OmegaConf

    from ..config.targets import build

    config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    # beside the run, not run.root, which may be relative to the folder that training was started in
    cache = config["data"].get("cache_root") or run.resolve().parents[1] / ".cache"
    try:
        return list(build(config["dataset"]).prepare(Path(cache), progress=False))
    except (AstroTrainError, OSError, KeyError, TypeError) as error:
        log.warning("the training data of %s cannot be opened (%s)", run, error)
        return []
