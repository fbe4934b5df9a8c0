"""The model spectrum: continuum, profiles of lines and bands on a wavelength axis, and reddening."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .atmosphere import continuum, log_ratio_planck
from .extinction import extinction_curve
from .lines import BANDS, HYDROGEN, line_list
from .strengths import Star, Strengths, line_strengths

__all__ = ["CORE_WIDTH", "Spectrum", "model_spectrum", "wave_nodes"]

_LIGHT = 2.99792458e5  # km/s
CORE_WIDTH = 35.0  # km/s, σ of the profile that carries a line's equivalent width before the instrument
_WING_CORE = 60.0  # km/s, inside which a damping wing is flat: the Doppler core is there
_STARK_CORE = 1.8  # Å, the same for the Stark wings of hydrogen
_SURFACE = 0.81  # temperature at the surface over the effective one, (½)^(1/4) warmed by lines


def wave_nodes(low: float, high: float, n: int) -> tuple[np.ndarray, "np.ndarray"]:
    """Chebyshev nodes in log λ between two wavelengths, (n,) in Å, and the barycentric weights, (n,)."""
    k = np.arange(n)
    angle = (2 * k + 1) * np.pi / (2 * n)
    x = np.log(low) + (np.log(high) - np.log(low)) * (1 + np.cos(angle)) / 2
    return np.exp(x), (-1.0) ** k * np.sin(angle)


def _interpolation(nodes: np.ndarray, weights: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """Matrix (n, p) of barycentric interpolation in log λ from the nodes to the wavelengths."""
    distance = np.log(wave)[None, :] - np.log(nodes)[:, None]
    exact = np.abs(distance) < 1e-13
    matrix = weights[:, None] / np.where(exact, 1.0, distance)
    matrix = np.where(exact.any(0), exact.astype(float), matrix)
    return matrix / matrix.sum(0)


def _velocity(wave: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return _LIGHT * np.log(wave[None, :] / centre[:, None])


def _core_profiles(wave: np.ndarray, centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Gaussians of unit area in km/s, (L, p), of σ = width (p,) in km/s."""
    scaled = _velocity(wave, centre) / width
    return np.exp(-0.5 * scaled**2) / (math.sqrt(2 * math.pi) * width)


def _structure(wave: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A fixed pseudo-rotational structure of bands with periods of 6 to 20 Å, smoothed away at low resolution."""
    total = np.ones_like(wave)
    sigma = width / _LIGHT * wave
    for period, phase, size in ((6.3, 0.4, 0.22), (9.1, 2.1, 0.20), (13.7, 4.0, 0.16), (20.3, 1.2, 0.12)):
        total += size * np.exp(-2 * (np.pi * sigma / period) ** 2) * np.cos(2 * np.pi * wave / period + phase)
    return total


def _band_profiles(wave: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Heads that fall off exponentially to one side, (m, p); their edges are as sharp as `width` allows."""
    rows = []
    for band in BANDS:
        row = np.zeros_like(wave)
        for head, length, weight in band.heads:
            sigma = np.maximum(width / _LIGHT * wave, 1.0)
            inside = (wave - head) * np.sign(length)
            edge = 1 / (1 + np.exp(-np.clip(1.7 * inside / sigma, -50, 50)))
            row += weight * edge * np.exp(-np.maximum(inside, 0.0) / abs(length))
        rows.append(row * _structure(wave, width))
    return np.stack(rows)


def _haze_profile(wave: np.ndarray) -> np.ndarray:
    """Opacity of lines too many to list, for that of the Sun: bumps where iron-peak lines and CN crowd, (p,)."""
    bumps = (
        (3380, 170, 0.42),
        (3580, 130, 0.62),
        (3720, 80, 0.45),
        (3860, 90, 0.62),
        (4320, 160, 0.16),
        (5150, 260, 0.05),
    )
    total = 0.05 * (4500.0 / wave) ** 4
    for centre, sigma, height in bumps:
        total = total + height * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    return total


def _templates(wave: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (S, p) of all that absorbs near these wavelengths, and their places in the stacked strengths, (S,)."""
    lines = line_list()
    strong = lines.wave[lines.strong]
    low, high = wave.min(), wave.max()
    near = (lines.wave > low * (1 - 2e-3 * width.max() / 35)) & (
        lines.wave < high * (1 + 2e-3 * width.max() / 35)
    )
    hydrogen = np.array([h[0] for h in HYDROGEN])
    near_h = (hydrogen > low - 400) & (hydrogen < high + 400)
    stark = np.abs(wave[None, :] - hydrogen[near_h, None])
    core_a = np.maximum(_STARK_CORE, width / _LIGHT * wave)
    near_strong = (strong > low - 150) & (strong < high + 150)
    wing = _velocity(wave, strong[near_strong]) ** 2 + np.maximum(_WING_CORE, width) ** 2
    blocks = [
        _core_profiles(wave, lines.wave[near], width),
        1 / wing,
        1 / (stark**2 + core_a**2) ** 1.25,
        _band_profiles(wave, width),
        _haze_profile(wave)[None, :],
    ]
    kept = [near, near_strong, near_h, np.ones(len(BANDS) + 1, dtype=bool)]

    return np.concatenate(blocks), np.flatnonzero(np.concatenate(kept))


def _segments(template: np.ndarray, pixels: int = 200) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the axis, each with the rows that are not zero there and their profiles."""
    highest = template.max(1)
    for start in range(0, template.shape[1], pixels):
        block = template[:, start : start + pixels]
        rows = np.flatnonzero(block.max(1) > 1e-8 * highest)
        yield rows, np.ascontiguousarray(block[rows])


class Spectrum:
    """Model spectra of stars at rest, as an instrument-free function on a fixed wavelength axis.

    Formula:
        F(λ) = F_c(λ) · (1 − D(λ) (1 − e^(−τ(λ)))),   D = 1 − B(λ, T₀)/B(λ, T_c)

    where τ sums cores, damping wings, Stark wings, bands and a haze of weak lines. τ is linear in the strengths, so
    that it is one matrix product.

    Arguments:
        wave: vacuum wavelengths at rest in Å, shape (p,).
        core_width: σ of line cores in km/s, a number or (p,); wider than the star's for low resolution.
        n_nodes: nodes at which smooth functions are computed; None computes them at every wavelength.
        taper: factor of the depth of lines, (p,).
        kept: the wavelengths at which the continuum is wanted.
    """

    def __init__(
        self,
        wave: np.ndarray,
        core_width: float | np.ndarray = CORE_WIDTH,
        n_nodes: int | None = None,
        taper: np.ndarray | None = None,
        kept: slice = slice(None),
    ) -> None:
        self.wave = np.asarray(wave, dtype=np.float64)
        width = np.broadcast_to(np.asarray(core_width, dtype=np.float64), self.wave.shape)
        self.template, self.columns = _templates(self.wave, width)
        self.segments = list(_segments(self.template))
        self.extinction = extinction_curve(self.wave[kept])
        self.nodes, self.limit_matrix, self.continuum_matrix = self.wave, None, None
        if n_nodes is not None:
            self.nodes, weights = wave_nodes(self.wave.min(), self.wave.max(), n_nodes)
            matrix = _interpolation(self.nodes, weights, self.wave)
            self.limit_matrix = matrix if taper is None else matrix * taper
            self.continuum_matrix = np.ascontiguousarray(matrix[:, kept])
        self._cache: dict[tuple[torch.dtype, torch.device, str], Tensor] = {}
        self._pieces: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}

    def constant(self, name: str, like: Tensor) -> Tensor:
        """An attribute as a tensor of the dtype and device of `like`."""
        key = (like.dtype, like.device, name)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(getattr(self, name), dtype=like.dtype, device=like.device)
        return self._cache[key]

    def ingredients(self, star: Star, strengths: Strengths) -> Tensor:
        """Everything that depends on the atmosphere, (b, m): strengths, depth limit and log continuum at the nodes."""
        nodes = self.constant("nodes", star.labels)
        teff = star.label["teff"]
        limit = -torch.expm1(log_ratio_planck(nodes, _SURFACE * teff, teff))
        columns = torch.as_tensor(self.columns, device=teff.device)
        return torch.cat([strengths.stacked()[:, columns], limit, continuum(teff, star.deep, nodes)], dim=1)

    def shape(self, ingredients: Tensor) -> tuple[Tensor, Tensor]:
        """Continuum flux on a free scale and the share of it that lines take away, each (b, p)."""
        n = len(self.nodes)
        strengths, limit, log_flux = ingredients.split([len(self.columns), n, n], dim=1)
        if self.limit_matrix is not None:
            limit = limit @ self.constant("limit_matrix", limit)
            log_flux = log_flux @ self.constant("continuum_matrix", log_flux)
        return torch.exp(log_flux), limit * -torch.expm1(-self._depth(strengths))

    def _depth(self, strengths: Tensor) -> Tensor:
        """Optical depth (b, p), strengths @ template, in pieces that leave out the lines that are far away."""
        key = (strengths.dtype, strengths.device)
        if key not in self._pieces:
            self._pieces[key] = [
                (torch.as_tensor(rows, device=key[1]), torch.as_tensor(block, dtype=key[0], device=key[1]))
                for rows, block in self.segments
            ]
        return torch.cat([strengths[:, rows] @ block for rows, block in self._pieces[key]], dim=1)

    def redden(self, ebv: Tensor) -> Tensor:
        """Transmission of interstellar dust for E(B−V) of shape (b, 1), (b, p)."""
        return torch.exp(-0.4 * math.log(10) * ebv * self.constant("extinction", ebv))

    def __call__(self, labels: Tensor) -> Tensor:
        """Flux of stars at rest with reddening, (b, 8) -> (b, p)."""
        star = Star.from_labels(labels)
        flux, depth = self.shape(self.ingredients(star, line_strengths(star)))
        return flux * (1 - depth) * self.redden(star.label["ebv"])


def model_spectrum(labels: Tensor, wave: Tensor | np.ndarray) -> Tensor:
    """Flux per Å at rest, before any instrument, on a scale common to all stars of one radius.

    Arguments:
        labels: (b, 8) in the order of `LABELS`; velocity and rotation are applied by the instruments.
        wave: vacuum Å, shape (p,).

    Returns:
        Tensor (b, p) of the dtype of `labels`.
    """
    return Spectrum(np.asarray(wave, dtype=np.float64))(labels)
