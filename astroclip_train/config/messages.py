"""Hydra's and OmegaConf's errors, rewritten as one sentence that names the key and the nearest valid one."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

__all__ = ["closest", "explain", "explain_interpolation", "listing", "unknown_key"]


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None when nothing is near."""
    found = difflib.get_close_matches(word, [str(c) for c in choices], n=1, cutoff=0.55)
    return found[0] if found else None


def listing(choices: Iterable[str], limit: int = 12) -> str:
    """Names joined for a sentence, the rest counted."""
    names = sorted(str(c) for c in choices)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def explain(
    error: BaseException,
    overrides: Sequence[str],
    choices: dict[str, list[str]],
    retry: Callable[[Sequence[str]], DictConfig],
) -> str | None:
    """The sentence for a composition error, or None when it is not a user's mistake that is known.

    Arguments:
        error: what Hydra raised.
        overrides: the command's overrides.
        choices: the groups and their choices.
        retry: composes with fewer overrides, to see which keys would have been valid.
    """
    kind, text = type(error).__name__, str(error)
    if kind == "OverrideParseException":
        return _grammar(_unreadable(overrides), text)
    if kind == "MissingConfigException":
        return _missing(error, choices, overrides)
    if kind in ("ConfigCompositionException", "HydraException"):
        return _composition(error, text, overrides, choices, retry)
    if type(error).__module__.startswith("yaml"):
        where = getattr(error, "problem_mark", None)
        place = f"{where.name}, line {where.line + 1}" if where else "a YAML file"
        return f"{place} is not valid YAML ({getattr(error, 'problem', None) or 'syntax error'}): correct it there."
    if type(error).__module__.startswith("omegaconf"):
        return explain_interpolation(error)
    return None


def explain_interpolation(error: BaseException, cfg: DictConfig | None = None) -> str:
    """The sentence for a `${...}` that cannot be resolved."""
    text = str(error)
    key = getattr(error, "full_key", None) or _match(r"full_key: (\S+)", text)
    key = key or _holder(cfg, _match(r"Interpolation key '([^']+)' not found", text)) or "the configuration"
    missing = _match(r"Missing mandatory value: (\S+)", text) or _match(r"node '([^']+)' is missing", text)
    if missing:
        return f"{missing} has no value: give {missing}=VALUE on the command line."
    target = _match(r"Interpolation key '([^']+)' not found", text)
    if target:
        return f"{key} refers to {target}, which is not in the configuration: correct the ${{...}} or set {key} itself."
    unknown = _match(r"Unsupported interpolation type (\S+)", text)
    if unknown:
        return f"{key} uses an unknown resolver {unknown}: use oc.env, oc.select or by_scale."
    return f"{key} cannot be resolved ({text.splitlines()[0].rstrip('.')}): set it to a plain value."


def _holder(node: Any, target: str | None, prefix: str = "") -> str | None:
    """The key whose text has `${target}` in it."""
    items = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if isinstance(items, str):
        return prefix if target and "${" + target in items else None
    pairs = items.items() if isinstance(items, dict) else enumerate(items) if isinstance(items, list) else ()
    found = (_holder(value, target, _join(prefix, str(name))) for name, value in pairs)
    return next((key for key in found if key), None)


def unknown_key(key: str, cfg: DictConfig | None, choices: dict[str, list[str]]) -> str:
    """The sentence for a key that the composed configuration does not have."""
    parent, parts = "", key.split(".")
    node: Any = cfg
    for depth, part in enumerate(parts):
        if not OmegaConf.is_dict(node):
            return f"{key} is not a key: {parent or 'the configuration'} is a single value and has no {part}."
        if part not in node:
            names = [str(k) for k in node if not (depth == 0 and k == "hydra")]
            if depth == 0:
                names += list(choices)
            dotted = next(
                (n for n in names if "." in n and f"{'.'.join(parts[depth:])}.".startswith(f"{n}.")), None
            )
            if dotted:
                return (
                    f"{key}: {dotted} has a dot, which separates keys here: "
                    f"write '{parent}={{{dotted}: {{KEY: VALUE}}}}', which changes that alone."
                )
            where = f"in {parent}" if parent else "in the configuration"
            near = closest(part, names)
            if near:
                return f"{key} is not a key: there is no {part} {where}, did you mean {_join(parent, near)}?"
            return f"{key} is not a key: there is no {part} {where}, which has {listing(names)}."
        parent, node = _join(parent, part), node._get_node(part)
    return f"{key} cannot be set: look at the configuration with --cfg job."


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _grammar(override: str, text: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"{override!r} is not an override: write key=value, e.g. +experiment=specclip or run.seed=1."
    reason = text.splitlines()[0].split("See https")[0].strip().rstrip(".")
    reason = re.sub(r"^Error parsing override '.*?'", "", reason).strip() or "its value cannot be read"
    detail = next(
        (line.strip() for line in text.splitlines()[1:] if line.strip() and "See https" not in line), ""
    )
    return (
        f"{override!r} cannot be read as key=value ({detail or reason}): "
        "quote values with spaces or signs, e.g. \"run.name='my run'\"."
    )


def _missing(error: BaseException, choices: dict[str, list[str]], overrides: Sequence[str]) -> str:
    name = str(
        getattr(error, "missing_cfg_file", "") or _match(r"[Cc]ould not (?:find|load) '([^']+)'", str(error))
    )
    group, _, choice = name.removesuffix(".yaml").partition("/")
    options = choices.get(group, [])
    if not options:
        return f"{name} is not among the configuration files: the groups are {listing(choices)}."
    near = closest(choice, options)
    given = (o.split("=")[0].lstrip("+") for o in overrides if o.endswith(f"={choice}"))
    key = next((k for k in given if k.split("@")[0] == group), group)
    advice = f"did you mean {key}={near}? The choices are" if near else "the choices are"
    return f"{key}={choice} does not exist: {advice} {listing(options, 40)}."


def _composition(
    error: BaseException,
    text: str,
    overrides: Sequence[str],
    choices: dict[str, list[str]],
    retry: Callable[[Sequence[str]], DictConfig],
) -> str | None:
    key = _match(r"Could not (?:override|append|delete)[^']*'([^']+)'", text) or _match(
        r"Key '([^']+)'", text
    )
    first = text.splitlines()[0].rstrip(".")
    ambiguous = _match(r"Ambiguous value for argument '([^']+)'", text)
    if ambiguous:
        name, _, value = ambiguous.partition("=")
        return f"{ambiguous} gives several values: add -m to sweep over them, or write {name}=[{value}] for one list."
    if "is a sweep override" in text or "sweep parameters" in text.lower():
        sweep = _match(r"'([^']+)'", text) or "an override"
        return f"{sweep} gives several values: add -m to sweep over them, or write a [list]."
    if "Multiple values for" in text:
        name = _match(r"Multiple values for ([^\s.]+)", text) or "a group"
        plain = name.split("@")[0]
        return f"{plain} is given twice or with a plus it does not need: write {name}=CHOICE once."
    if "is not a list" in text or "Cannot" in text or "mismatch" in text.lower():
        return f"the configuration cannot be composed ({first}): correct that override."
    if key is None:
        return f"the configuration cannot be composed ({first}): correct that override or file."
    clean = key.split("=")[0].lstrip("+~")
    failing = [o for o in overrides if o.split("=")[0].lstrip("+~") == clean]
    try:
        cfg = retry([o for o in overrides if o not in failing])
    except Exception:
        cfg = None
    if "Could not append" in text:
        return f"{clean} exists already: write {clean}=VALUE without the plus."
    cause = error.__cause__ or error.__context__
    if cause is not None and type(cause).__name__ in (
        "ValidationError",
        "UnsupportedValueType",
        "ReadonlyConfigError",
    ):
        return f"{clean} cannot take that value ({str(cause).splitlines()[0].rstrip('.')}): correct it."
    inner = _match(r"full_key: (\S+)", str(cause))
    if inner and inner != clean and inner.startswith(clean):
        rest = inner.removeprefix(clean).lstrip(".")
        return f"{clean} takes no new key {rest}: to add it, write '+{failing[-1] if failing else clean}'."
    if clean.split("@")[0] in choices and "." not in clean.split("@")[0]:
        return _group_without_slot(clean, cfg)
    return unknown_key(clean, cfg, choices)


def _group_without_slot(group: str, cfg: DictConfig | None) -> str:
    """A group that this experiment does not use, or one that is used at other places than the one given."""
    used = OmegaConf.select(cfg, "hydra.runtime.choices") if cfg is not None else None
    slots = [str(k) for k in (used or {}) if str(k).split("@")[0] == group.split("@")[0]]
    if slots:
        return f"{group} is not used by this experiment: did you mean {closest(group, slots) or slots[0]}?"
    if used is not None and not used.get("experiment"):
        return (
            f"{group} needs an experiment: begin with +experiment=NAME, e.g. +experiment=specclip {group}=..."
        )
    return f"{group} is not used by this experiment: see its stages with --cfg job."


def _unreadable(overrides: Sequence[str]) -> str:
    """The override that Hydra cannot parse."""
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
        except Exception:
            return override
    return overrides[0] if overrides else ""


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
