"""Rebuilds plain modules from `{"_target_": "astroclip_train…", **arguments}`, without Hydra."""

import importlib
import inspect
from typing import Any

from torch import nn

from ..errors import RunError

__all__ = ["allow", "build_module"]

ROOMS = ("encoders", "objectives", "bottlenecks", "heads", "hub")
ALLOWED = ["torch.nn.", *(f"astroclip_train.{room}." for room in ROOMS)]


def allow(package: str) -> None:
    """Also builds parts of `package`; called by people, never because a file asks for it."""
    ALLOWED.append(package.rstrip(".") + ".")


def build_module(config: dict[str, Any], where: str = "architecture", **extra: Any) -> nn.Module:
    """Builds the module that a configuration describes, nested `_target_` entries first.

    Nothing outside the rooms of `ALLOWED` is ever imported or called, whatever the file says.

    Raises:
        RunError: a target is missing, not allowed, or does not take the arguments.
    """
    if not isinstance(config, dict) or not isinstance(config.get("_target_"), str):
        raise RunError(f"{where} names no _target_: export the model again with astro-model export.")
    target = config["_target_"]
    if not target.startswith(tuple(ALLOWED)):
        raise RunError(f"{where} asks for {target}, which is not a part of a model: do not trust this file.")
    factory = _locate(target, where)
    arguments = {
        k: _nested(v, f"{where}.{k}")
        for k, v in config.items()
        if not (k.startswith("_") and k.endswith("_"))
    }
    arguments |= extra
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise RunError(
            f"{where}: {target} does not take these arguments ({error}): use matching versions."
        ) from error
    module = factory(**arguments)
    if not isinstance(module, nn.Module):
        raise RunError(f"{where}: {target} does not make a module, and nothing else is built from a file.")
    return module


def _nested(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return build_module(value, where)
        return {k: _nested(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_nested(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def _locate(target: str, where: str) -> Any:
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise RunError(
            f"{where}: {target} is not in this astro-train ({error}): install the version that made it."
        ) from error
    if getattr(found, "__module__", "").startswith(tuple(ALLOWED)) or target.startswith("torch.nn."):
        return found
    raise RunError(
        f"{where}: {target} is only imported there and not a part of a model: do not trust this file."
    )
