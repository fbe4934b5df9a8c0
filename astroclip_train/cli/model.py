"""`astro-model`: describe, export and use trained models.

Nothing heavy is imported here: `--help` needs neither Hydra nor torch.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError
from ._console import Parser, guard, say
from .process import tune_process

__all__ = ["main"]

MODEL = "a run directory, a checkpoint or an exported folder"
FILES = "stores (.h5), or survey files: LAMOST FITS for lrs, Gaia XP tables (CSV, ECSV, FITS, VOTable) for xp"
OUT = "table to write, by suffix .csv, .ecsv, .fits or .parquet"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 done, 2 a user's error, 130 stopped by Ctrl-C."""
    tune_process()
    return guard("astro-model", _main, list(sys.argv[1:] if argv is None else argv))


def parser() -> Parser:
    """The command line with its subcommands."""
    made = Parser(
        prog="astro-model",
        description="Describes, exports and uses trained models; shows sweeps.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"astro-model {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one: argparse.ArgumentParser
    one = commands.add_parser("describe", help="parameters, token shapes and FLOPs of every part")
    one.add_argument(
        "what", nargs="+", help=f"{MODEL}, or overrides such as +experiment=specclip scale=paper"
    )
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("-cd", "--config-dir", action="append", default=[], metavar="DIR")
    one.set_defaults(work=_describe)

    one = _with_files(commands, "embed", "embeddings of spectra")
    one.add_argument("--kind", choices=["aligned", "single", "shared"], help="default: aligned where trained")
    one.set_defaults(work=_embed)

    one = _with_files(commands, "predict", "labels of spectra, with units and standard deviations")
    one.add_argument("--head", help="task of the heads stage, such as flow or mlp")
    one.add_argument("--input", help="input of the head, such as lrs.aligned or lrs.aligned+xp.aligned")
    one.add_argument("--samples", type=int, default=256, help="posterior samples per object")
    one.set_defaults(work=_predict)

    one = _with_files(commands, "search", "nearest neighbours of spectra in a gallery")
    one.add_argument("--gallery", nargs="+", required=True, metavar="FILE", help=FILES)
    one.add_argument("--gallery-modality", metavar="M", help="default: as --modality")
    one.add_argument(
        "--ids", nargs="+", default=[], metavar="ID", help="only these query objects or observations"
    )
    one.add_argument("-k", type=int, default=10, help="neighbours per query")
    one.add_argument("--exclude-self", action="store_true", help="leave out the query object itself")
    one.set_defaults(work=_search)

    one = _with_files(commands, "translate", "spectra of one instrument predicted from another's")
    one.add_argument("--to", metavar="M", help="modality to predict; default: the other one")
    one.set_defaults(work=_translate)

    one = commands.add_parser("export", help="write a folder to share: safetensors, config.json and a card")
    one.add_argument("model", help=MODEL)
    one.add_argument("--out", required=True, metavar="FOLDER")
    one.add_argument("--name", help="title of the card")
    one.add_argument("--licence", default="cc-by-4.0", help="of the weights; default cc-by-4.0")
    one.add_argument("--reference", nargs="+", metavar="STORE", help="training data, for in_domain flags")
    one.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    one.set_defaults(work=_export)

    one = commands.add_parser("doctor", help="what support asks for: versions, machine, logs; no secrets")
    one.add_argument("run", help="a run directory")
    one.add_argument("--output", metavar="FILE", help="write it there")
    one.set_defaults(work=_doctor)

    one = commands.add_parser("sweep", help="trials of a sweep: table, best command, and a page with figures")
    one.add_argument(
        "folder", help="the sweep's folder, such as runs/specclip/sweep-optuna-align.val_loss-1a2b3c4"
    )
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--out", metavar="HTML", help="the page; default: sweep.html in the folder")
    one.set_defaults(work=_sweep)
    for command in commands.choices.values():
        command.add_argument("--allow-target", action="append", default=[], metavar="PKG")
    return made


def _with_files(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    one = commands.add_parser(name, help=text)
    one.add_argument("model", help=MODEL)
    one.add_argument("files", nargs="+", metavar="FILE", help=FILES)
    one.add_argument("--modality", metavar="M", help="what the files hold, such as lrs or xp")
    one.add_argument("--split", choices=["train", "validation", "test"], help="only this split of a store")
    one.add_argument("--out", required=True, metavar="TABLE", help=OUT)
    one.add_argument("--batch-size", type=int, default=256)
    one.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    return one


def _main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if getattr(options, "batch_size", 1) < 1 or getattr(options, "k", 1) < 1:
        raise ConfigError("--batch-size and -k must be at least 1.")
    if getattr(options, "samples", 2) < 2:
        raise ConfigError(f"--samples {options.samples} must be at least 2, of which a scatter can be taken.")
    _check_device(getattr(options, "device", "cpu"))
    for package in options.allow_target:
        from ..hub.build import allow

        allow(package)
    return options.work(options)


def _check_device(name: str) -> None:
    """Refuses a device that is not here."""
    if name == "cpu":
        return
    import torch

    there = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name.split(":")[0] not in there:
        raise ConfigError(f"--device {name} is not here: choose {' or '.join(there)}.")


def _describe(options: argparse.Namespace) -> int:
    from ..hub.describe import describe_config, describe_path

    if any("=" in word for word in options.what):
        from omegaconf import OmegaConf

        from ..config.compose import compose

        config = compose(options.what, options.config_dir)
        told = describe_config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    elif len(options.what) == 1:
        told = describe_path(options.what[0])
    else:
        raise ConfigError(
            f"{' '.join(options.what)}: give one {MODEL.removeprefix('a ')}, or overrides with '='."
        )
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        _show(told)
    return 0


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "class", "parameters", "tokens", "output", "FLOPs per object")
    for column in (2, 3, 4, 5):
        table.columns[column].justify = "right"
    for name, part in told["parts"].items():
        shapes = [" × ".join(map(str, part[key])) if key in part else "" for key in ("tokens", "output")]
        flops = part.get("flops_per_object")
        table.add_row(name, part["class"], f"{part['parameters']:,}", *shapes, f"{flops:,}" if flops else "")
    table.add_section()
    table.add_row("whole model", "", f"{told['total_parameters']:,}", "", "", "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _open(options: argparse.Namespace, scratch: Path) -> tuple[Any, Any]:
    """The model and its input spectra; the output's suffix is checked first, because it costs nothing."""
    from ..hub.inputs import open_inputs
    from ..hub.load import load
    from ..hub.tables import check_suffix

    check_suffix(options.out)
    model = load(options.model, options.device)
    modalities = options.modality.split("+") if options.modality else None
    return model, open_inputs(options.files, model, modalities, scratch, options.split)


def _write(options: argparse.Namespace, columns: Any, **more: Any) -> int:
    from ..hub.tables import write_table

    write_table(options.out, columns, meta={"model": str(options.model)} | more.pop("meta", {}), **more)
    n = len(next(iter(columns.values()))[0])
    say(f"{n:,} rows")
    print(options.out)
    return 0


def _embed(options: argparse.Namespace) -> int:
    from ..hub.answers import embedding_table

    with tempfile.TemporaryDirectory() as scratch:
        model, inputs = _open(options, Path(scratch))
        kind = options.kind or ("aligned" if f"{inputs.modalities[0]}.aligned" in model.routes else "single")
        return _write(options, embedding_table(model, inputs, kind, options.batch_size), meta={"kind": kind})


def _predict(options: argparse.Namespace) -> int:
    from ..hub.answers import label_table

    with tempfile.TemporaryDirectory() as scratch:
        model, inputs = _open(options, Path(scratch))
        chosen = model.choose_predictor(list(inputs.modalities), options.head, options.input)
        entry = model.predictors[chosen]
        say(f"head {entry['head']} on {entry['input']}")
        columns = label_table(
            model, inputs, entry["head"], entry["input"], options.samples, options.batch_size
        )
        return _write(options, columns, meta={"head": chosen})


def _search(options: argparse.Namespace) -> int:
    from ..hub.answers import search_table
    from ..hub.inputs import open_inputs

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        model, query = _open(options, Path(first))
        wanted = options.gallery_modality or "+".join(query.modalities)
        gallery = open_inputs(options.gallery, model, wanted.split("+"), Path(second)).distinct()
        if options.ids:
            query = query.take(options.ids)
        columns = search_table(model, query, gallery, options.k, options.exclude_self, options.batch_size)
        return _write(options, columns)


def _translate(options: argparse.Namespace) -> int:
    from ..hub.answers import translation_table, wavelength_names

    with tempfile.TemporaryDirectory() as scratch:
        model, inputs = _open(options, Path(scratch))
        others = [m for m in model.modalities if m not in inputs.modalities]
        if options.to is None and len(others) != 1:
            raise ConfigError(
                f"say with --modality and --to which of {', '.join(model.modalities)} to go from and to."
            )
        to = options.to or others[0]
        columns, info = translation_table(model, inputs, to, options.batch_size)
        grid = info.grid.to_json() if hasattr(info.grid, "to_json") else str(info.grid)
        meta = {"modality": to, "survey": info.survey, "grid": grid, "frame": info.frame}
        if info.normalisation:
            meta["flux divided by"] = ", ".join(info.normalisation)
        return _write(options, columns, meta=meta, pixels=wavelength_names(info.grid))


def _export(options: argparse.Namespace) -> int:
    from ..hub.export import export, training_features

    training = training_features(options.model, options.reference)
    out = export(
        options.model,
        options.out,
        name=options.name,
        licence=options.licence,
        training=training,
        overwrite=options.overwrite,
    )
    size = sum(f.stat().st_size for f in Path(out).iterdir()) / 1e6
    say(f"{size:,.0f} MB; in_domain flags for {', '.join(training) or 'nothing'}")
    if not training:
        say("no training data were found, so the export has no in_domain flags: give --reference STORE.")
    print(out)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import doctor

    return doctor(options.run, options.output)


def _sweep(options: argparse.Namespace) -> int:
    from ..sweeps.page import write_page
    from ..sweeps.table import print_sweep, read_sweep

    folder = Path(options.folder)
    told = read_sweep(folder)
    page = write_page(folder, options.out)
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        print_sweep(told)
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
