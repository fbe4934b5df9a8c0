"""Gaia XP spectra: continuous coefficients and sampled spectra in every format of the archive."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from . import tables

__all__ = ["BASES", "CoefficientBatch", "SampledBatch", "read"]

BASES = 55  # basis functions per photometer
PAIRS = BASES * (BASES - 1) // 2
N_SAMPLES = 343  # 336 to 1020 nm in steps of 2 nm
BANDS = ("bp", "rp")


@dataclasses.dataclass(frozen=True)
class CoefficientBatch:
    """Continuously represented spectra: 55 BP then 55 RP coefficients, in the archive's unit.

    source_id (n,) text; coeff, error (n, 110), NaN where a photometer is missing; correlation (n, 2, 55, 55)
    or None where the file has none; ra, dec (n,) degrees, NaN if not in the file.
    """

    source_id: np.ndarray
    coeff: np.ndarray
    error: np.ndarray
    correlation: np.ndarray | None
    ra: np.ndarray
    dec: np.ndarray


@dataclasses.dataclass(frozen=True)
class SampledBatch:
    """Sampled spectra in W m⁻² nm⁻¹: wave (l,) vacuum nm; flux, error (n, l); ids and positions as above."""

    source_id: np.ndarray
    wave: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    ra: np.ndarray
    dec: np.ndarray


def read(path: str | Path, chunk: int = 1024) -> Iterator[CoefficientBatch | SampledBatch]:
    """Batches of the spectra in one file: CSV, ECSV, FITS or VOTable, plain or gzipped.

    Understands the archive's XP_CONTINUOUS tables (array columns), combined tables with one column per
    coefficient (bp_coeff_0, e_bp_coeff_0), XP_SAMPLED tables, and the datalink form with one row per
    wavelength.

    Raises:
        DataError: damaged file, or none of these layouts.
    """
    path = Path(path)
    done = False
    for columns in tables.iterate(path, chunk=chunk):
        names = {name.lower(): name for name in columns}
        lowered = {low: columns[name] for low, name in names.items()}
        try:
            if "bp_coefficients" in names:
                yield _continuous(lowered)
            elif "bp_coeff_0" in names:
                yield _combined(lowered)
            elif "flux" in names and "wavelength" in names and "source_id" not in names:
                yield _single_sampled(path, tables.read_columns(path))
                return
            elif "flux" in names and "source_id" in names:
                yield _sampled(lowered)
            else:
                raise DataError(
                    f"{path} has none of the columns of Gaia XP spectra (bp_coefficients, bp_coeff_0, or "
                    "source_id with "
                    f"flux) but {', '.join(list(columns)[:6])}: give an XP_CONTINUOUS or XP_SAMPLED table."
                )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is not a sound Gaia XP table ({error}): fetch it again.") from error
        done = True
    if not done:
        raise DataError(f"{path} holds no rows: check that it is the table you mean.")


def _ids(columns: dict[str, Any]) -> np.ndarray:
    missing = int(np.ma.getmaskarray(np.ma.asarray(columns["source_id"])).sum())
    if missing:
        raise ValueError(f"source_id is missing in {missing} rows, which must be removed")
    return np.array([str(int(s)) for s in columns["source_id"]])


def _positions(columns: dict[str, Any], n: int) -> tuple[np.ndarray, np.ndarray]:
    unknown = np.full(n, np.nan)
    return (
        tables.number_column(columns["ra"]) if "ra" in columns else unknown,
        tables.number_column(columns["dec"]) if "dec" in columns else unknown,
    )


def _continuous(columns: dict[str, Any]) -> CoefficientBatch:
    ids = _ids(columns)
    n = len(ids)
    coeff, error = np.full((n, 2, BASES), np.nan), np.full((n, 2, BASES), np.nan)
    stated = all(f"{band}_coefficient_correlations" in columns for band in BANDS)
    correlation = np.tile(np.eye(BASES), (n, 2, 1, 1)) if stated else None
    lower = np.tril_indices(BASES, -1)
    for b, band in enumerate(BANDS):
        for i in range(n):
            values = tables.array_cell(columns[f"{band}_coefficients"][i], BASES)
            errors = tables.array_cell(columns[f"{band}_coefficient_errors"][i], BASES)
            if values is None or errors is None:
                continue
            coeff[i, b], error[i, b] = values, errors
            if correlation is not None:
                pairs = tables.array_cell(columns[f"{band}_coefficient_correlations"][i], PAIRS)
                if pairs is None:
                    raise ValueError(f"source {ids[i]} has {band} coefficients without correlations")
                correlation[i, b][lower] = pairs
                correlation[i, b].T[lower] = pairs
    return CoefficientBatch(
        ids, coeff.reshape(n, -1), error.reshape(n, -1), correlation, *_positions(columns, n)
    )


def _combined(columns: dict[str, Any]) -> CoefficientBatch:
    ids = _ids(columns)
    names = [f"{band}_coeff_{k}" for band in BANDS for k in range(BASES)]
    coeff = np.stack([tables.number_column(columns[name]) for name in names], axis=1)
    if f"e_{names[0]}" not in columns:
        raise ValueError("coefficients without their errors (columns e_bp_coeff_0, ...)")
    error = np.stack([tables.number_column(columns[f"e_{name}"]) for name in names], axis=1)
    return CoefficientBatch(ids, coeff, error, None, *_positions(columns, len(ids)))


def _sampled(columns: dict[str, Any]) -> SampledBatch:
    ids = _ids(columns)
    n = len(ids)
    flux, error = np.full((n, N_SAMPLES), np.nan), np.full((n, N_SAMPLES), np.nan)
    for i in range(n):
        values = tables.array_cell(columns["flux"][i], N_SAMPLES)
        errors = tables.array_cell(columns["flux_error"][i], N_SAMPLES)
        if values is not None and errors is not None:
            flux[i], error[i] = values, errors
    return SampledBatch(ids, 336.0 + 2.0 * np.arange(N_SAMPLES), flux, error, *_positions(columns, n))


def _single_sampled(path: Path, columns: dict[str, Any]) -> SampledBatch:
    lowered = {name.lower(): column for name, column in columns.items()}
    found = re.search(r"(?<!\d)\d{7,19}(?!\d)", path.name)
    if found is None:
        raise ValueError("one spectrum without a source_id, and none in the file's name")
    wave, flux, error = (tables.number_column(lowered[c])[None] for c in ("wavelength", "flux", "flux_error"))
    unknown = np.full(1, np.nan)
    return SampledBatch(np.array([found.group()]), wave[0], flux, error, unknown, unknown)
