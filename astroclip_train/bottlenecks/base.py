"""What a bottleneck is: a rule which part of an embedding is shared between modalities."""

from torch import Tensor, nn

__all__ = ["Bottleneck"]


class Bottleneck(nn.Module):
    """Base class, and the trivial bottleneck: all of an embedding (b, k) is shared, nothing is private.

    Attributes:
        features: length k of the embeddings it takes, None if any.
    """

    features: int | None = None

    def shared(self, z: Tensor) -> Tensor:
        """The part that the modalities have in common, shape (b, k_s)."""
        return z

    def private(self, z: Tensor) -> Tensor:
        """The part that only one modality has, shape (b, k_p), k_p may be 0."""
        return z[:, :0]

    def shared_features(self, features: int) -> int:
        """k_s for embeddings of length `features`."""
        return features

    def private_features(self, features: int) -> int:
        """k_p for embeddings of length `features`."""
        return features - self.shared_features(features)
