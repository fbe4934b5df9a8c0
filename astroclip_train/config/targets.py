"""Objects from configuration nodes: `{_target_: name, **arguments}` for names under allowed prefixes only."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import AstroTrainError, ConfigError

__all__ = [
    "allow_target",
    "allowed_prefixes",
    "arguments_of",
    "build",
    "build_optimizer",
    "check_arguments",
    "locate",
    "with_sizes",
]

PREFIXES = (
    "astroclip_train.",
    "torch.optim.",
    "torch.nn.",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.strategies.",
)
_extra: list[str] = []


def allow_target(prefix: str) -> None:
    """Allows `_target_` names under a package for this process; only code and the command line call it, no file."""
    _extra.append(prefix.rstrip(".") + ".")


def allowed_prefixes() -> tuple[str, ...]:
    """Prefixes that `_target_` may begin with: ours, torch's and Lightning's, installed plugins, `--allow-target`."""
    return (*PREFIXES, *_plugins(), *_extra)


def _plugins() -> list[str]:
    from importlib.metadata import entry_points

    return [entry.module.split(".")[0] + "." for entry in entry_points(group="astro_train.plugins")]


def build(node: Any, **extra: Any) -> Any:
    """Builds the object that a node describes, nested nodes first.

    Arguments:
        node: a mapping with `_target_` (plain or OmegaConf); values are arguments, lists and mappings are searched for
            nested nodes. `_partial_: true` returns a function that waits for the rest.
        extra: arguments supplied by the caller, e.g. `params` of an optimiser.

    Raises:
        ConfigError: a target that is not allowed or cannot be imported, or arguments that it does not take.
    """
    plain: Any = (
        OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig | ListConfig) else node
    )
    if not isinstance(plain, Mapping) or "_target_" not in plain:
        raise ConfigError(f"{plain!r} has no _target_: name the class to build.")
    return _build(plain, "", extra)


def build_optimizer(node: Mapping[str, Any], params: Any) -> Any:
    """`build` for an optimiser; `fused`, which the optimiser group sets, is left out where a class has no such step."""
    plain = dict(node)
    if "fused" in plain and "fused" not in inspect.signature(locate(str(plain["_target_"]))).parameters:
        del plain["fused"]
    return build(plain, params=params)


def _build(node: Mapping[str, Any], where: str, extra: Mapping[str, Any]) -> Any:
    factory = locate(node["_target_"], where)
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    arguments = {k: _value(v, f"{where}.{k}".lstrip(".")) for k, v in given.items()}
    arguments.update(extra)
    later = tuple(arguments_of(factory)[0]) if node.get("_partial_") else None
    check_arguments(factory, arguments, where or str(node["_target_"]), supplied=later)
    if node.get("_partial_"):
        return _Partial(factory, arguments)
    try:
        return factory(**arguments)
    except AstroTrainError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where or node['_target_']} cannot be built ({error}): correct its arguments."
        ) from error


class _Partial:
    """A factory with some arguments already given."""

    def __init__(self, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.factory, self.arguments = factory, dict(arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.factory(*args, **{**self.arguments, **kwargs})


def _value(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _build(value, where, {})
        return {k: _value(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def locate(target: Any, where: str = "") -> Callable[..., Any]:
    """The class or function of a dotted name under an allowed prefix.

    Raises:
        ConfigError: not allowed, not importable, or not there; with the nearest name.
    """
    name = f"{where}._target_".lstrip(".")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{name}={target!r} is not a dotted name: write package.module.Class.")
    if not target.startswith(allowed_prefixes()):
        package = target.split(".")[0]
        raise ConfigError(
            f"{name}={target} is not allowed: only {', '.join(p.rstrip('.') for p in allowed_prefixes())} are; "
            f"if you trust it, add --allow-target {package}."
        )
    module_name, _, attribute = target.rpartition(".")
    module = _module(module_name, target, name)
    if attribute.startswith("_"):
        raise ConfigError(f"{name}={target} is private: name a public class.")
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        near = difflib.get_close_matches(attribute, _public(module), n=1)
        advice = f"did you mean {module_name}.{near[0]}?" if near else f"look at what {module_name} offers."
        raise ConfigError(f"{name}={target} does not exist: {advice}") from error
    if not callable(found) or inspect.ismodule(found):
        raise ConfigError(f"{name}={target} cannot be called: name a class or function.")
    home = str(getattr(found, "__module__", None) or module_name).split(".")[0]
    if home not in {prefix.split(".")[0] for prefix in allowed_prefixes()}:
        raise ConfigError(
            f"{name}={target} comes from {home}, which is not allowed: name a class of {module_name} itself."
        )
    return found


def _module(module_name: str, target: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        parent, _, leaf = module_name.rpartition(".")
        if parent:  # a class inside a class, or a wrong module
            try:
                holder = getattr(_module(parent, target, name), leaf)
                if inspect.isclass(holder):
                    return holder
            except (AttributeError, ConfigError):
                pass
        raise ConfigError(
            f"{name}={target} cannot be imported ({error}): correct the name or install it."
        ) from error


def _public(module: Any) -> list[str]:
    """Names of the classes and functions that a module offers, those in its registries included."""
    content = {n: v for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}
    registries = [v for v in content.values() if isinstance(v, dict) and all(isinstance(k, str) for k in v)]
    return [n for n, v in content.items() if callable(v)] + [
        name for registry in registries for name in registry
    ]


def arguments_of(factory: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a class or function and whether it takes any others besides."""
    parameters = inspect.signature(factory).parameters
    named = {
        n: p
        for n, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in ("self", "cls")
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def with_sizes(node: Mapping[str, Any], encoder: Any, labels: Sequence[str]) -> dict[str, Any]:
    """An objective's node completed by what its class takes of the encoder's sizes and the labels' number."""
    named, _ = arguments_of(locate(node["_target_"], "objective"))
    sizes = {n: getattr(encoder, n, None) for n in ("n_tokens", "width", "length")}
    sizes["n_labels"] = len(labels)
    return {**{n: v for n, v in sizes.items() if n in named and v is not None}, **node}


def check_arguments(
    factory: Callable[..., Any], given: Mapping[str, Any], where: str, *, supplied: Sequence[str] | None
) -> None:
    """Checks that arguments bind.

    Arguments:
        factory: what will be called.
        given: the node's arguments.
        where: the node's key, for the message.
        supplied: names that the program adds later; None when everything is in `given`.

    Raises:
        ConfigError: an unknown argument, with the nearest valid one, or a missing one.
    """
    try:
        named, open_ended = arguments_of(factory)
    except (TypeError, ValueError):  # compiled functions have no signature
        return
    label = getattr(factory, "__name__", str(factory))
    for name in given:
        if name not in named and not open_ended:
            near = difflib.get_close_matches(str(name), list(named), n=1)
            advice = f"did you mean {where}.{near[0]}?" if near else f"it takes {', '.join(sorted(named))}."
            raise ConfigError(f"{where}.{name} is not an argument of {label}: {advice}")
    needed = [
        n for n, p in named.items() if p.default is p.empty and n not in given and n not in (supplied or ())
    ]
    if needed:
        raise ConfigError(f"{where} has no {needed[0]}, which {label} needs: set {where}.{needed[0]}.")
