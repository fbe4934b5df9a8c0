"""From Gaia XP coefficients to calibrated spectra and their covariance, with the matrices of GaiaXPy."""

import contextlib
import functools
import io
import sys
import warnings
from typing import NamedTuple

import numpy as np

from ...errors import require
from .gaia_xp import BASES, CoefficientBatch

__all__ = [
    "REFERENCE",
    "SIGNIFICANCE",
    "WAVE",
    "XpSpectra",
    "calibrate",
    "design_matrix",
    "scale_to_reference",
]

WAVE = 336.0 + 2.0 * np.arange(343)  # vacuum nm
REFERENCE = 550.0  # nm, the flux that spectra are divided by
SIGNIFICANCE = 3.0  # a normaliser below this many of its own standard deviations is not usable


class XpSpectra(NamedTuple):
    """Calibrated spectra: flux and sigma (n, 343) in W m⁻² nm⁻¹, good pixels, and a covariance factor.

    factor (n, 110, 110) is lower triangular by blocks with C = F Fᵀ, or None where correlations are unknown.
    """

    flux: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    factor: np.ndarray | None


@functools.cache
def design_matrix() -> np.ndarray:
    """The matrix (110, 343) that takes BP and RP coefficients to flux in W m⁻² nm⁻¹ on 336–1020 nm, vacuum.

    Calibration is linear, so it is the calibration of unit vectors by GaiaXPy (Gaia DR3 instrument model).

    Raises:
        ConfigError: GaiaXPy is not installed.
    """
    quiet = io.StringIO()
    # GaiaXPy prints to the stdout that it saw at import, and touches an option that pandas 3 deprecates
    with contextlib.redirect_stdout(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gaiaxpy = require("gaiaxpy", extra="gaia")
        pandas = require("pandas", extra="gaia")
        calibrator = sys.modules[gaiaxpy.calibrate.__module__]
        told_to = getattr(calibrator, "stdout", quiet)
        calibrator.__dict__["stdout"] = quiet
        try:
            spectra, wave = gaiaxpy.calibrate(pandas.DataFrame(_unit_vectors()), save_file=False)
        finally:
            calibrator.__dict__["stdout"] = told_to
    assert np.allclose(wave, WAVE)
    return np.stack(list(spectra["flux"]))


def _unit_vectors() -> list[dict[str, object]]:
    """One made-up source for each coefficient, in the columns that GaiaXPy asks for."""
    rows = []
    for k in range(2 * BASES):
        row: dict[str, object] = {"source_id": k}
        for b, band in enumerate(("bp", "rp")):
            unit = np.zeros(BASES)
            if k // BASES == b:
                unit[k % BASES] = 1.0
            row |= {
                f"{band}_coefficients": unit,
                f"{band}_coefficient_errors": np.ones(BASES),
                f"{band}_coefficient_correlations": np.zeros(BASES * (BASES - 1) // 2),
                f"{band}_standard_deviation": 1.0,
                f"{band}_n_parameters": BASES,
                f"{band}_n_relevant_bases": BASES,
            }
        rows.append(row)
    return rows


def _factor(batch: CoefficientBatch) -> np.ndarray:
    """F with F Fᵀ = the covariance of the 110 coefficients, block by block, (n, 110, 110)."""
    assert batch.correlation is not None
    n = len(batch.source_id)
    factor = np.zeros((n, 2 * BASES, 2 * BASES))
    for b in range(2):
        block = slice(b * BASES, (b + 1) * BASES)
        # float32 correlations of the archive can have eigenvalues just below zero
        values, vectors = np.linalg.eigh(batch.correlation[:, b])
        root = vectors * np.sqrt(np.clip(values, 1e-10, None))[:, None, :]
        lower = np.asarray(np.linalg.qr(root.transpose(0, 2, 1), mode="r")).transpose(0, 2, 1)
        sign = np.where(np.diagonal(lower, axis1=1, axis2=2) < 0, -1.0, 1.0)
        errors = np.nan_to_num(batch.error[:, block])
        factor[:, block, block] = errors[:, :, None] * lower * sign[:, None, :]
    return factor


def calibrate(batch: CoefficientBatch) -> XpSpectra:
    """Flux, standard deviations and good pixels of continuous spectra on `WAVE`.

    With a photometer missing, only the pixels to which it does not contribute are good. Without correlations
    in the file, the coefficients are taken as independent for the standard deviations.
    """
    matrix = design_matrix()
    coeff = np.nan_to_num(batch.coeff)
    flux = coeff @ matrix
    factor = None
    if batch.correlation is not None:
        factor = _factor(batch)
        sigma = np.sqrt(np.square(factor.transpose(0, 2, 1) @ matrix).sum(axis=1))
    else:
        sigma = np.sqrt(np.square(np.nan_to_num(batch.error)) @ np.square(matrix))
    present = np.isfinite(batch.coeff).reshape(-1, 2, BASES).all(axis=2)
    used = np.abs(matrix).reshape(2, BASES, -1).max(axis=1) > 0
    mask = (present[:, :, None] | ~used[None]).all(axis=1) & (sigma > 0)
    return XpSpectra(flux, sigma, mask, factor)


def scale_to_reference(
    flux: np.ndarray, sigma: np.ndarray, mask: np.ndarray, wave: np.ndarray = WAVE
) -> tuple[np.ndarray, np.ndarray]:
    """The flux at 550 nm (n,) and whether it is significantly positive: good and above 3 of its σ (n,)."""
    pixel = int(np.argmin(np.abs(wave - REFERENCE)))
    reference, error = flux[:, pixel], sigma[:, pixel]
    return reference, mask[:, pixel] & np.isfinite(reference) & (reference > SIGNIFICANCE * error)
