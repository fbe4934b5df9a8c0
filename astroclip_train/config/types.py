"""Whether a configuration value fits an annotation, and how to say what was expected."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .constraints import AtLeast, Between

__all__ = ["accepts", "expected", "unwrap"]

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
PRIMITIVES = (bool, int, float, str)


def unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without `Annotated`, and what was attached to it."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        return inner, tuple(extras)
    return annotation, ()


def accepts(value: Any, annotation: Any) -> bool:
    """Whether a plain value (from YAML) fits the annotation; annotations that are not understood accept all."""
    annotation, extras = unwrap(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is object or isinstance(annotation, str):
        return True
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(accepts(value, a) for a in arguments)
    if origin is Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if value is None:
        return False
    if isinstance(value, Mapping) and "_target_" in value:
        return annotation not in PRIMITIVES  # a built object
    return _fits_class(value, origin or annotation, arguments) and all(_within(value, e) for e in extras)


def _fits_class(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (str, Path):
        return isinstance(value, str)
    if not isinstance(kind, type):
        return True  # a type variable, a callable, a protocol
    if isinstance(value, list | tuple):
        if not issubclass(kind, Sequence) and kind.__name__ not in ("Iterable", "Collection", "set"):
            return False
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(accepts, value, arguments))
        return not arguments or all(accepts(v, arguments[0]) for v in value)
    if isinstance(value, Mapping):
        fits = issubclass(kind, Mapping)
        return fits and (len(arguments) < 2 or all(accepts(v, arguments[1]) for v in value.values()))
    return not isinstance(value, PRIMITIVES)


def _within(value: Any, bound: Any) -> bool:
    if isinstance(bound, AtLeast) and isinstance(value, int | float):
        return value >= bound.low
    if isinstance(bound, Between) and isinstance(value, int | float):
        return bound.low <= value <= bound.high and not (bound.open_low and value == bound.low)
    return True


def expected(annotation: Any) -> str:
    """What an annotation asks for, in words."""
    annotation, extras = unwrap(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [expected(a) for a in arguments if a is not type(None) and expected(a)]
        words = list(dict.fromkeys(words))
        return " or ".join(words + (["null"] if type(None) in arguments else []))
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(a) for a in arguments)
    kind = origin or annotation
    word = WORDS.get(kind, "")
    for bound in extras:
        if isinstance(bound, AtLeast):
            word += f" of at least {bound.low:g}"
        if isinstance(bound, Between):
            word += f" {'above' if bound.open_low else 'from'} {bound.low:g} to {bound.high:g}"
    if not word and isinstance(kind, type):
        if issubclass(kind, Sequence):
            word = "a list" + (
                f" of {_plural(arguments[0])}" if arguments and arguments[0] is not Ellipsis else ""
            )
        elif issubclass(kind, Mapping):
            word = "a mapping"
    return word


def _plural(annotation: Any) -> str:
    kind = unwrap(annotation)[0]
    return {int: "whole numbers", float: "numbers", str: "names", bool: "true or false"}.get(kind, "entries")
