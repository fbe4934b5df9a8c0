"""Arrays by name from HDF5, NPZ and table files, for the generic importer."""

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from . import tables

__all__ = ["Source", "open_source"]


class Source:
    """Named arrays of one file, read by slices of rows.

    Arguments:
        path: the file, for messages.
        columns: what `numpy.asarray` or slicing understands, by name.
    """

    def __init__(self, path: Path, columns: Any, names: list[str]) -> None:
        self.path = path
        self.names = names
        self._columns = columns

    def has(self, key: str) -> bool:
        """Whether `key` names an array, or by PREFIX* several columns."""
        return key in self.names or (key.endswith("*") and bool(self._wide(key)))

    def _wide(self, key: str) -> list[str]:
        """Columns PREFIX0, PREFIX1, … of a wide table, in numerical order."""
        pattern = re.compile(re.escape(key[:-1]) + r"(\d+)$")
        found = {int(m.group(1)): name for name in self.names if (m := pattern.match(name))}
        return [found[k] for k in sorted(found)]

    def _check(self, key: str, option: str) -> None:
        if not self.has(key):
            lowered = {name.lower(): name for name in self.names}
            near = [lowered[k] for k in difflib.get_close_matches(key.lower(), lowered, n=3, cutoff=0.4)]
            hint = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(self.names[:12])}"
            raise DataError(f"{self.path} has no {key!r} for {option} ({hint}).")

    def length(self, key: str, option: str) -> int:
        """Number of rows of an array."""
        self._check(key, option)
        name = self._wide(key)[0] if key.endswith("*") else key
        return len(self._columns[name])

    def read(self, key: str, option: str, part: slice = slice(None)) -> np.ndarray:
        """Rows of an array: numbers (n, …) with a trailing axis of one removed, or text (n,).

        Raises:
            DataError: no such name, or rows of unequal length.
        """
        self._check(key, option)
        try:
            if key.endswith("*"):
                return np.stack(
                    [tables.number_column(self._columns[n][part]) for n in self._wide(key)], axis=1
                )
            values = self._columns[key][part]
            if isinstance(values, list) or getattr(getattr(values, "dtype", None), "kind", "") == "O":
                values = _from_cells(list(values))
            array = _filled(values) if np.ma.isMaskedArray(values) else np.asarray(values)
        except (ValueError, TypeError, OSError) as error:
            raise DataError(f"{self.path}, {key} for {option} cannot be read ({error}).") from error
        return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array

    def cells(self, key: str, option: str, part: slice) -> np.ndarray | list[Any]:
        """Rows of a column as they stand in the file, None where masked: names must not pass through floats.

        Raises:
            DataError: no such name.
        """
        self._check(key, option)
        values = self._columns[key][part]
        if isinstance(values, list):
            return values
        array = values if np.ma.isMaskedArray(values) else np.asarray(values)
        return array.tolist() if np.ma.isMaskedArray(array) or array.dtype.kind == "O" else array


def _filled(values: np.ma.MaskedArray) -> np.ndarray:
    """NaN where masked; integers without a masked one stay integers."""
    if values.dtype.kind == "f" or (values.dtype.kind in "iu" and np.ma.is_masked(values)):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values)


def _from_cells(values: list[Any]) -> np.ndarray:
    """Cells of a text table: numbers, arrays written as text, or text."""
    if all(isinstance(v, str) and v.strip()[:1] in ("(", "[") for v in values):
        return np.stack([a for v in values if (a := tables.array_cell(v)) is not None])
    if values and not isinstance(values[0], str | bytes) and np.ndim(values[0]) > 0:
        return np.stack([np.asarray(v, dtype=np.float64) for v in values])
    try:
        return np.array([int(v) for v in values])  # ids of 19 digits do not fit a float
    except (TypeError, ValueError):
        pass
    try:
        return np.array([float(v) if v not in ("", None) else np.nan for v in values])
    except (TypeError, ValueError):
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])


@contextlib.contextmanager
def open_source(path: str | Path, kind: str) -> Iterator[Source]:
    """Opens a file as `hdf5`, `npz` or `table` (CSV, ECSV, FITS, VOTable, Parquet).

    Raises:
        DataError: missing, damaged, or holding pickled objects, which are never loaded.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path.")
    if kind == "table":
        columns = tables.read_columns(path)
        yield Source(path, columns, list(columns))
        return
    if kind == "npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
            reason = (
                "it holds pickled objects" if "allow_pickle" in str(error) else str(error).splitlines()[0]
            )
            raise DataError(
                f"{path} cannot be read as NPZ ({reason}): save plain arrays with numpy.savez."
            ) from error
        yield Source(path, content, list(content))
        return
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened as HDF5 ({str(error).splitlines()[0]}): it is damaged or of another "
            "kind."
        ) from error
    with file:
        names: list[str] = []
        file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        yield Source(path, file, names)
