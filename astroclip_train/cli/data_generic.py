"""The options of `astro-data convert hdf5|table|npz`: which array is what, and what the spectra are."""

import argparse
from pathlib import Path

from ..errors import ConfigError
from ._console import Parser
from .data_common import FRAMES, check, common, shared, tell

__all__ = ["add_generic"]


def add_generic(command: Parser) -> None:
    """Adds the options of `astro-data convert hdf5|table|npz`."""
    command.add_argument("path", type=Path, metavar="FILE")
    arrays = command.add_argument_group("arrays of the file (KEY is a dataset, array or column)")
    arrays.add_argument(
        "--modality", required=True, metavar="NAME", help="name in the store, such as lrs or xp"
    )
    arrays.add_argument("--flux", required=True, metavar="KEY", help="flux (n, pixels)")
    arrays.add_argument(
        "--wave", required=True, metavar="KEY", help="KEY, linear:start:step or log10:start:step"
    )
    arrays.add_argument(
        "--wave-scale", choices=["linear", "log10"], default="linear", help="what KEY holds (linear)"
    )
    arrays.add_argument(
        "--unit", choices=["Angstrom", "nm", "um"], default="Angstrom", help="of wavelengths (Angstrom)"
    )
    arrays.add_argument(
        "--medium", choices=["vacuum", "air"], default="vacuum", help="of wavelengths (vacuum)"
    )
    arrays.add_argument("--ivar", default="", metavar="KEY", help="inverse variance (n, pixels)")
    arrays.add_argument(
        "--flux-error", default="", metavar="KEY", help="standard deviation instead of --ivar"
    )
    arrays.add_argument("--mask", default="", metavar="KEY", help="pixel mask (n, pixels)")
    arrays.add_argument(
        "--mask-true", choices=["good", "bad"], default="", help="what non-zero means in --mask"
    )
    for option, what in (
        ("--id", "object ids, Gaia source ids where known"),
        ("--obs-id", "ids of the observations"),
        ("--ra", "right ascension in degrees"),
        ("--dec", "declination in degrees"),
        ("--snr", "signal to noise per pixel"),
        ("--split", "published split names; test stays test"),
    ):
        arrays.add_argument(option, default="", metavar="KEY", help=what)
    about = command.add_argument_group("what the spectra are")
    about.add_argument("--frame", choices=FRAMES, required=True, help="of wavelengths")
    about.add_argument("--survey", default="", metavar="NAME", help="survey or instrument (the file's name)")
    about.add_argument(
        "--flux-unit", default="relative", metavar="UNIT", help="1 for a pure number (relative)"
    )
    about.add_argument("--resolution", default="unknown", metavar="TEXT", help="such as R=1800")
    about.add_argument(
        "--applied", default="", metavar="NAMES", help="normalisations the flux has, such as continuum"
    )
    about.add_argument(
        "--normalise",
        choices=["none", "continuum", "continuum_polynomial", "flux_550nm"],
        default="none",
        help="what to divide out: continuum is SpecCLIP's envelope, continuum_polynomial that of mock stars (none)",
    )
    about.add_argument(
        "--grid", default="", help="resample to lrs, xp, log10:start:step:n or linear:start:step:n in Å"
    )
    common(command)
    _explain_labels(command)
    command.set_defaults(work=_generic)


def _explain_labels(command: Parser) -> None:
    for action in command._actions:
        if action.dest == "label_tables":
            action.metavar = "KEY:NAMES"
            action.help = "labels: KEY:teff,logg,feh (columns of one array), teff,logg=KEY, or TABLE:NAMES"


def _generic(options: argparse.Namespace) -> int:
    from ..data.convert import parse_grid
    from ..data.convert_generic import GenericTarget, convert_generic
    from ..data.readers.generic import Layout

    check(options)
    own, tables = _divide_labels(options.label_tables)
    options.label_tables = tables
    layout = Layout(
        modality=options.modality,
        flux=options.flux,
        wave=options.wave,
        ivar=options.ivar,
        sigma=options.flux_error,
        mask=options.mask,
        mask_true=options.mask_true,
        wave_scale=options.wave_scale,
        unit=options.unit,
        medium=options.medium,
        labels=own,
        object_id=options.id,
        obs_id=options.obs_id,
        ra=options.ra,
        dec=options.dec,
        snr=options.snr,
        split=options.split,
    )
    target = GenericTarget(
        survey=options.survey or options.path.stem,
        frame=options.frame,
        flux_unit=options.flux_unit,
        resolution=options.resolution,
        applied=tuple(name.strip() for name in options.applied.split(",") if name.strip()),
        normalise=options.normalise,
        grid=parse_grid(options.grid) if options.grid else None,
    )
    return tell(options, convert_generic(options.path, options.kind, layout, target, shared(options)))


def _divide_labels(texts: list[str]) -> tuple[str, list[str]]:
    """Labels of the file itself and those of other tables, told apart by whether TABLE exists as a file."""
    own = [t for t in texts if not (":" in t and Path(t.rpartition(":")[0]).is_file())]
    if len(own) > 1:
        raise ConfigError(
            f"--labels names this file's labels twice ({', '.join(own)}): give them in one list."
        )
    return (own[0] if own else ""), [t for t in texts if t not in own]
