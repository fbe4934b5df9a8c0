"""`astro-train`: composes, validates and runs one experiment, or a sweep of them.

Nothing heavy is imported here: `--help` and `--version` need neither Hydra nor torch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import AstroTrainError, ConfigError
from ._console import Parser, guard, say
from .process import tune_process

__all__ = ["main", "single"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 done, 2 a user's error, 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    tune_process()
    return guard(
        "astro-train", _main, arguments, interrupted="the same command goes on from the newest checkpoint."
    )


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="astro-train", add_help=False, allow_abbrev=False)
    made.add_argument("overrides", nargs="*")
    made.add_argument("-h", "--help", action="store_true")
    made.add_argument("--version", action="store_true")
    made.add_argument("-c", "--cfg", choices=["job"])
    made.add_argument("--resolve", action="store_true")
    made.add_argument("-p", "--package")
    made.add_argument("-m", "--multirun", action="store_true")
    made.add_argument("-cd", "--config-dir", action="append", default=[], metavar="DIR")
    made.add_argument("--allow-target", action="append", default=[], metavar="PKG")
    return made


def _main(argv: list[str]) -> int:
    made = parser()
    # a value such as lr=-1 is no option, and Hydra's ~key is none either
    options, unknown = made.parse_known_intermixed_args(argv)
    made.reject_unknown(unknown)
    if options.help:
        from .help import train_help

        print(train_help(options.config_dir))
        return 0
    if options.version:
        print(f"astro-train {__version__}")
        return 0
    if options.cfg:
        return _show(options)
    if options.multirun:
        from .interruptible import interruptible
        from .multirun import multirun

        return interruptible(multirun, options.overrides, options.config_dir, options.allow_target)
    if any(o.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.")) for o in options.overrides):
        raise ConfigError(
            "hydra/launcher submits the jobs of a sweep: add -m, or use sbatch slurm/train.sbatch."
        )
    from .interruptible import interruptible

    return interruptible(single, options.overrides, options.config_dir, options.allow_target)


def _show(options: argparse.Namespace) -> int:
    """Prints the configuration that a command composes."""
    from omegaconf import OmegaConf

    from ..config.compose import compose
    from ..config.messages import unknown_key

    if options.multirun:
        raise ConfigError("--cfg shows one configuration: leave out -m and give one value for each key.")
    cfg = compose(options.overrides, options.config_dir, resolved=options.resolve)
    node: Any = cfg
    if options.package:
        node = OmegaConf.select(cfg, options.package)
        if node is None:
            raise ConfigError(f"--package {unknown_key(options.package, cfg, {})}")
    print(OmegaConf.to_yaml(node).rstrip() if OmegaConf.is_config(node) else node)
    return 0


def prepare(
    overrides: Sequence[str], config_dirs: Sequence[str], allowed: Sequence[str], deep: bool = True
) -> Any:
    """Composes and validates one command and finds its run directory, before any data is opened.

    Without `deep`, what needs torch is left to `check`.
    """
    from ..config.compose import compose
    from ..config.folder import conf_folder, groups
    from ..config.targets import allow_target
    from ..config.validate import validate_structure
    from ..distributed.geometry import machine_of
    from ..training.run_dir import RunDir

    for package in allowed:
        allow_target(package)
    cfg = compose(overrides, config_dirs)
    if not cfg["stages"]:
        known = groups([conf_folder(), *map(Path, config_dirs)]).get("experiment", [])
        raise ConfigError(f"no experiment is named: begin with +experiment=NAME, one of {', '.join(known)}.")
    validate_structure(cfg)
    if cfg.get("sweep") is not None:
        raise ConfigError("+sweep makes many runs: add -m.")
    machine_of(cfg)
    run_dir = RunDir(cfg, overrides, config_dirs)
    if deep:
        check(run_dir)
    return run_dir


def check(run_dir: Any) -> None:
    """The rest of the validation, which a finished run does not need."""
    from ..config.validate import validate

    if run_dir.preflight or not run_dir.finished:
        run_dir.check_inputs()
        validate(run_dir.cfg)


def single(overrides: Sequence[str], config_dirs: Sequence[str] = (), allowed: Sequence[str] = ()) -> int:
    """Runs one configuration to its end: here, as one rank of several, or by starting the ranks of this machine."""
    from ..distributed.geometry import find_geometry

    geometry = find_geometry()
    try:
        run_dir = prepare(overrides, config_dirs, allowed, deep=False)
        from .spmd import launch_ranks, run_rank, wanted_ranks

        ranks = wanted_ranks(run_dir.cfg, geometry)
    except AstroTrainError as error:
        if geometry.rank:
            from .spmd import rank_0_tells

            rank_0_tells(error, geometry)
        raise
    if run_dir.finished and not run_dir.preflight:
        if geometry.rank == 0:
            _say_finished(run_dir)
        return 0
    if ranks > 1:
        return launch_ranks(run_dir, ranks, overrides, config_dirs, allowed)
    if geometry.world_size > 1:
        return run_rank(run_dir, geometry)
    check(run_dir)
    if run_dir.preflight:
        from ..stages.runner import preflight

        _check_device(geometry, run_dir)
        with run_dir:
            return preflight(run_dir.cfg, run_dir)
    with run_dir:  # the lease is taken before the seconds that importing torch takes
        from ..stages.runner import run

        _check_device(geometry, run_dir)

        return run(run_dir.cfg, run_dir)


def _check_device(geometry: Any, run_dir: Any) -> None:
    """The one device, as ranks check theirs: it is there, and the installed torch has kernels for it."""
    from ..distributed.geometry import machine_of
    from ..distributed.group import check_devices

    check_devices(geometry, machine_of(run_dir.cfg))


def _say_finished(run_dir: Any) -> None:
    report = run_dir.path / "report.html"
    where = report if report.exists() else run_dir.path
    longer = any(node["_stage_"] != "heads" for node in run_dir.cfg["stages"].values())
    extend = ", run.extend=STEPS lengthens a stage" if longer else ""
    say(f"{run_dir.path} is finished: run.fresh=true starts again beside it{extend}.")
    print(where)


if __name__ == "__main__":
    sys.exit(main())
