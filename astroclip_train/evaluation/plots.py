"""Figures of parameter estimates: truth against prediction, residuals, pulls, calibration, embeddings."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binom

from .artefacts import Prediction
from .style import ACCENT, COLOURS, GREY, INK, figure, label_title, symbol

__all__ = ["embedding_figure", "pit_figure", "pull_figure", "residual_figure", "truth_figure"]

Array = NDArray[np.float64]
MOST_POINTS = 3000


def _grid(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    drawn, panels = figure(-(-count // columns), columns, width=3.2 * columns, height=height)
    flat = [axes for row in panels for axes in row]
    for axes in flat[count:]:
        axes.set_visible(False)
    return drawn, flat[:count]


def _known(p: Prediction) -> list[str]:
    """Labels with at least ten pairs of truth and prediction."""
    ok = np.isfinite(p.arrays["truth"]) & np.isfinite(p.arrays["mean"])
    return [label for label, n in zip(p.labels, ok.sum(0), strict=True) if n >= 10]


def _pair(p: Prediction, label: str) -> tuple[Array, Array, NDArray[np.bool_]]:
    truth, mean = p.pair(label)
    return truth, mean, np.isfinite(truth) & np.isfinite(mean)


def _limits(*values: Array) -> tuple[float, float]:
    joined = np.concatenate(values)
    low, high = np.nanpercentile(joined, (0.2, 99.8))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def truth_figure(p: Prediction) -> Figure | None:
    """Prediction against truth, one panel for each label, points coloured by S/N."""
    labels = _known(p)
    if not labels:
        return None
    drawn, panels = _grid(len(labels), 3, 2.9)
    snr = p.get("snr")
    ratio = np.full(len(p.arrays["truth"]), np.nan) if snr is None else np.asarray(snr, np.float64)
    shade = np.log10(np.clip(ratio, 5, 200))
    points = None
    for axes, label in zip(panels, labels, strict=True):
        truth, mean, ok = _pair(p, label)
        rows = np.flatnonzero(ok)[:MOST_POINTS]
        low, high = _limits(truth[ok], mean[ok])
        axes.plot([low, high], [low, high], color=GREY, linewidth=0.8, zorder=1)
        style: dict[str, Any] = {"s": 4, "alpha": 0.7, "linewidths": 0}
        if np.isfinite(shade[rows]).any():
            style |= {"c": shade[rows], "cmap": "viridis", "vmin": 0.7, "vmax": 2.3}
            points = axes.scatter(truth[rows], mean[rows], **style)
        else:
            axes.scatter(truth[rows], mean[rows], color=COLOURS[0], **style)
        unit = p.units[label]
        axes.set(
            xlim=(low, high), ylim=(low, high), xlabel=f"true {label_title(label, unit)}", ylabel="predicted"
        )
    if points is not None:
        bar = drawn.colorbar(points, ax=panels, shrink=0.5, aspect=30, pad=0.01)
        bar.set_ticks([0.7, 1.0, 1.3, 1.7, 2.0, 2.3], labels=["5", "10", "20", "50", "100", "200"])
        bar.set_label("S/N")
        bar.solids.set_alpha(1)  # type: ignore[union-attr]
    return drawn


def residual_figure(p: Prediction, against: str = "feh") -> Figure | None:
    """Residuals against S/N and against the label `against`, with running percentiles and the bound."""
    labels, snr = _known(p), p.get("snr")
    axis_values = [
        ("S/N", None if snr is None or not np.isfinite(snr).any() else np.asarray(snr, np.float64))
    ]
    if against in p.labels:
        title = f"true {label_title(against, p.units[against])}"
        axis_values.append((title, p.column("truth", against)))
    axis_values = [(t, v) for t, v in axis_values if v is not None]
    if not labels or not axis_values:
        return None
    width = 4.8 * len(axis_values)
    drawn, panels = figure(
        len(labels), len(axis_values), width=width, height=1.55, sharey="row", sharex="col"
    )
    for row, label in zip(panels, labels, strict=True):
        truth, mean, ok = _pair(p, label)
        spread = 4 * np.median(np.abs(mean - truth)[ok]) / 0.6745 or 1.0
        for axes, (title, values) in zip(row, axis_values, strict=True):
            assert values is not None
            _residual_panel(axes, values, mean - truth, ok, p.column("crb", label), log=title == "S/N")
            axes.set_ylim(-spread, spread)
            if row is panels[-1]:
                axes.set_xlabel(title)
        row[0].set_ylabel(f"Δ {label_title(label, p.units[label])}")
    if panels[0][0].get_legend_handles_labels()[0]:
        panels[0][0].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return drawn


def _residual_panel(
    axes: Axes, x: Array, residual: Array, ok: NDArray[np.bool_], bound: Array | None, log: bool
) -> None:
    ok = ok & np.isfinite(x) & ((x > 0) if log else True)
    if ok.sum() < 10:
        return
    rows = np.flatnonzero(ok)[:MOST_POINTS]
    axes.scatter(x[rows], residual[rows], s=3, color=GREY, alpha=0.35, linewidths=0)
    edges = np.unique(np.quantile(x[ok], np.linspace(0, 1, 1 + min(12, max(3, ok.sum() // 25)))))
    which = np.digitize(x, edges[1:-1])
    centres, bands, bounds = [], [], []
    for b in range(len(edges) - 1):
        inside = ok & (which == b)
        if inside.sum() >= 8:
            centres.append(np.median(x[inside]))
            bands.append(np.percentile(residual[inside], (16, 50, 84)))
            known = None if bound is None else bound[inside]
            usable = known is not None and bool(np.isfinite(known).any())
            bounds.append(float(np.nanmedian(known)) if usable and known is not None else np.nan)
    if bands:
        low, middle, high = np.asarray(bands).T
        axes.fill_between(centres, low, high, color=COLOURS[0], alpha=0.18, linewidth=0, label="16–84 %")
        axes.plot(centres, middle, color=COLOURS[0], label="median")
    if np.isfinite(bounds).any():
        axes.plot(centres, bounds, color=ACCENT, linestyle="--", linewidth=1.0, label="± median bound")
        axes.plot(centres, -np.asarray(bounds), color=ACCENT, linestyle="--", linewidth=1.0)
    axes.axhline(0, color=INK, linewidth=0.5)
    if log:
        axes.set_xscale("log")


def pull_figure(heads: dict[str, Any], rows: list[tuple[str, str, str]]) -> Figure | None:
    """Residual scatter over the bound in bins of S/N: a panel for each label, a line for each of `rows`.

    Arguments:
        heads: `heads` of metrics.json.
        rows: (title, head, input) of each line.
    """
    lines: dict[str, list[tuple[str, Array, Array, Array]]] = {}
    for label, by_head in heads.items():
        for title, head, name in rows:
            bins = by_head.get(head, {}).get(name, {}).get("bins", [])
            bins = [b for b in bins if b.get("pull_sigma") is not None]
            if bins:
                edges = [(max(b["low"], 5.0), b["high"] or 2 * b["low"]) for b in bins]
                x = np.asarray([np.sqrt(a * b) for a, b in edges])
                y = np.asarray([b["pull_sigma"] for b in bins])
                error = np.asarray([b.get("pull_sigma_err") or 0.0 for b in bins])
                lines.setdefault(label, []).append((title, x, y, error))
    if not lines:
        return None
    drawn, panels = _grid(len(lines), 3, 2.3)
    titles = [title for title, _, _ in rows]
    for axes, (label, content) in zip(panels, lines.items(), strict=True):
        for title, x, y, error in content:
            colour = COLOURS[titles.index(title) % len(COLOURS)]
            axes.errorbar(x, y, error, fmt="o-", markersize=3, color=colour, label=title, elinewidth=0.8)
        axes.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
        axes.set(title=symbol(label), xlabel="S/N", ylabel="scatter / bound", xscale="log")
        axes.set_ylim(bottom=0)
        axes.set_xticks([10, 20, 50, 100, 200], labels=["10", "20", "50", "100", "200"])
        axes.minorticks_off()
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return drawn


def pit_figure(predictions: list[Prediction], bins: int = 20) -> Figure | None:
    """Histograms of the probability integral transform; the band holds 95 % of calibrated heights."""
    usable = [p for p in predictions if p.get("pit") is not None]
    labels = list(dict.fromkeys(label for p in usable for label in p.labels))
    values = {
        label: [(p, v[np.isfinite(v)]) for p in usable if (v := p.column("pit", label)) is not None]
        for label in labels
        if any(label in p.labels for p in usable)
    }
    values = {label: [(p, v) for p, v in rows if v.size >= 10] for label, rows in values.items()}
    values = {label: rows for label, rows in values.items() if rows}
    if not values:
        return None
    drawn, panels = _grid(len(values), 3, 2.0)
    for axes, (label, rows) in zip(panels, values.items(), strict=True):
        n = min(v.size for _, v in rows)
        low, high = (binom.ppf(q, n, 1 / bins) * bins / n for q in (0.025, 0.975))
        axes.axhspan(low, high, color="#e5e9ee", zorder=0)
        axes.axhline(1, color=GREY, linewidth=0.8)
        for i, (p, v) in enumerate(rows):
            height, edges = np.histogram(v, bins, (0, 1))
            axes.stairs(height * bins / v.size, edges, color=COLOURS[i], label=f"{p.head} · {p.input}")
        axes.set(title=symbol(label), xlim=(0, 1), xlabel="PIT", ylabel="density")
        axes.set_ylim(0, max(2.0, axes.get_ylim()[1]))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn


def embedding_figure(arrays: dict[str, Any], units: dict[str, str]) -> Figure | None:
    """Two dimensions of an embedding, one panel for each label that colours it."""
    xy = np.asarray(arrays["xy"], np.float64)[:MOST_POINTS]
    labels = {key.removeprefix("label_"): np.asarray(v, np.float64)[:MOST_POINTS] for key, v in arrays.items()
              if key.startswith("label_")}  # fmt: skip
    labels = {name: v for name, v in labels.items() if np.isfinite(v).sum() >= 10}
    if not labels:
        labels = {"": np.full(len(xy), np.nan)}
    drawn, panels = _grid(len(labels), 3, 2.7)
    for axes, (name, values) in zip(panels, labels.items(), strict=True):
        known = np.isfinite(values)
        axes.scatter(xy[~known, 0], xy[~known, 1], s=3, color="#d5dae0", linewidths=0)
        if known.any():
            low, high = np.percentile(values[known], (2, 98))
            points = axes.scatter(
                xy[known, 0],
                xy[known, 1],
                c=values[known],
                s=4,
                linewidths=0,
                cmap="viridis",
                vmin=low,
                vmax=high,
            )
            bar = drawn.colorbar(points, ax=axes, aspect=25, pad=0.02)
            bar.outline.set_visible(False)
        axes.set(title=label_title(name, units.get(name, "")) if name else "objects", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return drawn
