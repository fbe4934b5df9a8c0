"""A maximum-likelihood fit of mock stars with the model that made them: the check that the bound is right."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..data.mock.labels import population_moments
from ..data.mock.lrs import LRS
from ..data.mock.xp import XP

__all__ = ["fit_maximum_likelihood", "lrs_residual", "xp_residual"]

Residual = Callable[[Tensor, Tensor], Tensor]  # labels (b, 8), nuisance (b, m) -> whitened residual (b, p)


def lrs_residual(flux: Tensor, ivar: Tensor, lrs: LRS) -> tuple[Residual, Tensor]:
    """Whitened residual of continuum-normalised LRS data, and the prior precision (m,) of its nuisance.

    Formula:
        r = √ivar/c · (f(θ) (1 + Σ q_j T_j) − n c)

    with the continuum c that the data n determine up to a factor, and that factor and the calibration errors as q.

    Arguments:
        flux, ivar: the data n, (b, l), float64.
        lrs: the instrument.
    """
    terms = torch.as_tensor(lrs.terms, dtype=flux.dtype)
    continuum = lrs.continuum.restore(flux)
    measured = flux * continuum
    level = measured.mean(-1, keepdim=True)
    measured, root = measured / level, torch.sqrt(ivar) * level / continuum

    def residual(labels: Tensor, nuisance: Tensor) -> Tensor:
        model = lrs(labels) * (1 + nuisance[:, :1] + nuisance[:, 1:] @ terms)
        repeat = len(labels) // len(flux)
        return (model - measured.repeat_interleave(repeat, 0)) * root.repeat_interleave(repeat, 0)

    return residual, torch.as_tensor(np.append(0.0, lrs.response**-2.0), dtype=flux.dtype)


def xp_residual(coefficients: Tensor, snr: Tensor, start: Tensor, xp: XP) -> tuple[Residual, Tensor]:
    """Whitened residual of XP coefficients over the flux at 550 nm, with one free amplitude.

    Arguments:
        coefficients: the data, (b, 110).
        snr: (b,).
        start: labels (b, 8) near the truth, whose noise model is used.
        xp: the instrument.
    """
    with torch.no_grad():
        pixels = xp(start)
        amplitude = xp.samples(xp.coefficients(pixels))[1]
        root = torch.linalg.cholesky(xp.covariance(pixels, snr))  # (b, 2, 55, 55)

    def residual(labels: Tensor, nuisance: Tensor) -> Tensor:
        repeat = len(labels) // len(coefficients)
        model = xp.coefficients(xp(labels)) * (1 + nuisance)
        data = (coefficients * amplitude).repeat_interleave(repeat, 0)
        difference = (model - data).unflatten(1, root.shape[1:3])[..., None]
        whitened = torch.linalg.solve_triangular(root.repeat_interleave(repeat, 0), difference, upper=False)
        return whitened.flatten(1)

    return residual, torch.zeros(1, dtype=coefficients.dtype)


def _linearise(residual: Residual, labels: Tensor, nuisance: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Residual (b, p) and its derivatives (b, q, p) by labels/scale and nuisance parameters."""
    b, k, m = len(labels), labels.shape[1], nuisance.shape[1]
    q = k + m
    steps = torch.eye(q, dtype=labels.dtype)
    at_labels, at_nuisance = labels.repeat_interleave(q, 0), nuisance.repeat_interleave(q, 0)
    with forward_ad.dual_level():
        dual_labels = forward_ad.make_dual(at_labels, (steps[:, :k] * scale).repeat(b, 1))
        dual_nuisance = forward_ad.make_dual(at_nuisance, steps[:, k:].repeat(b, 1))
        value, slope = forward_ad.unpack_dual(residual(dual_labels, dual_nuisance))
    return value[::q], slope.unflatten(0, (b, q))


def fit_maximum_likelihood(
    residuals: list[tuple[Residual, Tensor]], start: Tensor, steps: int = 6, prior: bool = True
) -> Tensor:
    """Labels of the highest posterior density under the Gaussian prior of the population, by Gauss–Newton steps.

    Formula:
        minimise |r(θ, q)|² + (θ − μ)ᵀ P (θ − μ) + Σ p_j q_j²

    Arguments:
        residuals: of one or more surveys, from `lrs_residual` and `xp_residual`.
        start: labels (b, 8), float64, within the reach of a linear step.
        steps: Gauss–Newton steps.
        prior: whether P is the population's inverse covariance, as in the bound, or zero.

    Returns:
        Labels (b, 8).
    """
    mean, spread = population_moments()
    scale = torch.sqrt(torch.diagonal(spread))
    precision = torch.linalg.inv(spread) * scale[:, None] * scale[None, :] * float(prior)
    k = start.shape[1]
    sizes = [len(p) for _, p in residuals]
    penalty = torch.block_diag(precision, *[torch.diag(p) for _, p in residuals])
    labels, nuisance = start.clone(), start.new_zeros(len(start), sum(sizes))
    for _ in range(steps):
        normal = penalty.repeat(len(start), 1, 1)
        offset = torch.cat([(labels - mean) / scale, nuisance], dim=1)
        gradient = offset @ penalty
        first = k
        for (residual, _), m in zip(residuals, sizes, strict=True):
            own = torch.cat([torch.arange(k), torch.arange(first, first + m)])
            value, slope = _linearise(residual, labels, nuisance[:, first - k : first - k + m], scale)
            normal[:, own[:, None], own[None, :]] += slope @ slope.transpose(1, 2)
            gradient[:, own] += torch.einsum("bqp,bp->bq", slope, value)
            first += m
        step = torch.linalg.solve(normal, gradient[..., None])[..., 0]
        labels = labels - (step[:, :k] * scale).clamp(-0.5 * scale, 0.5 * scale)
        nuisance = nuisance - step[:, k:]
    return labels
