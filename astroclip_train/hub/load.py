"""Loads a trained model for use in plain PyTorch: no Hydra, no Lightning."""

from pathlib import Path
from typing import Any

import torch

from ..errors import RunError
from .build import build_module
from .model import AstroModel
from .parts import Parts, read_parts
from .routes import model_routes

__all__ = ["assemble", "checkpoint_of", "load"]


def load(path: str | Path, device: str | torch.device = "cpu") -> AstroModel:
    """The model of an exported folder, a run directory or a checkpoint, in evaluation mode.

    >>> model = load("my-export")                                        # doctest: +SKIP
    >>> z = model.embed("lrs", flux)                                     # doctest: +SKIP

    Raises:
        RunError: nothing of the kind lies there, it is damaged, or weights and architecture do not fit.
    """
    return assemble(read_parts(path)).to(device)


def assemble(parts: Parts) -> AstroModel:
    """Builds every part from its configuration and gives it its weights.

    Raises:
        RunError: a part cannot be built or its weights do not fit.
    """
    modules = {}
    for name, config in parts.architecture.items():
        with torch.random.fork_rng(
            devices=[]
        ):  # initial values are overwritten; the caller's stream stays untouched
            module = build_module(config, f"{name} in {parts.source}")
        try:
            module.load_state_dict(parts.modules[name])
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"{parts.source}: the weights of {name} do not fit its architecture ({reason}): "
                "export again with the version that trained it."
            ) from error
        modules[name] = module.requires_grad_(False)
    routes = model_routes(modules)
    return AstroModel(modules, parts.metadata, routes)


def checkpoint_of(path: str | Path) -> dict[str, Any]:
    """Modules, architecture and metadata of an exported folder or run, named as in a stage's checkpoint.

    A folder with a single encoder offers it as `encoder` too, as the stage that pretrains one does.

    Raises:
        RunError: nothing of the kind lies there, or it is damaged.
    """
    parts = read_parts(path)
    encoders = [name for name in parts.modules if name.startswith("encoders.")]
    if len(encoders) == 1:
        parts.modules["encoder"] = parts.modules[encoders[0]]
        parts.architecture["encoder"] = parts.architecture[encoders[0]]
    return {"modules": parts.modules, "architecture": parts.architecture, "metadata": parts.metadata}
