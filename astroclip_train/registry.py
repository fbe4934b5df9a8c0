"""A room's registry: every public subclass of its base class, found by importing the room's files."""

import importlib
import inspect
import pkgutil
from typing import Any

from .errors import ConfigError

__all__ = ["choose", "discover", "lookup"]


def discover(package: str, base: type) -> dict[str, type]:
    """Imports every module of a package and collects the concrete subclasses of `base` in their `__all__`.

    Arguments:
        package: dotted name of the room, such as `astroclip_train.encoders`.
        base: the room's base class; the base itself and abstract classes are left out.

    Returns:
        Class name -> class, in alphabetical order.
    """
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, base) and thing.__module__ == module.__name__:
                if thing is base or inspect.isabstract(thing):
                    continue
                found[name] = thing
    return dict(sorted(found.items()))


def lookup(name: str, package: str, *registries: dict[str, type]) -> Any:
    """The class of that name, for a package's module-level `__getattr__`.

    Raises:
        AttributeError: no registry has it.
    """
    for registry in registries:
        if name in registry:
            return registry[name]
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def choose(kind: str, name: str, choices: tuple[str, ...]) -> str:
    """Returns `name` if it is one of the choices.

    Raises:
        ConfigError: it is not.
    """
    if name not in choices:
        raise ConfigError(f"{kind}={name!r} is not known: choose one of {', '.join(choices)}.")
    return name
