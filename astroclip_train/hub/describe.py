"""What a model consists of: parameters, token shapes and FLOPs of each part, counted without memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from .build import build_module
from .model import find
from .parts import read_parts

__all__ = ["describe", "describe_config", "describe_path"]

Plans = dict[str, dict[str, Any]]


def describe_path(path: str | Path) -> dict[str, Any]:
    """Describes a run directory, checkpoint or exported folder; see `describe`."""
    return describe(read_parts(path).architecture)


def describe_config(config: dict[str, Any]) -> dict[str, Any]:
    """Describes what a composed configuration would train; see `describe`."""
    return describe(plans_of(config))


def describe(plans: Plans) -> dict[str, Any]:
    """Builds every part on the meta device and counts it.

    Returns:
        `parts`: name -> class, parameters, for encoders `tokens` (shape of what enters, without the batch),
        `output` shape and `flops_per_object` of a forward pass (a multiply-add counts as two);
        `total_parameters` over encoders, alignment heads and objective.
    """
    modules = {name: _build(name, plan) for name, plan in plans.items()}
    parts: dict[str, dict[str, Any]] = {}
    for name, module in modules.items():
        parts[name] = {
            "class": type(module).__name__,
            "parameters": _parameters(module),
            **_sizes(name, module),
        }
    for name, module in modules.items():
        parts[name] |= _forward(name, module, modules)
    whole = [n for n in parts if n.split(".", 1)[0] in ("encoders", "heads", "objective")]
    return {"parts": parts, "total_parameters": sum(parts[n]["parameters"] for n in whole)}


def _build(name: str, plan: dict[str, Any]) -> nn.Module:
    """On the meta device; the masks of a flow need real, small tensors."""
    try:
        with torch.device("meta"):
            return build_module(plan, name)
    except NotImplementedError:
        return build_module(plan, name)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sizes(name: str, module: nn.Module) -> dict[str, Any]:
    if not name.startswith(("encoders.", "single.", "tuned.")):
        return {}
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        return {"tokens": [int(tokenizer.n_tokens), int(tokenizer.features)]}
    entries = getattr(getattr(module, "input", None), "in_features", None)
    return {"tokens": [int(entries)]} if entries is not None else {}


def _forward(name: str, module: nn.Module, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """FLOPs and output shape of one object's forward pass, where its input is known."""
    kind, _, rest = name.partition(".")
    module.eval()
    if kind in ("encoders", "single", "tuned"):
        return _count(module, torch.empty(1, int(module.length), device="meta"))  # type: ignore[arg-type]
    if kind == "heads" and f"encoders.{rest}" in modules:
        encoder = modules[f"encoders.{rest}"]
        return _count(module, torch.empty(1, encoder.n_tokens, encoder.width, device="meta"))  # type: ignore[call-overload]
    decoding = find(module, "decode") if kind == "objective" else None
    if decoding is not None:
        heads = {n.split(".", 1)[1]: m for n, m in modules.items() if n.startswith("heads.")}
        return _decoders(decoding, heads)
    return {}


def _count(module: Any, *inputs: Tensor) -> dict[str, Any]:
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            output = module(*inputs)
    except (RuntimeError, NotImplementedError):
        flops = module.flops() if hasattr(module, "flops") else None
        return {"flops_per_object": flops}
    return {"output": list(output.shape[1:]), "flops_per_object": counter.get_total_flops()}


def _decoders(objective: Any, heads: dict[str, Any]) -> dict[str, Any]:
    flops = 0
    for name in objective.decoders:
        pair = name.removeprefix("own_").removeprefix("cross_")
        a, _, b = pair.partition("_to_")
        b = b or a
        if a in heads:
            z = torch.empty(1, heads[a].features, device="meta")
            flops += (
                _count(lambda v, n=name, p=(a, b): objective.decode(n, *p, v), z)["flops_per_object"] or 0
            )
    return {"flops_per_object": flops, "decoders": {n: _parameters(d) for n, d in objective.decoders.items()}}


# -- from a configuration --------------------------------------------------------------------------------


def plans_of(config: dict[str, Any]) -> Plans:
    """Configurations of the parts that a composed configuration's stages build, sizes filled in.

    Raises:
        ConfigError: there is no encoder, or its length is not known without data.
    """
    stages = config.get("stages") or {}
    encoders: dict[str, dict[str, Any]] = {}
    plans: Plans = {}
    for name, stage in stages.items():
        if stage.get("_stage_") == "pretrain":
            encoders[name] = _with_length(stage["encoder"], stage["modality"])
            plans[f"encoders.{stage['modality']}"] = encoders[name]
    for name, stage in stages.items():
        if stage.get("_stage_") == "align":
            plans |= _align(name, stage, encoders)
    if not plans:
        raise ConfigError(
            "no stage of this configuration has an encoder: add +experiment=NAME, e.g. +experiment=specclip."
        )
    return plans


def _with_length(plan: dict[str, Any], modality: str) -> dict[str, Any]:
    from ..data.grids import LRS_GRID, XP_GRID

    known = {"lrs": LRS_GRID.n, "xp": XP_GRID.n}
    length = plan.get("length") or known.get(modality)
    if length is None:
        raise ConfigError(f"the encoder of {modality} has no length without its data: set its length.")
    return {**plan, "length": int(length)}


def _align(name: str, stage: dict[str, Any], encoders: Plans) -> Plans:
    plans: Plans = {}
    for modality, node in stage["encoders"].items():
        origin = str(node["from"] if isinstance(node, dict) else node)
        if origin in encoders:
            plans[f"encoders.{modality}"] = encoders[origin]
        else:
            parts = read_parts(origin).architecture
            plans[f"encoders.{modality}"] = parts[f"encoders.{modality}"]
    with torch.device("meta"):
        built: dict[str, Any] = {n: build_module(p, n) for n, p in plans.items()}
        for modality, node in stage["heads"].items():
            encoder = built[f"encoders.{modality}"]
            plan = {"n_tokens": encoder.n_tokens, "width": encoder.width, **node}
            plans[f"heads.{modality}"] = plan
            built[f"heads.{modality}"] = build_module(plan, f"stages.{name}.heads.{modality}")
    modalities = list(stage["heads"])
    objective = {
        "_target_": "astroclip_train.objectives.bound.bound",
        "objective": stage["objective"],
        "pixels": {m: int(built[f"encoders.{m}"].length) for m in modalities},
        "features": {m: int(built[f"heads.{m}"].features) for m in modalities},
    }
    if stage.get("bottleneck"):
        objective["bottleneck"] = stage["bottleneck"]
    return {**plans, "objective": objective}
