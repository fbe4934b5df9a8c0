"""Figures of a sweep: its history, the trials' curves, parallel coordinates, single parameters, importances."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.style import ACCENT, COLOURS, GREY, INK, figure
from .space import names
from .table import shown

__all__ = [
    "curves_figure",
    "history_figure",
    "importance_figure",
    "importances",
    "parallel_figure",
    "slices_figure",
]

Tree = dict[str, Any]
ENOUGH = 8  # completed trials below which importances are noise
MOST_LINES = 200


def _complete(told: Tree) -> list[Tree]:
    return [t for t in told["trials"] if t["state"] == "complete"]


def history_figure(told: Tree) -> Figure | None:
    """Value against trial number, with the best so far."""
    complete = sorted(_complete(told), key=lambda t: t["number"])
    if not complete:
        return None
    drawn, ((axes,),) = figure(1, 1, height=2.8)
    better = min if told["direction"] == "minimize" else max
    numbers, values = [t["number"] for t in complete], [t["value"] for t in complete]
    best = [better(values[: i + 1]) for i in range(len(values))]
    axes.step([*numbers, _last(told)], [*best, best[-1]], where="post", color=COLOURS[0], label="best so far")
    axes.plot(numbers, values, "o", ms=4, color=INK, label="completed")
    pruned = [t for t in told["trials"] if t["state"] == "pruned" and t["value"] is not None]
    if pruned:
        axes.plot(*_xy(pruned), "x", ms=4.5, color=GREY, label="pruned, at its last step")
    failed = [t["number"] for t in told["trials"] if t["state"] == "failed"]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.03] * len(failed), "^", ms=5, color=ACCENT, transform=bottom, label="failed")
    _bounded(axes, [*values, *(t["value"] for t in pruned)], values)
    axes.set(xlabel="trial", ylabel=told["metric"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)
    return drawn


def _last(told: Tree) -> int:
    return max(t["number"] for t in told["trials"])


def _xy(trials: Sequence[Tree]) -> tuple[list[int], list[float]]:
    return [t["number"] for t in trials], [t["value"] for t in trials]


def _bounded(axes: Axes, values: Sequence[float], kept: Sequence[float]) -> None:
    """Diverged trials must not squeeze the others: the axis ends where three quarters of the completed ones spread."""
    low, high = min(values), max(values)
    first, third = np.quantile(kept, [0.1, 0.75])
    span = max(third - first, 1e-12)
    low, high = max(low, first - 6 * span), min(high, third + 6 * span)
    pad = 0.08 * max(high - low, abs(high) * 1e-6, 1e-12)
    axes.set_ylim(low - pad, high + 2.5 * pad)


def curves_figure(told: Tree) -> Figure | None:
    """The metric against the step of every trial."""
    lines = [t for t in told["trials"] if t["curve"]][:MOST_LINES]
    if all(len(t["curve"]) < 2 for t in lines):
        return None
    drawn, ((axes,),) = figure(1, 1, height=2.8)
    best = (told["best"] or {}).get("number")
    labels: set[str] = set()
    for trial in reversed(lines):
        points = [(int(s), v) for s, v in trial["curve"].items() if v is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        first = trial["number"] == best
        style: Tree = {"color": COLOURS[0], "lw": 1.8, "zorder": 3} if first else {"color": GREY, "lw": 0.8}
        _once(axes, labels, f"trial {best}, selected" if first else "others", steps, values, "-", **style)
        if trial["state"] == "pruned":
            _once(axes, labels, "pruned here", steps[-1:], values[-1:], "x", ms=4.5, color=ACCENT, zorder=4)
    flat = [v for t in lines for v in t["curve"].values() if v is not None]
    _bounded(axes, flat, flat)
    axes.set(xlabel="step", ylabel=told["metric"])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return drawn


def _once(axes: Axes, labels: set[str], label: str, *points: Any, **style: Any) -> None:
    """Plots with a label that the legend gets once."""
    axes.plot(*points, label=None if label in labels else label, **style)
    labels.add(label)


class _Scale:
    """A parameter's or the metric's values on [0, 1], with ticks."""

    def __init__(self, values: Sequence[Any], node: Any = None) -> None:
        self.categories: list[str] = []
        interval = isinstance(node, dict)
        if not interval and node is not None:
            self.categories = [str(v) for v in node]
        elif any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
            self.categories = sorted({str(v) for v in values})
        self.log = bool(interval and node["log"])
        numbers = [] if self.categories else [float(v) for v in values]
        self.low = node["low"] if interval else min(numbers, default=0.0)
        self.high = node["high"] if interval else max(numbers, default=1.0)

    def place(self, value: Any) -> float:
        if self.categories:
            n, text = len(self.categories), _category(value, self.categories)
            return (self.categories.index(text) + 0.5) / n
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, float(value)))
        return 0.5 if high == low else (x - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.categories:
            return [((i + 0.5) / len(self.categories), c[:18]) for i, c in enumerate(self.categories)]
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        marks = np.linspace(low, high, 5)
        return [(float(i / 4), shown(float(math.exp(m) if self.log else m), 3)) for i, m in enumerate(marks)]


def _category(value: Any, known: Sequence[str]) -> str:
    """How a choice is written in the definition: an override's text."""
    for text in (str(value), str(value).lower(), "null" if value is None else repr(value)):
        if text in known:
            return text
    numbers = [k for k in known if _equal(k, value)]
    return numbers[0] if numbers else known[0]


def _equal(text: str, value: Any) -> bool:
    try:
        return float(text) == float(value)
    except (TypeError, ValueError):
        return text.strip("'\"") == str(value)


def parallel_figure(told: Tree) -> Figure | None:
    """One axis for each parameter and one for the metric; a line is a trial."""
    trials = _complete(told)[:MOST_LINES]
    if len(trials) < 2:
        return None
    short = names(list(told["space"]))
    columns = [*told["space"]]
    scales = [_Scale([t["params"][k] for t in trials], told["space"][k]) for k in columns]
    scales.append(_Scale([t["value"] for t in trials]))
    drawn, ((axes,),) = figure(1, 1, height=3.4)
    colours = mpl.colormaps["viridis"]
    for rank, trial in reversed(list(enumerate(trials))):
        row = [*(trial["params"][k] for k in columns), trial["value"]]
        heights = [s.place(v) for s, v in zip(scales, row, strict=True)]
        xs, ys = _smooth(heights)
        style: Tree = {"color": ACCENT, "lw": 2.2} if rank == 0 else {
            "color": colours(0.9 * rank / max(1, len(trials) - 1)), "lw": 1.0, "alpha": 0.75,
        }  # fmt: skip
        axes.plot(xs, ys, **style)
    for i, scale in enumerate(scales):
        axes.axvline(i, color=INK, lw=0.8)
        for height, text in scale.ticks():
            axes.plot([i - 0.012, i + 0.012], [height, height], color=INK, lw=0.8)
            axes.text(i + 0.025, height, text, fontsize=7, va="center", color=INK,
                      bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6})  # fmt: skip
    axes.set_xlim(-0.08, len(scales) - 0.75)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xticks(range(len(scales)), [*(short[k] for k in columns), told["metric"]])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return drawn


def _smooth(heights: Sequence[float], n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line that leaves each axis horizontally, so that crossings can be followed."""
    u = np.linspace(0, 1, n)
    bend = u * u * (3 - 2 * u)
    pairs = list(pairwise(heights))
    xs = np.concatenate([i + u for i in range(len(pairs))])
    return xs, np.concatenate([a + (b - a) * bend for a, b in pairs])


def slices_figure(told: Tree) -> Figure | None:
    """The metric against each parameter."""
    trials = _complete(told)
    if len(trials) < 2:
        return None
    keys = list(told["space"])
    short, columns = names(keys), min(4, len(keys))
    rows = math.ceil(len(keys) / columns)
    drawn, panels = figure(rows, columns, height=2.4, sharey=True)
    flat = [panel for row in panels for panel in row]
    values = [t["value"] for t in trials]
    for axes, key in zip(flat, keys, strict=False):
        scale = _Scale([t["params"][key] for t in trials], told["space"][key])
        if scale.categories:
            xs: list[Any] = [
                scale.categories.index(_category(t["params"][key], scale.categories)) for t in trials
            ]
            axes.set_xticks(range(len(scale.categories)), [c[:14] for c in scale.categories])
            axes.set_xlim(-0.5, len(scale.categories) - 0.5)
        else:
            xs = [t["params"][key] for t in trials]
            axes.set_xscale("log" if scale.log else "linear")
            axes.set_xlim(*_margins(scale))
        axes.plot(xs[1:], values[1:], "o", ms=3.5, color=INK, alpha=0.7)
        axes.plot(xs[:1], values[:1], "o", ms=6, color=ACCENT)
        axes.set_xlabel(short[key])
    for axes in flat[len(keys) :]:
        axes.set_visible(False)
    _bounded(flat[0], values, values)
    for row in panels:
        row[0].set_ylabel(told["metric"])
    return drawn


def _margins(scale: _Scale) -> tuple[float, float]:
    """The searched interval with a little room on both sides."""
    if scale.log:
        room = (scale.high / scale.low) ** 0.04
        return scale.low / room, scale.high * room
    room = 0.04 * (scale.high - scale.low) or 1.0
    return scale.low - room, scale.high + room


def importances(study: Any, told: Tree) -> dict[str, float]:
    """Share of the metric's variance that each parameter explains by itself (fANOVA); empty for few trials."""
    import optuna

    if len(_complete(told)) < ENOUGH:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError, ZeroDivisionError):  # no parameter varied, or all values are equal
        return {}


def importance_figure(shares: dict[str, float]) -> Figure | None:
    """Bars of importances, the largest on top."""
    if not shares:
        return None
    short = names(list(shares))
    ordered = sorted(shares, key=lambda k: shares[k])
    drawn, ((axes,),) = figure(1, 1, width=6.4, height=0.7 + 0.34 * len(shares))
    axes.barh([short[k] for k in ordered], [shares[k] for k in ordered], color=COLOURS[0], height=0.6)
    for i, key in enumerate(ordered):
        axes.text(shares[key] + 0.01, i, f"{shares[key]:.2f}", va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.08), xlabel="share of the variance of the metric")
    axes.grid(False)
    return drawn
