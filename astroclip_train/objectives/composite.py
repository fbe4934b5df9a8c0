"""A sum of pair objectives."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..bottlenecks.base import Bottleneck
from ..errors import ConfigError
from .base import Metrics, PairObjective
from .contrastive import Contrastive
from .decoder_mi import DecoderMI

__all__ = ["Composite"]


class Composite(PairObjective):
    """Adds the losses of its parts; each part carries its own weight.

    Metrics of the parts appear as `<part>_<metric>`.

    Arguments:
        parts: name -> objective.

    Raises:
        ConfigError: no parts.
    """

    def __init__(self, parts: Mapping[str, PairObjective]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError("a composite objective needs at least one part.")
        self.parts = nn.ModuleDict(dict(parts))
        sizes = [part.chunk_size for _, part in self._objectives() if part.chunk_size is not None]
        self.chunk_size = min(sizes, default=None)

    def bind(
        self, pixels: Mapping[str, int], features: Mapping[str, int], bottleneck: Bottleneck | None = None
    ) -> "Composite":
        super().bind(pixels, features, bottleneck)
        for _, part in self._objectives():
            part.bind(pixels, features, bottleneck)
        return self

    def _objectives(self) -> list[tuple[str, PairObjective]]:
        return [(name, part) for name, part in self.parts.items() if isinstance(part, PairObjective)]

    def part(self, kind: type[PairObjective]) -> PairObjective | None:
        """The first part of a kind, None if there is none."""
        return next((part for _, part in self._objectives() if isinstance(part, kind)), None)

    def set_reference(self, modality: str, mean: Tensor, cov: Tensor, floor: float = 1e-2) -> None:
        """Passed on to the parts that state gains."""
        for _, part in self._objectives():
            if isinstance(part, DecoderMI):
                part.set_reference(modality, mean, cov, floor)

    def can_translate(self, a: str, b: str) -> bool:
        return any(part.can_translate(a, b) for _, part in self._objectives())

    def translate(self, embedding: Tensor, a: str, b: str) -> Tensor:
        """By the decoders among the parts, see `DecoderMI.translate`.

        Raises:
            ConfigError: no part has decoders.
        """
        part = self.part(DecoderMI)
        if not isinstance(part, DecoderMI):
            raise ConfigError(
                f"no part of this objective can translate {a} to {b}: choose a variant with decoders."
            )
        return part.translate(embedding, a, b)

    def forward(
        self, embeddings: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        losses: list[Tensor] = []
        metrics: Metrics = {}
        for name, part in self._objectives():
            loss, values = part(embeddings, batch)
            losses.append(loss)
            metrics |= {f"{name}_{key}": value for key, value in values.items()}
        total = sum(losses[1:], start=losses[0])
        return total, {"loss": total.detach(), **metrics}

    @classmethod
    def example(cls) -> "Composite":
        return cls({"contrastive": Contrastive.example(), "decoders": DecoderMI.example()})
