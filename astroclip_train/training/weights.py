"""What weights are, whatever trained them: the identity of an encoder for the stages and caches that take it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from ..config.fingerprint import fingerprint

__all__ = ["weights_hash"]


def weights_hash(checkpoint: Mapping[str, Any]) -> str:
    """SHA-256 of the modules' tensors and how they are built: two that agree give the same features."""
    digest = hashlib.sha256(fingerprint(checkpoint["architecture"]).encode())
    for part, state in sorted(checkpoint["modules"].items()):
        for name, value in sorted(state.items()):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
