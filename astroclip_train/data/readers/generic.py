"""The generic importer: any HDF5, NPZ or table file whose arrays are named on the command line."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import DataError
from ..grids import ANGSTROM, Grid
from .catalogue import MISSING
from .rows import Rows
from .sources import Source
from .spectrum import air_to_vacuum

__all__ = ["Layout", "label_keys", "read", "read_wave"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which array of a file is what; empty text means absent.

    flux, ivar, sigma (n, l); mask (n, l), whose non-zero values mean what `mask_true` says ("good" or "bad",
    empty only for booleans, which then mean good); wave is a key, `linear:start:step` or `log10:start:step`,
    `wave_scale` says whether a key holds wavelengths or their log10; unit Angstrom, nm or um; medium vacuum
    or air; labels as `label_keys` reads them; object_id, obs_id, ra, dec, snr, split are arrays of n values.
    """

    modality: str
    flux: str
    wave: str
    ivar: str = ""
    sigma: str = ""
    mask: str = ""
    mask_true: str = ""
    wave_scale: str = "linear"
    unit: str = "Angstrom"
    medium: str = "vacuum"
    labels: str = ""
    object_id: str = ""
    obs_id: str = ""
    ra: str = ""
    dec: str = ""
    snr: str = ""
    split: str = ""


def label_keys(text: str) -> dict[str, tuple[str, int | None]]:
    """Label names with the array and column that hold them.

    `KEY:teff,logg` are the columns of one array (n, k); `teff,logg=LOGG_A` are arrays of their own, named
    alike or after `=`.

    Raises:
        DataError: a name twice or an empty one.
    """
    found: dict[str, tuple[str, int | None]] = {}
    array, colon, names = text.rpartition(":")
    for column, item in enumerate(names.split(",") if text else []):
        name, equals, key = item.strip().partition("=")
        if not name or name in found or (equals and not key) or (colon and equals):
            raise DataError(
                f"--labels {text!r} is not KEY:name,name,... nor name,name=KEY,...: check the item {item!r}."
            )
        found[name] = (array, column) if colon else (key or name, None)
    return found


def read_wave(source: Source, layout: Layout, pixels: int) -> Grid | np.ndarray:
    """The grid of all spectra, or wavelengths (n, l) in `layout.unit` where each row has its own.

    Raises:
        DataError: not as many wavelengths as pixels, not increasing, or a specification that cannot be
        understood.
    """
    kind, colon, rest = layout.wave.partition(":")
    if colon and kind in ("linear", "log10") and not source.has(layout.wave):
        try:
            start, step = (float(number) for number in rest.split(":"))
        except ValueError as error:
            raise DataError(
                f"--wave {layout.wave!r} is not {kind}:start:step, such as log10:3.602:1e-4."
            ) from error
        with np.errstate(over="ignore"):
            made = start + step * np.arange(pixels)
            made = made if kind == "linear" else 10**made
        _check_wave(source, layout, made, linear=kind == "linear")
        return Grid(kind, start, step, pixels, layout.unit, layout.medium)
    values = np.asarray(source.read(layout.wave, "--wave"), dtype=np.float64)
    values = 10**values if layout.wave_scale == "log10" else values
    if values.shape[-1] != pixels or values.ndim > 2:
        raise DataError(
            f"{source.path}: --wave {layout.wave} has shape {values.shape}, the flux {pixels} pixels."
        )
    _check_wave(source, layout, values, linear=layout.wave_scale == "linear")
    if values.ndim == 2 and len(values) > 1 and not np.allclose(values, values[0], rtol=1e-7, atol=0):
        return values
    return Grid.from_wave(values if values.ndim == 1 else values[0], layout.unit, layout.medium)


def _check_wave(source: Source, layout: Layout, values: np.ndarray, linear: bool) -> None:
    if not np.isfinite(values).all() or (values <= 0).any() or not (np.diff(values, axis=-1) > 0).all():
        raise DataError(f"{source.path}: --wave {layout.wave} does not increase through positive numbers.")
    middle = float(np.median(values))
    if layout.unit == "um":
        if not 0.05 < middle < 1000:
            raise DataError(
                f"{source.path}: --wave {layout.wave} has median {middle:.4g} µm: is another --unit meant?"
            )
        return
    if linear and middle < 5:
        advice = "begin with log10:" if layout.wave.startswith("linear:") else "add --wave-scale log10"
        raise DataError(
            f"{source.path}: --wave {layout.wave} has median {middle:.3g}, which looks like log10: {advice}."
        )
    if layout.unit == "nm" and middle > 2500:
        raise DataError(
            f"{source.path}: --wave {layout.wave} has median {middle:.5g} nm: is --unit Angstrom meant?"
        )
    if layout.unit == "Angstrom" and middle < 1000:
        raise DataError(f"{source.path}: --wave {layout.wave} has median {middle:.4g} Å: is --unit nm meant?")


def read(source: Source, layout: Layout, chunk: int = 2048) -> Iterator[tuple[slice, Rows]]:
    """Chunks of rows as they are in the file, with their slices; a mask is made where none is named.

    Raises:
        DataError: a name is missing or arrays do not have the rows and pixels of the flux.
    """
    if layout.ivar and layout.sigma:
        raise DataError("--ivar and --flux-error were both given: they say the same thing, keep one.")
    total = source.length(layout.flux, "--flux")
    labels = label_keys(layout.labels)
    for start in range(0, total, chunk):
        part = slice(start, min(start + chunk, total))
        yield part, _rows(source, layout, labels, part, total)


def _rows(source: Source, layout: Layout, labels: dict, part: slice, total: int) -> Rows:
    n = part.stop - part.start

    def column(key: str, option: str, shape: tuple[int, ...]) -> np.ndarray:
        if source.length(key, option) != total:
            raise DataError(
                f"{source.path}: {option} {key} has {source.length(key, option)} rows, the flux {total}."
            )
        values = source.read(key, option, part)
        if values.shape != shape:
            raise DataError(
                f"{source.path}: {option} {key} has rows of shape {values.shape[1:]}, not {shape[1:]}."
            )
        return values

    def cells(key: str, option: str) -> np.ndarray | list[Any]:
        column(key, option, (n,))  # of the right shape
        return source.cells(key, option, part)

    flux = source.read(layout.flux, "--flux", part)
    if flux.ndim != 2 or flux.dtype.kind not in "fiu":
        raise DataError(
            f"{source.path}: --flux {layout.flux} is {flux.dtype} of {flux.ndim} axes, not numbers (n, l)."
        )
    arrays = {"flux": flux.astype(np.float64)}
    if layout.ivar or layout.sigma:
        arrays["ivar"] = _inverse_variance(column, layout, flux.shape)
    arrays["mask"] = _mask(source, column, layout, arrays)
    if "ivar" in arrays:
        arrays["ivar"] = np.where(arrays["mask"], arrays["ivar"], 0.0)
    if layout.snr:
        arrays["snr"] = column(layout.snr, "--snr", (n,)).astype(np.float64)
    text = {
        name: _text(cells(getattr(layout, name), option)) if getattr(layout, name) else np.full(n, "", object)
        for name, option in (("object_id", "--id"), ("obs_id", "--obs-id"), ("split", "--split"))
    }
    numbers = {
        name: column(getattr(layout, name), f"--{name}", (n,)).astype(np.float64)
        if getattr(layout, name)
        else np.full(n, np.nan)
        for name in ("ra", "dec")
    }
    numbers = {k: np.where(np.isin(v, MISSING), np.nan, v) for k, v in numbers.items()}
    _check_position(source, layout, numbers)
    values = {}
    for name, (key, index) in labels.items():
        if source.length(key, "--labels") != total:
            raise DataError(
                f"{source.path}: --labels {key} has {source.length(key, '--labels')} rows, the flux {total}: "
                "labels of another table are joined by their ids with --labels TABLE:name,name."
            )
        array = source.read(key, "--labels", part)
        if index is not None and (array.ndim != 2 or array.shape[1] <= index):
            raise DataError(
                f"{source.path}: --labels {key} has shape {array.shape}, too few columns for {name}."
            )
        column_values = (array if index is None else array[:, index]).astype(np.float64)
        values[name] = np.where(np.isin(column_values, MISSING), np.nan, column_values)
    numbered = _numbered(text["object_id"], source, part)
    names = np.where(text["obs_id"] != "", text["obs_id"], numbered)
    split = text["split"] if layout.split else None
    rows = {layout.modality: arrays}
    return Rows(rows, names, text["object_id"], numbers["ra"], numbers["dec"], values, split)


def _check_position(source: Source, layout: Layout, numbers: dict[str, np.ndarray]) -> None:
    for name, low, high, advice in (
        ("dec", -90, 90, "are --ra and --dec exchanged, or is it in another unit than degrees?"),
        ("ra", -180, 360, "it must be in degrees."),
    ):
        known = numbers[name][np.isfinite(numbers[name])]
        if len(known) and not low <= known.min() <= known.max() <= high:
            wrong = known[(known < low) | (known > high)][0]
            raise DataError(f"{source.path}: --{name} {getattr(layout, name)} has {wrong:.6g}: {advice}")


def _numbered(ids: np.ndarray, source: Source, part: slice) -> np.ndarray:
    """Observation names made of object id (or the file's name) and row number, unique within the file."""
    numbers = range(part.start, part.stop)
    return np.array([f"{i or source.path.stem}-{k}" for i, k in zip(ids, numbers, strict=True)], dtype=object)


def _text(values: np.ndarray | list[Any]) -> np.ndarray:
    """Names of rows, "" where a cell is empty.

    Raises:
        DataError: numbers that a float has rounded.
    """
    cells = values if isinstance(values, list) else values.tolist()
    return np.array([_name(cell) for cell in cells], dtype=object)


def _name(cell: Any) -> str:
    if cell is None or cell is np.ma.masked:
        return ""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return ""
        if abs(cell) > 2**53:
            raise DataError(
                "ids of 19 digits were stored as floating-point numbers and are no longer exact: fix the "
                "file."
            )
        cell = int(cell) if cell == int(cell) else cell
    return str(cell).strip()


def _inverse_variance(column, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    if layout.ivar:
        return column(layout.ivar, "--ivar", shape).astype(np.float64)
    sigma = column(layout.sigma, "--flux-error", shape).astype(np.float64)
    usable = np.isfinite(sigma) & (sigma > 0)
    return np.where(usable, 1 / np.where(usable, sigma, 1.0) ** 2, 0.0)


def _mask(source: Source, column, layout: Layout, arrays: dict[str, np.ndarray]) -> np.ndarray:
    good = np.isfinite(arrays["flux"])
    if "ivar" in arrays:
        arrays["ivar"] = np.where(np.isfinite(arrays["ivar"]) & (arrays["ivar"] > 0), arrays["ivar"], 0.0)
        good &= arrays["ivar"] > 0
    if not layout.mask:
        return good
    values = column(layout.mask, "--mask", arrays["flux"].shape)
    if not layout.mask_true and values.dtype.kind != "b":
        raise DataError(
            f"{source.path}: --mask {layout.mask} holds numbers, and surveys differ in what non-zero means: "
            "add --mask-true good or --mask-true bad."
        )
    flagged = values != 0
    if not layout.mask_true and flagged.mean() < 0.5:
        raise DataError(
            f"{source.path}: --mask {layout.mask} is False in {1 - flagged.mean():.0%} of the pixels, which would be "
            "bad ones: add --mask-true bad if True means bad, else --mask-true good."
        )
    return good & (~flagged if layout.mask_true == "bad" else flagged)


def vacuum_angstrom(wave: np.ndarray, unit: str, medium: str) -> np.ndarray:
    """Wavelengths in vacuum Å of wavelengths in another unit or medium."""
    angstrom = np.asarray(wave, dtype=np.float64) * ANGSTROM[unit]
    return air_to_vacuum(angstrom) if medium == "air" else angstrom
