"""Splits an embedding into a shared and a private part."""

from torch import Tensor

from ..errors import ConfigError
from .base import Bottleneck

__all__ = ["SharedPrivate"]


class SharedPrivate(Bottleneck):
    """Shares the first entries of an embedding and keeps the last private.

    Shared entries are compared and translated; private ones only help to reconstruct the own spectrum.

    References:
        SpecCLIP (split), Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        shared, private: lengths of the two parts; published 512 and 256.

    Raises:
        ConfigError: a length below 1, or embeddings of another length.

    Example:
        >>> import torch
        >>> SharedPrivate(3, 2).private(torch.arange(5.)[None])
        tensor([[3., 4.]])
    """

    def __init__(self, shared: int = 512, private: int = 256) -> None:
        super().__init__()
        if shared < 1 or private < 1:
            raise ConfigError(
                f"SharedPrivate: shared={shared} and private={private} must both be at least 1."
            )
        self.sizes = (shared, private)
        self.features = shared + private

    def extra_repr(self) -> str:
        return f"shared={self.sizes[0]}, private={self.sizes[1]}"

    def shared(self, z: Tensor) -> Tensor:
        return z[..., : self.sizes[0]]

    def private(self, z: Tensor) -> Tensor:
        return z[..., self.sizes[0] :]

    def shared_features(self, features: int) -> int:
        if features != self.features:
            raise ConfigError(
                f"the bottleneck splits embeddings of {self.features} into {self.sizes[0]} shared and "
                f"{self.sizes[1]} private, but a head gives {features}: set its features to {self.features}."
            )
        return self.sizes[0]
