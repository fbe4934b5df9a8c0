"""The conversion of Gaia XP files into stores."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from .convert import ConvertOptions, stored
from .grids import XP_GRID
from .modality import ModalityInfo
from .progress import track
from .readers import gaia_calibration, gaia_xp
from .readers.rows import Rows
from .store_builder import Report

__all__ = ["XP_UNIT", "convert_gaia_xp"]

XP_UNIT = 1e-18  # W m⁻² nm⁻¹: keeps faint fluxes and their inverse variances within float32
XP_RESOLUTION = "R=30-100"


def convert_gaia_xp(
    paths: list[str | Path], options: ConvertOptions, *, normalise: bool = True, covariance: bool = True
) -> Report:
    """Gaia XP files (continuous coefficients or sampled spectra) to a store with modality `xp`.

    Coefficients are calibrated to 336–1020 nm in steps of 2 nm and kept beside the flux with their errors
    and, where the file has correlations and `covariance` is on, the factor F of their covariance F Fᵀ. With
    `normalise`, flux, coefficients, errors and F are divided by the flux at 550 nm (ivar multiplied by its
    square); spectra whose flux there is missing or below 3 σ are left out.

    Raises:
        DataError: a file is missing, too much is left out, or kinds of files are mixed.
        ConfigError: GaiaXPy is needed and not installed.
    """
    files = [Path(p) for p in paths]
    unit = "" if normalise else "1e-18 W m-2 nm-1"
    applied = ("flux_550nm",) if normalise else ()
    info = ModalityInfo("Gaia XP", XP_GRID, unit, "vacuum", "observed", XP_RESOLUTION, applied)
    kind = ""
    with options.builder({"xp": info}) as builder:
        for path in track(files, len(files), "XP files", shown=options.progress):
            try:
                for batch in gaia_xp.read(path):
                    found, rows, bad = _xp_rows(batch, normalise, covariance)
                    kind = kind or found
                    if found != kind:
                        raise DataError(
                            f"{path} holds {found} but the files before it {kind}: convert them apart."
                        )
                    builder.add(rows)
                    for name, reason in bad:
                        builder.leave_out(f"{path.name}, source {name}", reason)
            except DataError as error:
                builder.leave_out(path, str(error).removeprefix(f"{path} "))
    return builder.report


def _xp_rows(
    batch: gaia_xp.CoefficientBatch | gaia_xp.SampledBatch, normalise: bool, covariance: bool
) -> tuple[str, Rows, list[tuple[str, str]]]:
    """What kind of data a batch holds, its usable rows, and the others with the reason."""
    n = len(batch.source_id)
    if isinstance(batch, gaia_xp.SampledBatch):
        kind, factor = "sampled spectra", None
        mask = np.isfinite(batch.flux) & (batch.error > 0)
        flux, sigma = np.nan_to_num(batch.flux), np.where(mask, batch.error, np.inf)
        if batch.wave.shape != XP_GRID.wave().shape or not np.allclose(batch.wave, XP_GRID.wave(), atol=1e-3):
            raise DataError(
                f"sampled spectra on {len(batch.wave)} wavelengths: expected 336 to 1020 nm by 2 nm."
            )
        extra = {}
    else:
        flux, sigma, mask, factor = gaia_calibration.calibrate(batch)
        kind = "coefficients" if factor is None else "coefficients with correlations"
        extra = {"coeff": batch.coeff, "coeff_error": batch.error}
        if factor is not None and covariance:
            extra["coeff_cov_factor"] = factor
    scale = np.full(n, XP_UNIT)
    usable = mask.any(axis=1)
    if normalise:
        scale, usable = gaia_calibration.scale_to_reference(flux, sigma, mask)
    reasons = [
        "its flux at 550 nm is missing or not above 3 σ" if normalise else "it has no good pixel"
        for _ in range(n)
    ]
    divisor = np.where(usable, scale, 1.0)
    with np.errstate(divide="ignore"):
        ivar = np.where(mask, (divisor[:, None] / np.where(mask, sigma, 1.0)) ** 2, 0.0)
    arrays = stored(flux / divisor[:, None], ivar, mask)
    arrays |= {k: (v / divisor.reshape(-1, *[1] * (v.ndim - 1))).astype(np.float32) for k, v in extra.items()}
    names = np.array([f"xp-{s}" for s in batch.source_id], dtype=object)
    rows = Rows({"xp": arrays}, names, batch.source_id.astype(object), batch.ra, batch.dec).take(usable)
    bad = [(str(batch.source_id[k]), reasons[k]) for k in np.flatnonzero(~usable)]
    return kind, rows, bad
