"""Continua that turn flux into line depths, applied once: SpecCLIP's upper envelope or a polynomial."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from ..errors import DataError

__all__ = [
    "BLUE",
    "RED",
    "Normalised",
    "fill_bad_pixels",
    "fit_continuum",
    "fit_polynomial",
    "normalise_continuum",
]

BLUE = (3700.0, 5700.0)  # Å, window of the 5th-order envelope
RED = 6100.0  # Å, start of the 4th-order fit
MIN_PIXELS = 100  # windows with fewer pixels are not fitted
HOT_PEAK = 4500.0  # Å, a first fit that peaks bluewards of this is a hot star with broad Balmer lines
BALMER = ((4030.0, 4160.0), (4270.0, 4410.0), (4800.0, 4940.0))  # Å, Hδ, Hγ, Hβ
EDGE = 10.0  # Å, half-width of the search for the flux at the edge of a Balmer zone


class Normalised(NamedTuple):
    """Flux over its continuum (n, l), its inverse variance, the good pixels and the continuum itself."""

    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray
    continuum: np.ndarray


def fill_bad_pixels(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Replaces pixels that are not good by a straight line between their good neighbours.

    Rows without a good pixel become zero. Shapes: flux and good (n, l) -> (n, l) float64.
    """
    filled = np.where(good, flux, 0.0).astype(np.float64)
    pixels = np.arange(flux.shape[1])
    for row in np.flatnonzero(~good.all(axis=1) & good.any(axis=1)):
        filled[row] = np.interp(pixels, pixels[good[row]], filled[row, good[row]])
    return filled


def _projector(wave: np.ndarray, order: int) -> np.ndarray:
    """Orthonormal polynomials up to `order` on these pixels, (l, order + 1); a fit is then q qᵀ y."""
    scaled = 2 * (wave - wave[0]) / (wave[-1] - wave[0]) - 1
    return np.linalg.qr(np.polynomial.chebyshev.chebvander(scaled, order))[0]


def _bridge_balmer(wave: np.ndarray, flux: np.ndarray, offset: int) -> np.ndarray:
    """Replaces three Balmer zones of hot stars by lines between the highest fluxes near their edges."""
    pixels = np.arange(len(wave))
    lines = []
    for low, high in BALMER:
        inside = np.flatnonzero((wave >= low) & (wave <= high))
        ends = []
        for edge in (low, high):
            near = pixels[np.abs(wave - edge) <= EDGE] + offset
            near = near[near < len(wave)]
            ends.append(flux[:, near].max(axis=1) if len(near) else None)
        if len(inside) and ends[0] is not None and ends[1] is not None:
            fraction = (wave[inside] - low) / (high - low)
            line = ends[0][:, None] * (1 - fraction) + ends[1][:, None] * fraction
            lines.append((inside + offset, line))
    bridged = flux.copy()
    for target, line in lines:
        kept = target < len(wave)
        bridged[:, target[kept]] = line[:, kept]
    return bridged


def _upper_envelope(wave: np.ndarray, flux: np.ndarray, offset: int) -> np.ndarray:
    q = _projector(wave, 5)
    hot = wave[np.argmax(flux @ q @ q.T, axis=1)] < HOT_PEAK
    if hot.any():
        flux = np.where(hot[:, None], _bridge_balmer(wave, flux, offset), flux)
    for _ in range(10):
        flux = np.maximum(flux, flux @ q @ q.T)
    return flux @ q @ q.T


def _clipped_envelope(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    q = _projector(wave, 4)
    for _ in range(9):
        fit = flux @ q @ q.T
        sigma = np.std(flux - fit, axis=1, keepdims=True)
        flux = np.where((flux < fit) | (flux > fit + 3 * sigma), fit, flux)
    return fit


def fit_continuum(
    wave: np.ndarray,
    flux: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    blue: tuple[float, float] = BLUE,
    red: float = RED,
    published: bool = False,
) -> np.ndarray:
    """The pseudo-continuum of spectra that share one wavelength scale.

    After a 7-pixel median filter, a 5th-order polynomial envelope is raised ten times over the data in the
    blue window (Balmer lines of hot stars bridged first) and a clipped 4th-order one fitted beyond `red`; in
    between and outside, the continuum is the filtered flux itself, so those pixels carry no line information.

    Arguments:
        wave: vacuum wavelengths in Å, increasing, shape (l,).
        flux: spectra of shape (n, l), any flux unit, frame as observed.
        mask: good pixels (n, l); the others and non-finite ones are bridged before the fit.
        blue, red: the two windows in Å.
        published: reproduces the released code for its weights: no bad-pixel treatment, zero padding in the
        median
            filter, and Balmer zones shifted by the number of pixels below the blue window (its index slip).

    Returns:
        Continuum of shape (n, l), float64; it may be zero or negative where the flux is.

    Source: the steps of the SpecCLIP preparation (arXiv:2507.01939), whose Savitzky–Golay step has no effect
    there.
    """
    wave = np.asarray(wave, dtype=np.float64)
    finite = np.isfinite(flux)
    good = finite if mask is None or published else finite & mask
    filled = fill_bad_pixels(flux, good)
    filtered = median_filter(filled, size=(1, 7), mode="constant" if published else "nearest")
    continuum = filtered.copy()
    in_blue = (wave >= blue[0]) & (wave <= blue[1])
    if in_blue.sum() > MIN_PIXELS:
        offset = int((wave < blue[0]).sum()) if published else 0
        continuum[:, in_blue] = _upper_envelope(wave[in_blue], filtered[:, in_blue], offset)
    in_red = wave > red
    if in_red.sum() > MIN_PIXELS:
        continuum[:, in_red] = _clipped_envelope(wave[in_red], filtered[:, in_red])
    return continuum


def fit_polynomial(
    wave: np.ndarray, flux: np.ndarray, mask: np.ndarray | None = None, order: int = 6
) -> np.ndarray:
    """A smooth continuum that is linear in the flux: least-squares polynomial in log λ over the good pixels.

    It runs through the spectrum rather than over it, and noise propagates through it exactly, as for the mock
    stars. Shapes: wave (l,), flux and mask (n, l) -> (n, l) float64; rows with too few good pixels become
    zero.
    """
    basis = _projector(np.log(np.asarray(wave, dtype=np.float64)), order)
    good = np.isfinite(flux) if mask is None else mask & np.isfinite(flux)
    values = np.where(good, flux, 0.0).astype(np.float64)
    if good.all():
        return values @ basis @ basis.T
    normal = np.einsum("lj,nl,lk->njk", basis, good.astype(np.float64), basis, optimize=True)
    enough = good.sum(axis=1) > 4 * order
    normal[~enough] = np.eye(order + 1)
    coefficients = np.linalg.solve(normal, (values @ basis)[..., None])[..., 0]
    return np.where(enough[:, None], coefficients, 0.0) @ basis.T


def normalise_continuum(
    wave: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    *,
    applied: Sequence[str] = (),
    kind: str = "envelope",
    blue: tuple[float, float] = BLUE,
    red: float = RED,
    published: bool = False,
) -> Normalised:
    """Divides spectra by their continuum of `kind` envelope or polynomial; ivar is multiplied by its square.

    Pixels whose continuum is not positive cannot be normalised: they get flux 1, no weight, and mask False
    (`published=True` divides them by 1 instead). Shapes: wave (l,), the others (n, l). Arguments as in
    `fit_continuum`.

    Raises:
        DataError: `applied`, the record of normalisations, already names the continuum.
    """
    if any(name.startswith("continuum") for name in applied):
        raise DataError(
            "These spectra are already divided by their continuum (their record of normalisations says so): "
            "use them as they are, or start from the flux of the survey's files."
        )
    good = np.isfinite(flux) if mask is None else mask & np.isfinite(flux)
    if kind == "polynomial":
        continuum = fit_polynomial(wave, flux, good)
    else:
        continuum = fit_continuum(wave, flux, good, blue=blue, red=red, published=published)
    positive = continuum > 0
    good = good if published else good & positive
    scale = np.where(positive, continuum, 1.0)
    normalised = np.where(good, flux, scale) / scale
    weight = None if ivar is None else np.where(good, ivar, 0.0) * scale**2
    return Normalised(normalised, weight, good, continuum)
