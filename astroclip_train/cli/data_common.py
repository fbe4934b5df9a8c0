"""The options that all commands of `astro-data` which write a store share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError
from ._console import Parser

if TYPE_CHECKING:
    from ..data.convert import ConvertOptions
    from ..data.match import MatchReport
    from ..data.store_builder import Report

__all__ = ["FRAMES", "check", "common", "shared", "tell"]

FRAMES = ("observed", "heliocentric", "barycentric", "rest")


def common(command: Parser) -> None:
    """Options of everything that writes a store from others' data."""
    group = command.add_argument_group("store")
    group.add_argument("--out", type=Path, required=True, metavar="FILE.h5", help="the store to write")
    group.add_argument("--overwrite", action="store_true", help="replace FILE.h5 if it exists")
    group.add_argument(
        "--catalog",
        type=Path,
        metavar="TABLE",
        help="table with observation ids and Gaia source ids, to name objects",
    )
    group.add_argument(
        "--labels",
        dest="label_tables",
        action="append",
        default=[],
        metavar="TABLE:NAMES",
        help="labels of a catalogue, TABLE:teff,logg,feh=FE_H, joined by observation id, Gaia id or position",
    )
    group.add_argument(
        "--label-units",
        default="",
        metavar="NAME=UNIT,…",
        help="of label values where not K, dex, mag, km/s or mas by name; converted, other names keep theirs",
    )
    group.add_argument(
        "--radius", type=float, default=3.0, metavar="ARCSEC", help="one object within (default 3)"
    )
    group.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.1,
        metavar="X",
        help="stop if more is unusable (default 0.1)",
    )
    group.add_argument("--half", action="store_true", help="store flux as float16")
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def shared(options: argparse.Namespace) -> "ConvertOptions":
    """The common options as the conversions take them."""
    from ..data.convert import ConvertOptions

    if not 0 <= options.max_bad_fraction <= 1:
        raise ConfigError(f"--max-bad-fraction {options.max_bad_fraction:g} is not a share between 0 and 1.")
    if options.radius <= 0:
        raise ConfigError(f"--radius {options.radius:g} is not a positive angle in arcsec.")
    return ConvertOptions(
        out=options.out,
        command=_shortened(options.command_line),
        catalogue=options.catalog,
        labels=tuple(options.label_tables),
        label_units=_units(options.label_units),
        max_bad_fraction=options.max_bad_fraction,
        half=options.half,
        radius=options.radius,
        progress=not options.quiet,
    )


def _units(text: str) -> dict[str, str]:
    """NAME=UNIT pairs.

    Raises:
        ConfigError: one is none.
    """
    found: dict[str, str] = {}
    for pair in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, unit = pair.partition("=")
        if not (name and equals and unit):
            raise ConfigError(f"--label-units {pair} is not NAME=UNIT: write for example age=Gyr,teff=kK.")
        found[name] = unit
    return found


def _shortened(command: str) -> str:
    """The command as kept in the store: thousands of file names would not fit an HDF5 attribute."""
    return command if len(command) <= 500 else f"{command[:300]} … {command[-180:]}"


def check(options: argparse.Namespace) -> None:
    """Refuses to write over what exists, before any work."""
    if options.out.is_dir():
        raise DataError(f"--out {options.out} is a folder: name a file such as {options.out / 'stars.h5'}.")
    if options.out.exists() and not options.overwrite:
        raise DataError(f"{options.out} exists: choose another --out, or add --overwrite to replace it.")


def tell(options: argparse.Namespace, report: "Report | MatchReport") -> int:
    """Prints the report unless --quiet."""
    if not options.quiet:
        print(report.text())
    return 0
