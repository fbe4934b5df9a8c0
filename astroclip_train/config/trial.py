"""Checks that need the classes themselves: allowed, importable, arguments that bind, sizes that fit."""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from ..errors import ConfigError
from ..objectives.base import EncoderObjective, refuse_batch_norm
from .rules import dataset_nodes, for_input
from .targets import arguments_of, build, build_optimizer, check_arguments, locate, with_sizes
from .types import accepts, expected

__all__ = ["build_data", "build_stages", "check_counts", "check_machine", "check_target"]

PRIMITIVE = (bool, int, float, str)


def check_target(key: str, node: Mapping[str, Any], supplied: Sequence[str]) -> None:
    """Checks one node: its class is allowed and there, its arguments bind and have the right types.

    Raises:
        ConfigError: they do not.
    """
    factory = locate(node["_target_"], key)
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    check_arguments(factory, given, key, supplied=None if node.get("_partial_") else supplied)
    hints = _hints(factory)
    named, _ = arguments_of(factory)
    for name, value in given.items():
        if name not in hints or (value is None and (name in supplied or named[name].default is None)):
            continue
        wanted = hints[name]
        if not accepts(value, wanted) and _primitive(wanted):
            raise ConfigError(f"{key}.{name}={value} must be {expected(wanted)}, as {factory.__name__} asks.")


def _hints(factory: Any) -> dict[str, Any]:
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names known to type checkers only
        return {}


def _primitive(annotation: Any) -> bool:
    """Whether the annotation speaks of values that a YAML can hold."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_primitive(a) for a in get_args(annotation) if a is not type(None))
    kind = get_origin(annotation) or annotation
    return kind in PRIMITIVE or (isinstance(kind, type) and issubclass(kind, Sequence | Mapping))


def check_counts(key: str, node: Mapping[str, Any]) -> None:
    """Checks that no number of things is negative in a node of ours; for what constructors have let pass.

    Raises:
        ConfigError: one is.
    """
    hints = _hints(locate(node["_target_"], key))
    for name, value in node.items():
        if name in hints and _negative_count(value, hints[name]):
            raise ConfigError(f"{key}.{name}={value} must not be negative: it is a number of things.")


def _negative_count(value: Any, annotation: Any) -> bool:
    """Whether a value, or one in a list, is below 0 where the annotation takes integers alone."""
    if isinstance(value, list):
        return any(isinstance(v, int) and v < 0 for v in value) and not accepts([0.5], annotation)
    return isinstance(value, int) and value < 0 and not accepts(0.5, annotation)


def check_machine(plain: Mapping[str, Any]) -> None:
    """Checks that the accelerators asked for are there.

    Raises:
        ConfigError: they are not.
    """
    for name, stage in plain["stages"].items():
        trainer = stage["trainer"]
        wanted = trainer["accelerator"]
        key = f"stages.{name}.trainer.accelerator={wanted}"
        if wanted in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            raise ConfigError(
                f"{key}, but torch sees no GPU on this machine: take trainer=cpu or trainer=default."
            )
        if wanted == "mps" and not torch.backends.mps.is_available():
            raise ConfigError(f"{key}, but this machine has no MPS: take trainer=cpu or trainer=default.")
        if trainer["precision"] == "16-mixed" and not torch.cuda.is_available():
            raise ConfigError(
                f"stages.{name}.trainer.precision={trainer['precision']} needs CUDA: take bf16-mixed."
            )


def build_stages(plain: Mapping[str, Any]) -> None:
    """Builds encoders, heads and objectives on the meta device, without memory, to see whether their sizes fit.

    Raises:
        ConfigError: a constructor refuses its arguments, or widths do not fit together.
    """
    for key, callback in (plain.get("callbacks") or {}).items():
        _construct(callback, f"callbacks.{key}")
    encoders: dict[str, nn.Module] = {}
    for name, stage in plain["stages"].items():
        where = f"stages.{name}"
        if stage.get("encoder"):
            _heads_divide(stage["encoder"], f"{where}.encoder")
            built = _build(stage["encoder"], f"{where}.encoder")
            if built is not None:
                encoders[name] = built
        if stage.get("objective") and not stage.get("encoders"):
            node = with_sizes(stage["objective"], encoders.get(name), plain["labels"]["names"])
            objective = _build(node, f"{where}.objective")
            _check_encoder(stage, where, objective)
            _monitor(
                stage["trainer"], f"{where}.trainer", _metrics(stage, where, encoders.get(name), objective)
            )
        if isinstance(stage.get("heads"), Mapping):
            _alignment(stage, where, encoders)
        _optimizer(stage["optimizer"], f"{where}.optimizer")
        for task, node in (stage.get("tasks") or {}).items():
            _task(node, f"{where}.tasks.{task}", stage, encoders, plain["labels"]["names"])


def build_data(plain: Mapping[str, Any]) -> None:
    """Makes the datasets, whose constructors read nothing, to see whether their values are possible.

    Raises:
        ConfigError: one refuses its arguments.
    """
    for key, node in dataset_nodes(plain):
        _construct(node, key)


def _construct(node: Mapping[str, Any], key: str, make: Callable[..., Any] = build, **extra: Any) -> Any:
    try:
        return make(node, **extra)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if key in text else f"{key}: {text}") from error
    except Exception as error:  # others refuse a value each by an error of their own
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {reason.rstrip('.')}: correct that value.") from error


def _optimizer(node: Mapping[str, Any], key: str) -> None:
    _construct(node, key, build_optimizer, params=[nn.Parameter(torch.zeros(1))])


def _task(
    node: Mapping[str, Any],
    key: str,
    stage: Mapping[str, Any],
    encoders: Mapping[str, nn.Module],
    labels: Sequence[str],
) -> None:
    """Head, encoder and pooling of a task on each of its inputs, with sizes where they are known."""
    for name in node["inputs"]:
        merged = for_input(node, name)
        _monitor({**stage["trainer"], **(merged.get("trainer") or {})}, f"{key}.trainer", ("loss",))
        if merged.get("head"):
            _build(merged["head"], f"{key}.head", in_features=16, labels=list(labels))
        if merged.get("optimizer"):
            _optimizer(merged["optimizer"], f"{key}.optimizer")
        modality, _, kind = name.partition(".")
        encoder: Any = None
        if merged.get("encoder"):
            lengths = [e.length for s, e in encoders.items() if s == modality or modality in s]
            plan = merged["encoder"]
            known = plan.get("length") or (lengths[0] if lengths else 1024)
            encoder = _build({**plan, "length": known}, f"{key}.encoder")
        elif kind == "single":
            origin = (stage.get("encoders") or {}).get(modality)
            named = origin if isinstance(origin, str) else (origin or {}).get("from")
            encoder = encoders.get(str(named))
        pooling = merged.get("pooling") or (stage.get("pooling") or {}).get(modality)
        if encoder is not None and pooling:
            where = (
                f"{key}.pooling" if merged.get("pooling") else f"{key.split('.tasks.')[0]}.pooling.{modality}"
            )
            _build(pooling, where, n_tokens=encoder.n_tokens, width=encoder.width)


def _heads_divide(node: Mapping[str, Any], key: str) -> None:
    width, heads = node.get("width"), node.get("heads")
    if isinstance(width, int) and isinstance(heads, int) and heads and width % heads:
        raise ConfigError(
            f"{key}.width={width} is not divisible by heads={heads}: "
            f"take heads that divide it, or width={width - width % heads + heads}."
        )


def _build(node: Mapping[str, Any], key: str, **extra: Any) -> Any:
    """The object on the meta device; None where it needs data first or real memory."""
    factory = locate(node["_target_"], key)
    plain = {k: v for k, v in node.items() if v is not None or k not in ("length",)}
    named, _ = arguments_of(factory)
    needed = [n for n, p in named.items() if p.default is p.empty and n not in plain and n not in extra]
    if needed:
        return None
    try:
        with torch.device("meta"):
            return build(plain, **extra)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if key in text else f"{key}: {text}") from error
    except (NotImplementedError, RuntimeError):  # an operation without a meta version
        return None


def _check_encoder(stage: Mapping[str, Any], where: str, objective: Any) -> None:
    """An objective and the class of its encoder, which is known before the length of the spectra."""
    kind = locate(stage["encoder"]["_target_"], f"{where}.encoder")
    if isinstance(objective, EncoderObjective) and isinstance(kind, type):
        try:
            objective.check_encoder(kind)
        except ConfigError as error:
            raise ConfigError(f"{where}.objective: {error}") from error


def _metrics(stage: Mapping[str, Any], where: str, encoder: Any, objective: Any) -> tuple[str, ...] | None:
    """Lets an objective see its encoder, e.g. for tokens that can be hidden; both live on the meta device.

    Returns:
        The names of what it measures; None where the meta device cannot tell.
    """
    fill, masking = stage["objective"].get("fill"), stage["encoder"].get("masking")
    if fill and masking and fill != masking:
        raise ConfigError(
            f"{where}.objective.fill={fill} does not fit {where}.encoder.masking={masking}: give both the same value."
        )
    length = getattr(encoder, "length", None)
    if encoder is None or objective is None or not length or not hasattr(objective, "n_uniforms"):
        return None
    try:
        with torch.no_grad():
            draws = torch.zeros(2, objective.n_uniforms(encoder), device="meta")
            _, metrics = objective(encoder, torch.zeros(2, length, device="meta"), None, None, draws)
            return ("loss", *metrics) if not getattr(objective, "uses_labels", False) else None
    except ConfigError as error:
        raise ConfigError(f"{where}.objective: {error}") from error
    except (NotImplementedError, RuntimeError, IndexError, ValueError):
        return None


def _monitor(trainer: Mapping[str, Any], where: str, measured: Sequence[str] | None) -> None:
    """Checks that what decides about the best checkpoint is measured."""
    monitor = trainer["monitor"]
    known = list(dict.fromkeys(f"val_{name}" for name in measured or ()))
    if measured is not None and monitor not in known:
        raise ConfigError(
            f"{where}.monitor={monitor} is not measured there: choose one of {', '.join(known)}."
        )


def _alignment(stage: Mapping[str, Any], where: str, encoders: Mapping[str, nn.Module]) -> None:
    """Heads on their encoders, then the objective bound to the heads' lengths."""
    features, pixels = {}, {}
    for modality, node in stage["heads"].items():
        origin = stage["encoders"][modality]
        encoder = encoders.get(origin if isinstance(origin, str) else origin["from"])
        if encoder is None:
            return
        key = f"{where}.heads.{modality}"
        head = _build(node, key, **{"n_tokens": encoder.n_tokens, "width": encoder.width})
        if head is None:
            return
        features[modality], pixels[modality] = head.features, encoder.length
    parts = {"pixels": pixels, "features": features}
    node = {"_target_": "astroclip_train.objectives.bound.bound", "objective": stage["objective"], **parts}
    if stage.get("bottleneck"):
        node["bottleneck"] = stage["bottleneck"]
    objective = _build(node, f"{where}.objective")
    if objective is not None:
        trained = {} if stage.get("frozen", True) else {f"encoder of {m}": encoders.get(m) for m in pixels}
        try:
            refuse_batch_norm(getattr(objective, "chunk_size", None), objective=objective, **trained)
        except ConfigError as error:
            raise ConfigError(f"{where}.{error}") from error
