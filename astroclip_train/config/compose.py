"""Composition of one run's configuration from `conf/` and the command line, over Hydra's compose API."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from . import messages
from .folder import conf_folder, groups

__all__ = ["compose", "compose_raw", "normalise", "resolve", "sweep_parameters"]

FREE_SPELLING = (
    "experiment",
    "sweep",
)  # groups outside the root defaults list, which Hydra wants with a plus


def compose(
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), *, resolved: bool = True
) -> DictConfig:
    """Composes the configuration of one run.

    Arguments:
        overrides: Hydra overrides, e.g. `["+experiment=specclip", "scale=tiny"]`; `experiment=specclip` is the same.
        config_dirs: folders searched beside the packaged one, for users' own experiments and datasets.
        resolved: replaces interpolations by their values.

    Raises:
        ConfigError: an unknown group choice or key, a bad override, or an interpolation without a value.
    """
    cfg = compose_raw(overrides, config_dirs)
    OmegaConf.set_struct(cfg, False)
    choices = cfg.pop("hydra")["runtime"]["choices"]
    picked = {
        k: v for k, v in choices.items() if v is not None and "@" not in k and not k.startswith("hydra/")
    }
    cfg["experiment"] = str(picked["experiment"]).replace("/", "-") if "experiment" in picked else None
    cfg["choices"] = {k: v for k, v in sorted(picked.items()) if k not in FREE_SPELLING}
    _expand_datasets(cfg, config_dirs)
    if resolved:
        resolve(cfg)
    OmegaConf.set_struct(cfg, True)
    return cfg


def compose_raw(
    overrides: Sequence[str], config_dirs: Sequence[str | Path] = (), name: str = "config"
) -> DictConfig:
    """Composes with the `hydra` node kept; errors are rewritten as one sentence each."""
    arguments = [normalise(o) for o in overrides]
    try:
        return _hydra(arguments, config_dirs, name)
    except ConfigError:
        raise
    except Exception as error:  # Hydra and OmegaConf share no base class
        folders = [conf_folder(), *map(Path, config_dirs)]

        def retry(fewer: Sequence[str]) -> DictConfig:
            return _hydra(list(fewer), config_dirs, name)

        sentence = messages.explain(error, arguments, groups(folders), retry)
        if sentence is None:
            raise
        raise ConfigError(sentence) from error


def normalise(override: str) -> str:
    """Accepts `experiment=x` and `++experiment=x` for `+experiment=x`, the same for `sweep`; opens `sweep.space`."""
    key, sign, value = override.partition("=")
    if sign and key.lstrip("+") == "sweep.space":
        return f"++sweep.space={value}"  # its keys are those that are searched, which no file can list
    return f"+{key.lstrip('+')}={value}" if sign and key.lstrip("+") in FREE_SPELLING else override


def resolve(cfg: DictConfig) -> DictConfig:
    """Replaces every interpolation by its value, in place.

    Raises:
        ConfigError: an interpolation names a key that is absent or has no value yet.
    """
    _register_resolvers()
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(messages.explain_interpolation(error, cfg)) from error
    return cfg


def sweep_parameters(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """The sweep that a `+sweep=NAME` file asks for, as overrides such as `labels.n=100,1000`."""
    if not any(normalise(o).startswith("+sweep=") for o in overrides):
        return []
    raw = compose_raw([o for o in overrides if not _is_sweep(o)], config_dirs)
    parameters = OmegaConf.select(raw, "hydra.sweeper.params") or {}
    return [f"{key}={value}" for key, value in parameters.items()]


def _is_sweep(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_override(normalise(override)).is_sweep_override()
    except Exception:
        return False


def _hydra(arguments: list[str], config_dirs: Sequence[str | Path], name: str) -> DictConfig:
    _register_resolvers()
    with _initialized(conf_folder()):
        return hydra_compose(
            name, overrides=[*arguments, *_search_path(config_dirs)], return_hydra_config=True
        )


def _search_path(config_dirs: Sequence[str | Path]) -> list[str]:
    folders = []
    for folder in map(Path, config_dirs):
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder} is not a folder: create it or correct the path.")
        folders.append(f"'file://{folder.resolve()}'")
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


@contextlib.contextmanager
def _initialized(folder: Path) -> Iterator[None]:
    """Hydra keeps one global state; whatever the caller had is put back."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def _register_resolvers() -> None:
    OmegaConf.register_new_resolver("by_scale", _by("scale", "demo"), replace=True)
    OmegaConf.register_new_resolver("by_conventions", _by("conventions", "ours"), replace=True)


def _by(key: str, default: str) -> Callable[..., Any]:
    """`${by_scale:{tiny:600,demo:20000}}` is the entry for the run's scale, so that all sizes stand side by side."""

    def choose(values: Any, *, _root_: Any) -> Any:
        chosen = _root_.get(key, None) or default
        if chosen not in values:
            raise ConfigError(
                f"{key}={chosen} has no value in ${{by_{key}:...}}, which knows {', '.join(values)}: "
                "set the key that uses it on the command line."
            )
        value = values[chosen]
        return OmegaConf.create(value) if isinstance(value, dict | list) else value

    return choose


def _expand_datasets(cfg: DictConfig, config_dirs: Sequence[str | Path]) -> None:
    """Replaces names in `stages.<s>.dataset` by the packaged dataset of that name."""
    for stage in (cfg.get("stages") or {}).values():
        if (
            not isinstance(stage, DictConfig)
            or "dataset" not in stage
            or OmegaConf.is_missing(stage, "dataset")
        ):
            continue
        if OmegaConf.is_interpolation(stage, "dataset"):
            continue
        value = stage["dataset"]
        if isinstance(value, str):
            stage["dataset"] = _named_dataset(value, config_dirs)
        elif OmegaConf.is_list(value):
            stage["dataset"] = [_weighted(entry, config_dirs) for entry in value]


def _weighted(entry: Any, config_dirs: Sequence[str | Path]) -> Any:
    """One entry of a weighted list in its full form `{weight: w, dataset: {_target_: ...}}`."""
    if isinstance(entry, str):
        return {"weight": 1.0, "dataset": _named_dataset(entry, config_dirs)}
    content = OmegaConf.to_container(entry) if OmegaConf.is_config(entry) else entry
    if not isinstance(content, dict):
        raise ConfigError(f"{entry!r} is not a dataset: give a name, or {{path: FILE, weight: NUMBER}}.")
    weight = content.pop("weight", 1.0)
    if "path" in content and "_target_" not in content:
        content = {**_named_dataset("store", config_dirs), **content}
    source = content.pop("dataset", content)
    if isinstance(source, str) and not source.startswith("${"):
        source = _named_dataset(source, config_dirs)
    return {"weight": weight, "dataset": source}


def _named_dataset(name: str, config_dirs: Sequence[str | Path]) -> Any:
    if name.endswith((".h5", ".hdf5")):
        return {**_named_dataset("store", config_dirs), "path": name}
    raw = compose_raw([f"dataset={name}"], config_dirs)
    return OmegaConf.to_container(raw["dataset"])
