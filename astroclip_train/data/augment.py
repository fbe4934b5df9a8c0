r"""Random changes of training spectra that leave their labels as they are.

.. math:: x'_i = x_{i+s} + a\,\sigma_{i+s}\,\varepsilon_i, \qquad
          a \sim U(0, A),\quad s \sim U\{-S, \dots, S\},\quad \varepsilon_i \sim N(0, 1)

Axes: b batch, l pixels.
"""

import torch
from torch import Tensor

from ..errors import ConfigError
from ..randomness import normal, uniform

__all__ = ["NoiseAndShift"]

_LARGEST = (
    10.0  # σ of a pixel over the median σ of its spectrum: beyond it the inverse variance means "unknown"
)


class NoiseAndShift:
    """Spectra seen again with more noise, a few pixels away; a function of (seed, stream, epoch, object).

    Noise is drawn from the inverse variances, which are made smaller accordingly; a modality without them gets none.
    Pixels moved in from beyond an end repeat its value and are marked as bad.

    Arguments:
        noise: A, the largest added noise over that of the pixel: at 1, the S/N falls by up to √2.
        shift: S, the largest shift in pixels either way.

    Raises:
        ConfigError: a negative argument.
    """

    def __init__(self, noise: float = 1.0, shift: int = 0) -> None:
        if noise < 0 or shift < 0:
            raise ConfigError(f"augment: noise={noise} and shift={shift} must not be negative: 0 is none.")
        self.noise, self.shift = float(noise), int(shift)

    def __call__(
        self, batch: dict[str, Tensor], modality: str, *, seed: int, epoch: Tensor | int, stream: str
    ) -> dict[str, Tensor]:
        """The batch with `<modality>`, its `_ivar` and its `_mask` replaced, all of shape (b, l)."""
        x, ivar, mask = (batch.get(modality + suffix) for suffix in ("", "_ivar", "_mask"))
        if x is None:
            return batch
        l = x.shape[1]
        draws = uniform(seed, epoch, batch["object"], 2, f"{stream}/augment/{modality}").to(x.device)
        if self.shift:
            moved = (draws[:, :1] * (2 * self.shift + 1)).long() - self.shift
            place = torch.arange(l, device=x.device) + moved
            inside = (place >= 0) & (place < l)
            place = place.clamp(0, l - 1)
            x = x.gather(1, place)
            ivar = None if ivar is None else ivar.gather(1, place)
            mask = inside if mask is None else mask.expand(x.shape).gather(1, place) & inside
        if self.noise and ivar is not None:
            amount = (draws[:, 1:] * self.noise).to(x.dtype)
            noise = normal(seed, epoch, batch["object"], l, f"{stream}/noise/{modality}").to(x)
            x = x + amount * _sigma(ivar) * noise
            ivar = ivar / (1 + amount.square())
        changed = {modality: x, f"{modality}_ivar": ivar, f"{modality}_mask": mask}
        return {**batch, **{k: v for k, v in changed.items() if v is not None}}


def _sigma(ivar: Tensor) -> Tensor:
    """Standard deviations (b, l), 0 where unknown."""
    sigma = torch.where(ivar > 0, ivar, torch.inf).rsqrt()
    typical = torch.where(ivar > 0, sigma, torch.nan).nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    return torch.minimum(sigma, _LARGEST * typical)
