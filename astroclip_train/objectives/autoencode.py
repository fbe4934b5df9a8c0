r"""Plain reconstruction of the input vector of an autoencoder.

.. math:: L = \sum_i w_i |\hat v_i - v_i|^p / \sum_i w_i, \qquad p = 2 \text{ or } 1
"""

from torch import Tensor

from ..distributed.collectives import global_mean
from ..encoders.autoencoder import AutoEncoder
from ..encoders.base import Encoder
from ..registry import choose
from .base import EncoderObjective, Metrics

__all__ = ["Autoencode"]


class Autoencode(EncoderObjective):
    """Mean squared error between the input vector of an `AutoEncoder` (statistics included) and its
    reconstruction.

    Arguments:
        ivar_weighted: weight entries by the share of signal in their variance (see `Tokens`) instead of
            equally.

        error: `"mse"` (published) or `"l1"`, which a few bad or very noisy spectra move less.

    Raises:
        ConfigError: the encoder cannot reconstruct.
    """

    trains = AutoEncoder

    def __init__(self, ivar_weighted: bool = False, error: str = "mse") -> None:
        super().__init__()
        self.ivar_weighted, self.error = ivar_weighted, choose("error", error, ("mse", "l1"))

    def n_uniforms(self, encoder: Encoder) -> int:
        return 0

    def forward(
        self, encoder: Encoder, x: Tensor, ivar: Tensor | None, mask: Tensor | None, uniforms: Tensor
    ) -> tuple[Tensor, Metrics]:
        self.check_encoder(type(encoder))
        assert isinstance(encoder, AutoEncoder)
        target, prediction, weight = encoder.reconstruct(x, ivar, mask)
        if not self.ivar_weighted:
            weight = (weight > 0).to(target.dtype)
        difference = prediction - target
        difference = difference.square() if self.error == "mse" else difference.abs()
        loss = global_mean((difference * weight).sum(), weight.sum(), 1e-12)
        return loss, {"loss": loss.detach()}

    @classmethod
    def example(cls) -> tuple["Autoencode", AutoEncoder]:
        return cls(), AutoEncoder.example()
