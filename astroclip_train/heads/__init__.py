"""Heads: tokens to embeddings that are aligned, and embeddings to labels; every file is found by itself."""

from typing import Any

from ..registry import discover, lookup
from .alignment import AlignmentHead
from .base import Head, Prediction

__all__ = ["ALIGNMENT_HEADS", "HEADS", "AlignmentHead", "Head", "Prediction"]

HEADS = discover(__name__, Head)
ALIGNMENT_HEADS = discover(__name__, AlignmentHead)


def __getattr__(name: str) -> Any:
    return lookup(name, __name__, HEADS, ALIGNMENT_HEADS)
