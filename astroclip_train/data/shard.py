"""One HDF5 file of a store: opened lazily in each process, read-only and without locks, read in slabs."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ..errors import DataError
from .modality import ModalityInfo
from .slabs import RowLayout, read_rows, row_layout

__all__ = ["COLUMNS", "FORMAT", "VERSION", "Shard", "content_hash", "damaged"]

FORMAT = "astro-train store"
VERSION = 1
COLUMNS = ("flux", "ivar", "mask", "snr", "coeff", "coeff_error", "coeff_cov_factor", "wave", "quality")
NOT_MODALITIES = ("sample", "labels", "bounds")


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turns what HDF5 raises on a truncated or damaged file into one sentence that names the file."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path} is damaged or truncated ({reason}): restore it or write it again."
        ) from error


class Shard:
    """One file of a store.

    Arguments:
        path: an HDF5 file in the layout of `docs/store.md`.

    Raises:
        DataError: the file is missing, damaged, of another format, or lacks required attributes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._owner = 0
        self._layouts: dict[tuple[str, str], RowLayout | None] = {}
        with damaged(path):
            self._read_header()

    def _read_header(self) -> None:
        file = self.file
        written = file.attrs.get("format")
        if written != FORMAT:
            raise DataError(
                f"{self.path} is HDF5 but not an {FORMAT}: convert it with `astro-data convert hdf5`."
            )
        if int(file.attrs.get("version", 0)) > VERSION:
            raise DataError(
                f"{self.path} is a store of version {file.attrs['version']}, newer than {VERSION}: update."
            )
        if "sample/object_id" not in file or "sample/obs_id" not in file:
            raise DataError(f"{self.path} has no sample/object_id and sample/obs_id: write it again.")
        names = [name for name in file if name not in NOT_MODALITIES]
        self.modalities = {
            name: ModalityInfo.from_attributes(file[name].attrs, f"{self.path}, modality {name}")
            for name in names
        }
        if not names:
            raise DataError(f"{self.path} holds no modality: write it again.")
        for name in names:
            self._check_modality(file, name)
        self.columns = {m: tuple(c for c in COLUMNS if c in file[m]) for m in names}
        self.lengths = {m: int(file[m]["flux"].shape[1]) for m in names}
        self.finite = {m: bool(file[m].attrs.get("finite", False)) for m in names}
        self.n = len(file["sample/object_id"])
        stored = file.attrs.get("content_hash")
        self.stored_hash = str(stored) if stored else None

    def _check_modality(self, file: h5py.File, m: str) -> None:
        group, info = file[m], self.modalities[m]
        if "flux" not in group or group["flux"].ndim != 2:
            raise DataError(f"{self.path}, modality {m} has no flux of shape (n, pixels): write it again.")
        rows, length = group["flux"].shape
        if not info.per_row and info.grid.n != length:  # type: ignore[union-attr]
            raise DataError(
                f"{self.path}, modality {m}: flux has {length} pixels but the grid is {info.grid}."
            )
        if info.per_row and "wave" not in group:
            raise DataError(f"{self.path}, modality {m}: the grid is per row but there is no wave.")
        for name in ("ivar", "mask", "wave"):
            if name in group and group[name].shape != (rows, length):
                raise DataError(
                    f"{self.path}, {m}/{name} has shape {group[name].shape}, flux has {(rows, length)}."
                )
        if f"sample/{m}_row" not in file:
            raise DataError(
                f"{self.path} has no sample/{m}_row, which joins samples to rows of {m}: write it again."
            )
        index = file[f"sample/{m}_row"][:]
        if index.size and (index.max() >= rows or index.min() < -1):
            raise DataError(
                f"{self.path}, sample/{m}_row points outside of the {rows} rows of {m}: write it again."
            )

    @property
    def file(self) -> h5py.File:
        """The open file of this process; a handle inherited through fork is never used."""
        if self._file is None or self._owner != os.getpid():
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=0)
            self._owner = os.getpid()
        return self._file

    def close(self) -> None:
        """Closes this process's handle; the next access opens it again."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}

    def text(self, name: str) -> np.ndarray:
        """A text column of /sample, shape (N,)."""
        with damaged(self.path):
            dataset = self.file["sample"][name]
            values = dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:]
        return np.asarray(values).astype(str)

    def numbers(self, name: str) -> np.ndarray:
        """A whole numeric dataset, by its path in the file."""
        with damaged(self.path):
            return self.file[name][()]

    def read_into(self, out: np.ndarray, places: np.ndarray, m: str, column: str, rows: np.ndarray) -> None:
        """Reads rows in few large slabs: out[places[i]] = column[rows[i]], in the type of `out`."""
        with damaged(self.path):
            dataset = self.file[m][column]
            if (m, column) not in self._layouts:
                self._layouts[m, column] = row_layout(dataset)
            layout = self._layouts[m, column]
            if layout is None or dataset.dtype == out.dtype:
                read_rows(dataset, layout, rows, places, out)
                return
            stored = np.empty((len(rows), *out.shape[1:]), dtype=dataset.dtype)
            read_rows(dataset, layout, rows, np.arange(len(rows)), stored)
            out[places] = stored


def content_hash(file: h5py.File) -> str:
    """sha256 over all names, attributes, types, shapes and values of a file, independent of its chunking."""
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        for key in sorted(item.attrs):
            digest.update(f"{name}@{key}={item.attrs[key]!s}\n".encode())
        if not isinstance(item, h5py.Dataset):
            return
        digest.update(f"{name}:{item.dtype.str}:{item.shape}\n".encode())
        if h5py.check_string_dtype(item.dtype):
            digest.update("\x1f".join(item.asstr()[()]).encode())
            return
        step = max(1, (8 << 20) // max(1, item.dtype.itemsize * int(np.prod(item.shape[1:]))))
        for low in range(0, item.shape[0] if item.ndim else 1, step):
            digest.update(np.ascontiguousarray(item[low : low + step] if item.ndim else item[()]).data)

    names: list[str] = []
    file.visit(names.append)
    for name in sorted(names):
        add(name, file[name])
    return digest.hexdigest()
