"""`astro-data`: makes stores from mock stars, survey files and other people's arrays, and looks into them.

Nothing heavy is imported here: `--help` needs neither torch nor astropy.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import ConfigError, DataError
from ._console import Parser, guard, say
from .data_common import check, common, shared, tell
from .data_options import EPILOG, add_convert
from .process import tune_process

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 done, 2 user's error or unsound store, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    tune_process()
    return guard("astro-data", _main, arguments, interrupted="nothing half written is left behind.")


def parser() -> Parser:
    """The command line with all its subcommands."""
    made = Parser(
        prog="astro-data",
        description="Makes, joins and checks stores of spectra.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"astro-data {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_mock(commands)
    add_convert(commands)
    _add_match(commands)
    _add_looks(commands)
    return made


def _add_mock(commands: argparse._SubParsersAction) -> None:
    mock = commands.add_parser("mock", help="simulate stars seen by LAMOST and Gaia XP", allow_abbrev=False)
    mock.add_argument("universe", choices=["stars"], help="what is simulated")
    mock.add_argument("--n", type=int, default=20000, help="number of stars (default 20000)")
    mock.add_argument("--seed", type=int, default=0, help="another seed is another sample (default 0)")
    mock.add_argument("--out", type=Path, required=True, metavar="FILE.h5", help="the store to write")
    mock.add_argument("--overwrite", action="store_true", help="replace FILE.h5 if it exists")
    mock.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    mock.set_defaults(work=_mock)


def _add_match(commands: argparse._SubParsersAction) -> None:
    match = commands.add_parser("match", help="join two stores, object by object", allow_abbrev=False)
    match.add_argument("a", type=Path, metavar="A.h5")
    match.add_argument("b", type=Path, metavar="B.h5")
    match.add_argument(
        "--keep-unmatched", action="store_true", help="keep observations without a partner, too"
    )
    common(match)
    match.set_defaults(work=_match)


def _add_looks(commands: argparse._SubParsersAction) -> None:
    look = commands.add_parser("inspect", help="what is in a store", allow_abbrev=False)
    look.add_argument(
        "store", type=Path, nargs="+", metavar="FILE.h5", help="a store, a folder of shards, or shards"
    )
    look.add_argument("--json", action="store_true", help="print JSON for programmes")
    look.set_defaults(work=_inspect)
    check = commands.add_parser("validate", help="check a store; exit code 2 if unsound", allow_abbrev=False)
    check.add_argument(
        "store", type=Path, nargs="+", metavar="FILE.h5", help="a store, a folder of shards, or shards"
    )
    check.add_argument(
        "--max-bad-fraction", type=float, default=0.1, metavar="X", help="bad spectra allowed (0.1)"
    )
    check.add_argument("--radius", type=float, default=3.0, metavar="ARCSEC", help="one object within (3)")
    check.set_defaults(work=_validate)


def _main(argv: list[str]) -> int:
    made = parser()
    options, unknown = made.parse_known_args(argv)
    if not getattr(options, "work", None):
        made.reject_unknown(unknown)
        made.print_help()
        return 0
    if unknown:
        raise ConfigError(f"{unknown[0]} is not understood: see astro-data {options.command} --help.")
    options.command_line = shlex.join(["astro-data", *argv])
    return options.work(options)


def _mock(options: argparse.Namespace) -> int:
    import os
    import tempfile

    from ..data.mock import MockStars

    check(options)
    if options.n < 1:
        raise ConfigError(f"--n {options.n} makes no star: give a positive number.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mock-", dir=options.out.parent) as folder:
        paths = MockStars(n=options.n, seed=options.seed).prepare(Path(folder), progress=not options.quiet)
        if len(paths) != 1:
            raise DataError(
                f"{options.n} stars fill {len(paths)} files: make fewer at once, with several seeds."
            )
        os.replace(paths[0], options.out)
    if not options.quiet:
        say(f"{options.out}: {options.n:,} mock stars of seed {options.seed}; astro-data inspect shows them.")
    return 0


def _match(options: argparse.Namespace) -> int:
    from ..data.match import match_stores

    check(options)
    report = match_stores(options.a, options.b, shared(options), keep_unmatched=options.keep_unmatched)
    return tell(options, report)


def _inspect(options: argparse.Namespace) -> int:
    from ..data.inspect_store import inspect, render

    content = inspect(options.store if len(options.store) > 1 else options.store[0])
    if options.json:
        import json

        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        render(content)
    return 0


def _validate(options: argparse.Namespace) -> int:
    from ..data.validate_store import validate

    path = options.store if len(options.store) > 1 else options.store[0]
    problems = validate(path, max_bad_fraction=options.max_bad_fraction, radius=options.radius)
    for problem in problems:
        print(problem)
    if problems:
        say(f"astro-data: {len(problems)} problem{'s' if len(problems) > 1 else ''} in {options.store[0]}")
        return 2
    print(f"{options.store[0]} is a sound store.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
