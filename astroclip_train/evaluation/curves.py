"""Figures of training: loss curves and online probes, from metrics.csv."""

import csv
import io
import re
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .style import COLOURS, GREY, figure, symbol

__all__ = ["Curves", "loss_figure", "probe_figure", "read_curves"]

Line = tuple[NDArray[np.float64], NDArray[np.float64]]
Curves = dict[str, dict[str, Line]]

_PROBE = re.compile(r"^(?P<prefix>.+?)_(?P<kind>ridge|knn)_r2_(?P<label>.+)$")
_SHAPE = re.compile(r"^(?P<prefix>.+?)_effective_rank$")


def read_curves(text: str) -> Curves:
    """metrics.csv as stage -> metric -> (steps, values); empty cells and words are left out."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(io.StringIO(text)):
        stage, step = row.pop("stage", ""), _float(row.pop("step", ""))
        for key, cell in row.items():
            value = _float(cell) if isinstance(cell, str) else None
            if key and value is not None and step is not None:
                found[stage][key].append((step, value))
    return {
        stage: {key: _sorted(points) for key, points in metrics.items()} for stage, metrics in found.items()
    }


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _sorted(points: list[tuple[float, float]]) -> Line:
    array = np.asarray(sorted(points), np.float64)
    return array[:, 0], array[:, 1]


def _losses(metrics: dict[str, Line]) -> dict[str, Line]:
    return {k: v for k, v in metrics.items() if k in ("loss", "train_loss", "val_loss")}


def _panels(count: int, columns: int = 3, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    drawn, panels = figure(rows, columns, width=min(9.6, 3.2 * columns + 0.3), height=height)
    flat = [axes for row in panels for axes in row]
    for axes in flat[count:]:
        axes.set_visible(False)
    return drawn, flat[:count]


def loss_figure(curves: Curves) -> Figure | None:
    """Training and validation loss of each stage; the tasks of a stage (`heads/mlp__…`) share a panel."""
    single = {s: m for s, m in curves.items() if "/" not in s and _losses(m)}
    grouped: dict[str, dict[str, Line]] = defaultdict(dict)
    for stage, metrics in curves.items():
        if "/" in stage and "val_loss" in metrics:
            whole, task = stage.split("/", 1)
            grouped[whole][task] = metrics["val_loss"]
    informed = {s: lines for s, m in curves.items() if (lines := _information(m))}
    count = len(single) + len(grouped)
    if not count:
        return None
    drawn, panels = _panels(count + len(informed), height=2.5)
    for axes, (stage, lines) in zip(panels[count:], informed.items(), strict=True):
        _information_panel(axes, stage, lines)
    for axes, (stage, metrics) in zip(panels, single.items(), strict=False):
        _stage_losses(axes, stage, metrics)
    for axes, (stage, tasks) in zip(panels[len(single) : count], grouped.items(), strict=True):
        for i, (task, (steps, values)) in enumerate(sorted(tasks.items())):
            style = ("-", "--", ":")[i // len(COLOURS) % 3]
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(
                steps, values, style, marker="o", markersize=3, color=colour, label=task.replace("__", " · ")
            )
        axes.set(title=f"{stage}: validation loss of each head", xlabel="step")
        if len(tasks) <= 12:
            axes.legend(fontsize=5.5, handlelength=1.4, labelspacing=0.2)
    return drawn


def _stage_losses(axes: Axes, stage: str, metrics: dict[str, Line]) -> None:
    for key in ("loss", "train_loss"):
        if key in metrics:
            steps, values = metrics[key]
            axes.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=0.8, label="training")
            width = max(1, len(values) // 40)
            if len(values) >= 3 * width > 3:
                smooth = np.convolve(values, np.ones(width) / width, "valid")
                axes.plot(steps[width - 1 :], smooth, color=COLOURS[0], label="training, running mean")
    if "val_loss" in metrics:
        axes.plot(*metrics["val_loss"], "o-", color=COLOURS[1], markersize=3.5, label="validation")
    values = np.concatenate([v for _, v in _losses(metrics).values()])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
    axes.set(title=stage, xlabel="step", ylabel="loss")
    axes.legend()


def _information(metrics: dict[str, Line]) -> dict[str, Line]:
    """Validated information bounds of an alignment, in nats: InfoNCE, its ceiling, gains of decoders."""
    keys = [
        k for k in metrics if k.startswith("val_") and (k.endswith(("mi_bound", "ceiling")) or "_gain" in k)
    ]
    return {k: metrics[k] for k in keys}


def _information_panel(axes: Axes, stage: str, lines: dict[str, Line]) -> None:
    colours = iter(COLOURS * 3)
    for key, (steps, values) in lines.items():
        if key.endswith("ceiling"):
            axes.plot(steps, values, ":", color=GREY, label="InfoNCE ceiling, log(batch)")
        elif key.endswith("mi_bound"):
            axes.plot(steps, values, "o-", markersize=3.5, color=next(colours), label="InfoNCE bound")
        else:
            name = key.split("gain_")[-1].replace("_to_", " → ").replace("_", " ")
            axes.plot(steps, values, "o-", markersize=3.5, color=next(colours), label=f"gain, {name}")
    values = np.concatenate([v for _, v in lines.values()])
    axes.set(title=f"{stage}: information on validation pairs", xlabel="step", ylabel="nats")
    if np.abs(values).max() > 100:
        axes.set_yscale("symlog", linthresh=10)
        # lines lie flat at both ends of the axis: the legend needs decades of its own below them
        axes.set_ylim(bottom=min(-1e4, 300 * values.min()))
        axes.legend(fontsize=6, loc="lower center", ncols=2, handlelength=1.4, columnspacing=1.0)
    else:
        axes.legend(fontsize=6.5)


def probe_figure(curves: Curves) -> Figure | None:
    """What probes read from the embedding while it trains: R² by label, effective rank, pair geometry."""
    reads: dict[str, dict[str, dict[str, Line]]] = defaultdict(lambda: defaultdict(dict))
    ranks: dict[str, Line] = {}
    pairs: dict[str, dict[str, Line]] = defaultdict(dict)
    for stage, metrics in curves.items():
        for key, line in metrics.items():
            if match := _PROBE.match(key):
                reads[_where(stage, match["prefix"])][match["kind"]][match["label"]] = line
            elif match := _SHAPE.match(key):
                ranks[_where(stage, match["prefix"])] = line
            elif key.startswith("pair_"):
                pairs[stage][key.removeprefix("pair_").replace("_", " ")] = line
    count = len(reads) + bool(ranks) + len(pairs)
    if not count:
        return None
    drawn, panels = _panels(count)
    free = iter(panels)
    for name, kinds in reads.items():
        _probe_panel(next(free), name, kinds)
    if reads:
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    if ranks:
        axes = next(free)
        for i, (name, line) in enumerate(ranks.items()):
            axes.plot(*line, "o-", markersize=3, color=COLOURS[i % len(COLOURS)], label=name)
        axes.set(title="effective rank", xlabel="step")
        axes.set_ylim(bottom=0)
        axes.legend()
    for stage, lines in pairs.items():
        axes = next(free)
        for i, (name, line) in enumerate(lines.items()):
            axes.plot(*line, "o-", markersize=3, color=COLOURS[i % len(COLOURS)], label=name)
        axes.set(title=f"{stage}: geometry of the pair", xlabel="step")
        axes.legend()
    return drawn


def _where(stage: str, prefix: str) -> str:
    modality = prefix.removeprefix("probe").strip("_")
    return f"{stage} · {modality}" if modality else stage


def _probe_panel(axes: Axes, name: str, kinds: dict[str, dict[str, Line]]) -> None:
    labels = list(dict.fromkeys(label for lines in kinds.values() for label in lines))
    for kind, style in (("ridge", "o-"), ("knn", "s--")):  # markers, because one point has no line
        for label, line in kinds.get(kind, {}).items():
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            shown = symbol(label) if kind == "ridge" or "ridge" not in kinds else None
            axes.plot(*line, style, color=colour, markersize=3, label=shown)
    axes.set(title=f"{name}: R² of probes", xlabel="step")
    axes.set_ylim(-0.1, 1.03)
