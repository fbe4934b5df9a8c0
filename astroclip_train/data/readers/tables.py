"""Tables in CSV, ECSV, FITS, VOTable and Parquet, plain or gzipped: whole, or in chunks of rows."""

import csv
import gzip
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require

__all__ = ["array_cell", "iterate", "kind_of", "number_column", "read_columns"]

KINDS = {
    ".csv": "csv",
    ".ecsv": "csv",
    ".txt": "csv",
    ".fits": "fits",
    ".fit": "fits",
    ".xml": "votable",
    ".vot": "votable",
    ".votable": "votable",
    ".parquet": "parquet",
}
Columns = dict[str, Any]


def kind_of(path: Path) -> str:
    """csv, fits, votable or parquet, by suffix (`.gz` aside).

    Raises:
        DataError: another suffix.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in KINDS:
        raise DataError(
            f"{path} has the suffix {suffix or '(none)'}: expected one of {', '.join(KINDS)}, or with .gz."
        )
    return KINDS[suffix]


def read_columns(path: str | Path) -> Columns:
    """A whole table as a dict of columns (arrays or lists), names as in the file.

    Raises:
        DataError: missing, empty, damaged, or of unknown kind.
    """
    chunks = list(iterate(path, chunk=1 << 20))
    if not chunks:
        raise DataError(f"{path} holds no rows: check that it is the table you mean.")
    if len(chunks) == 1:
        return chunks[0]
    return {name: _joined([c[name] for c in chunks]) for name in chunks[0]}


def _joined(parts: list[Any]) -> Any:
    """One column of its chunks: a list of cells, or an array that keeps its mask."""
    if isinstance(parts[0], list):
        return [cell for part in parts for cell in part]
    return np.ma.concatenate(parts) if any(map(np.ma.isMaskedArray, parts)) else np.concatenate(parts)


def iterate(path: str | Path, chunk: int = 2048) -> Iterator[Columns]:
    """Chunks of at most `chunk` rows of a table, each a dict of columns.

    Raises:
        DataError: as `read_columns`; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): fetch it again.")
    read = {"csv": _iterate_csv, "fits": _iterate_fits, "votable": _read_votable, "parquet": _iterate_parquet}
    try:
        yield from read[kind_of(path)](path, chunk)
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, csv.Error, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as {kind_of(path)} ({reason}): it is damaged or its suffix is wrong."
        ) from error


def _iterate_csv(path: Path, chunk: int) -> Iterator[Columns]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as handle:
        lines = (line for line in handle if not line.startswith("#") and line.strip())
        header = next(lines, None)
        if header is None or "\x00" in header:
            raise ValueError("no header line")
        delimiter = next((d for d in (",", "\t", ";", " ") if d in header.strip()), ",")
        names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True))
        rows: list[list[str]] = []
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), 1):
            if len(row) != len(names):
                raise ValueError(f"row {number} has {len(row)} fields, the header {len(names)}")
            rows.append(row)
            if len(rows) == chunk:
                yield {n.strip(): list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}
                rows = []
        if rows:
            yield {n.strip(): list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}


def _iterate_fits(path: Path, chunk: int) -> Iterator[Columns]:
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=False) as hdus:
            table = next((h for h in hdus if getattr(h, "columns", None) is not None), None)
            if table is None:
                raise ValueError("it has no table extension")
            for start in range(0, len(table.data), chunk):
                part = table.data[start : start + chunk]
                yield {column.name: _without_null(part[column.name], column) for column in table.columns}


def _without_null(values: Any, column: Any) -> Any:
    """A column, masked where an integer is the one that the header names as missing (TNULL).

    The standard means the integer in the file, before TZERO is added; astropy and others name the one after.
    """
    dtype = getattr(values, "dtype", np.dtype("O"))
    if dtype.kind not in "iu" or not isinstance(column.null, int):
        return values
    limits = np.iinfo(dtype)
    nulls = [n for n in (column.null, column.null + int(column.bzero or 0)) if limits.min <= n <= limits.max]
    missing = np.isin(values, np.array(nulls, dtype=dtype))
    return np.ma.array(values, mask=missing) if missing.any() else values


def _read_votable(path: Path, chunk: int) -> Iterator[Columns]:
    from astropy.io.votable import parse_single_table
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        array = parse_single_table(str(path)).to_table(use_names_over_ids=True)
    for start in range(0, len(array), chunk):
        yield {name: array[name][start : start + chunk] for name in array.colnames}


def _iterate_parquet(path: Path, chunk: int) -> Iterator[Columns]:
    parquet = require("pyarrow.parquet", extra="parquet")
    with parquet.ParquetFile(path) as handle:
        for batch in handle.iter_batches(batch_size=chunk):
            yield batch.to_pydict()


def array_cell(value: Any, length: int | None = None) -> np.ndarray | None:
    """The numbers in one cell: an array, or text such as (1.0, 2.0) or [1.0, null]; None if empty or missing.

    Raises:
        ValueError: not numbers, or not `length` of them.
    """
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, str):
        text = value.strip().strip("()[]{}").strip()
        if not text or text.lower() in ("nan", "null", "none"):
            return None
        parts = [p.strip() for p in text.split(",")]
        array = np.array([float("nan") if p.lower() in ("null", "none", "") else float(p) for p in parts])
    else:
        array = np.ma.filled(np.ma.asarray(value, dtype=np.float64), np.nan).ravel()
        if array.size <= 1 and length not in (None, array.size):
            return None
    if length is not None and array.size != length:
        raise ValueError(f"an array has {array.size} values where {length} are expected")
    return array


def number_column(values: Any) -> np.ndarray:
    """A column as float64 (n,), with NaN where a cell is empty, masked or not a number."""
    if isinstance(values, list) and any(isinstance(v, str) or v is None for v in values):
        return np.array([_number(v) for v in values])
    return np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
