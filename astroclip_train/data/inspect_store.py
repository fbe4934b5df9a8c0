"""What is in a store, as numbers for programmes and as tables for people."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from .match import positions_of
from .quality import REASONS
from .splits import SPLITS
from .store import Store

__all__ = ["inspect", "render"]

SHOWN_BAD = 5


def inspect(path: str | Path) -> dict[str, Any]:
    """Contents of a store: samples, objects, modalities, labels with ranges, splits, bad objects.

    Raises:
        DataError: the file is missing, damaged or not a store.
    """
    with contextlib.closing(Store(path, max_bad_fraction=1.0)) as store:
        return _contents(store)


def _contents(store: Store) -> dict[str, Any]:
    objects, visits = np.unique(store.object_id, return_counts=True)
    ra, _ = positions_of(store)
    return {
        "files": [str(p) for p in store.paths],
        "bytes": sum(p.stat().st_size for p in store.paths),
        "created_by": str(store.shards[0].file.attrs.get("created_by", "")),
        "content_hash": store.content_hash,
        "samples": store.n,
        "objects": len(objects),
        "objects_seen_more_than_once": int((visits > 1).sum()),
        "positions": int(np.isfinite(ra).sum()),
        "modalities": {m: _modality(store, m) for m in store.modalities},
        "splits": {name: int((store.splits == name).sum()) for name in SPLITS},
        "labels": {name: _label(store, name) for name in store.labels},
        "bounds": {m: sorted(labels) for m, labels in store.bounds.items()},
    }


def _modality(store: Store, m: str) -> dict[str, Any]:
    info = store.modalities[m]
    present = np.flatnonzero(store.rows[m] >= 0)
    reasons = store.reasons(m)
    bad = np.flatnonzero(reasons)
    snr = store.snr(m)[present]
    wave = store.wave(m, present[:1])
    sample = store.read(m, present[:: max(1, len(present) // 500)], ("flux", "mask"))
    good = sample.get("mask", np.ones_like(sample["flux"], dtype=bool)) & np.isfinite(sample["flux"])
    return {
        "survey": info.survey,
        "spectra": len(np.unique(store.rows[m][present])),
        "samples": len(present),
        "pixels": store.lengths[m],
        "grid": str(info.grid),
        "wave_range": [float(wave.min()), float(wave.max())],
        "wave_unit": info.wave_unit,
        "unit": info.unit,
        "medium": info.medium,
        "frame": info.frame,
        "resolution": info.resolution,
        "normalisation": list(info.normalisation),
        "columns": {c: _dtype(store, m, c) for c in store.shards[0].columns[m]},
        "snr": _quantiles(snr),
        "flux": _quantiles(sample["flux"][good]),
        "good_pixels": float(good.mean()),
        "bad": {
            REASONS[k]: int((reasons == k).sum()) for k in range(1, len(REASONS)) if (reasons == k).any()
        },
        "bad_observations": [str(o) for o in store.obs_id[bad[:SHOWN_BAD]]],
    }


def _dtype(store: Store, m: str, column: str) -> str:
    return str(store.shards[0].file[m][column].dtype)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, middle, high = np.quantile(values.astype(np.float64), [0.05, 0.5, 0.95])
    return {"p05": float(low), "median": float(middle), "p95": float(high)}


def _label(store: Store, name: str) -> dict[str, Any]:
    values = store.labels[name]
    known = values[np.isfinite(values)]
    result: dict[str, Any] = {
        "unit": store.label_units.get(name, ""),
        "source": store.label_sources.get(name, ""),
        "n": len(known),
    }
    if len(known):
        result |= {"min": float(known.min()), "median": float(np.median(known)), "max": float(known.max())}
    return result


def render(content: dict[str, Any]) -> None:
    """Prints the answer of `inspect` as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    size = content["bytes"] / 1e6
    files = content["files"]
    name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more shards"
    console.print(f"[bold]{name}[/bold]  {size:,.1f} MB, made by: {content['created_by']}", soft_wrap=True)
    repeats = content["objects_seen_more_than_once"]
    console.print(
        f"{content['samples']:,} samples of {content['objects']:,} objects, {repeats:,} of them seen more "
        "than once; "
        f"positions for {content['positions']:,}",
        soft_wrap=True,
    )
    splits = ", ".join(f"{k} {v:,}" for k, v in content["splits"].items())
    console.print(f"splits by object: {splits};  content {content['content_hash'][:12]}", soft_wrap=True)
    for m, part in content["modalities"].items():
        console.print(_modality_table(m, part))
    if content["labels"]:
        table = Table(title="labels", title_justify="left", title_style="bold")
        for column in ("name", "n", "min", "median", "max", "unit", "source"):
            table.add_column(column, justify="left" if column in ("name", "unit", "source") else "right")
        for label, row in content["labels"].items():
            numbers = [f"{row[k]:.6g}" if k in row else "" for k in ("min", "median", "max")]
            table.add_row(label, f"{row['n']:,}", *numbers, row["unit"] or "-", row["source"] or "-")
        console.print(table)
    for m, labels in content["bounds"].items():
        console.print(f"Cramér–Rao bounds of {m}: {', '.join(labels)}")


def _modality_table(name: str, part: dict[str, Any]):
    from rich.table import Table

    table = Table(
        title=f"{name}: {part['survey']}", title_justify="left", title_style="bold", show_header=False
    )
    table.add_column()
    table.add_column()
    rows = {
        "spectra": f"{part['spectra']:,}, in {part['samples']:,} samples",
        "grid": part["grid"] if part["grid"] != "per-row" else _per_row(part),
        "frame, resolution": f"{part['frame']}, {part['resolution']}",
        "flux": _flux(part),
        "good pixels": f"{100 * part['good_pixels']:.1f} %",
        "S/N per pixel": _spread(part["snr"]),
        "columns": ", ".join(f"{c} ({t})" for c, t in part["columns"].items()),
        "bad, left out": _bad(part),
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _per_row(part: dict[str, Any]) -> str:
    low, high = part["wave_range"]
    span = f"{low:.6g}–{high:.6g} {part['wave_unit']} ({part['medium']})"
    return f"{part['pixels']} px, one scale per row, the first {span}"


def _flux(part: dict[str, Any]) -> str:
    applied = f"divided by {', '.join(part['normalisation'])}" if part["normalisation"] else "as measured"
    unit = f" [{part['unit']}]" if part["unit"] else ""
    return f"{applied}{unit}; {_spread(part['flux'])}".replace("[", "\\[")


def _spread(values: dict[str, float] | None) -> str:
    if values is None:
        return "unknown"
    return f"median {values['median']:.4g}, 5–95 % {values['p05']:.4g}–{values['p95']:.4g}"


def _bad(part: dict[str, Any]) -> str:
    if not part["bad"]:
        return "none"
    reasons = ", ".join(f"{n:,} because {reason}" for reason, n in part["bad"].items())
    more = ", …" if sum(part["bad"].values()) > SHOWN_BAD else ""
    return f"{reasons} ({', '.join(part['bad_observations'])}{more})"
