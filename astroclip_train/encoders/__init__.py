"""Encoders: a spectrum to tokens, and tokens to one vector; every file of this folder is found by itself."""

from typing import Any

from ..registry import discover, lookup
from .base import Encoder
from .pooling import Pool
from .tokenizer import Tokenizer, Tokens

__all__ = ["ENCODERS", "POOLINGS", "Encoder", "Pool", "Tokenizer", "Tokens"]

ENCODERS = discover(__name__, Encoder)
POOLINGS = discover(__name__, Pool)


def __getattr__(name: str) -> Any:
    return lookup(name, __name__, ENCODERS, POOLINGS)
