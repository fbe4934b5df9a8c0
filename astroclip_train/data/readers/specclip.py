"""The HDF5 layouts of the SpecCLIP release: single-survey spectra, pairs, and the public test pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..grids import LRS_GRID, XP_GRID
from ..modality import ModalityInfo
from .rows import Rows

__all__ = ["INFO", "modalities", "read"]

SPLITS = ("train", "test")
NAMES = {"lamost_spectra": "lrs", "gaia_spectra": "xp"}
LENGTHS = {LRS_GRID.n: "lrs", XP_GRID.n: "xp"}
INFO = {
    "lrs": ModalityInfo("LAMOST LRS", LRS_GRID, "", "vacuum", "heliocentric", "R=1800", ("continuum",)),
    "xp": ModalityInfo("Gaia XP", XP_GRID, "", "vacuum", "observed", "R=30-100", ("flux_550nm",)),
}


def _open(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except (OSError, FileNotFoundError) as error:
        raise DataError(
            f"{path} cannot be opened as HDF5 ({str(error).splitlines()[0]}): it is missing or damaged."
        ) from error


def _datasets(path: Path, group: Any) -> dict[str, Any]:
    """The spectra of one split by modality, checked against the published sizes."""
    found = {NAMES[name]: group[name] for name in NAMES if name in group}
    if "spectra" in group:
        length = group["spectra"].shape[1]
        if length not in LENGTHS:
            raise DataError(
                f"{path}:{group.name}/spectra has {length} pixels: expected {LRS_GRID.n} (LAMOST) or "
                f"{XP_GRID.n} "
                "(Gaia XP); use `astro-data convert hdf5` for another grid."
            )
        found[LENGTHS[length]] = group["spectra"]
    for modality, data in found.items():
        expected = INFO[modality].grid.n  # type: ignore[union-attr]
        if data.ndim not in (2, 3) or data.shape[1] != expected or (data.ndim == 3 and data.shape[2] != 1):
            raise DataError(
                f"{path}:{data.name} has shape {data.shape}: expected (n, {expected}) or (n, {expected}, 1)."
            )
    if len({len(d) for d in found.values()}) > 1:
        sizes = {m: len(d) for m, d in found.items()}
        raise DataError(
            f"{path}:{group.name} pairs spectra row by row but has different numbers of them: {sizes}."
        )
    return found


def modalities(path: str | Path) -> dict[str, int]:
    """The modalities in a file and their numbers of spectra over all splits.

    Raises:
        DataError: damaged, or none of the published layouts.
    """
    path = Path(path)
    counts: dict[str, int] = {}
    with _open(path) as file:
        for split in SPLITS:
            if split in file:
                for modality, data in _datasets(path, file[split]).items():
                    counts[modality] = counts.get(modality, 0) + len(data)
    if not counts:
        raise DataError(
            f"{path} has none of the SpecCLIP datasets (train or test, with spectra, gaia_spectra or "
            "lamost_spectra): "
            "use `astro-data convert hdf5` and name the datasets."
        )
    return counts


def read(path: str | Path, chunk: int = 4096) -> Iterator[Rows]:
    """Chunks of a published file; its test group stays test, its train group is divided by object later.

    Spectra are already divided by their continuum (LAMOST) or 550-nm flux (XP), and have no errors unless the
    file adds `ivar`. Source ids exist in the public test file only; elsewhere object ids stay empty.
    """
    path = Path(path)
    modalities(path)
    with _open(path) as file:
        for split in SPLITS:
            if split not in file:
                continue
            group = file[split]
            data = _datasets(path, group)
            total = len(next(iter(data.values())))
            for start in range(0, total, chunk):
                stop = min(start + chunk, total)
                yield _rows(path, group, data, split, slice(start, stop))


def _rows(path: Path, group: Any, data: dict[str, Any], split: str, part: slice) -> Rows:
    n = part.stop - part.start
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for modality, dataset in data.items():
        flux = np.asarray(dataset[part], dtype=np.float32).reshape(n, -1)
        arrays[modality] = {"flux": flux, "mask": np.isfinite(flux)}
        if "ivar" in group and group["ivar"].shape[:2] == dataset.shape[:2]:
            arrays[modality]["ivar"] = np.asarray(group["ivar"][part], dtype=np.float32).reshape(n, -1)
    ids = np.full(n, "", dtype=object)
    if "source_ids" in group:
        raw = np.asarray(group["source_ids"][part]).reshape(n)
        ids = np.array([i.decode() if isinstance(i, bytes) else str(i) for i in raw], dtype=object)
    names = np.array([f"{path.stem}-{split}-{i}" for i in range(part.start, part.stop)])
    unknown = np.full(n, np.nan)
    splits = np.full(n, "test" if split == "test" else "", dtype=object)
    return Rows(arrays, names, ids, unknown, unknown.copy(), {}, splits)
