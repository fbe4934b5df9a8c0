"""Gaia XP: wide line spread, 55 + 55 coefficients with correlated noise, samples as basis @ coefficients."""

import numpy as np
import torch
from torch import Tensor

from ..grids import XP_GRID, Grid
from .labels import EBV, RV
from .lrs import box_muller
from .spectrum import Spectrum
from .strengths import Star, Strengths, line_strengths

__all__ = ["XP", "hermite_functions"]

_LIGHT = 2.99792458e5  # km/s
N_BASES = 55  # for each of BP and RP
_PIXELS = 110  # independent measurements in each band before they are compressed to coefficients
_EXTENT = 9.6  # pseudo-wavelength of the band edges; the highest function turns over at √109 = 10.4
_BANDS = ((330.0, 684.0), (634.0, 1030.0))  # nm
_OVERLAP = (640.0, 678.0)  # nm, where the samples pass from BP to RP
_STEP = 2.0  # nm, of the model axis


def hermite_functions(x: np.ndarray, n: int) -> np.ndarray:
    """The first n orthonormal Hermite functions, (n, p) at x (p,), by their stable recurrence."""
    rows = [np.pi**-0.25 * np.exp(-0.5 * x**2)]
    rows.append(np.sqrt(2.0) * x * rows[0])
    for k in range(2, n):
        rows.append(np.sqrt(2.0 / k) * x * rows[-1] - np.sqrt((k - 1) / k) * rows[-2])
    return np.stack(rows[:n])


def _pseudo(wave: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """Wavelength in nm to the pseudo-wavelength of a band: even in log λ, as a prism disperses."""
    low, high = np.log(band[0]), np.log(band[1])
    return _EXTENT * (2 * (np.log(wave) - low) / (high - low) - 1)


def _blue_share(wave: np.ndarray) -> np.ndarray:
    """Weight of BP in a sample: 1 below the overlap, 0 above, a cosine between."""
    position = np.clip((wave - _OVERLAP[0]) / (_OVERLAP[1] - _OVERLAP[0]), 0, 1)
    return 0.5 + 0.5 * np.cos(np.pi * position)


def _fwhm(wave: np.ndarray, band: int) -> np.ndarray:
    """Full width of the line spread in nm: 9 to 27 in BP, 12 to 22 in RP."""
    low, high = _BANDS[band]
    x = np.clip((wave - low) / (high - low), 0, 1)
    return 9 + 18 * x**1.3 if band == 0 else 12 + 10 * x


class XP:
    """Gaia BP/RP spectra of mock stars.

    Formula:
        pixels p = K f,   coefficients c = H⁺ p,   C = H⁺ diag(σ²) H⁺ᵀ,   samples s = B c,   y = s/s(550 nm)

    with the line-spread matrix K, Hermite functions H at the band's pixels and B at the sampled wavelengths.

    Arguments:
        grid: the sampled grid, by default 336–1020 nm in steps of 2 nm.
        floor: relative error of a pixel that does not fall with brightness.
    """

    def __init__(self, grid: Grid = XP_GRID, floor: float = 0.002) -> None:
        self.grid, self.floor = grid, floor
        wave = grid.angstrom() / 10
        axis = np.arange(310.0, 1090.0, _STEP)
        # Lines enter with the width of one step, and the line spread does the rest.
        self.spectrum = Spectrum(10 * axis, core_width=_LIGHT * _STEP / axis, n_nodes=None)
        self.derivative = (
            np.asarray(np.gradient(np.eye(len(axis)), axis, axis=0)).T * axis[None, :]
        )  # λ dF/dλ = F @ derivative
        kernels, bases, compress = [], [], []
        for number, band in enumerate(_BANDS):
            pixels = np.exp(np.linspace(np.log(band[0]), np.log(band[1]), _PIXELS))
            sigma = np.sqrt(np.maximum((_fwhm(pixels, number) / 2.3548) ** 2 - _STEP**2, 1.0))
            kernel = np.exp(-0.5 * ((axis[None, :] - pixels[:, None]) / sigma[:, None]) ** 2)
            kernels.append(kernel / kernel.sum(1, keepdims=True))
            functions = hermite_functions(_pseudo(pixels, band), N_BASES).T
            compress.append(np.linalg.pinv(functions))
            share = _blue_share(wave) if number == 0 else 1 - _blue_share(wave)
            bases.append(hermite_functions(_pseudo(wave, band), N_BASES).T * share[:, None])
        self.kernel = np.concatenate(kernels).T  # (axis, 2·pixels)
        self.compress = np.stack(compress)  # (2, 55, pixels)
        self.basis = np.concatenate(bases, axis=1)  # (343, 110)
        self.reference = int(np.argmin(np.abs(wave - 550.0)))
        self._cache: dict[tuple[torch.dtype, torch.device, str], Tensor] = {}

    def constant(self, name: str, like: Tensor) -> Tensor:
        """A matrix of the instrument as a tensor of the dtype and device of `like`."""
        key = (like.dtype, like.device, name)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(getattr(self, name), dtype=like.dtype, device=like.device)
        return self._cache[key]

    def ingredients(self, star: Star, strengths: Strengths | None = None) -> Tensor:
        """Everything of the spectrum that depends on the atmosphere, (b, m)."""
        strengths = line_strengths(star) if strengths is None else strengths
        return self.spectrum.ingredients(star, strengths)

    def shape(self, ingredients: Tensor) -> tuple[Tensor, Tensor]:
        """Continuum and depth of lines at rest on the model axis, each (b, p)."""
        return self.spectrum.shape(ingredients)

    def flux(self, labels: Tensor, continuum: Tensor, depth: Tensor) -> Tensor:
        """Flux without noise in the pixels of BP then RP, (b, 220), on a scale that is 1 on average.

        Arguments:
            labels: (b, 8), of which reddening and velocity are used.
            continuum, depth: the result of `shape`.
        """
        flux = continuum * (1 - depth)
        # A velocity moves features by less than a step: the first order of F(λ/(1 + v/c)) is exact enough.
        flux = flux - labels[:, RV, None] / _LIGHT * (flux @ self.constant("derivative", flux))
        pixels = (flux * self.spectrum.redden(labels[:, EBV, None])) @ self.constant("kernel", flux)
        return pixels / pixels.mean(-1, keepdim=True)

    def __call__(self, labels: Tensor) -> Tensor:
        """Flux without noise of labels, (b, 8) -> (b, 220)."""
        return self.flux(labels, *self.shape(self.ingredients(Star.from_labels(labels))))

    def coefficients(self, pixels: Tensor) -> Tensor:
        """Least-squares coefficients (b, 110) of pixels (b, 220)."""
        compress = self.constant("compress", pixels)
        blue, red = pixels[:, :_PIXELS], pixels[:, _PIXELS:]
        return torch.cat([blue @ compress[0].T, red @ compress[1].T], dim=1)

    def pixel_variance(self, pixels: Tensor, snr: Tensor) -> Tensor:
        """Variance of pixels (b, 220) for a S/N (b,) of a sample near 550 nm: photons, read noise and a floor."""
        level = pixels.mean(-1, keepdim=True)
        photons = (0.8 * pixels.clamp_min(0) / level + 0.2) * (level / snr[:, None]) ** 2
        return photons + (self.floor * pixels) ** 2

    def covariance(self, pixels: Tensor, snr: Tensor) -> Tensor:
        """Covariance of the coefficients of each band, (b, 2, 55, 55)."""
        compress = self.constant("compress", pixels)
        variance = self.pixel_variance(pixels, snr).unflatten(1, (2, _PIXELS))
        return torch.einsum("mip,bmp,mjp->bmij", compress, variance, compress)

    def samples(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Samples over the one at 550 nm (b, 343), and that one (b, 1), of coefficients (b, 110)."""
        flux = coefficients @ self.constant("basis", coefficients).T
        norm = flux[:, self.reference : self.reference + 1]
        return flux / norm, norm

    def observe(
        self, seed: int, index: Tensor, pixels: Tensor, snr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy samples over 550 nm (b, 343), their inverse variance, coefficients (b, 110) and errors.

        The inverse variance is the diagonal of B C Bᵀ with the error of the 550-nm sample propagated.

        Arguments:
            seed: the universe.
            index: int64 star numbers, (b,).
            pixels: noise-free pixels (b, 220).
            snr: S/N of a sample, (b,).
        """
        sigma = torch.sqrt(self.pixel_variance(pixels, snr))
        noise = box_muller(seed, index, 2 * _PIXELS, "mock xp noise", pixels.dtype)
        coefficients = self.coefficients(pixels + sigma * noise)
        flux, norm = self.samples(coefficients)
        variance = self._sample_variance(flux, sigma**2) / norm**2
        compress = self.constant("compress", pixels)
        error = torch.cat([(sigma[:, p] ** 2) @ (compress[m] ** 2).T for m, p in enumerate(_HALVES)], dim=1)
        return flux, 1 / variance, coefficients / norm, torch.sqrt(error) / norm.abs()

    def _sample_variance(self, flux: Tensor, variance: Tensor) -> Tensor:
        """Variance of s − y·s(550) for each sample, (b, 343), from pixel variances (b, 220)."""
        matrix = self.constant("pixel_to_sample", variance)  # (343, 220)
        reference = matrix[self.reference]
        own = variance @ (matrix**2).T
        shared = (variance * reference) @ matrix.T
        total = own - 2 * flux * shared + flux**2 * (variance @ reference**2)[:, None]
        floor = 1e-3 * own  # the 550-nm sample itself is exactly 1, and would get an infinite weight
        return torch.maximum(total, floor)

    @property
    def pixel_to_sample(self) -> np.ndarray:
        """Matrix (343, 220) from pixels to samples."""
        blue = self.basis[:, :N_BASES] @ self.compress[0]
        return np.concatenate([blue, self.basis[:, N_BASES:] @ self.compress[1]], axis=1)


_HALVES = (slice(0, _PIXELS), slice(_PIXELS, 2 * _PIXELS))
