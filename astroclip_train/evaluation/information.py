"""What an embedding holds, measured while training: rank, spread, alignment, gap, information bounds."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "alignment",
    "effective_rank",
    "embedding_diagnosis",
    "feature_variance",
    "gaussian_reference",
    "info_nce_ceiling",
    "info_nce_information",
    "information_gain",
    "modality_gap",
    "pair_diagnosis",
    "uniformity",
]


def _centred(z: Tensor) -> Tensor:
    z = z.detach().to(torch.float64)
    return z - z.mean(0, keepdim=True)


def effective_rank(z: Tensor) -> float:
    r"""The exponential of the entropy of the normalised singular values of centred embeddings.

    .. math:: r = \exp(-\sum_i p_i \ln p_i), \quad p_i = s_i / \sum_j s_j

    Centring matters: without it one constant feature hides a collapse.
    Source: Roy and Vetterli 2007 (EUSIPCO).

    Arguments:
        z: embeddings, (b, k).

    Returns:
        A number from 1 (all embeddings on a line) to min(b - 1, k); 0 if all embeddings are equal.
    """
    centred = _centred(z)
    # the smaller Gram matrix has the same non-zero spectrum and is much cheaper than a full SVD
    gram = centred.T @ centred if centred.shape[0] >= centred.shape[1] else centred @ centred.T
    s = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    s = torch.where(s > 1e-7 * s.max(), s, torch.zeros_like(s))  # square roots of rounding errors are no rank
    total = s.sum()
    if not torch.isfinite(total) or total <= 0:
        return 0.0
    return float(torch.special.entr(s / total).sum().exp())


def feature_variance(z: Tensor, relative: bool = False) -> float:
    """The variance of embeddings over objects, averaged over their k dimensions.

    Arguments:
        z: embeddings, (b, k).
        relative: scale each embedding to length sqrt(k) first, so that 1 means spread evenly over the sphere
            and 0 means collapsed to one direction, whatever the scale of the embedding.
    """
    z = z.detach().to(torch.float64)
    if relative:
        z = F.normalize(z, dim=1) * math.sqrt(z.shape[1])
    return float(z.var(0, unbiased=False).mean())


def alignment(u: Tensor, v: Tensor) -> float:
    """The mean squared distance of paired embeddings on the unit sphere: 0 (equal) to 4 (opposite).

    Source: Wang and Isola 2020, arXiv:2005.10242, with exponent 2. Shapes: u and v (b, k).
    """
    u, v = (F.normalize(x.detach().to(torch.float64), dim=1) for x in (u, v))
    return float((u - v).square().sum(1).mean())


def uniformity(z: Tensor, t: float = 2.0, most: int = 2048) -> float:
    r"""How evenly embeddings cover the unit sphere: lower is more even, 0 is collapsed.

    .. math:: \ln \mathrm{mean}_{i \ne j} \exp(-t \lVert z_i - z_j \rVert^2)

    Source: Wang and Isola 2020, arXiv:2005.10242.

    Arguments:
        z: embeddings, (b, k).
        t: sharpness of the kernel.
        most: only the first `most` objects enter, because pairs grow with the square.
    """
    z = F.normalize(z.detach()[:most].to(torch.float64), dim=1)
    if z.shape[0] < 2:
        return float("nan")
    squared = F.pdist(z).square()
    return float(torch.logsumexp(-t * squared, 0) - math.log(squared.numel()))


def modality_gap(u: Tensor, v: Tensor) -> float:
    """The distance of the mean unit embeddings of two modalities: 0 (one cloud) to 2 (opposite cones).

    Source: Liang et al. 2022, arXiv:2203.02053. Shapes: u (b, k), v (c, k).
    """
    u, v = (F.normalize(x.detach().to(torch.float64), dim=1).mean(0) for x in (u, v))
    return float((u - v).norm())


def info_nce_ceiling(batch: int, bits: bool = False) -> float:
    """The largest information InfoNCE can report from a batch of this size, log(batch), in nats or bits."""
    return math.log2(batch) if bits else math.log(batch)


def info_nce_information(loss: float, batch: int, bits: bool = False) -> float:
    """The lower bound log(batch) - loss on the mutual information of two views, in nats or bits.

    Source: van den Oord et al. 2018, arXiv:1807.03748. `loss` is in nats, as cross-entropy is.
    """
    nats = math.log(batch) - float(loss)
    return nats / math.log(2) if bits else nats


def gaussian_reference(train: Tensor, x: Tensor, shrinkage: float = 1e-3) -> Tensor:
    r"""The log density of each row of x under a full-covariance Gaussian fitted to `train`.

    .. math:: \ln q_0(x) = -\tfrac12 [(x-\mu)^T \Sigma^{-1} (x-\mu) + \ln\det\Sigma + l \ln 2\pi]

    with the covariance shrunk towards its own diagonal, so that it can be inverted when pixels outnumber
    objects.

    Arguments:
        train: reference objects, (n, l).
        x: objects to score, (b, l), in the same units.
        shrinkage: weight of the diagonal, in (0, 1].

    Returns:
        Log densities in nats, (b,), float64, per the unit of x (the Jacobian of a normalisation is the
        caller's).
    """
    train, x = train.detach().to(torch.float64), x.detach().to(torch.float64)
    mean = train.mean(0)
    covariance = torch.cov(train.T).reshape(train.shape[1], train.shape[1])
    diagonal = torch.diag(covariance.diagonal().clamp_min(1e-12))
    factor = torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * diagonal)
    white = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False)
    log_det = 2 * factor.diagonal().log().sum()
    return -0.5 * (white.square().sum(0) + log_det + x.shape[1] * math.log(2 * math.pi))


def information_gain(log_q: Tensor, log_reference: Tensor) -> tuple[float, float]:
    """The gain E log q(x|z) - E log q0(x) over a reference density and its standard error, in nats.

    It bounds the mutual information from below up to the constant by which q0 misses the entropy of x.
    Both log densities, (b,), must refer to the same objects in the same unit.
    """
    gain = (log_q - log_reference).detach().to(torch.float64)
    return float(gain.mean()), float(gain.std() / math.sqrt(max(gain.numel(), 1)))


def embedding_diagnosis(z: Tensor) -> dict[str, float]:
    """Effective rank, feature variance (absolute and relative) and uniformity of embeddings (b, k)."""
    return {
        "effective_rank": effective_rank(z),
        "feature_variance": feature_variance(z),
        "relative_variance": feature_variance(z, relative=True),
        "uniformity": uniformity(z),
    }


def pair_diagnosis(u: Tensor, v: Tensor) -> dict[str, float]:
    """Alignment, mean uniformity and modality gap of paired embeddings u and v, (b, k) each."""
    even = 0.5 * (uniformity(u) + uniformity(v))
    return {"alignment": alignment(u, v), "uniformity": even, "modality_gap": modality_gap(u, v)}
