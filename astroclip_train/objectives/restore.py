r"""Restoration of a spectrum from the tokens of a noisier copy with hidden stretches, for any encoder.

.. math:: L = \frac{\sum_i w_i\,|\hat x_i - x_i| / s}{\sum_i w_i}
          + \frac{\lambda}{|P|} \sum_{(i,j) \in P} \left(\frac{|\hat y_{ij} - y_{ij}|}{u_{ij}} + \ln u_{ij}\right),
          \qquad \hat x, \hat y, u = D(E(x + a \sigma \varepsilon,\ \text{windows hidden})), \qquad
          w_i = \frac{1}{\sigma_i^2 / s^2 + 1/4}

with P the labels that are known, standardised: those of simulated spectra in a mixture with observed ones.

Axes: b batch, n tokens, d width, l pixels, k code or labels.
"""

import torch
from torch import Tensor, nn

from ..distributed.collectives import global_mean
from ..encoders.base import Encoder
from ..encoders.convolution import ConvEncoder
from ..errors import ConfigError
from .base import EncoderObjective, Metrics

__all__ = ["Restore"]

_EDGE = 1e-6  # uniform draws in float32 reach 0, whose normal quantile is infinite


class Restore(EncoderObjective):
    """Denoising autoencoder of whole spectra: the encoder needs no decoder and no tokens that can be hidden.

    Noise is drawn from the inverse variances where they are known. Hidden pixels are marked as bad, which every
    encoder passes over; they count in the loss like all others.

    References:
        Extracting and composing robust features with denoising autoencoders, Vincent et al. 2008,
        doi:10.1145/1390156.1390294

    Arguments:
        n_tokens, width, length: n, d and l of the encoder.
        code: hidden units k of the decoder, which sees all tokens one after another.
        noise: the largest added noise over that of the pixel.
        hide: share of the windows that are hidden.
        window: pixels of a window.
        regress: λ, weight of the labels; 0 leaves them out.
        n_labels: their number, which the data give.
        centre, scale: pixels are restored as (x − centre) / s; the defaults suit spectra over their continuum.

    Raises:
        ConfigError: `hide` is no share, or the encoder has other sizes.
    """

    label_mean: Tensor
    label_std: Tensor

    def __init__(
        self,
        n_tokens: int,
        width: int,
        length: int,
        code: int = 256,
        noise: float = 1.0,
        hide: float = 0.3,
        window: int = 25,
        regress: float = 0.0,
        n_labels: int = 0,
        centre: float = 1.0,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= hide < 1:
            raise ConfigError(
                f"hide={hide} must lie in [0, 1): it is the share of the windows that are hidden."
            )
        self.length, self.noise, self.hide, self.window = length, noise, hide, window
        self.centre, self.scale = centre, scale
        self.features = n_tokens * width
        self.decoder = nn.Sequential(nn.Linear(self.features, code), nn.GELU(), nn.Linear(code, length))

        self.regress, self.uses_labels = regress, regress > 0
        if self.uses_labels and not n_labels:
            raise ConfigError(f"regress={regress} needs labels: set labels.names, or take regress=0.")
        if self.uses_labels:
            self.register_buffer("label_mean", torch.zeros(n_labels))
            self.register_buffer("label_std", torch.ones(n_labels))
            self.regressor = nn.Sequential(
                nn.Linear(self.features, code), nn.GELU(), nn.Linear(code, 2 * n_labels)
            )

    def prepare(self, labels: Tensor) -> None:
        mean = labels.nanmean(dim=0)
        std = (labels - mean).square().nanmean(dim=0).sqrt()
        self.label_mean.copy_(mean)
        self.label_std.copy_(torch.where(std > 0, std, 1.0))

    @property
    def n_windows(self) -> int:
        """Windows of a spectrum, the last of which may be shorter."""
        return -(-self.length // self.window)

    def extra_repr(self) -> str:
        return f"noise={self.noise}, hide={self.hide}, window={self.window}, regress={self.regress}"

    def n_uniforms(self, encoder: Encoder) -> int:
        return 1 + self.n_windows + self.length

    def damaged(
        self, x: Tensor, ivar: Tensor | None, mask: Tensor | None, uniforms: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The copy that the encoder sees: flux, inverse variance and mask, each (b, l)."""
        amount, windows, noise = uniforms.to(x.dtype).split([1, self.n_windows, self.length], dim=1)
        visible = (windows >= self.hide).repeat_interleave(self.window, dim=1)[:, : self.length]
        visible = visible if mask is None else visible & mask
        if ivar is not None and self.noise:
            sigma = torch.where(ivar > 0, ivar, torch.inf).rsqrt().clamp_max(10 * self.scale)
            x = x + self.noise * amount * sigma * torch.special.ndtri(noise.clamp(_EDGE, 1 - _EDGE))
            ivar = ivar / (1 + (self.noise * amount).square())
        return x, ivar, visible

    def forward(
        self,
        encoder: Encoder,
        x: Tensor,
        ivar: Tensor | None,
        mask: Tensor | None,
        uniforms: Tensor,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Metrics]:
        tokens = encoder(*self.damaged(x, ivar, mask, uniforms)).flatten(1)
        if tokens.shape[1] != self.features or x.shape[1] != self.length:
            raise ConfigError(
                f"Restore was made for {self.features} features of {self.length} pixels, but the encoder makes "
                f"{tokens.shape[1]} of {x.shape[1]}: leave out n_tokens, width and length, which it then gives."
            )
        good = torch.isfinite(x) if mask is None else torch.isfinite(x) & mask
        weight = good.to(tokens.dtype)
        if ivar is not None:
            weight = torch.where(ivar > 0, weight, 0.0) / (1 / (ivar.clamp_min(1e-12) * self.scale**2) + 0.25)
        target = torch.where(good, x - self.centre, 0.0) / self.scale
        error = (self.decoder(tokens) - target).abs() * weight
        restoring = global_mean(error.sum(), weight.sum(), 1e-12)
        if labels is None or not self.uses_labels:
            return restoring, {"loss": restoring.detach()}
        regression = self._regression(tokens, labels)
        loss = restoring + self.regress * regression
        return loss, {"loss": loss.detach(), "restore": restoring.detach(), "regress": regression.detach()}

    def _regression(self, tokens: Tensor, labels: Tensor) -> Tensor:
        known = torch.isfinite(labels)
        target = torch.where(known, (labels - self.label_mean) / self.label_std, 0.0).to(tokens.dtype)
        mean, log_width = self.regressor(tokens).chunk(2, dim=1)
        log_width = log_width.clamp(-4.0, 3.0)
        terms = (target - mean).abs() * torch.exp(-log_width) + log_width
        return global_mean((terms * known).sum(), known.sum())

    @classmethod
    def example(cls) -> tuple["Restore", ConvEncoder]:
        encoder = ConvEncoder.example()
        return cls(encoder.n_tokens, encoder.width, encoder.length, code=8, window=10), encoder
