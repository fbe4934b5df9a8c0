"""The contrastive loss with decoders beside it, its temperature at the same place as without them."""

from .composite import Composite
from .contrastive import Contrastive
from .decoder_mi import DecoderMI

__all__ = ["ContrastiveDecoders"]


class ContrastiveDecoders(Composite):
    """L = L_contrastive + L_decoders: the published variants r (own > 0), p (cross > 0), pr and split (both).

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        decoders: with their weights `own` and `cross`.
        temperature, learnable, max_scale, loss, weight, gather: see `Contrastive`.
        chunk_size: of embedding, comparing and decoding, see `Contrastive`.
    """

    def __init__(
        self,
        decoders: DecoderMI,
        temperature: float = 1 / 15.5,
        learnable: bool = False,
        max_scale: float = 100.0,
        loss: str = "infonce",
        weight: float = 1.0,
        chunk_size: int | None = None,
        gather: str = "with_gradient",
    ) -> None:
        contrastive = Contrastive(
            temperature, learnable=learnable, max_scale=max_scale, loss=loss, weight=weight,
            chunk_size=chunk_size, gather=gather,
        )  # fmt: skip
        decoders.chunk_size = chunk_size or decoders.chunk_size
        super().__init__({"contrastive": contrastive, "decoders": decoders})

    @classmethod
    def example(cls) -> "ContrastiveDecoders":
        return cls(DecoderMI.example())
