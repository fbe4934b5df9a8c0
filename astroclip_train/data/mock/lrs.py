"""LAMOST LRS: Doppler shift, rotation and line spread in Fourier space, noise, smooth continuum treatment."""

import math

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...randomness import uniform
from ..grids import LRS_GRID, Grid
from .labels import EBV, RV, VSINI
from .spectrum import CORE_WIDTH, Spectrum
from .strengths import Star, Strengths, line_strengths

__all__ = ["LRS", "LinearContinuum", "box_muller"]

_LIGHT = 2.99792458e5  # km/s
_OVERSAMPLE = 2
_ROTATION = 0.46  # σ of the rotational profile over v sin i, from its second moment with limb darkening 0.6


def box_muller(seed: int, index: Tensor, slots: int, stream: str, dtype: torch.dtype) -> Tensor:
    """Standard normal draws (b, slots), two from each counter: a function of (seed, index, slot)."""
    u = uniform(seed, 0, index, (slots + 1) // 2, stream) * 2.0**26
    high = torch.floor(u)
    low = (u - high).to(torch.float32)
    radius = torch.sqrt(-2 * torch.log(((high + 0.5) * 2.0**-26).to(torch.float32)))
    angle = 2 * math.pi * low
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :slots].to(dtype)


class LinearContinuum:
    """A smooth pseudo-continuum that is a linear function of flux: a least-squares polynomial in log λ.

    Formula:
        c = S f,  S = P (Pᵀ P)⁻¹ Pᵀ,  n = f/c,  δn = (δf − n·S δf)/c

    with Chebyshev polynomials P up to `order`; with weights, P is fitted with them.

    Arguments:
        wave: Å, shape (l,).
        order: degree of the polynomial.
    """

    def __init__(self, wave: np.ndarray, order: int = 6) -> None:
        x = np.log(np.asarray(wave, dtype=np.float64))
        self.scaled = 2 * (x - x[0]) / (x[-1] - x[0]) - 1
        self.basis = np.linalg.qr(np.polynomial.chebyshev.chebvander(self.scaled, order))[0]  # (l, order + 1)

    def fit(self, flux: Tensor, weight: Tensor | None = None) -> Tensor:
        """Continuum (b, l) of flux (b, l); `weight` (b, l) ≥ 0 leaves out bad pixels."""
        basis = torch.as_tensor(self.basis, dtype=flux.dtype, device=flux.device)
        if weight is None:
            return (flux @ basis) @ basis.T
        normal = torch.einsum("lj,bl,lk->bjk", basis, weight, basis)
        right = (flux * weight) @ basis
        return torch.linalg.solve(normal, right[..., None])[..., 0] @ basis.T

    def normalise(
        self, flux: Tensor, ivar: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Flux over continuum, its inverse variance ivar·c², and the continuum, each (b, l)."""
        c = self.fit(flux, weight)
        return flux / c, ivar * c**2, c

    def restore(self, normalised: Tensor) -> Tensor:
        """The continuum (b, l), with mean 1, of normalised fluxes n (b, l): the one smooth c with S(n c) = c.

        It is the null vector of Pᵀ diag(n) P − 1, which is unique unless n is 1 throughout.
        """
        basis = torch.as_tensor(self.basis, dtype=normalised.dtype, device=normalised.device)
        matrix = torch.einsum("lj,bl,lk->bjk", basis, normalised, basis)
        matrix = matrix - torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
        continuum = torch.linalg.svd(matrix)[2][:, -1] @ basis.T
        return continuum / continuum.mean(-1, keepdim=True)

    def jacobian(self, flux: Tensor) -> Tensor:
        """∂n/∂f of shape (b, l, l)."""
        basis = torch.as_tensor(self.basis, dtype=flux.dtype, device=flux.device)
        c = self.fit(flux)
        eye = torch.eye(flux.shape[1], dtype=flux.dtype, device=flux.device)
        return (eye - (flux / c)[:, :, None] * (basis @ basis.T)) / c[:, :, None]


class LRS:
    """LAMOST low-resolution spectra of mock stars on a grid that is even in log λ.

    The rest-frame depth of lines is computed at twice the sampling of the grid; Doppler shift (a phase), rotation and
    the rest of the line spread (Gaussians) act on its Fourier transform, which is then folded to the grid.

    Arguments:
        grid: log₁₀ grid in vacuum ångström.
        resolution: λ/FWHM of the whole line spread.
        order: degree of the continuum polynomial.
        response: r.m.s. of the linear term of the relative error of the flux calibration; term j has 1/j of it.

    Raises:
        DataError: the grid is not logarithmic in vacuum ångström, or its pixels are too wide for the line spread.
    """

    def __init__(
        self, grid: Grid = LRS_GRID, resolution: float = 1800.0, order: int = 6, response: float = 0.1
    ) -> None:
        if grid.kind != "log10" or grid.unit != "Angstrom" or grid.medium != "vacuum":
            raise DataError(f"mock LRS needs a log10 grid in vacuum Angstrom, got {grid}.")
        self.grid = grid
        self.response = response / np.arange(1, order + 1)  # r.m.s. of each Chebyshev term
        self.pixel = _LIGHT * math.log(10) * grid.step  # km/s
        spread = _LIGHT / resolution / 2.3548
        if self.pixel > 1.2 * spread or spread <= CORE_WIDTH:
            raise DataError(
                f"mock LRS of R = {resolution:g} cannot be sampled by pixels of {self.pixel:.0f} km/s: "
                f"choose a step below {1.2 * spread / (_LIGHT * math.log(10)):.1e} dex and R below 3,600."
            )
        self.rest = math.sqrt(spread**2 - CORE_WIDTH**2)
        margin = 8 + math.ceil(700.0 / self.pixel)  # pixels on each side: 700 km/s and the line spread
        self.n_fft = _good_length(_OVERSAMPLE * (grid.n + 2 * margin))
        self.margin = margin
        fine = grid.start + grid.step * (np.arange(self.n_fft) / _OVERSAMPLE - margin)
        taper = np.ones(self.n_fft)
        edge = 8 * _OVERSAMPLE
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
        taper[:edge], taper[-edge:] = ramp, ramp[::-1]
        kept = slice(_OVERSAMPLE * margin, _OVERSAMPLE * (margin + grid.n), _OVERSAMPLE)
        self.spectrum = Spectrum(10**fine, CORE_WIDTH, n_nodes=14, taper=taper, kept=kept)
        self.continuum = LinearContinuum(grid.wave(), order)
        self.terms = np.polynomial.chebyshev.chebvander(self.continuum.scaled, order)[:, 1:].T  # (order, l)

    @property
    def n_response(self) -> int:
        """Number of calibration terms that a flux carries."""
        return len(self.terms)

    def ingredients(self, star: Star, strengths: Strengths | None = None) -> Tensor:
        """Everything of the spectrum that depends on the atmosphere, (b, m)."""
        strengths = line_strengths(star) if strengths is None else strengths
        return self.spectrum.ingredients(star, strengths)

    def shape(self, ingredients: Tensor) -> tuple[Tensor, Tensor]:
        """Continuum on the grid (b, l), and the depth of lines at rest on the oversampled axis (b, n_fft)."""
        return self.spectrum.shape(ingredients)

    def flux(self, labels: Tensor, continuum: Tensor, depth: Tensor) -> Tensor:
        """Flux without noise, divided by its mean, with reddening but perfect calibration, (b, l).

        Arguments:
            labels: (b, 8), of which reddening, velocity and rotation are used.
            continuum, depth: the result of `shape`.
        """
        dust = self.spectrum.redden(labels[:, EBV, None])
        flux = continuum * dust * (1 - self._observe(depth, labels[:, RV, None], labels[:, VSINI, None]))
        return flux / flux.mean(-1, keepdim=True)

    def __call__(self, labels: Tensor) -> Tensor:
        """Flux without noise of labels, (b, 8) -> (b, l)."""
        return self.flux(labels, *self.shape(self.ingredients(Star.from_labels(labels))))

    def _observe(self, depth: Tensor, rv: Tensor, vsini: Tensor) -> Tensor:
        """Shifts and broadens the rest-frame depth (b, n_fft) and samples it on the grid, (b, l)."""
        n = self.n_fft
        k = torch.arange(n // 2 + 1, dtype=depth.dtype, device=depth.device) * (2 * math.pi / n)
        step = self.pixel / _OVERSAMPLE
        shift = _LIGHT / step * torch.log1p(rv / _LIGHT)
        variance = (self.rest**2 + (_ROTATION * vsini) ** 2) / step**2
        damp = torch.exp(-0.5 * variance * k**2)
        transform = torch.fft.rfft(depth) * torch.complex(
            damp * torch.cos(k * shift), -damp * torch.sin(k * shift)
        )
        half = n // 2
        folded = 0.5 * (transform[:, : half // 2 + 1] + transform[:, half // 2 :].flip(1).conj())
        return torch.fft.irfft(folded, half)[:, self.margin : self.margin + self.grid.n]

    def calibration(self, seed: int, observation: Tensor, dtype: torch.dtype) -> Tensor:
        """Multiplicative response (b, l) of each observation: 1 + Σ r_j T_j(log λ), r_j ~ N(0, response_j²)."""
        draws = box_muller(seed, observation, self.n_response, "mock lrs response", dtype)
        terms = self.response[:, None] * self.terms
        return 1 + draws @ torch.as_tensor(terms, dtype=dtype, device=draws.device)

    def noise_variance(self, flux: Tensor, snr: Tensor) -> Tensor:
        """Variance (b, l) for a median S/N per pixel (b,): photons plus sky, fewer of them in the blue."""
        level = flux.mean(-1, keepdim=True)
        x = torch.as_tensor(self.continuum.scaled, dtype=flux.dtype, device=flux.device)
        throughput = torch.exp(0.55 * x - 0.25 * x**2)
        return (level / snr[:, None]) ** 2 * (0.75 * flux.clamp_min(0) / level + 0.25) / throughput

    def observe(self, seed: int, observation: Tensor, flux: Tensor, snr: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy continuum-normalised flux and its inverse variance, each (b, l).

        Arguments:
            seed: the universe.
            observation: int64 number of each observation, (b,), which with the seed fixes noise and calibration.
            flux: noise-free flux (b, l) of `flux`.
            snr: median S/N per pixel, (b,).
        """
        measured = flux * self.calibration(seed, observation, flux.dtype)
        variance = self.noise_variance(measured, snr)
        noise = box_muller(seed, observation, self.grid.n, "mock lrs noise", flux.dtype)
        normalised, ivar, _ = self.continuum.normalise(measured + noise * torch.sqrt(variance), 1 / variance)
        return normalised, ivar


def _good_length(n: int) -> int:
    """The next length that is 4·2^a·3^b·5^c."""
    n = 4 * math.ceil(n / 4)
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 4
