"""The Cramér–Rao bound of each label from each survey: what a perfect method could know about a mock star."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..data.mock.labels import LABELS, OUTER, population_moments
from ..data.mock.lrs import LRS
from ..data.mock.strengths import Star, line_strengths
from ..data.mock.xp import XP
from ..parallel import single_threaded

if TYPE_CHECKING:
    from ..data.store import Store

__all__ = ["Slopes", "crb_covariance", "crb_of_store", "fisher_lrs", "fisher_xp"]

_BLOCK = 1024  # stars whose atmospheres are differentiated together
_CHUNK = 64  # stars whose spectra are, so that all tangents stay in the processor's cache
_INNER = [i for i, name in enumerate(LABELS) if name not in OUTER]
_OUTER = [i for i, name in enumerate(LABELS) if name in OUTER]


class Slopes:
    """Stars with the derivatives of all that depends on their atmospheres, for forward differentiation of spectra.

    Atmospheres and line strengths are made of many small operations and are differentiated for a block of stars and
    for all instruments at once; the spectra follow in smaller chunks, each star repeated for every direction.

    Arguments:
        labels: (b, 8).
        scale: unit of each label, (8,); derivatives are with respect to label/scale.
        instruments: by modality.
    """

    def __init__(self, labels: Tensor, scale: Tensor, instruments: dict[str, LRS | XP]) -> None:
        b, q = len(labels), len(_INNER)
        self.labels, self.steps = labels, torch.diag(scale)
        self.value: dict[str, Tensor] = {}
        self.slope: dict[str, Tensor] = {}
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(labels.repeat_interleave(q, 0), self.steps[_INNER].repeat(b, 1))
            star = Star.from_labels(dual)
            strengths = line_strengths(star)
            for m, instrument in instruments.items():
                value, slope = forward_ad.unpack_dual(instrument.ingredients(star, strengths))
                self.value[m], self.slope[m] = value[::q].clone(), slope.unflatten(0, (b, q))

    def flux(self, m: str, instrument: LRS | XP, rows: slice) -> tuple[Tensor, Tensor]:
        """Noise-free data (c, p) of some stars and their derivatives (c, 8, p) in float64."""
        labels, value = self.labels[rows], self.value[m][rows]
        c, q, r = len(labels), len(_INNER), len(_OUTER)
        shape = instrument.shape(value)
        result = instrument.flux(labels, *shape)
        slope = result.new_empty(c, len(LABELS), result.shape[1], dtype=torch.float64)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(value.repeat_interleave(q, 0), self.slope[m][rows].flatten(0, 1))
            found = instrument.flux(labels.repeat_interleave(q, 0), *instrument.shape(dual))
            slope[:, _INNER] = forward_ad.unpack_dual(found).tangent.unflatten(0, (c, q)).double()
            dual = forward_ad.make_dual(labels.repeat_interleave(r, 0), self.steps[_OUTER].repeat(c, 1))
            found = instrument.flux(dual, *(part.repeat_interleave(r, 0) for part in shape))
            slope[:, _OUTER] = forward_ad.unpack_dual(found).tangent.unflatten(0, (c, r)).double()
        return result.double(), slope


def _without_nuisance(information: Tensor, k: int, prior: Tensor) -> Tensor:
    """Information on the first k parameters; the others, of prior precision (m,), are marginalised."""
    own, shared, rest = information[:, :k, :k], information[:, :k, k:], information[:, k:, k:]
    return own - shared @ torch.linalg.solve(rest + torch.diag(prior), shared.transpose(1, 2))


def fisher_lrs(flux: Tensor, slope: Tensor, snr: Tensor, lrs: LRS) -> Tensor:
    """Fisher information of continuum-normalised LRS fluxes.

    The normalised flux n = f/(S f) determines the flux f up to a factor, so its information, with the noise
    J C Jᵀ, J = ∂n/∂f, on the range of J, is that of f with a free amplitude:

        n_θᵀ (J C Jᵀ)⁺ n_θ = f_θᵀ C⁻¹ f_θ − f_θᵀ C⁻¹ f (fᵀ C⁻¹ f)⁻¹ fᵀ C⁻¹ f_θ

    J nearly cancels smooth factors, signal and noise alike, so what the data say of them is kept in principle; the
    calibration errors of the mock, which are such factors, are marginalised with their prior.

    Arguments:
        flux, slope: noise-free flux (b, l) and its derivatives (b, 8, l), float64.
        snr: (b,) per pixel.
        lrs: the instrument.

    Returns:
        float64 tensor (b, 8, 8) for labels in units of the slopes' scale.
    """
    weight = 1 / lrs.noise_variance(flux, snr.double())
    terms = torch.as_tensor(np.vstack([np.ones(lrs.grid.n), lrs.terms]))  # (1 + order, l)
    rows = torch.cat([slope, flux[:, None, :] * terms], dim=1) * torch.sqrt(weight)[:, None, :]
    information = rows @ rows.transpose(1, 2)
    prior = torch.as_tensor(np.append(0.0, lrs.response**-2.0))
    return _without_nuisance(information, slope.shape[1], prior)


def fisher_xp(pixels: Tensor, slope: Tensor, snr: Tensor, xp: XP) -> Tensor:
    """Fisher information of XP samples over the one at 550 nm, computed on the 110 coefficients.

    The 343 samples are a linear function of the coefficients of full rank, so that they and their singular covariance
    carry the same information; dividing by the sample at 550 nm loses the amplitude, which is marginalised.
    Arguments and result as in `fisher_lrs`.
    """
    rows = torch.cat([slope, pixels[:, None, :]], dim=1)  # (b, k + 1, 220)
    coefficients = xp.coefficients(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
    covariance = xp.covariance(pixels, snr.double())  # (b, 2, 55, 55)
    vectors = coefficients.unflatten(2, covariance.shape[1:3]).permute(0, 2, 3, 1)  # (b, 2, 55, k + 1)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), vectors, upper=False).flatten(
        1, 2
    )
    information = whitened.transpose(1, 2) @ whitened
    return _without_nuisance(information, slope.shape[1], torch.zeros(1, dtype=torch.float64))


@single_threaded()
def crb_covariance(
    labels: Tensor | np.ndarray,
    snr: Tensor | np.ndarray,
    *,
    lrs: LRS | None = None,
    xp: XP | None = None,
    modalities: tuple[str, ...] = ("lrs", "xp", "joint"),
    prior: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Covariance of the Cramér–Rao bound with a prior: no unbiased method has a smaller one.

    Formula:
        Σ_m = (F_m + P)⁻¹,   Σ_joint = (F_lrs + F_xp + P)⁻¹,   σ_label = √Σ_ii (marginal over all other labels)

    Arguments:
        labels: true labels (n, 8) in the order of `mock.LABELS`.
        snr: S/N of LRS and XP, (n, 2); NaN where a survey is missing, which then knows nothing.
        lrs, xp: the instruments; by default those of the published grids.
        modalities: any of "lrs", "xp", "joint".
        prior: precision (8, 8); by default the inverse covariance of the population.
        dtype: precision of the derivatives; everything after them is float64.

    Returns:
        For each modality a float64 tensor (n, 8, 8) in the squared units of the labels.
    """
    labels, snr = (torch.as_tensor(x, dtype=torch.float64) for x in (labels, snr))
    spread = population_moments()[1]
    scale = torch.sqrt(torch.diagonal(spread))
    precision = torch.linalg.inv(spread) if prior is None else prior
    precision = precision * scale[:, None] * scale[None, :]
    instruments: dict[str, LRS | XP] = {}
    for m, given, kind in (("lrs", lrs, LRS), ("xp", xp, XP)):
        if m in modalities or "joint" in modalities:
            instruments[m] = kind() if given is None else given
    parts: dict[str, list[Tensor]] = {m: [] for m in modalities}
    for block in torch.arange(len(labels)).split(_BLOCK):
        stars = Slopes(labels[block].to(dtype), scale.to(dtype), instruments)
        for start in range(0, len(block), _CHUNK):
            rows = slice(start, start + _CHUNK)
            information = {m: _information(stars, m, i, rows, snr[block]) for m, i in instruments.items()}
            information["joint"] = torch.stack(list(information.values())).sum(0)
            for m in modalities:
                inverse = torch.linalg.inv(information[m] + precision)
                parts[m].append(inverse * scale[:, None] * scale[None, :])
    return {m: torch.cat(p) for m, p in parts.items()}


def _information(stars: Slopes, m: str, instrument: LRS | XP, rows: slice, snr: Tensor) -> Tensor:
    known = snr[rows, 0 if m == "lrs" else 1].nan_to_num(0.0)
    flux, slope = stars.flux(m, instrument, rows)
    if isinstance(instrument, LRS):
        found = fisher_lrs(flux, slope, known.clamp_min(1e-3), instrument)
    else:
        found = fisher_xp(flux, slope, known.clamp_min(1e-3), instrument)
    return torch.where(known[:, None, None] > 0, found, 0.0)


def crb_of_store(
    store: "Store", samples: np.ndarray, modalities: tuple[str, ...] = ("lrs", "xp", "joint")
) -> dict[str, np.ndarray] | None:
    """Bound covariances (n, 8, 8) of samples of a store of mock stars; None where the store is not one.

    A store without bounds has none here either: it may have been made with lines that are not the ones known here.
    The order of labels is `mock.LABELS`; instruments are rebuilt from the store's attributes.
    """
    infos = store.modalities
    if not store.bounds or not all(m in infos and infos[m].survey.startswith("mock ") for m in ("lrs", "xp")):
        return None
    if any(name not in store.labels for name in LABELS):
        return None
    grid, resolution = infos["lrs"].grid, float(infos["lrs"].resolution.removeprefix("R="))
    labels = np.stack([store.labels[name][samples] for name in LABELS], axis=1)
    snr = np.stack([store.snr(m)[samples] for m in ("lrs", "xp")], axis=1)
    found = crb_covariance(labels, snr, lrs=LRS(grid, resolution), modalities=modalities)  # type: ignore[arg-type]
    return {m: covariance.numpy() for m, covariance in found.items()}
