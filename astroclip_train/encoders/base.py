"""What every encoder is: a spectrum in, tokens out, with its sizes known without running it.

Axes: b batch, n tokens, l pixels, d width.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["Encoder"]


class Encoder(nn.Module, ABC):
    """Base class of the encoders.

    Attributes:
        length: pixels l of the input.
        width: features d of a token.
        n_tokens: tokens n of the output.
    """

    length: int
    width: int
    n_tokens: int

    @abstractmethod
    def forward(self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Encodes spectra.

        Arguments:
            x: flux in the store's unit, shape (b, l).
            ivar: inverse variance of `x`, shape (b, l), or None.
            mask: True where a pixel is good, shape (b, l), or None.

        Returns:
            Tokens of shape (b, n, d).
        """

    @abstractmethod
    def layer_groups(self) -> list[list[nn.Parameter]]:
        """All parameters, once each, grouped from input to output (for layer-wise learning-rate decay)."""

    @classmethod
    @abstractmethod
    def example(cls) -> "Encoder":
        """A tiny instance, with which the property tests run."""

    def flops(self, visible: int | None = None) -> int:
        """Operations (a multiply-add is two) of one forward pass of one object, or of `visible` tokens of it.

        The default counts the weights of linear layers, each used once per token.
        """
        n = self.n_tokens if visible is None else visible
        return 2 * n * sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))


def grouped(*groups: "nn.Module | nn.Parameter | list[nn.Module] | None") -> list[list[nn.Parameter]]:
    """Parameters of each argument (a module, a parameter, a list of modules), empty groups left out."""
    result = []
    for group in groups:
        members = group if isinstance(group, list) else [group]
        parameters: list[nn.Parameter] = []
        for member in members:
            if isinstance(member, nn.Parameter):
                parameters.append(member)
            elif member is not None:
                parameters.extend(member.parameters())
        if parameters:
            result.append(parameters)
    return result
