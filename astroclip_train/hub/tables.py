"""Numbers with units to CSV, ECSV, FITS or Parquet, chosen by the suffix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, require
from ..files import atomic_write

__all__ = ["SUFFIXES", "check_suffix", "write_table"]

SUFFIXES = (".csv", ".ecsv", ".fits", ".parquet")


def check_suffix(path: str | Path) -> None:
    """Refuses an output name whose format is unknown, before any work is done.

    Raises:
        ConfigError: unknown suffix, or Parquet without pyarrow.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ConfigError(f"--out {path} has the suffix '{suffix}': use one of {', '.join(SUFFIXES)}.")
    if suffix == ".parquet":
        require("pyarrow", extra="parquet")


def write_table(
    path: str | Path,
    columns: Mapping[str, tuple[Any, str]],
    meta: Mapping[str, str] | None = None,
    pixels: Sequence[str] = (),
) -> None:
    """Writes columns name -> (values (b,) or (b, k), unit) whole.

    ECSV and FITS carry units in their own way, Parquet in the field metadata under `unit`, CSV in the header
    as `name [unit]`; CSV spreads (b, k) over columns `name_0` … `name_k-1`, or `name_<pixel>` where `pixels`
    names all k.

    Raises:
        ConfigError: unknown suffix; DataError: the file cannot be written.
    """
    check_suffix(path)
    meta = dict(meta or {})
    arrays = {name: (np.asarray(values), unit) for name, (values, unit) in columns.items()}
    with atomic_write(path) as temporary:
        if Path(path).suffix == ".csv":
            _csv(temporary, arrays, pixels)
        elif Path(path).suffix == ".parquet":
            _parquet(temporary, arrays, meta)
        else:
            _astropy(temporary, arrays, meta)


def _csv(path: Path, arrays: dict[str, tuple[np.ndarray, str]], pixels: Sequence[str]) -> None:
    from astropy.table import Table

    flat = {}
    for name, (values, unit) in arrays.items():
        head = f" [{unit}]" if unit else ""
        if values.ndim == 1:
            flat[name + head] = values
        else:
            ends = pixels if len(pixels) == values.shape[1] else range(values.shape[1])
            flat |= {f"{name}_{end}{head}": values[:, j] for j, end in enumerate(ends)}
    short = {name: _as_single for name, values in flat.items() if _is_single(values)}
    Table(flat).write(path, format="ascii.csv", formats=short, overwrite=True)


def _is_single(values: np.ndarray) -> bool:
    """Whether a model gave these numbers in single precision: 5675.54, which a double writes as 5675.5400390625."""
    if values.dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(np.float32).astype(np.float64), values, equal_nan=True)


def _as_single(value: float) -> str:
    return str(np.float32(value))


def _astropy(path: Path, arrays: dict[str, tuple[np.ndarray, str]], meta: dict[str, str]) -> None:
    from astropy.io import fits
    from astropy.table import Table

    table = Table({name: _text(values) for name, (values, _) in arrays.items()}, meta=meta)
    if path.suffix == ".ecsv":
        for name, (_, unit) in arrays.items():
            table[name].unit = unit or None
        table.write(path, format="ascii.ecsv", overwrite=True)
        return
    table.meta = {}
    hdu = fits.table_to_hdu(table)
    for number, (_, unit) in enumerate(arrays.values(), 1):
        if unit:
            hdu.header[f"TUNIT{number}"] = (
                unit  # as text: astropy drops dex, which the FITS standard does not list
            )
    for key, value in meta.items():
        hdu.header["HISTORY"] = f"{key} = {value}"
    hdu.writeto(path, overwrite=True)


def _text(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype.kind == "O" else values


def _parquet(path: Path, arrays: dict[str, tuple[np.ndarray, str]], meta: dict[str, str]) -> None:
    pyarrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    fields, data = [], []
    for name, (values, unit) in arrays.items():
        if values.ndim == 2:
            array = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])
        else:
            array = pyarrow.array(values.tolist() if values.dtype.kind in "OU" else values)
        fields.append(pyarrow.field(name, array.type, metadata={"unit": unit} if unit else None))
        data.append(array)
    schema = pyarrow.schema(fields, metadata=meta or None)
    parquet.write_table(pyarrow.Table.from_arrays(data, schema=schema), path)
