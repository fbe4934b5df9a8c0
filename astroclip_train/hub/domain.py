"""Whether an object is like those a model was trained on: a distance in embedding space and its threshold."""

import torch
from torch import Tensor, nn

__all__ = ["DomainGuard"]


class DomainGuard(nn.Module):
    r"""Whitened distance from the training embeddings, and the threshold that a share of them stays below.

    With :math:`y = z - \mu`, the leading eigenpairs :math:`\lambda_i, v_i` of the covariance and the mean
    variance :math:`\rho` outside them,

    .. math:: D^2(z) = \sum_i (v_i\cdot y)^2 / \lambda_i + \lVert y-\sum_i v_i (v_i\cdot y)\rVert^2 / \rho

    which is the Mahalanobis distance of probabilistic PCA (Tipping & Bishop 1999, JRSS B 61, 611).

    Arguments:
        features: width k of the embedding (b, k).
        components: eigenpairs kept, at most k.
        quantile: share of training objects inside.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    residual: Tensor
    threshold: Tensor

    def __init__(self, features: int, components: int = 32, quantile: float = 0.995) -> None:
        super().__init__()
        self.features = features
        self.components = min(components, features)
        self.quantile = quantile
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, self.components))
        self.register_buffer("variances", torch.ones(self.components))
        self.register_buffer("residual", torch.ones(()))
        self.register_buffer("threshold", torch.full((), torch.inf))

    def fit(self, embeddings: Tensor) -> "DomainGuard":
        """Takes axes from one half of the training embeddings (b, k) and the threshold from the other half.

        The halves keep the threshold honest: distances of the objects that defined the axes are too small.
        """
        z = embeddings.detach().double()
        if len(z) < 4:
            raise ValueError(f"a domain needs at least 4 training embeddings, not {len(z)}")
        half, rest = z[::2], z[1::2]
        mean = half.mean(0)
        _, singular, vectors = torch.linalg.svd(half - mean, full_matrices=False)
        spectrum = singular.square() / max(1, len(half) - 1)
        kept = min(self.components, len(spectrum))
        floor = spectrum.sum().clamp_min(1e-30) * 1e-6 / self.features
        variances = torch.full((self.components,), float(floor), dtype=torch.float64)
        variances[:kept] = spectrum[:kept].clamp_min(floor)
        axes = torch.zeros(self.features, self.components, dtype=torch.float64)
        axes[:, :kept] = vectors[:kept].T
        residual = spectrum[kept:].sum() / max(1, self.features - kept)
        for name, value in {
            "mean": mean, "axes": axes, "variances": variances, "residual": residual.clamp_min(floor)
        }.items():  # fmt: skip
            getattr(self, name).copy_(value)
        self.threshold.copy_(torch.quantile(self.distance(rest.to(self.mean.dtype)).double(), self.quantile))
        return self

    def distance(self, embeddings: Tensor) -> Tensor:
        """D(z), shape (b,)."""
        centred = embeddings.to(self.mean.dtype) - self.mean
        along = centred @ self.axes
        outside = centred.square().sum(-1) - along.square().sum(-1)
        return ((along.square() / self.variances).sum(-1) + outside.clamp_min(0) / self.residual).sqrt()

    def forward(self, embeddings: Tensor) -> Tensor:
        """True where an object lies inside the training domain, shape (b,)."""
        return self.distance(embeddings) <= self.threshold
