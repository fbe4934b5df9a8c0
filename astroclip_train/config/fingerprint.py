"""Fingerprints: a hash of canonical JSON, equal for equal content whatever the order of keys or the type of numbers."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from .keys import stage_identity

__all__ = ["canonical", "fingerprint", "stage_fingerprint"]


def canonical(value: Any) -> str:
    """JSON with sorted keys; 1.0 is 1, tuples are lists, non-finite numbers are names.

    Raises:
        TypeError: a value that is not plain data.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(v) for v in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def fingerprint(value: Any) -> str:
    """The SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def stage_fingerprint(cfg: DictConfig, stage: str, data_content: Any, inputs: Mapping[str, str]) -> str:
    """What decides a finished stage's weights: its identity keys, its data's content and its inputs' fingerprints.

    Arguments:
        cfg: the resolved configuration.
        stage: its name.
        data_content: content hash of the stage's data (a string, or one per store).
        inputs: input name -> fingerprint, e.g. `{"lrs": "ab12…"}`.
    """
    return fingerprint({"keys": stage_identity(cfg, stage), "data": data_content, "inputs": dict(inputs)})
