"""How strong each line and band is in a star: Boltzmann–Saha populations and the curve of growth."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .atmosphere import LN10, Layer, abundance_shift, layer, log_saha, opacity
from .labels import LABELS
from .lines import BANDS, ELEMENTS, HYDROGEN, line_list

__all__ = ["Star", "Strengths", "line_strengths"]

_LINE_DEPTH, _DEEP = 0.12, 2 / 3  # optical depths where lines and continuum form
_BINS = 400.0  # Å, step at which the opacity under the lines is taken
# Factors that bring lines of one layer to the observed strengths: a real line forms over many.
_CORE, _WING, _STARK = 2.1, 0.45, 1.5


class Star:
    """Labels (b, 8) in the order of `LABELS` and the atmosphere solved for them, (b, 6).

    `label[name]` and the fields of the layers `line` and `deep` are columns of shape (b, 1).
    """

    def __init__(self, labels: Tensor, atmosphere: Tensor, lines: str = "observed") -> None:
        self.labels, self.atmosphere, self.lines = labels, atmosphere, lines
        self.label = {name: labels[:, i : i + 1] for i, name in enumerate(LABELS)}
        columns = atmosphere.split(1, dim=1)
        self.line, self.deep = Layer(*columns[:3]), Layer(*columns[3:])

    @classmethod
    def from_labels(cls, labels: Tensor, lines: str = "observed") -> "Star":
        """Solves the atmosphere for labels (b, 8)."""
        teff, logg, feh, alpha_fe = labels[:, :4].split(1, dim=1)
        layers = (layer(teff, logg, abundance_shift(feh, alpha_fe), d) for d in (_LINE_DEPTH, _DEEP))
        columns = [c for l in layers for c in (l.theta, l.log_gas, l.log_electron)]
        return cls(labels, torch.cat(columns, dim=1), lines)

    def rows(self, chosen: slice) -> "Star":
        """The same for some of the stars."""
        return Star(self.labels[chosen], self.atmosphere[chosen], self.lines)


@dataclass(frozen=True)
class Strengths:
    """Coefficients of the profile templates, to be summed to an optical depth.

    core: (b, L) equivalent widths in km/s.
    wing: (b, S) optical depth·(km/s)² of damping wings.
    hydrogen: (b, h) optical depth·Å^(5/2) of Stark wings.
    band: (b, m) peak optical depths.
    haze: (b, 1) opacity of unlisted lines over the Sun's.
    """

    core: Tensor
    wing: Tensor
    hydrogen: Tensor
    band: Tensor
    haze: Tensor

    def stacked(self) -> Tensor:
        return torch.cat([self.core, self.wing, self.hydrogen, self.band, self.haze], dim=1)


class _Tables:
    """Constants of the line list as tensors of one dtype and device."""

    def __init__(self, dtype: torch.dtype, device: torch.device, kind: str) -> None:
        def tensor(values: object) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=dtype, device=device)

        lines, elements = line_list(kind), list(ELEMENTS.values())
        gf = lines.log_gf + np.log10(lines.wave) - 8
        solar = np.array([elements[e].abundance for e in lines.element]) - 12
        partition = np.array(
            [elements[e].partition[s] for e, s in zip(lines.element, lines.stage, strict=True)]
        )
        # πe²/(mc)/√π = 0.014973 cm²/s, over a Doppler width in km/s = 1e5 cm/s
        self.constant = tensor(gf + solar - partition + math.log10(0.014973) - 5)
        self.excitation = tensor(lines.excitation)
        self.first = tensor([e.ionisation[0] for e in elements])
        self.second = tensor([e.ionisation[1] for e in elements])
        self.partition = tensor([e.partition[1] - e.partition[0] for e in elements])
        self.mass = tensor([e.mass for e in elements])
        self.alpha = tensor([float(e.alpha) for e in elements])
        self.species = torch.as_tensor(2 * lines.element + lines.stage, device=device)
        self.element = torch.as_tensor(lines.element, device=device)
        nodes, inverse = np.unique(np.round(lines.wave / _BINS), return_inverse=True)
        self.nodes, self.node = tensor(nodes * _BINS), torch.as_tensor(inverse, device=device)
        self.strong = torch.as_tensor(lines.strong, device=device)
        self.wave = tensor(lines.wave)
        self.h_wave = tensor([h[0] for h in HYDROGEN])
        self.h_level = tensor([h[1] for h in HYDROGEN])
        # πe²/(mc²)·10⁸ f λ² C F₀^(3/2)/N_e, all in Å except λ² in cm²
        wave_cm = np.array([h[0] for h in HYDROGEN]) * 1e-8
        stark = 8.853e-13 * 1e8 * np.array([h[2] * h[3] for h in HYDROGEN]) * wave_cm**2 * 1.25e-9**1.5
        self.stark = tensor(np.log10(stark))


_tables: dict[tuple[torch.dtype, torch.device, str], _Tables] = {}


def _get_tables(like: Tensor, lines: str) -> _Tables:
    key = (like.dtype, like.device, lines)
    if key not in _tables:
        _tables[key] = _Tables(*key)
    return _tables[key]


def _stages(star: Star, t: _Tables) -> Tensor:
    """log₁₀ of neutral and singly ionised shares of each element, (b, 2E), neutral and ionised side by side."""
    theta, electron = star.line.theta, star.line.log_electron
    first = log_saha(theta, t.first, t.partition) - electron
    second = log_saha(theta, t.second) - electron
    ratio = torch.exp(LN10 * first)
    log_total = torch.log10(1 + ratio * (1 + torch.exp(LN10 * second)))
    return torch.stack([-log_total, first - log_total], dim=2).flatten(1)


def line_strengths(star: Star) -> Strengths:
    """Strengths of all lines and bands.

    Formula:
        η₀ = √π e²/(mc) · gf λ/(b U) · 10^(A − θχ) · f_ion/κ_c
        W_core = √π b η₀/√(1 + πη₀²/(4 ln(e + η₀))),   wing: a η₀ b²/√π,   a = γλ/(4πb)

    Source: curve of growth and damping as in Gray 2005, chapters 11 and 13.
    """
    t = _get_tables(star.line.theta, star.lines)
    theta, label = star.line.theta, star.label
    temperature = 5040.0 / theta
    micro = 1.1 + 0.25 * (4.5 - label["logg"]) + 0.6 * torch.sigmoid((label["teff"] - 6800) / 500)
    doppler = torch.sqrt(0.016629 * temperature / t.mass + micro**2)[:, t.element]  # km/s
    metals = (label["feh"] + label["alpha_fe"] * t.alpha)[:, t.element]
    kappa = opacity(star.line, t.nodes)[:, t.node]
    log_eta = t.constant + metals + _stages(star, t)[:, t.species] - theta * t.excitation - kappa
    eta = torch.exp(LN10 * log_eta) / doppler
    core = _CORE * 1.7725 * doppler * eta / torch.sqrt(1 + 0.7854 * eta**2 / torch.log(math.e + eta))
    density = torch.exp(LN10 * (star.line.log_gas + 15.8598)) / temperature  # particles in cm³
    gamma = 2e8 + 10**-7.55 * density * (temperature / 5000.0) ** 0.3
    s = t.strong
    width = gamma * t.wave[s] * 1e-13 / 12.566  # km/s
    wing = _WING * width * eta[:, s] * doppler[:, s] / 1.7725
    weak = 0.45 * label["feh"] + 1.8 * (theta - 1.004)
    haze = torch.sigmoid((7300 - label["teff"]) / 700) * torch.exp(LN10 * weak)
    return Strengths(core, wing, _hydrogen_strengths(star, t), _band_strengths(star), haze)


def _hydrogen_strengths(star: Star, t: _Tables) -> Tensor:
    state = star.deep
    theta = state.theta
    electrons = state.log_electron + 15.8598 - state.log_temperature
    neutral = -torch.log10(1 + torch.exp(LN10 * (log_saha(theta, 13.598, -0.30103) - state.log_electron)))
    level = 2 * torch.log10(t.h_level) - 13.598 * (1 - 1 / t.h_level**2) * theta
    kappa = opacity(state, t.h_wave)
    # Excited hydrogen sits deep and hot, the more so the cooler the star: more of it than one layer has.
    level = level + 0.3 * torch.nn.functional.softplus(10.0 * (theta - 0.75))
    return _STARK * torch.exp(LN10 * (t.stark + level + neutral + electrons - kappa))


# For each molecule: log₁₀ of the optical depth at θ = 1.05, log P = 4.7; its dissociation energy in eV; powers of
# carbon, α elements, iron and gas pressure; and the optical depth at which the band saturates.
_MOLECULES: dict[str, tuple[float, float, float, float, float, float, float]] = {
    "CH": (-0.35, 3.47, 1.0, 0.0, 1.0, 0.3, 3.0),
    "CN": (-0.55, 5.00, 1.0, 0.0, 2.0, 0.1, 3.0),
    "C2": (-2.20, 5.50, 2.0, 0.0, 2.0, 0.3, 3.0),
    "MgH": (-1.55, 2.60, 0.0, 1.0, 1.0, 0.6, 1.5),
    "TiO": (-3.60, 8.00, 0.0, 1.5, 1.6, 0.1, 4.0),
}


def _band_strengths(star: Star) -> Tensor:
    """Peak optical depths of the bands; carbon is bound in CO in the coolest stars unless it outnumbers oxygen."""
    label, theta = star.label, star.line.theta
    free = torch.sigmoid(LN10 * (11.0 * (1.25 - theta) + 1.0 * label["c_fe"]))
    carbon = label["c_fe"] + torch.log10(0.08 + 0.92 * free)
    reference = torch.tensor([5000.0], dtype=theta.dtype, device=theta.device)
    kappa = opacity(star.line, reference) + 25.3
    columns = []
    for band in BANDS:
        zero, energy, n_c, n_alpha, n_fe, n_p, limit = _MOLECULES[band.molecule]
        log = (
            zero + energy * (theta - 1.05) + n_c * carbon + n_alpha * label["alpha_fe"] + n_fe * label["feh"]
        )
        log = log + n_p * (star.line.log_gas - 4.7) - 0.5 * kappa
        depth = torch.exp(LN10 * log.clamp(-12.0, 6.0))
        columns.append(depth / (1 + depth / limit))
    return torch.cat(columns, dim=1)
