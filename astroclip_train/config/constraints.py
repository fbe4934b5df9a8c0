"""What an annotation of the schema says beside a type: bounds of numbers, nodes that name a class, partial nodes."""

from dataclasses import dataclass
from typing import Annotated

__all__ = ["AtLeast", "Between", "Count", "Fraction", "Partial", "Positive", "Target"]


@dataclass(frozen=True)
class Target:
    """A node with `_target_`; `supplied` are the arguments that the program adds."""

    supplied: tuple[str, ...] = ()


@dataclass(frozen=True)
class AtLeast:
    """A lower bound of a number."""

    low: float


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both allowed unless `open_low`."""

    low: float
    high: float
    open_low: bool = False


class Partial:
    """`Annotated[Schema, Partial]`: any subset of the keys."""


Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
Fraction = Annotated[float, Between(0, 1)]
