r"""From tokens to one vector per object.

Position-preserving poolings keep which token said what: labels want it, since a line lives at one
wavelength, while the mean over tokens loses it.

Axes: b batch, n tokens, d width, p features kept per token.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .blocks import CrossAttention

__all__ = ["AttentionPool", "FlattenPool", "MeanPool", "Pool", "PositionPool", "StandardisedPool"]


class Pool(nn.Module, ABC):
    """Base class of the poolings: tokens (b, n, d) -> (b, features).

    Attributes:
        features: length of the vector.
        needs_fit: whether `fit` must see training tokens before the first use.
    """

    features: int
    needs_fit = False

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.n_tokens, self.width = n_tokens, width

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, n, d) -> (b, features)."""

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learns fixed statistics from batches of training tokens (b, n, d)."""

    @classmethod
    def example(cls) -> "Pool":
        """A tiny instance for 5 tokens of width 8, with which the property tests run."""
        return cls(n_tokens=5, width=8)


class MeanPool(Pool):
    """Mean over the tokens, the statistics token included: features = d."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__(n_tokens, width)
        self.features = width

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class FlattenPool(Pool):
    """All tokens one after another: features = n d."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__(n_tokens, width)
        self.features = n_tokens * width

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.flatten(1)


class AttentionPool(Pool):
    """One learned query attends to the tokens; dropout and LayerNorm follow.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        n_tokens, width: of the tokens.
        features: length of the query and of the answer; None is the width.
        heads: attention heads.
        dropout: of the attended values.
    """

    def __init__(
        self, n_tokens: int, width: int, features: int | None = None, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__(n_tokens, width)
        self.features = features or width
        self.query = nn.Parameter(torch.randn(1, 1, self.features))
        self.attention = CrossAttention(width, self.features, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(self.features)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.dropout(self.attention(self.query, tokens)[:, 0]))


class StandardisedPool(Pool):
    r"""Each position's tokens are centred and projected on their own leading principal axes.

    .. math:: y_i = U_i^T (t_i - \mu_i) / \sqrt{\lambda_i}, \qquad \lambda_i = \mathrm{tr}\, C_i / d

    with :math:`\mu_i, C_i` mean and covariance of token i over training objects and :math:`U_i` the p leading
    eigenvectors (d × p). Nothing is trained; features = n p.

    Arguments:
        n_tokens, width: of the tokens.
        per_token: p; None keeps all d, without rotation.
    """

    needs_fit = True
    mean: Tensor
    axes: Tensor

    def __init__(self, n_tokens: int, width: int, per_token: int | None = 12) -> None:
        super().__init__(n_tokens, width)
        kept = width if per_token is None else min(per_token, width)
        self.rotate = per_token is not None
        self.features = n_tokens * kept
        self.register_buffer("mean", torch.zeros(n_tokens, width))
        self.register_buffer("axes", torch.eye(width)[:, :kept].repeat(n_tokens, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        centred = (tokens - self.mean).transpose(0, 1)
        return torch.bmm(centred, self.axes).transpose(0, 1).flatten(1)

    def fit(self, batches: Iterable[Tensor]) -> None:
        mean, covariance = position_moments(batches)
        scale = covariance.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1e-12).rsqrt()
        if self.rotate:
            axes = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :, : self.axes.shape[-1]]
            # an eigenvector has no sign of its own: its largest entry is made positive, so that refits agree
            largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
            axes = axes * torch.where(largest < 0, -1.0, 1.0)
        else:
            axes = torch.eye(self.width, dtype=mean.dtype, device=mean.device).expand(self.n_tokens, -1, -1)
        self.mean.copy_(mean)
        with torch.no_grad():
            self.axes.copy_(axes * scale[:, None, None])


class PositionPool(StandardisedPool):
    """As `StandardisedPool`, with the projections trained, starting from the principal axes if `fit` is
    called.

    Arguments:
        n_tokens, width: of the tokens.
        per_token: features p kept of each token.
    """

    needs_fit = False

    def __init__(self, n_tokens: int, width: int, per_token: int = 12) -> None:
        super().__init__(n_tokens, width, per_token)
        axes = torch.randn(n_tokens, width, min(per_token, width)) / width**0.5
        del self.axes
        self.axes = nn.Parameter(axes)


def position_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (n, d) and covariance (n, d, d) of tokens over objects, in float64, from batches (b, n, d).

    Raises:
        ConfigError: fewer than two objects.
    """
    count, total, square, origin = 0, None, None, None
    for tokens in batches:
        if origin is None:  # sums are taken about a first guess of the mean, which keeps digits
            origin = tokens.double().mean(0)
        t = (tokens.double() - origin).transpose(0, 1)
        count += t.shape[1]
        total = t.sum(1) if total is None else total + t.sum(1)
        square = t.transpose(1, 2) @ t if square is None else square + t.transpose(1, 2) @ t
    if origin is None or total is None or square is None or count < 2:
        raise ConfigError(
            "a position-wise pooling was fitted on fewer than two objects: give it training tokens."
        )
    shift = total / count
    return origin + shift, (square - count * shift[:, :, None] * shift[:, None, :]) / (count - 1)
