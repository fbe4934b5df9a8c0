"""A grey atmosphere in two layers: pressures, ionisation, continuous opacity and molecules, smooth in the labels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layer", "abundance_shift", "continuum", "layer", "log_ratio_planck", "log_saha", "opacity"]

LN10 = math.log(10.0)
_HYDROGEN_MASS = 2.34e-24  # g of gas for one hydrogen atom, helium included
_DONORS = (
    (7.7, 1.05e-4),
    (5.6, 6.0e-6),
)  # eV and number for H atom: Mg, Si, Fe together; Na, Al, Ca, K together
_STEPS = 12  # of the fixed point for the pressures, whose error falls by more than 2 a step


@dataclass(frozen=True)
class Layer:
    """State of the gas at one optical depth, each of shape (b, 1): θ = 5040 K/T, log₁₀ pressures in dyn/cm²."""

    theta: Tensor
    log_gas: Tensor
    log_electron: Tensor

    @property
    def log_temperature(self) -> Tensor:
        return math.log10(5040.0) - torch.log10(self.theta)


def log_saha(theta: Tensor, energy: float | Tensor, log_partition: float | Tensor = 0.0) -> Tensor:
    """log₁₀ of (N₊/N₀)·P_e in dyn/cm² for an ionisation energy in eV and log₁₀ U₊/U₀."""
    log_t = math.log10(5040.0) - torch.log10(theta)
    return 2.5 * log_t - 0.1762 + log_partition - energy * theta


def _minus_ion(theta: Tensor, wave: Tensor) -> Tensor:
    """Absorption of H⁻ for a neutral H atom and unit electron pressure in 10⁻²⁶ cm², polynomials of Gray 2005."""
    bound = (
        1.99654
        - 1.18267e-5 * wave
        + 2.64243e-6 * wave**2
        - 4.40524e-10 * wave**3
        + 3.23992e-14 * wave**4
        - 1.39568e-18 * wave**5
        + 2.78701e-23 * wave**6
    )
    bound_free = 4.158e-2 * bound.clamp_min(0.5) * theta**2.5 * torch.exp(LN10 * 0.754 * theta)
    l, t = torch.log10(wave), torch.log10(theta)
    free = torch.stack(
        [
            -2.2763 - 1.6850 * l + 0.76661 * l**2 - 0.0533464 * l**3,
            15.2827 - 9.2846 * l + 1.99381 * l**2 - 0.142631 * l**3,
            -197.789 + 190.266 * l - 67.9775 * l**2 + 10.6913 * l**3 - 0.625151 * l**4,
        ]
    )
    powers = torch.cat([torch.ones_like(t), t, t**2], dim=1)
    return bound_free + torch.exp(powers @ (LN10 * free))


def _hydrogen(theta: Tensor, wave: Tensor) -> Tensor:
    """Bound-free absorption of hydrogen for a neutral atom in 10⁻²⁶ cm²; series edges are softened over 1 %."""
    levels = torch.arange(2, 6, dtype=wave.dtype, device=wave.device)[:, None]
    edge = 911.8 * levels**2
    open_ = torch.sigmoid((edge - wave) / (0.01 * edge)) / levels**3
    total = torch.exp(-LN10 * 13.598 * (1 - 1 / levels.T**2) * theta) @ open_
    tail = (torch.exp(-LN10 * 13.22 * theta) - torch.exp(-LN10 * 13.598 * theta)) * 0.2171 / (13.598 * theta)
    return 1.0449 * wave**3 * (total + tail)


def opacity(state: Layer, wave: Tensor) -> Tensor:
    """log₁₀ of the continuous absorption for one hydrogen nucleus in cm².

    Arguments:
        state: the layer, tensors (b, 1).
        wave: vacuum Å, shape (p,).

    Returns:
        Tensor of shape (b, p).
    """
    electron = torch.exp(LN10 * state.log_electron)
    ionised = torch.exp(LN10 * (log_saha(state.theta, 13.598, -0.30103) - state.log_electron))
    neutral = 1 / (1 + ionised)
    scattering = 66.5 * electron * torch.exp(-LN10 * state.log_gas)  # 6.65e-25 cm² for an electron
    stimulated = -torch.expm1(-1.4388e8 / (wave * 5040.0) * state.theta)
    bound = neutral * stimulated * (_minus_ion(state.theta, wave) * electron + _hydrogen(state.theta, wave))
    return torch.log10(bound + scattering) - 26.0


def abundance_shift(feh: Tensor, alpha_fe: Tensor) -> Tensor:
    """log₁₀ of the electron donors relative to the Sun: half of them are α elements."""
    return feh + 0.6 * alpha_fe


def layer(teff: Tensor, logg: Tensor, metals: Tensor, depth: float) -> Layer:
    """Solves hydrostatic and ionisation equilibrium at one optical depth of a grey atmosphere.

    Formula:
        T⁴ = ¾ T_eff⁴ (τ + ⅔),   P = g τ/κ(T, P_e),   P_e = P Σ A_i Φ_i/(Φ_i + P_e)

    Arguments:
        teff, logg, metals: K, dex (cgs), log₁₀ of donors over the Sun's, each (b, 1).
        depth: optical depth τ.
    """
    theta = 5040.0 / (teff * (0.75 * (depth + 2 / 3)) ** 0.25)
    reference = torch.tensor([4500.0, 5500.0, 7000.0], dtype=teff.dtype, device=teff.device)
    hydrogen = log_saha(theta, 13.598, -0.30103)
    donors = [(log_saha(theta, energy, 0.3), share) for energy, share in _DONORS]
    log_gas = 4.5 + 0.5 * (logg - 4.4)
    log_electron = log_gas - 3.5
    for _ in range(_STEPS):
        share = torch.sigmoid(LN10 * (hydrogen - log_electron))
        for saha, number in donors:
            share = share + number * torch.exp(LN10 * metals) * torch.sigmoid(LN10 * (saha - log_electron))
        nuclei = log_gas - torch.log10(1.1 + share)
        log_electron = 0.5 * (log_electron + nuclei + torch.log10(share))
        kappa = opacity(Layer(theta, nuclei, log_electron), reference).mean(-1, keepdim=True)
        target = logg + math.log10(1.5 * depth * _HYDROGEN_MASS) - kappa
        log_gas = log_gas + 0.5 * (target - log_gas)
    return Layer(theta, log_gas, log_electron)


def log_ratio_planck(wave: Tensor, cool: Tensor, hot: Tensor) -> Tensor:
    """ln of B(λ, cool)/B(λ, hot) for temperatures in K (b, 1) or (b, p) and λ in Å (p,)."""
    x = 1.4388e8 / wave
    return torch.log(torch.expm1(x / hot)) - torch.log(torch.expm1(x / cool))


def continuum(teff: Tensor, deep: Layer, wave: Tensor) -> Tensor:
    """ln of the emergent continuum flux (per Å, free scale): the Planck function where the optical depth is ⅔.

    Formula:
        F_λ = B_λ(T(τ_λ)), T⁴ = ¾ T_eff⁴ (⅔ κ_ref/κ_λ + ⅔)

    Shapes: teff (b, 1), wave (p,) in Å -> (b, p).
    """
    reference = torch.tensor([5000.0, 6500.0, 8500.0], dtype=wave.dtype, device=wave.device)
    ratio = opacity(deep, reference).mean(-1, keepdim=True) - opacity(deep, wave)
    local = teff * (0.5 + 0.5 * torch.exp(LN10 * ratio)) ** 0.25
    return -5 * torch.log(wave / 5500.0) - torch.log(torch.expm1(1.4388e8 / (wave * local)))
