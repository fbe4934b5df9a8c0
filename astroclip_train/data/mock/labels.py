"""The population: thin and thick disc, halo and carbon-enhanced stars on the main sequence and the giant branch."""

import numpy as np
import torch
from torch import Tensor

from ...randomness import normal, uniform
from ..label_units import LABEL_UNITS

__all__ = ["EBV", "LABELS", "OUTER", "RV", "UNITS", "VSINI", "population_moments", "sample_labels"]

LABELS = ("teff", "logg", "feh", "alpha_fe", "c_fe", "ebv", "rv", "vsini")
EBV, RV, VSINI = (LABELS.index(name) for name in ("ebv", "rv", "vsini"))
OUTER = ("ebv", "rv", "vsini")  # labels that do not change the atmosphere
UNITS = {name: LABEL_UNITS[name] for name in LABELS}
_THIN, _THICK = 0.62, 0.26  # the rest is the metal-poor halo


def _chemistry(u: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Component (0 thin, 1 thick, 2 halo), [Fe/H], [α/Fe] and [C/Fe] before mixing."""
    component = (u[:, 0] > _THIN).long() + (u[:, 0] > _THIN + _THICK).long()
    halo = -1.35 - 0.45 * z[:, 0].abs() - 0.35 * torch.log(1 / (1 - 0.95 * u[:, 1]))
    feh = torch.stack([-0.10 + 0.22 * z[:, 0], -0.50 + 0.25 * z[:, 0], halo])
    feh = feh.gather(0, component[None])[0].clamp(-3.5, 0.5)
    alpha = torch.stack([0.04 - 0.18 * feh, 0.24 - 0.08 * feh, 0.30 + 0.02 * feh]).gather(0, component[None])[
        0
    ]
    alpha = (alpha + 0.05 * z[:, 1]).clamp(-0.3, 0.7)
    enhanced = u[:, 2] < 0.45 * torch.sigmoid((-2.1 - feh) / 0.25)
    carbon = torch.where(enhanced, 1.3 + 0.45 * z[:, 2], 0.02 + 0.12 * z[:, 2]).clamp(-0.8, 2.5)
    return component, feh, alpha, carbon


def _structure(u: Tensor, z: Tensor, feh: Tensor, component: Tensor) -> tuple[Tensor, Tensor]:
    """Teff and log g on loci of dwarfs (with evolution off them), subgiants, red giants and the red clump."""
    phase = u[:, 3]
    turnoff = torch.where(
        component == 0, 7800.0, torch.where(component == 1, 6250.0, 6450.0 - 60 * (feh + 2))
    )
    skew = u[:, 4] ** torch.where(component == 0, 1.3, 0.8)
    dwarf_teff = 4000.0 + (turnoff - 4000.0) * skew
    hot = ((dwarf_teff - 5200.0) / 2600.0).clamp(0, 1)
    dwarf_logg = 4.72 - 0.32 * ((dwarf_teff - 4000.0) / 2200.0).clamp(0, 1.4) - 0.45 * hot * u[:, 5] ** 1.5
    subgiant_logg = 4.15 - 0.75 * u[:, 5]
    subgiant_teff = 5150.0 + 900.0 * (subgiant_logg - 3.4) / 0.75 * (0.5 + 0.5 * u[:, 4]) - 150.0 * feh
    giant_logg = 3.6 - 3.0 * u[:, 5] ** 1.3
    giant_teff = (
        4980.0 - 370.0 * (2.7 - giant_logg) - 60.0 * (2.7 - giant_logg).clamp_min(0) ** 2 - 210.0 * feh
    )
    clump_logg = 2.45 + 0.08 * z[:, 4]
    clump_teff = 4820.0 - 180.0 * feh.clamp_min(-1.0)
    index = (phase > 0.58).long() + (phase > 0.68).long() + (phase > 0.90).long()
    teff = torch.stack([dwarf_teff, subgiant_teff, giant_teff, clump_teff]).gather(0, index[None])[0]
    logg = torch.stack([dwarf_logg, subgiant_logg, giant_logg, clump_logg]).gather(0, index[None])[0]
    teff = (teff + 70.0 * z[:, 3]).clamp(3700.0, 9000.0)
    return teff, (logg + 0.07 * z[:, 5]).clamp(0.2, 5.0)


def sample_labels(seed: int, index: Tensor | np.ndarray) -> Tensor:
    """The labels of stars, a function of (seed, index) for each star.

    Arguments:
        seed: the universe.
        index: star numbers, int64 of shape (b,).

    Returns:
        float64 tensor (b, 8) in the order of `LABELS`, in K, dex, dex, dex, dex, mag, km/s, km/s.
    """
    index = torch.as_tensor(index, dtype=torch.int64)
    u = uniform(seed, 0, index, 8, "mock star uniform")
    z = normal(seed, 0, index, 10, "mock star normal")
    component, feh, alpha, carbon = _chemistry(u, z)
    teff, logg = _structure(u, z, feh, component)
    mixed = torch.sigmoid((2.2 - logg) / 0.3) * (0.25 + 0.1 * (-feh).clamp(0, 2)) + 0.12 * torch.sigmoid(
        (3.3 - logg) / 0.2
    )
    ebv = torch.where(component == 2, 0.04, 0.13) * -torch.log1p(-0.995 * u[:, 6])
    spread = torch.tensor([32.0, 60.0, 140.0], dtype=torch.float64)[component]
    fast = torch.sigmoid((teff - 6500.0) / 350.0)
    vsini = 3.5 * torch.exp(0.45 * z[:, 8]) + fast * 110.0 * u[:, 7]
    rv = (spread * z[:, 7]).clamp(-550.0, 550.0)
    return torch.stack([teff, logg, feh, alpha, carbon - mixed, ebv, rv, vsini], dim=1)


_moments: dict[int, tuple[Tensor, Tensor]] = {}


def population_moments(n: int = 20000) -> tuple[Tensor, Tensor]:
    """Mean (8,) and covariance (8, 8) of the population, the Gaussian prior of the bounds (float64)."""
    if n not in _moments:
        labels = sample_labels(0x5EED, torch.arange(n))
        _moments[n] = (labels.mean(0), torch.cov(labels.T))
    return _moments[n]
