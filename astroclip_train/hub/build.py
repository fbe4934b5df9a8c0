"""Rebuilds plain modules from `{"_target_": "astroclip_train…", **arguments}`, without Hydra."""

import importlib
import inspect
from typing import Any

from torch import nn

from ..errors import RunError

__all__ = ["ALLOWED", "build_module"]

ALLOWED = ("astroclip_train.", "torch.nn.")


def build_module(config: dict[str, Any], where: str = "architecture", **extra: Any) -> nn.Module:
    """Builds the module that a configuration describes, nested `_target_` entries first.

    Nothing outside `astroclip_train.` and `torch.nn.` is ever imported, whatever the file says.

    Raises:
        RunError: a target is missing, not allowed, or does not take the arguments.
    """
    if not isinstance(config, dict) or not isinstance(config.get("_target_"), str):
        raise RunError(f"{where} names no _target_: export the model again with astro-model export.")
    target = config["_target_"]
    if not target.startswith(ALLOWED):
        raise RunError(
            f"{where} asks for {target}, and only {' and '.join(ALLOWED)} parts are built: do not trust it."
        )
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
    if "_bind_" in config:  # sizes that an objective learns from the data: pixels, features, bottleneck
        module = module.bind(**_nested(config["_bind_"], f"{where}._bind_"))
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
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise RunError(f"{where}: {target} is not a module class, and nothing else is built from a file.")
    return found
