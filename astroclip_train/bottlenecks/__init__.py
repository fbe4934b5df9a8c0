"""Bottlenecks: which part of an embedding means what; every file of this folder is found by itself."""

from typing import Any

from ..registry import discover, lookup
from .base import Bottleneck

__all__ = ["BOTTLENECKS", "Bottleneck"]

BOTTLENECKS = discover(__name__, Bottleneck)


def __getattr__(name: str) -> Any:
    return lookup(name, __name__, BOTTLENECKS)
