"""The two kinds of objective: of one encoder, and of the embeddings of several modalities.

Axes: b batch, l pixels, k code, q uniform draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..bottlenecks.base import Bottleneck
from ..encoders.base import Encoder
from ..errors import ConfigError

__all__ = ["EncoderObjective", "Metrics", "PairObjective"]

Metrics = dict[str, Tensor]


class EncoderObjective(nn.Module, ABC):
    """Base class of the objectives that pretrain one encoder.

    Attributes:
        uses_labels: whether `forward` is also given `labels` (b, k), NaN where unknown, and `prepare` is called with
            those of the training objects before.
        trains: the class of encoders that it can train.
    """

    uses_labels: bool = False
    trains: type = Encoder

    def check_encoder(self, kind: type) -> None:
        """Refuses (ConfigError) a class of encoders that it cannot train."""
        if not issubclass(kind, self.trains):
            raise ConfigError(
                f"{type(self).__name__} needs {self.trains.__name__}, not {kind.__name__}: choose another "
                "objective, such as restore, which trains every encoder."
            )

    def prepare(self, labels: Tensor) -> None:
        """Takes the scale of the labels (n, k) from training objects."""

    @abstractmethod
    def n_uniforms(self, encoder: Encoder) -> int:
        """Uniform draws that each object needs for one pass."""

    @abstractmethod
    def forward(
        self, encoder: Encoder, x: Tensor, ivar: Tensor | None, mask: Tensor | None, uniforms: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss of a batch.

        Arguments:
            encoder: the encoder in training.
            x, ivar, mask: spectra, shape (b, l); ivar and mask (True = good) or None.
            uniforms: draws in [0, 1), shape (b, q), from which all randomness about an object is made.

        Returns:
            The loss, a scalar, and detached scalars by name.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> "tuple[EncoderObjective, Encoder]":
        """A tiny instance and an encoder that it can train, with which the property tests run."""


class PairObjective(nn.Module, ABC):
    """Base class of the objectives on the embeddings of several modalities of the same objects.

    Attributes:
        bottleneck: what splits an embedding into shared and private parts.
        chunk_size: objects embedded at once, None for the whole batch; see `Contrastive`.
    """

    chunk_size: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.bottleneck = Bottleneck()

    def bind(
        self, pixels: Mapping[str, int], features: Mapping[str, int], bottleneck: Bottleneck | None = None
    ) -> "PairObjective":
        """Makes the parts whose sizes depend on the data; to be called once, before the optimiser is made.

        Arguments:
            pixels: modality -> pixels l of its spectra.
            features: modality -> length k of its embedding.
            bottleneck: what splits an embedding into shared and private parts; None shares all of it.

        Returns:
            Itself.
        """
        if bottleneck is not None:
            self.bottleneck = bottleneck
        return self

    def can_translate(self, a: str, b: str) -> bool:
        """Whether `translate` makes spectra of modality `b` from embeddings of modality `a`."""
        return False

    @abstractmethod
    def forward(
        self, embeddings: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        """The loss of a batch.

        Arguments:
            embeddings: modality -> shape (b, k).
            batch: `<m>` (b, l), and where known `<m>_ivar`, `<m>_mask` (True = good), `<m>_present` (b,),
                `object` (b,).

        Returns:
            The loss, a scalar, and detached scalars by name.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> "PairObjective":
        """A tiny instance, bound to modalities lrs (11 pixels) and xp (7 pixels), embeddings of 6."""


def refuse_batch_norm(chunk_size: int | None, **modules: nn.Module | None) -> None:
    """Statistics of a chunk are not those of the batch, so BatchNorm and chunks exclude each other.

    Raises:
        ConfigError: a module has BatchNorm and `chunk_size` is set.
    """
    for name, module in modules.items():
        if chunk_size and module is not None and any(isinstance(m, _BatchNorm) for m in module.modules()):
            raise ConfigError(
                f"objective.chunk_size={chunk_size} cannot be used with the BatchNorm layers of the {name}: take "
                "norm=layer there, or chunk_size=null."
            )


def present(batch: Mapping[str, Tensor], *modalities: str) -> Tensor | None:
    """Objects (b,) that have all of these modalities, or None if the batch does not say (then all have)."""
    flags = [batch[f"{m}_present"] for m in modalities if f"{m}_present" in batch]
    if not flags:
        return None
    result = flags[0]
    for flag in flags[1:]:
        result = result & flag
    return result
