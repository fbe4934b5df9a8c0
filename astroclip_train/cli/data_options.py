"""The options of `astro-data convert`, and how they become calls."""

import argparse
from pathlib import Path

from ..errors import ConfigError
from ._console import Parser
from .data_common import FRAMES, check, common, shared, tell
from .data_generic import add_generic

__all__ = ["EPILOG", "add_convert"]

EPILOG = """\
examples
  astro-data mock stars --n 20000 --seed 0 --out mock.h5
  astro-data convert lamost spectra/ --out lrs.h5
  astro-data convert gaia-xp XP_CONTINUOUS_RAW.csv --out xp.h5
  astro-data convert hdf5 mine.h5 --modality lrs --flux flux --ivar ivar --wave linear:3700:1 \\
      --frame heliocentric --labels params:teff,logg,feh --id source_id --out mine_store.h5
  astro-data match lrs.h5 xp.h5 --catalog pairs.csv --labels stars.csv:teff,logg,feh --out pairs.h5
  astro-data inspect pairs.h5
  astro-data validate pairs.h5
"""


def add_convert(commands: argparse._SubParsersAction) -> None:
    """The `convert` command with one subcommand for each kind of file."""
    convert = commands.add_parser(
        "convert", help="files of a survey, or any arrays, to a store", allow_abbrev=False
    )
    kinds = convert.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=Parser)
    _add_lamost(kinds)
    _add_published(kinds)
    for kind, what in (
        ("hdf5", "an HDF5 file, datasets named by their paths"),
        ("table", "a CSV, ECSV, FITS, VOTable or Parquet table; PREFIX* names columns PREFIX0, PREFIX1, ..."),
        ("npz", "an NPZ file of plain arrays"),
    ):
        add_generic(kinds.add_parser(kind, help=what, description=f"Converts {what}.", allow_abbrev=False))


def _add_lamost(kinds: argparse._SubParsersAction) -> None:
    lamost = kinds.add_parser(
        "lamost", help="LAMOST low-resolution FITS files (DR1 to DR10)", allow_abbrev=False
    )
    lamost.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER")
    lamost.add_argument(
        "--grid", default="lrs", help="lrs, log10:start:step:n or linear:start:step:n in Å (lrs)"
    )
    _continuum(lamost)
    lamost.add_argument(
        "--strict-mask", action="store_true", help="refuse pixels flagged in any exposure (ORMASK)"
    )
    lamost.add_argument(
        "--frame", choices=FRAMES[:2], default="heliocentric", help="expected frame (heliocentric)"
    )
    lamost.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read files (1)")
    common(lamost)
    lamost.set_defaults(work=_lamost)


def _continuum(command: Parser) -> None:
    command.add_argument(
        "--continuum",
        choices=["envelope", "polynomial", "none"],
        default="envelope",
        help="what flux is divided by: envelope as SpecCLIP, polynomial as the mock stars (envelope)",
    )


def _add_published(kinds: argparse._SubParsersAction) -> None:
    xp = kinds.add_parser("gaia-xp", help="Gaia XP coefficients or sampled spectra", allow_abbrev=False)
    xp.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    xp.add_argument("--normalise", choices=["flux_550nm", "none"], default="flux_550nm", help="(flux_550nm)")
    xp.add_argument(
        "--no-covariance", action="store_true", help="do not keep the coefficients' covariance factor"
    )
    common(xp)
    xp.set_defaults(work=_gaia_xp)
    specclip = kinds.add_parser("specclip", help="HDF5 files of the SpecCLIP release", allow_abbrev=False)
    specclip.add_argument("path", type=Path, metavar="FILE.h5")
    common(specclip)
    specclip.set_defaults(work=_specclip)
    afg = kinds.add_parser(
        "lamost-afg", help="the file of 2,304 labelled LAMOST DR10 spectra", allow_abbrev=False
    )
    afg.add_argument("path", type=Path, metavar="FILE.h5")
    afg.add_argument("--grid", default="native", help="native (1600 px), lrs, or as for lamost (native)")
    _continuum(afg)
    common(afg)
    afg.set_defaults(work=_lamost_afg)


def _lamost(options: argparse.Namespace) -> int:
    from ..data.convert import convert_lamost, parse_grid

    check(options)
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers} reads nothing: give a positive number.")
    report = convert_lamost(
        options.paths,
        shared(options),
        grid=parse_grid(options.grid),
        continuum=options.continuum,
        strict_mask=options.strict_mask,
        frame=options.frame,
        workers=options.workers,
    )
    return tell(options, report)


def _gaia_xp(options: argparse.Namespace) -> int:
    from ..data.convert_xp import convert_gaia_xp

    check(options)
    normalise, covariance = options.normalise != "none", not options.no_covariance
    return tell(
        options, convert_gaia_xp(options.paths, shared(options), normalise=normalise, covariance=covariance)
    )


def _specclip(options: argparse.Namespace) -> int:
    from ..data.convert import convert_specclip

    check(options)
    return tell(options, convert_specclip(options.path, shared(options)))


def _lamost_afg(options: argparse.Namespace) -> int:
    from ..data.convert import convert_lamost_afg

    check(options)
    return tell(
        options,
        convert_lamost_afg(options.path, shared(options), grid=options.grid, continuum=options.continuum),
    )
