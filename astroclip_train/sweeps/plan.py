"""What a sweep is, read from the command before anything starts: space, metric, folder, and the trials' commands."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.compose import compose, normalise
from ..config.fingerprint import fingerprint
from ..config.keys import command_identity
from ..config.messages import listing
from ..config.targets import allow_target
from ..config.validate import validate_structure
from ..errors import ConfigError
from .metric import Metric, metric_of, needed_stages
from .space import Dimension, dimensions_of, grid

__all__ = ["FOLDER_PREFIX", "Plan", "Prepare", "plan_of"]

FOLDER_PREFIX = "sweep-"
MOST_CHECKS = 64  # commands composed to check a space before it is searched
Prepare = Callable[[Sequence[str], Sequence[str], Sequence[str]], Any]


@dataclass
class Plan:
    """A sweep.

    Attributes:
        settings: the composed `sweep` node.
        space: its dimensions.
        metric: what is read from each trial.
        base: overrides that all trials share.
        config_dirs, allowed: options that all trials share.
        stages: what a trial trains, so that the metric can be read.
        max_steps: of the fit that has the metric.
        folder: where the study is kept.
        requeue: `run.requeue` of the command: whether a SLURM job that a warning ends is queued again.
        identity: hash of what its runs have in common.
    """

    settings: dict[str, Any]
    space: list[Dimension]
    metric: Metric
    base: list[str]
    config_dirs: list[str]
    allowed: list[str]
    stages: list[str]
    max_steps: int
    folder: Path
    requeue: str | bool = "auto"
    identity: str = ""

    @property
    def n_trials(self) -> int:
        """Trials in all."""
        asked = self.settings["n_trials"]
        if self.settings["kind"] != "grid":
            return int(asked or 20)
        size = len(grid(self.space))
        return min(size, int(asked)) if asked else size

    def point(self, params: dict[str, Any]) -> list[str]:
        """The overrides of a point of the space."""
        return [d.override(params[d.name]) for d in self.space]

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """The overrides of the run with these parameters."""
        return [*self.base, *self.point(params)]

    def trial_overrides(self, params: dict[str, Any]) -> list[str]:
        """Those of a trial: only the stages that the metric needs, and no look at test objects."""
        kept = [
            o
            for o in self.overrides(params)
            if o.split("=")[0].lstrip("+") not in ("run.stages", "run.evaluate")
        ]
        return [*kept, f"run.stages=[{','.join(self.stages)}]", "run.evaluate=false"]

    def record(self) -> dict[str, Any]:
        """What sweep.json says about it."""
        return {
            "format": 1,
            "definition": {**definition(self.settings, self.space), "runs": self.identity},
            "n_trials": self.n_trials,
            "base": self.base,
            "config_dirs": self.config_dirs,
            "allowed": self.allowed,
            "keys": {d.name: d.key for d in self.space},
            "texts": {
                d.name: [list(pair) for pair in zip(d.choices, d.texts, strict=True)] for d in self.space
            },
            "stages": self.stages,
        }


def definition(settings: dict[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """What makes two sweeps the same, beside the identity of their runs."""
    keys = ("kind", "metric", "direction", "seed", "startup_trials")
    described = {d.name: d.describe() for d in space}
    return {**{k: settings[k] for k in keys}, "space": described, "order": list(described)}


def plan_of(overrides: Sequence[str], config_dirs: Sequence[str], allowed: Sequence[str]) -> Plan | None:
    """The plan of a command with `+sweep=grid|random|optuna`; None where it names no such sweep.

    Raises:
        ConfigError: the first mistake in the sweep, or in a configuration that it would make.
    """
    fixed, swept = _split(overrides)
    if not any(o.startswith("+sweep=") for o in fixed):
        return None
    raw = compose(fixed, config_dirs, resolved=False)
    if raw.get("sweep") is None:
        return None
    settings: dict[str, Any] = OmegaConf.to_container(raw["sweep"], resolve=True)  # type: ignore[assignment]
    space = dimensions_of(settings["space"], swept)
    _check_owner(raw, fixed, config_dirs)
    base = [o for o in fixed if o.split("=")[0].lstrip("+~").split(".")[0] != "sweep"]
    first = [d.override(d.ends()[0]) for d in space]
    for package in allowed:
        allow_target(package)
    cfg = _checked([*fixed, *first], config_dirs)
    _check_run(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    metric = metric_of(settings["metric"], config)
    stages = _stages(metric, config)
    _check_space(space, base, first, config_dirs, metric, stages, cfg)
    own = command_identity(cfg)
    mark = fingerprint([definition(settings, space), own])[:7]
    given = settings["name"]
    if given is not None and not re.fullmatch(r"[\w][\w.+=@-]*", str(given)):
        raise ConfigError(
            f"sweep.name={given} is not usable as a folder name: use letters, digits and . _ - + = @."
        )
    name = given or f"{settings['kind']}-{metric.name.replace('/', '-')}-{mark}"
    folder = Path(config["run"]["root"]) / str(config["experiment"] or "run") / f"{FOLDER_PREFIX}{name}"
    return Plan(
        settings, space, metric, base, list(config_dirs), list(allowed), stages,
        _steps(metric, config), folder, config["run"]["requeue"], fingerprint(own),
    )  # fmt: skip


def _split(overrides: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Plain overrides as text, and parsed sweep overrides; an unreadable one is left to the composition."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    fixed, swept = [], []
    parser = OverridesParser.create()
    for text in map(normalise, overrides):
        try:
            parsed = parser.parse_override(text)
        except Exception:  # Hydra's errors share no base class; the composition words them
            parsed = None
        if parsed is not None and parsed.is_sweep_override():
            swept.append(parsed)
        else:
            fixed.append(text)
    return fixed, swept


def _check_owner(cfg: DictConfig, fixed: Sequence[str], config_dirs: Sequence[str]) -> None:
    """A trial is composed without the sweep file, so that file may set nothing but the sweep."""
    bare = [o for o in fixed if not o.startswith(("+sweep=", "sweep.", "++sweep."))]
    with_file, without = (
        OmegaConf.to_container(c) for c in (cfg, compose(bare, config_dirs, resolved=False))
    )
    assert isinstance(with_file, dict)
    assert isinstance(without, dict)
    changed = [k for k, v in with_file.items() if k != "sweep" and v != without.get(k)]
    if changed:
        raise ConfigError(
            f"the file of +sweep sets {listing(map(str, changed))} beside sweep: "
            "put that into the experiment's file or on the command line."
        )


def _checked(overrides: Sequence[str], config_dirs: Sequence[str]) -> DictConfig:
    """A composed configuration whose keys, types and classes are right; sizes are left to the trial that has them."""
    from ..config.trial import check_target  # imports torch

    cfg = compose(overrides, config_dirs)
    for key, node, supplied in validate_structure(cfg):
        check_target(key, node, supplied)
    return cfg


def _check_run(cfg: DictConfig) -> None:
    run = cfg["run"]
    for key in ("name", "fresh", "extend", "preflight"):
        if run[key]:
            advice = "choose another sweep.name" if key in ("name", "fresh") else "give it to a single run"
            raise ConfigError(
                f"run.{key}={run[key]} does not go with a sweep, whose trials are runs of their own: {advice}."
            )
    if int(cfg["trainer"]["num_nodes"]) > 1:
        raise ConfigError(
            f"trainer.num_nodes={cfg['trainer']['num_nodes']} does not go with a sweep, whose trials each run on one "
            "machine: start the same command on several, and each trains trials of the study."
        )


def _stages(metric: Metric, config: dict[str, Any]) -> list[str]:
    needed, chosen = needed_stages(metric.stage, config), config["run"]["stages"]
    if chosen and metric.stage not in chosen:
        raise ConfigError(
            f"sweep.metric={metric.name} is measured by stage {metric.stage}, which run.stages leaves out: add it."
        )
    return [s for s in needed if not chosen or s in chosen]


def _check_space(
    space: Sequence[Dimension], base: Sequence[str], first: Sequence[str], config_dirs: Sequence[str],
    metric: Metric, stages: Sequence[str], cfg: DictConfig,
) -> None:  # fmt: skip
    """Composes and checks each key at its ends or choices, the others at their first, which is done in `cfg`."""
    marks = {tuple(first): fingerprint(command_identity(cfg))}
    for dimension in space:
        head, _, rest = dimension.name.partition(".")
        stage = rest.split(".")[0]
        if head == "sweep":
            raise ConfigError(
                f"{dimension.name} is a setting of the sweep and cannot be swept: give one value."
            )
        if head == "stages" and stage in cfg["stages"] and stage not in stages:
            raise ConfigError(
                f"{dimension.name} is swept, but sweep.metric={metric.name} does not depend on stage {stage}: "
                f"take a metric of {stage}."
            )
    for number, dimension in enumerate(space):
        seen = []
        for value in dimension.ends():
            point = (*first[:number], dimension.override(value), *first[number + 1 :])
            if point not in marks:
                if len(marks) >= MOST_CHECKS:
                    return
                marks[point] = fingerprint(command_identity(_checked([*base, *point], config_dirs)))
            seen.append(marks[point])
        if len(set(seen)) < len(seen):
            raise ConfigError(
                f"{dimension.name} has values that make the same run: vary keys that change the mathematics."
            )


def _steps(metric: Metric, config: dict[str, Any]) -> int:
    node = config["stages"][metric.stage]
    trainer = dict(node["trainer"])
    if "/" in metric.fit:
        task = metric.fit.split("/", 1)[1].split("__")[0]
        trainer |= node["tasks"][task].get("trainer") or {}
    return int(trainer["max_steps"])
