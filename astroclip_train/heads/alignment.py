"""Heads on top of an encoder that make the embeddings which are aligned.

Axes: b batch, n tokens, d width, k code.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..encoders.blocks import FeedForward
from ..encoders.pooling import AttentionPool, MeanPool, Pool, PositionPool
from ..registry import choose

__all__ = ["AlignmentHead", "AttentionHead", "MLPBranchHead", "SplitHead"]


class AlignmentHead(nn.Module, ABC):
    """Base class: tokens (b, n, d) -> embedding (b, k).

    Attributes:
        features: k.
    """

    features: int

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, n, d) -> embedding (b, k)."""

    @classmethod
    @abstractmethod
    def example(cls) -> "AlignmentHead":
        """A tiny instance for 5 tokens of width 8, with which the property tests run."""


class _Residual(nn.Module):
    """h + FeedForward(h), without a norm."""

    def __init__(self, features: int, expansion: float, dropout: float) -> None:
        super().__init__()
        self.mlp = FeedForward(features, int(features * expansion), dropout)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mlp(h)


class AttentionHead(AlignmentHead):
    """One learned query attends to the tokens; LayerNorm; a residual feed-forward.

    Published for LAMOST LRS: width and features 768, 4 heads, 7,087,104 parameters.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        n_tokens, width: n and d of the encoder.
        features: k; None is the width.
        heads: attention heads.
        expansion: hidden width of the feed-forward over k.
        dropout: after attention and feed-forward.
    """

    def __init__(
        self,
        n_tokens: int,
        width: int,
        features: int | None = None,
        heads: int = 4,
        expansion: float = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.features = features or width
        self.pool = AttentionPool(n_tokens, width, self.features, heads, dropout)
        self.residual = _Residual(self.features, expansion, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.residual(self.pool(tokens))

    @classmethod
    def example(cls) -> "AttentionHead":
        return cls(5, 8, features=6, heads=2)


class MLPBranchHead(AlignmentHead):
    """Pooled tokens through Linear; Linear, LayerNorm, GELU; Linear, LayerNorm; and a residual feed-forward.

    Published for the one token of the XP autoencoder: width and features 768, hidden 1160, 7,100,568
    parameters.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        n_tokens, width: n and d of the encoder.
        features: k; None is the width.
        hidden: inner width.
        expansion: hidden width of the feed-forward over k.
        dropout: after the second norm and after the feed-forward.
        pooling: `"mean"` over tokens, or `"position"`: `per_token` trained projections of each, concatenated.
        per_token: see above.
    """

    def __init__(
        self,
        n_tokens: int,
        width: int,
        features: int | None = None,
        hidden: int = 1160,
        expansion: float = 4,
        dropout: float = 0.1,
        pooling: str = "mean",
        per_token: int = 12,
    ) -> None:
        super().__init__()
        self.features = features or width
        choose("pooling", pooling, ("mean", "position"))
        self.pool: Pool = (
            MeanPool(n_tokens, width) if pooling == "mean" else PositionPool(n_tokens, width, per_token)
        )
        self.branch = nn.Sequential(
            nn.Linear(self.pool.features, self.features),
            nn.Linear(self.features, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, self.features),
            nn.LayerNorm(self.features),
            nn.Dropout(dropout),
        )
        self.residual = _Residual(self.features, expansion, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.residual(self.branch(self.pool(tokens)))

    @classmethod
    def example(cls) -> "MLPBranchHead":
        return cls(5, 8, features=6, hidden=10, pooling="position", per_token=2)


class SplitHead(AlignmentHead):
    """Two heads side by side, one for the shared and one for the private part: (b, n, d) -> (b, shared +
    private).

    Published: 512 + 256; LRS two `AttentionHead`s with 4 and 2 attention heads (4,465,664 parameters), XP two
    `MLPBranchHead`s (5,006,896).

    References:
        SpecCLIP (split), Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        n_tokens, width: n and d of the encoder.
        kind: `"attention"` or `"mlp"`.
        shared, private: lengths of the parts.
        heads: attention heads of the shared part; the private one has half of them, at least one.
        options: further arguments of both heads.
    """

    def __init__(
        self,
        n_tokens: int,
        width: int,
        kind: str = "attention",
        shared: int = 512,
        private: int = 256,
        heads: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        self.features = shared + private
        if choose("kind", kind, ("attention", "mlp")) == "attention":
            self.shared: AlignmentHead = AttentionHead(n_tokens, width, shared, heads, **options)
            self.private: AlignmentHead = AttentionHead(
                n_tokens, width, private, max(heads // 2, 1), **options
            )
        else:
            self.shared = MLPBranchHead(n_tokens, width, shared, **options)
            self.private = MLPBranchHead(n_tokens, width, private, **options)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.shared(tokens), self.private(tokens)], dim=-1)

    @classmethod
    def example(cls) -> "SplitHead":
        return cls(5, 8, shared=4, private=2, heads=2)
