"""sweep.html: one self-contained page with the trials, their figures and the best command."""

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from ..evaluation.style import png_uri, report_style
from ..files import write_text
from . import figures
from .space import names
from .study import load_study
from .table import read_sweep, shown

__all__ = ["write_page"]

TITLES = {
    "history": ("History", "no trial is completed"),
    "curves": ("Curves", "no trial has reported its metric twice"),
    "parallel": ("Parallel coordinates", "fewer than two trials are completed"),
    "slices": ("Single parameters", "fewer than two trials are completed"),
    "importances": ("Importances", f"they need {figures.ENOUGH} completed trials and parameters that vary"),
}
CAPTIONS = {
    "history": "One point is one trial, in the order in which they were begun; diverged trials lie beyond the axis.",
    "curves": "The metric as each trial wrote it; a cross is where a trial was pruned.",
    "parallel": "One line is one completed trial, from its parameters to its metric; dark lines are better, the best "
    "is drawn thick.",
    "slices": "Completed trials; the large point is the best. A best value at the edge of an interval asks for a wider "
    "one.",
    "importances": "Functional ANOVA of a random forest on the completed trials: how much of the metric's variance "
    "each parameter explains by itself, within the ranges searched. Few trials give rough numbers.",
}


def write_page(folder: Path, out: str | Path | None = None) -> Path:
    """Writes the page of a sweep.

    Arguments:
        folder: of the sweep.
        out: the file; null is sweep.html in the folder.

    Raises:
        RunError: the folder holds no sweep.
        DataError: the file cannot be written.
    """
    told = read_sweep(folder)
    study, _ = load_study(folder)
    with report_style():
        drawn: dict[str, Figure | None] = {
            "history": figures.history_figure(told),
            "curves": figures.curves_figure(told),
            "parallel": figures.parallel_figure(told),
            "slices": figures.slices_figure(told),
            "importances": figures.importance_figure(figures.importances(study, told)),
        }
        blocks = [_block(key, found) for key, found in drawn.items()]
    page = {
        "name": folder.resolve().name,
        "told": told,
        "counts": [(n, state) for state, n in told["counts"].items() if n],
        "blocks": blocks,
        "short": names(list(told["space"])),
        "rows": [_row(t, told) for t in told["trials"]],
        "space": [(k, _described(node)) for k, node in told["space"].items()],
        "failed": [t for t in told["trials"] if t["reason"]],
        "shown": shown,
    }
    source = resources.files("astroclip_train.sweeps").joinpath("templates/sweep.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    path = Path(out) if out else folder / "sweep.html"
    write_text(path, environment.from_string(source.read_text(encoding="utf-8")).render(page))
    return path


def _block(key: str, drawn: Figure | None) -> dict[str, Any]:
    title, absent = TITLES[key]
    return {
        "key": key,
        "title": title,
        "absent": absent,
        "src": png_uri(drawn) if drawn is not None else None,
        "caption": CAPTIONS[key],
    }


def _row(trial: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    state = trial["state"] + (f" at step {trial['step']:,}" if trial["state"] == "pruned" else "")
    minutes = f"{trial['seconds'] / 60:.1f}" if trial["seconds"] else ""
    return {
        "rank": trial["rank"] or "",
        "number": trial["number"],
        "value": shown(trial["value"], 5),
        "params": [shown(trial["params"].get(k)) for k in told["space"]],
        "state": state,
        "minutes": minutes,
        "run": Path(trial["run"]).name if trial["run"] else "",
    }


def _described(node: Any) -> str:
    if isinstance(node, list):
        return ", ".join(map(str, node))
    text = f"{shown(node['low'])} to {shown(node['high'])}"
    extras = [word for word, on in (("logarithmic", node["log"]), ("whole numbers", node["int"])) if on]
    extras += [f"step {shown(node['step'])}"] if node["step"] else []
    return f"{text} ({', '.join(extras)})" if extras else text
