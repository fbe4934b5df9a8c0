r"""Log densities of spectra: the conditional families of the decoders and the Gaussian reference.

Each is evaluated at the good pixels of an object only, in nats, in the unit of its arguments. If a target is
:math:`t = (x - m) / c` in the store's unit x, then :math:`\log q(x) = \log q(t) - \sum_i \log c_i`.

Axes: b batch, l pixels.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..distributed.collectives import global_mean, sum_over_ranks
from ..errors import ConfigError

__all__ = ["FAMILIES", "Family", "GaussianFamily", "GaussianReference", "LaplaceFamily"]

LOG_2PI = math.log(2 * math.pi)


class Family(nn.Module, ABC):
    """Base class: a density of independent pixels around a decoder's output, with its own widths."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def loss(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        """What is minimised, averaged over the good pixels of all ranks, from residuals, good flags and ivar of
        shape (b, l)."""
        if self.training:
            self.follow(*self.followed(residual, good))
        return global_mean(self.total(residual, good, ivar), good.sum())

    @abstractmethod
    def total(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        """What is minimised, summed over good pixels."""

    def followed(self, residual: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over a batch, each of shape (l,), that `follow` takes: of sizes, and of good flags."""
        return (residual.detach().abs() * good).sum(dim=0), good.sum(dim=0)

    def follow(self, size: Tensor, count: Tensor) -> None:
        """Updates running statistics, once for each training batch of this rank."""

    @abstractmethod
    def log_prob(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        """Log density of each object, shape (b,), summed over its good pixels."""


class LaplaceFamily(Family):
    r"""Laplace density, :math:`-\log 2 w_i - |r_i| / w_i`.

    The loss is the mean absolute residual, as published: with a fixed width it differs from the negative log
    density by a factor and a constant. The width that the log density needs is the running mean of |r_i|
    over training batches, its best value; it does not act on the loss. `ivar` only says which pixels are
    good.
    """

    width: Tensor
    seen: Tensor

    def __init__(self, pixels: int, momentum: float = 0.02) -> None:
        super().__init__(pixels)
        self.momentum = momentum
        self.register_buffer("width", torch.ones(pixels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def total(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        return (residual.abs() * good).sum()

    @torch.no_grad()
    def follow(self, size: Tensor, count: Tensor) -> None:
        size, count = sum_over_ranks(torch.stack([size, count.to(size.dtype)]))
        mean = (size / count.clamp_min(1.0)).to(self.width.dtype)
        self.seen += 1
        # the first batches are averaged, later ones forgotten exponentially, without syncing a GPU
        rate = torch.maximum(1.0 / self.seen, torch.full_like(1.0 / self.seen, self.momentum))
        self.width.copy_(
            torch.where(count > 0, torch.lerp(self.width, mean, rate.to(mean.dtype)), self.width)
        )

    def log_prob(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        width = self.width.clamp_min(1e-6)
        return (good * (-(2 * width).log() - residual.abs() / width)).sum(dim=1)


class GaussianFamily(Family):
    r"""Gaussian density with a learned width per pixel, plus the pixel's noise variance where `ivar` is
    known.

    .. math:: -\tfrac12 \left[ r_i^2 / v_i + \log 2 \pi v_i \right], \qquad v_i = w_i^2 + 1 / \mathrm{ivar}_i

    The loss is its negative mean over good pixels.
    """

    def __init__(self, pixels: int, initial_width: float = 1.0) -> None:
        super().__init__(pixels)
        self.log_width = nn.Parameter(torch.full((pixels,), math.log(initial_width)))

    def _terms(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        variance = (2 * self.log_width).exp().clamp_min(1e-10)
        if ivar is not None:  # a bad pixel may have ivar 0: its variance must stay finite for the gradient
            variance = variance + 1 / torch.where(good > 0, ivar, 1.0)
        return -0.5 * good * (residual.square() / variance + variance.log() + LOG_2PI)

    def total(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        return -self._terms(residual, good, ivar).sum()

    def log_prob(self, residual: Tensor, good: Tensor, ivar: Tensor | None) -> Tensor:
        return self._terms(residual, good, ivar).sum(dim=1)


FAMILIES: dict[str, type[Family]] = {"laplace": LaplaceFamily, "gaussian": GaussianFamily}


class GaussianReference:
    r"""The full-covariance Gaussian :math:`q_0 = N(\mu, C + f^2 I)` against which gains are stated.

    Bad pixels are integrated over exactly: with P the inverse covariance and B the bad pixels,
    :math:`\log\det C_{GG} = \log\det C + \log\det P_{BB}`, and the quadratic form is the full one with the
    bad residuals at their conditional mean.

    It lives in float64 on the CPU, whatever the model does, and is not part of a checkpoint.

    Arguments:
        mean: shape (l,), in the store's unit.
        cov: shape (l, l).
        floor: f as a fraction of the root mean variance; samples that are correlated by construction (343 XP
            samples of 110 coefficients) have a singular C, and then the floor sets the scale of the gain.

    Raises:
        ConfigError: the covariance is not positive definite even with the floor.
    """

    def __init__(self, mean: Tensor, cov: Tensor, floor: float = 1e-2) -> None:
        cov = cov.detach().cpu().double()
        variance = cov.diagonal().mean() * floor**2
        factor, failed = torch.linalg.cholesky_ex(cov + variance * torch.eye(len(cov)).to(cov))
        if bool(failed):
            raise ConfigError(
                f"the reference covariance of {len(cov)} pixels is not positive definite with floor={floor}: "
                "fit it to more objects than pixels or raise the floor."
            )
        self.mean, self.factor = mean.detach().cpu().double(), factor
        self._precision: Tensor | None = None

    @torch.no_grad()
    def log_prob(self, x: Tensor, good: Tensor) -> Tensor:
        """Log density of spectra (b, l) at their good pixels, shape (b,), float64 on the CPU."""
        x, good = x.detach().cpu(), good.cpu()
        residual = torch.where(good > 0, x.double() - self.mean, 0.0)
        logdet = 2 * self.factor.diagonal().log().sum()
        logdets = logdet.expand(len(x)).clone()
        for i in (good <= 0).any(dim=1).nonzero()[:, 0].tolist():
            logdets[i] += self._fill(residual[i], good[i] <= 0)
        white = torch.linalg.solve_triangular(self.factor, residual.T, upper=False)
        return -0.5 * (white.square().sum(dim=0) + logdets + (good > 0).sum(dim=1) * LOG_2PI)

    def _fill(self, residual: Tensor, bad: Tensor) -> Tensor:
        """Sets the bad residuals (l,) to their conditional mean; returns log det P_BB."""
        if self._precision is None:
            self._precision = torch.cholesky_inverse(self.factor)
        rows = self._precision[bad]
        factor = torch.linalg.cholesky(rows[:, bad])
        residual[bad] = -torch.cholesky_solve((rows @ residual)[:, None], factor)[:, 0]
        return 2 * factor.diagonal().log().sum()
