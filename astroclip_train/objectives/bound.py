"""A pair objective with its data-dependent sizes, as one buildable thing: what checkpoints record."""

from collections.abc import Mapping

from ..bottlenecks.base import Bottleneck
from .base import PairObjective

__all__ = ["bound"]


def bound(
    objective: PairObjective,
    pixels: Mapping[str, int],
    features: Mapping[str, int],
    bottleneck: Bottleneck | None = None,
) -> PairObjective:
    """Binds an objective: see `PairObjective.bind`."""
    return objective.bind(pixels, features, bottleneck)
