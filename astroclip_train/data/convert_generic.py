"""The generic conversion: arrays named by the user, brought to a store with everything about them stated."""

import dataclasses
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from .continuum import normalise_continuum
from .convert import ConvertOptions
from .grids import Grid
from .modality import ModalityInfo
from .progress import track
from .readers import generic
from .readers.gaia_calibration import REFERENCE, scale_to_reference
from .readers.sources import open_source
from .resample import resample
from .store_builder import Report

__all__ = ["GenericTarget", "convert_generic"]

NORMALISERS = ("none", "continuum", "continuum_polynomial", "flux_550nm")
CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class GenericTarget:
    """What the spectra are and become.

    survey, frame, flux unit and resolution in words; `applied` names what was
    divided out before; `normalise` what is divided out now (none, continuum or flux_550nm); `grid` None keeps
    the
    file's own pixels."""

    survey: str
    frame: str
    flux_unit: str = ""
    resolution: str = "unknown"
    applied: tuple[str, ...] = ()
    normalise: str = "none"
    grid: Grid | None = None


def convert_generic(
    path: str | Path, kind: str, layout: generic.Layout, target: GenericTarget, options: ConvertOptions
) -> Report:
    """A file of named arrays (`kind` hdf5, npz or table) to a store with one modality.

    Wavelengths in air are brought to vacuum when spectra are resampled to `target.grid`, and kept as they are
    otherwise. Normalising precedes resampling; it is refused where the file is said to be normalised already.

    Raises:
        DataError: names, shapes, units or numbers that do not fit, or too much left out.
        ConfigError: an unknown normaliser.
    """
    if target.normalise not in NORMALISERS:
        raise ConfigError(f"--normalise {target.normalise!r} is not one of {', '.join(NORMALISERS)}.")
    if target.normalise in target.applied:
        raise DataError(
            f"--applied says the flux is divided by its {target.normalise} already: leave out --normalise."
        )
    with open_source(path, kind) as source:
        first = source.read(layout.flux, "--flux", slice(0, 1))
        if first.ndim != 2:
            raise DataError(
                f"{path}: --flux {layout.flux} has rows of shape {first.shape[1:]}, expected (pixels,)."
            )
        wave = generic.read_wave(source, layout, first.shape[1])
        info = _info(layout, target, wave)
        total = source.length(layout.flux, "--flux")
        labels = f"{Path(path).name} ({layout.labels})" if layout.labels else ""
        with options.builder({layout.modality: info}, expected=total, label_source=labels) as builder:
            chunks = track(
                generic.read(source, layout, CHUNK), -(-total // CHUNK), "blocks", shown=options.progress
            )
            for part, rows in chunks:
                arrays = rows.arrays[layout.modality]
                here = wave if isinstance(wave, Grid) else wave[part]
                usable = _process(arrays, here, layout, target)
                for k in np.flatnonzero(~usable):
                    builder.leave_out(str(rows.obs_id[k]), f"its flux at {REFERENCE:g} nm is not above 3 σ")
                builder.add(rows.take(usable))
    return builder.report


def _info(layout: generic.Layout, target: GenericTarget, wave: Grid | np.ndarray) -> ModalityInfo:
    grid: Grid | str = target.grid or (wave if isinstance(wave, Grid) else "per-row")
    medium = target.grid.medium if target.grid else layout.medium
    now = () if target.normalise == "none" else (target.normalise,)
    unit = "" if now or target.flux_unit in ("1", "dimensionless") else target.flux_unit
    return ModalityInfo(
        target.survey,
        grid,
        unit,
        medium,
        target.frame,
        target.resolution,
        (*target.applied, *now),
        layout.unit,
    )


def _process(
    arrays: dict, wave: Grid | np.ndarray, layout: generic.Layout, target: GenericTarget
) -> np.ndarray:
    """Normalises and resamples in place; returns the usable rows."""
    n = len(arrays["flux"])
    shared = isinstance(wave, Grid)
    raw = wave.wave() if isinstance(wave, Grid) else wave
    usable = np.ones(n, dtype=bool)
    if target.normalise != "none" or target.grid is not None:
        vacuum = generic.vacuum_angstrom(raw, layout.unit, layout.medium)
        if shared:
            usable = _transform(arrays, vacuum, target)
        else:
            single = [{k: v[i : i + 1] for k, v in arrays.items()} for i in range(n)]
            usable = np.array([_transform(row, vacuum[i], target)[0] for i, row in enumerate(single)])
            arrays.update({k: np.concatenate([row[k] for row in single]) for k in single[0]})
    if not shared and target.grid is None:
        arrays["wave"] = raw
    arrays["flux"] = np.where(np.isfinite(arrays["flux"]), arrays["flux"], 0.0)
    return usable


def _transform(arrays: dict, vacuum: np.ndarray, target: GenericTarget) -> np.ndarray:
    """The same for rows that share their wavelengths, in vacuum Å."""
    flux, ivar, mask = arrays["flux"], arrays.get("ivar"), arrays["mask"]
    usable = np.ones(len(flux), dtype=bool)
    if target.normalise.startswith("continuum"):
        kind = "polynomial" if target.normalise == "continuum_polynomial" else "envelope"
        flux, ivar, mask, _ = normalise_continuum(vacuum, flux, ivar, mask, applied=target.applied, kind=kind)
    elif target.normalise == "flux_550nm":
        flux, ivar, usable = _by_reference(flux, ivar, mask, vacuum)
    if target.grid is not None:
        done = resample(
            vacuum, flux, ivar, mask, target.grid.angstrom(), logarithmic=target.grid.kind == "log10"
        )
        flux, ivar, mask = done
    arrays |= {"flux": flux, "mask": mask} | ({} if ivar is None else {"ivar": ivar})
    return usable


def _by_reference(
    flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray, vacuum: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    if not vacuum[0] <= 10 * REFERENCE <= vacuum[-1]:
        raise DataError(
            f"--normalise flux_550nm needs 550 nm, the spectra span {vacuum[0]:.0f} to {vacuum[-1]:.0f} Å."
        )
    sigma = np.zeros_like(flux)
    if ivar is not None:
        sigma = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), np.inf)
    reference, usable = scale_to_reference(flux, sigma, mask, vacuum / 10)
    divisor = np.where(usable, reference, 1.0)[:, None]
    return flux / divisor, None if ivar is None else ivar * divisor**2, usable
