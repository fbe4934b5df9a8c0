"""Objectives: embeddings to a loss; every file of this folder is found by itself."""

from typing import Any

from ..registry import discover, lookup
from .base import EncoderObjective, PairObjective

__all__ = ["ENCODER_OBJECTIVES", "OBJECTIVES", "PAIR_OBJECTIVES", "EncoderObjective", "PairObjective"]

ENCODER_OBJECTIVES = discover(__name__, EncoderObjective)
PAIR_OBJECTIVES = discover(__name__, PairObjective)
OBJECTIVES = ENCODER_OBJECTIVES | PAIR_OBJECTIVES


def __getattr__(name: str) -> Any:
    return lookup(name, __name__, OBJECTIVES)
