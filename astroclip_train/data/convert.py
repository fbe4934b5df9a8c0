"""Conversions of survey files and published layouts into stores."""

import concurrent.futures
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from .continuum import normalise_continuum
from .grids import LRS_GRID, XP_GRID, Grid
from .identity import RADIUS
from .modality import ModalityInfo
from .progress import track
from .readers import lamost, lamost_afg, specclip
from .readers.rows import Rows
from .resample import resample
from .store_builder import Report, StoreBuilder

__all__ = [
    "ConvertOptions",
    "convert_lamost",
    "convert_lamost_afg",
    "convert_specclip",
    "parse_grid",
    "stored",
]

BATCH = 256  # spectra written together
LAMOST_RESOLUTION = "R=1800"


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What all conversions share; the fields are the options of `astro-data convert`."""

    out: Path
    command: str = "astro-data convert"
    catalogue: Path | None = None
    labels: tuple[str, ...] = ()
    label_units: dict[str, str] = dataclasses.field(default_factory=dict)
    max_bad_fraction: float = 0.1
    half: bool = False
    radius: float = RADIUS
    progress: bool = True

    def builder(self, infos: dict[str, ModalityInfo], **more: Any) -> StoreBuilder:
        """The builder of the store that these options ask for."""
        return StoreBuilder(
            self.out,
            infos,
            created_by=self.command,
            catalogue=self.catalogue,
            labels=list(self.labels),
            label_units=self.label_units,
            max_bad_fraction=self.max_bad_fraction,
            flux_dtype="float16" if self.half else "float32",
            radius=self.radius,
            **more,
        )


def parse_grid(text: str) -> Grid:
    """`lrs`, `xp`, `log10:start:step:n` (Å) or `linear:start:step:n` (Å) as a grid in vacuum.

    Raises:
        ConfigError: none of these.
    """
    named = {"lrs": LRS_GRID, "xp": XP_GRID}
    if text in named:
        return named[text]
    kind, *numbers = text.split(":")
    try:
        start, step, n = float(numbers[0]), float(numbers[1]), int(numbers[2])
        return Grid(kind, start, step, n, "Angstrom", "vacuum")
    except (IndexError, ValueError, DataError) as error:
        raise ConfigError(
            f"--grid {text!r} is not lrs, xp, log10:start:step:n or linear:start:step:n, such as "
            "log10:3.602:1e-4:1462."
        ) from error


@dataclasses.dataclass(frozen=True)
class _LamostJob:
    """Reads, normalises and resamples one file; a callable so that worker processes can take it."""

    grid: Grid
    continuum: str
    strict_mask: bool
    frame: str

    def __call__(self, path: Path) -> Rows | tuple[str, str]:
        try:
            spectrum = lamost.read(path, strict_mask=self.strict_mask)
        except DataError as error:
            return str(path), str(error).removeprefix(f"{path} ")
        if spectrum.frame != self.frame:
            return str(path), f"its wavelengths are in the {spectrum.frame} frame, expected {self.frame}"
        flux, ivar, mask = spectrum.flux[None], spectrum.ivar[None], spectrum.mask[None]
        arrays = _on_grid(spectrum.wave, flux, ivar, mask, self.grid, self.continuum)
        if not arrays["mask"].any():
            return str(path), f"no good pixel on {self.grid}"
        arrays["snr"] = np.array([spectrum.snr.get("g", np.nan)])
        return Rows(
            {"lrs": arrays},
            np.array([spectrum.obs_id], dtype=object),
            np.array([spectrum.gaia_source_id], dtype=object),
            np.array([spectrum.ra]),
            np.array([spectrum.dec]),
            {name: np.array([value]) for name, value in spectrum.labels.items()},
        )


def _on_grid(
    wave: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    continuum: str,
    **window: Any,
) -> dict[str, np.ndarray]:
    """Spectra on the store's grid, divided by their continuum.

    The envelope is fitted to the native pixels, whose red and blue ends it needs; the polynomial to those of
    the grid, so that simulated and real spectra are treated alike.
    """
    if continuum == "envelope":
        native = normalise_continuum(wave, flux, ivar, mask, **window)
        out = resample(wave, native.flux, native.ivar, native.mask, grid.angstrom())
    else:
        out = resample(wave, flux, ivar, mask, grid.angstrom())
    if continuum == "polynomial":
        done = normalise_continuum(grid.angstrom(), out.flux, out.ivar, out.mask, kind="polynomial")
        return stored(done.flux, done.ivar, done.mask)
    return stored(*out)


def stored(flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays as a store keeps them: nothing that is not finite, no weight where a pixel is not good."""
    arrays = {"flux": np.where(np.isfinite(flux), flux, 0.0).astype(np.float32), "mask": mask}
    if ivar is not None:
        arrays["ivar"] = np.where(mask & np.isfinite(ivar), ivar, 0.0).astype(np.float32)
    return arrays


def _merge(parts: list[Rows]) -> Rows:
    """Single rows of one modality and the same arrays, as one block."""
    names = sorted({name for part in parts for name in part.labels})
    blank = np.full(1, np.nan)
    return Rows(
        arrays={
            m: {k: np.concatenate([part.arrays[m][k] for part in parts]) for k in arrays}
            for m, arrays in parts[0].arrays.items()
        },
        obs_id=np.concatenate([part.obs_id for part in parts]),
        source_id=np.concatenate([part.source_id for part in parts]),
        ra=np.concatenate([part.ra for part in parts]),
        dec=np.concatenate([part.dec for part in parts]),
        labels={name: np.concatenate([part.labels.get(name, blank) for part in parts]) for name in names},
    )


def convert_lamost(
    paths: list[str | Path],
    options: ConvertOptions,
    *,
    grid: Grid = LRS_GRID,
    continuum: str = "envelope",
    strict_mask: bool = False,
    frame: str = "heliocentric",
    workers: int = 1,
) -> Report:
    """LAMOST FITS files, and folders of them, to a store with modality `lrs`.

    Flux is divided by its `continuum` (envelope as published, polynomial, or none) and brought to `grid`; S/N
    is the survey's g-band value; the label rv in km/s is the survey's heliocentric redshift of stars.

    Raises:
        DataError: nothing found, too many bad files, or the store cannot be written.
    """
    files = lamost.find_files(paths)
    applied, unit = _applied(continuum)
    info = ModalityInfo("LAMOST LRS", grid, unit, "vacuum", frame, LAMOST_RESOLUTION, applied)
    job = _LamostJob(grid, continuum, strict_mask, frame)
    source = "LAMOST FITS header (c z)"
    with options.builder({"lrs": info}, expected=len(files), label_source=source) as builder:
        waiting: list[Rows] = []
        for result in track(_run(job, files, workers), len(files), "LAMOST files", shown=options.progress):
            if isinstance(result, tuple):
                builder.leave_out(*result)
                continue
            waiting.append(result)
            if len(waiting) == BATCH:
                builder.add(_merge(waiting))
                waiting = []
        if waiting:
            builder.add(_merge(waiting))
    return builder.report


def _run(job: _LamostJob, files: list[Path], workers: int) -> Iterator[Rows | tuple[str, str]]:
    if workers <= 1:
        yield from map(job, files)
        return
    pool = concurrent.futures.ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield from pool.map(job, files, chunksize=16)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _applied(continuum: str) -> tuple[tuple[str, ...], str]:
    """The record of normalisations and the flux unit: models of one continuum do not understand another."""
    if continuum == "none":
        return (), "relative"
    return ("continuum_polynomial" if continuum == "polynomial" else "continuum",), ""


def _start_worker(parent: int) -> None:
    """Ctrl-C is answered by the parent alone, and a worker whose parent was killed ends by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert_lamost_afg(
    path: str | Path, options: ConvertOptions, *, grid: str = "native", continuum: str = "envelope"
) -> Report:
    """The repacked file of 2,304 labelled spectra to a store with modality `lrs`, normalised, with labels.

    On `native` pixels (3972–5740 Å) the window of the envelope is the whole range; on `lrs` it ends at 5700 Å
    as for whole LAMOST files, and the model's grid of 1,462 pixels is cut out.
    """
    native, rows = lamost_afg.read(path)
    wave, arrays = native.angstrom(), rows.arrays["lrs"]
    window = {"blue": (wave[0], wave[-1]), "red": np.inf} if grid == "native" else {}
    target = native if grid == "native" else parse_grid(grid)
    done = _on_grid(wave, arrays["flux"], arrays["ivar"], arrays["mask"], target, continuum, **window)
    rows.arrays["lrs"] = done | {"snr": arrays["snr"]}
    applied, unit = _applied(continuum)
    info = ModalityInfo("LAMOST LRS", target, unit, "vacuum", "heliocentric", LAMOST_RESOLUTION, applied)
    with options.builder({"lrs": info}, label_source="LAMOST DR10 LASP") as builder:
        builder.add(rows)
    return builder.report


def convert_specclip(path: str | Path, options: ConvertOptions) -> Report:
    """A published SpecCLIP file to a store; its test group stays test, its train group is split by object."""
    counts = specclip.modalities(path)
    with options.builder({m: specclip.INFO[m] for m in counts}) as builder:
        chunks = track(specclip.read(path), None, "blocks of spectra", shown=options.progress)
        for rows in chunks:
            builder.add(rows)
    return builder.report
