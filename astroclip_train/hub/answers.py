"""Embeddings, labels, neighbours and translated spectra of whole files, as columns with units."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.grids import Grid
from ..data.progress import track
from ..errors import ConfigError, DataError
from .inputs import Inputs
from .model import AstroModel, LabelPrediction, Spectra

__all__ = ["Columns", "embedding_table", "label_table", "search_table", "translation_table"]

Columns = dict[str, tuple[Any, str]]


def embedding_table(model: AstroModel, inputs: Inputs, kind: str, batch_size: int = 256) -> Columns:
    """Ids, quality, `in_domain` where known, and the embedding `z` (n, k)."""
    z = embeddings(model, inputs, kind, batch_size)
    (modality,) = inputs.modalities
    return (
        _ids(inputs)
        | _domain(model, inputs, f"{modality}.{kind}", z)
        | {"z": (_blank(inputs, z.numpy()), "")}
    )


def embeddings(model: AstroModel, inputs: Inputs, kind: str, batch_size: int = 256) -> Tensor:
    """Embeddings (n, k) of all samples of one modality."""
    if len(inputs.modalities) != 1:
        raise ConfigError(f"the files hold {', '.join(inputs.modalities)}: name one with --modality.")
    (m,) = inputs.modalities
    found = []
    for spectra in _batches(inputs, batch_size, f"{m} embeddings"):
        s = spectra[m]
        found.append(model.embed(m, s.flux, s.ivar, s.mask, kind=kind).cpu())
    return torch.cat(found)


def label_table(
    model: AstroModel,
    inputs: Inputs,
    head: str | None = None,
    source: str | None = None,
    samples: int = 256,
    batch_size: int = 256,
) -> Columns:
    """Ids, quality, `in_domain` where known, and for every label `<label>` and `<label>_std`."""
    found: list[dict[str, LabelPrediction]] = []
    guarded = [m for m in inputs.modalities if f"domain.{m}.aligned" in model.names]
    inside: list[Tensor] = []
    for spectra in _batches(inputs, batch_size, "labels"):
        seen: dict[str, Tensor] = {}  # what the labels and the domain both need is encoded once
        found.append(model.predict(spectra, head=head, source=source, n_samples=samples, seen=seen))
        if guarded:
            inside.append(torch.stack([_inside(model, m, spectra, seen) for m in guarded]).all(0).cpu())
    columns = _ids(inputs)
    if inside:
        columns["in_domain"] = (torch.cat(inside).numpy() & (inputs.quality() == "good"), "")
    for label, first in found[0].items():
        mean = torch.cat([part[label].mean for part in found]).cpu().double().numpy()
        columns[label] = (_blank(inputs, mean), first.unit)
        if first.std is not None:
            std = torch.cat([part[label].std for part in found]).cpu().double().numpy()  # type: ignore[misc]
            columns[f"{label}_std"] = (_blank(inputs, std), first.unit)
    return columns


def translation_table(
    model: AstroModel, inputs: Inputs, to: str, batch_size: int = 256
) -> tuple[Columns, Any]:
    """Ids, quality and `flux` (n, l) in the target's normalised flux; and what the target is."""
    if len(inputs.modalities) != 1:
        raise ConfigError(f"the files hold {', '.join(inputs.modalities)}: name one with --modality.")
    (m,) = inputs.modalities
    found = []
    for spectra in _batches(inputs, batch_size, f"{m} to {to}"):
        s = spectra[m]
        found.append(model.translate(m, to, s.flux, s.ivar, s.mask).cpu())
    info = model.info(to)
    return _ids(inputs) | {"flux": (_blank(inputs, torch.cat(found).numpy()), info.unit)}, info


def search_table(
    model: AstroModel,
    query: Inputs,
    gallery: Inputs,
    k: int,
    exclude_self: bool = False,
    batch_size: int = 256,
) -> Columns:
    """The k nearest gallery objects of every query by cosine similarity of the shared embedding."""
    kind = "shared" if all(f"{m}.aligned" in model.routes for m in query.modalities) else "single"
    if kind == "single" and query.modalities != gallery.modalities:
        raise ConfigError("this model is not aligned, so it compares spectra of one modality only.")
    q, g = (embeddings(model, inputs, kind, batch_size) for inputs in (query, gallery))
    usable = np.flatnonzero((gallery.quality() == "good") & torch.isfinite(g).all(1).cpu().numpy())
    if not len(usable):
        raise DataError("every object of the gallery is bad: nothing can be found in it.")
    asked = query.quality()
    q, g = torch.nan_to_num(q), g[torch.from_numpy(usable)]
    wide = min(len(g), k + 50 if exclude_self else k)
    index, similarity = (t.numpy() for t in model.search(q, g, wide))
    index = usable[index]
    names, objects = gallery.obs_id, gallery.object_id
    columns: dict[str, list[Any]] = {
        n: [] for n in ("query_object_id", "query_obs_id", "quality", "rank", "object_id", "obs_id")
    }
    values = []
    for row, (own, own_obs) in enumerate(zip(query.object_id, query.obs_id, strict=True)):
        if asked[row] != "good":  # one row that says why, and no neighbours
            for column, value in zip(columns.values(), (own, own_obs, asked[row], 0, "", ""), strict=True):
                column.append(value)
            values.append(np.nan)
            continue
        kept = [j for j, i in enumerate(index[row]) if not (exclude_self and objects[i] == own)][:k]
        for rank, j in enumerate(kept, 1):
            i = index[row][j]
            entry = (own, own_obs, asked[row], rank, objects[i], names[i])
            for column, value in zip(columns.values(), entry, strict=True):
                column.append(value)
            values.append(similarity[row][j])
    table: Columns = {name: (np.array(column), "") for name, column in columns.items()}
    return table | {"similarity": (np.array(values), "")}


def _batches(inputs: Inputs, size: int, what: str) -> Iterator[dict[str, Spectra]]:
    starts = range(0, len(inputs), size)
    for start in track(starts, len(starts), f"{what} (blocks of {size})"):
        yield inputs.spectra(slice(start, start + size))


def _ids(inputs: Inputs) -> Columns:
    return {
        "object_id": (inputs.object_id, ""),
        "obs_id": (inputs.obs_id, ""),
        "quality": (inputs.quality(), ""),
    }


def _domain(model: AstroModel, inputs: Inputs, name: str, features: Tensor) -> Columns:
    """`in_domain`; what is bad lies nowhere."""
    inside = model.in_domain(name, features.to(model.device))
    return {} if inside is None else {"in_domain": (inside.cpu().numpy() & (inputs.quality() == "good"), "")}


@torch.inference_mode()
def _inside(model: AstroModel, modality: str, spectra: dict[str, Spectra], seen: dict[str, Tensor]) -> Tensor:
    features = model.features(f"{modality}.aligned", spectra, seen=seen)
    inside = model.in_domain(f"{modality}.aligned", features)
    assert inside is not None
    return inside


def _blank(inputs: Inputs, values: np.ndarray) -> np.ndarray:
    """NaN where the spectrum is bad: a number from it would only look like an answer."""
    bad = inputs.quality() != "good"
    if bad.any():
        values = np.array(values, dtype=np.result_type(values.dtype, np.float32))
        values[bad] = np.nan
    return values


def wavelength_names(grid: Any) -> list[str]:
    """Names for the pixels of a grid, such as 336nm."""
    if not isinstance(grid, Grid):
        return []
    return [f"{w:.6g}{'A' if grid.unit == 'Angstrom' else grid.unit}" for w in grid.wave()]
