"""Validation of a composed configuration before any data is opened: one sentence for the first mistake."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from . import rules
from .constraints import Partial, Target
from .messages import closest, listing
from .schema import STAGES, Config, Task
from .types import accepts, expected, unwrap

__all__ = ["check_node", "validate", "validate_structure"]

Found = list[tuple[str, Mapping[str, Any], tuple[str, ...]]]


def validate_structure(cfg: DictConfig) -> Found:
    """Checks keys, types and what fields say about each other; imports nothing heavy.

    Returns:
        The nodes that name classes: (key, node, arguments supplied by the program).

    Raises:
        ConfigError: an unknown key, with the nearest valid one; a wrong type; a missing value; stages out of order.
    """
    plain = _plain(cfg)
    found: Found = []
    _check_dataclass(plain, Config, "", found)
    for name, node in plain["stages"].items():
        _check_stage(node, f"stages.{name}", found)
    rules.check(plain)
    return found


def validate(cfg: DictConfig) -> None:
    """Checks everything that can be known before data is opened: structure, classes, arguments, sizes.

    Raises:
        ConfigError: the first mistake that is found.
    """
    found = validate_structure(cfg)
    from . import trial  # imports torch

    for key, node, supplied in found:
        trial.check_target(key, node, supplied)
    plain = _plain(cfg)
    trial.check_machine(plain)
    trial.build_stages(plain)
    trial.build_data(plain)
    for key, node, _ in found:
        if node["_target_"].startswith("astroclip_train."):
            trial.check_counts(key, node)


def check_node(node: Mapping[str, Any], schema: type, where: str) -> None:
    """Checks one mapping of plain values against its schema.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    _check_dataclass(node, schema, where, [])


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def _check_stage(node: Any, where: str, found: Found) -> None:
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"{where}={_show(node)} must be a stage: a mapping with _stage_, one of {', '.join(STAGES)}."
        )
    kind = node.get("_stage_")
    if kind not in STAGES:
        near = closest(str(kind), STAGES)
        advice = f"did you mean {near}?" if near else f"choose from {', '.join(STAGES)}."
        if kind is None:
            name = where.removeprefix("stages.")
            raise ConfigError(
                f"{where} has no _stage_: {name} is not a stage of this experiment, or set its kind."
            )
        raise ConfigError(f"{where}._stage_={kind} is not a kind of stage: {advice}")
    _check_dataclass(node, STAGES[kind], where, found)
    for task, inner in (node.get("tasks") or {}).items():
        for text in inner.get("per_input") or {}:  # as the task is on that input
            merged = {k: v for k, v in rules.for_input(inner, text).items() if k != "per_input"}
            _check_dataclass(merged, Task, f"{where}.tasks.{task}.per_input.{text}", found)


def _check_dataclass(node: Any, schema: type, where: str, found: Found, partial: bool = False) -> None:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={_show(node)} must be a mapping with {listing(_fields(schema))}.")
    fields = _fields(schema)
    for name in node:
        if name not in fields:
            raise ConfigError(_unknown(str(name), where, fields))
    hints = get_type_hints(schema, include_extras=True)
    for name, field in fields.items():
        key = f"{where}.{name}" if where else name
        if name not in node:
            if field.default is dataclasses.MISSING and not partial:
                raise ConfigError(f"{key} is missing: give {key}=VALUE.")
            continue
        _check_value(node[name], hints[field.name], key, found)


def _fields(schema: type) -> dict[str, dataclasses.Field]:
    named = {f.name: f for f in dataclasses.fields(schema)}
    return {n if n.startswith("_") else n.rstrip("_"): f for n, f in named.items()}


def _check_value(value: Any, annotation: Any, key: str, found: Found) -> None:
    if value == "???":
        raise ConfigError(f"{key} has no value: give {key}=VALUE.")
    inner, extras = unwrap(annotation)
    target = next((e for e in extras if isinstance(e, Target)), None)
    if target is not None:
        _check_target(value, key, target, found)
        return
    origin, arguments = get_origin(inner), get_args(inner)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        member = _branch(value, arguments)
        if member is None:
            _refuse(value, annotation, key)
        else:
            _check_value(value, member, key, found)
    elif isinstance(inner, type) and dataclasses.is_dataclass(inner):
        _check_dataclass(value, inner, key, found, partial=Partial in extras)
    elif origin is dict and isinstance(value, Mapping):
        for name, item in value.items():
            _check_value(item, arguments[1], f"{key}.{name}", found)
    elif origin is list and isinstance(value, list) and dataclasses.is_dataclass(unwrap(arguments[0])[0]):
        for number, item in enumerate(value):
            _check_value(item, arguments[0], f"{key}.{number}", found)
    elif not accepts(value, annotation):
        _refuse(value, annotation, key)


def _branch(value: Any, arguments: tuple[Any, ...]) -> Any:
    """The member of a union that a value is meant for, by its shape."""
    for annotation in arguments:
        inner, extras = unwrap(annotation)
        structured = any(isinstance(e, Target) for e in extras) or dataclasses.is_dataclass(inner)
        if structured and isinstance(value, Mapping):
            return annotation
        if get_origin(inner) is dict and isinstance(value, Mapping):
            return annotation
        if get_origin(inner) is list and isinstance(value, list):
            return annotation
        if not structured and accepts(value, annotation):
            return annotation
    return None


def _check_target(value: Any, key: str, target: Target, found: Found) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={_show(value)} must be a mapping with _target_, the name of a class.")
    if "_target_" not in value:
        given = f", it has {listing(value)}" if value else ""
        raise ConfigError(
            f"{key} has no _target_, the name of a class{given}: choose one with {_group(key)}=NAME."
        )
    found.append((key, value, target.supplied))
    _inner_targets(value, key, found)


def _inner_targets(node: Any, key: str, found: Found) -> None:
    """Nested nodes are arguments: nothing is supplied to them. Missing values are told by their whole key."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        inner = f"{key}.{name}"
        if value == "???":
            raise ConfigError(f"{inner} has no value: give {inner}=VALUE.")
        if isinstance(value, Mapping) and "_target_" in value:
            found.append((inner, value, ()))
        _inner_targets(value, inner, found)


def _group(key: str) -> str:
    name = key.rsplit(".", 1)[-1]
    return f"{name}@{key}" if "." in key else name


def _unknown(name: str, where: str, fields: Mapping[str, Any]) -> str:
    key = f"{where}.{name}" if where else name
    near = closest(name, fields)
    prefix = f"{where}." if where else ""
    if near:
        return f"{key} is not a key: did you mean {prefix}{near}?"
    place = where or "a configuration"
    free = "" if where else "; values of your own go under vars"
    return f"{key} is not a key: {place} has {listing(fields, 30)}{free}."


def _refuse(value: Any, annotation: Any, key: str) -> None:
    advice = (
        f": write {key}=[{value}]"
        if expected(annotation).startswith("a list") and isinstance(value, str)
        else ""
    )
    raise ConfigError(f"{key}={_show(value)} must be {expected(annotation)}{advice}.")


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if len(str(value)) < 60 else f"{str(value)[:57]}..."
