"""Figures of spectra: retrieved neighbours over the true partner, translated spectra, their residuals."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .style import ACCENT, COLOURS, GREY, INK, figure, number, symbol
from .translation import object_chi2, pixel_residuals

__all__ = ["rank_figure", "retrieval_figure", "translation_figure", "translation_residual_figure"]

Arrays = dict[str, NDArray[Any]]


def rank_figure(retrieval: dict[str, Arrays]) -> Figure | None:
    """Recall@k against k for each direction, beside the ideal observer and chance."""
    if not retrieval:
        return None
    drawn, panels = figure(1, len(retrieval), width=min(9.6, 4.8 * len(retrieval)), height=2.7, sharey=True)
    for axes, (name, a) in zip(panels[0], retrieval.items(), strict=True):
        gallery = len(a["gallery_sample"])
        k = np.unique(np.round(np.geomspace(1, gallery, 60)).astype(int))
        for key, colour, style, title in (
            ("rank", COLOURS[0], "-", "embedding"),
            ("oracle_rank", ACCENT, "--", "observer at the bound"),
        ):
            if key in a:
                ranks = a[key][a[key] > 0]
                axes.plot(k, [(ranks <= i).mean() for i in k], style, color=colour, label=title)
        axes.plot(k, k / gallery, ":", color=GREY, label="chance")
        axes.axvline(10, color="#d5dae0", linewidth=0.8, zorder=0)
        axes.set(title=_arrow(name), xscale="log", xlabel=f"k, of {gallery:,} objects", ylim=(0, 1.02))
        axes.legend()
    panels[0][0].set_ylabel("recall@k")
    return drawn


def _arrow(name: str) -> str:
    return name.replace("_to_", " → ")


def _wave_title(arrays: Arrays, wave: NDArray[Any]) -> str:
    guess = "Angstrom" if np.nanmax(wave) > 3000 else "nm"
    unit = str(arrays.get("wave_unit", guess))
    return f"wavelength [{'Å' if unit.lower().startswith('ang') else unit}]"


def _choose_queries(a: Arrays, known_query: set[int], known_gallery: set[int]) -> list[tuple[str, int]]:
    """The best, a median and a poor query (90th percentile of rank) among those whose spectra are at hand."""
    rank = np.asarray(a["rank"])
    usable = np.asarray([
        r > 0 and int(q) in known_query and int(a["gallery_sample"][t]) in known_gallery
        and all(int(a["gallery_sample"][i]) in known_gallery for i in top[:3])
        for r, q, t, top in zip(rank, a["query_sample"], a["target"], a["top"], strict=True)
    ])  # fmt: skip
    rows = np.flatnonzero(usable)
    if rows.size == 0:
        return []
    order = rows[np.argsort(rank[rows], kind="stable")]
    picks = [
        ("found best", order[0]),
        ("median", order[len(order) // 2]),
        ("poor", order[int(0.9 * (len(order) - 1))]),
    ]
    seen: dict[int, str] = {}
    for title, row in picks:
        seen.setdefault(int(row), title)
    return [(title, row) for row, title in seen.items()]


def retrieval_figure(
    name: str, a: Arrays, spectra: dict[str, Arrays], labels: dict[int, dict[str, float]]
) -> Figure | None:
    """Queries on the left; on the right the true partner and the three gallery spectra ranked first.

    Arguments:
        name: `<a>_to_<b>`.
        a: arrays of retrieval/<a>_to_<b>.npz.
        spectra: arrays of spectra/<m>.npz by modality.
        labels: sample -> label -> true value, for the text in the panels.
    """
    query, _, gallery = name.partition("_to_")
    if query not in spectra or gallery not in spectra:
        return None
    rows_of = {m: {int(s): i for i, s in enumerate(spectra[m]["sample"])} for m in (query, gallery)}
    chosen = _choose_queries(a, set(rows_of[query]), set(rows_of[gallery]))
    if not chosen:
        return None
    drawn, panels = figure(len(chosen), 2, height=2.1, width=9.6)
    for (left, right), (title, row) in zip(panels, chosen, strict=True):
        sample = int(a["query_sample"][row])
        _line(left, spectra[query], rows_of[query][sample], INK, None, 0.8)
        left.set_title(
            f"query ({query}), {title}: rank {int(a['rank'][row])}   {_values(labels.get(sample))}"
        )
        target = int(a["gallery_sample"][a["target"][row]])
        _line(right, spectra[gallery], rows_of[gallery][target], INK, "true partner", 1.6, alpha=0.45)
        for place, position in enumerate(a["top"][row][:3]):
            found = int(a["gallery_sample"][position])
            text = f"{place + 1}. {'the right one' if found == target else _values(labels.get(found))}"
            _line(right, spectra[gallery], rows_of[gallery][found], COLOURS[place], text, 0.9 - 0.15 * place)
            right.lines[-1].set_zorder(4 - 0.1 * place)
        _zoom(right, spectra[gallery])
        similarity = number(a["similarity_top"][row][0]) if "similarity_top" in a else "–"
        right.set_title(f"ranked first ({gallery}), best similarity {similarity}")
        right.legend(
            fontsize=6.5, frameon=True, facecolor="white", framealpha=0.85, edgecolor="none"
        ).set_zorder(9)
    panels[-1][0].set_xlabel(_wave_title(spectra[query], spectra[query]["wave"]))
    panels[-1][1].set_xlabel(_wave_title(spectra[gallery], spectra[gallery]["wave"]))
    return drawn


def _zoom(axes: Axes, spectra: Arrays) -> None:
    """Four overplotted spectra of a thousand pixels cannot be told apart, so a quarter of them is shown."""
    n = len(spectra["wave"])
    if n > 800:
        part = slice(int(0.6 * n), int(0.85 * n))
        axes.set_xlim(spectra["wave"][part.start], spectra["wave"][part.stop])
        heights = np.concatenate([np.asarray(line.get_ydata())[part] for line in axes.lines])
        low, high = np.nanpercentile(heights, (0.1, 99.9))
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _line(
    axes: Axes, spectra: Arrays, row: int, colour: str, label: str | None, width: float, alpha: float = 1.0
) -> None:
    axes.plot(spectra["wave"], spectra["flux"][row], color=colour, linewidth=width, label=label, alpha=alpha)


def _values(labels: dict[str, float] | None, most: int = 3) -> str:
    shown = list((labels or {}).items())[:most]
    return ", ".join(f"{symbol(k)} {number(v)}" for k, v in shown if v == v)


def _ranked_examples(a: Arrays) -> list[tuple[str, int]]:
    """Objects at the 20th, 50th and 80th percentile of prediction error."""
    if "ivar" in a:
        error = object_chi2(a["truth"], a["prediction"], a["ivar"], a.get("mask"))
        title = "χ²/pixel"
    else:
        error = np.sqrt(np.nanmean(np.square(a["prediction"] - a["truth"]), axis=1))
        title = "rms"
    rows = np.flatnonzero(np.isfinite(error))
    if rows.size == 0:
        return []
    order = rows[np.argsort(error[rows])]
    picks = dict.fromkeys(int(order[int(q * (len(order) - 1))]) for q in (0.2, 0.5, 0.8))
    return [(f"{title} {number(error[row])}", row) for row in picks]


def translation_figure(name: str, a: Arrays) -> Figure | None:
    """Observed and predicted spectra of three objects, with their residuals below."""
    examples = _ranked_examples(a)
    if not examples:
        return None
    drawn, panels = figure(
        2, len(examples), height=1.75, width=9.6, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]}
    )
    for column, (title, row) in enumerate(examples):
        top, bottom = panels[0][column], panels[1][column]
        good = a["mask"][row] if "mask" in a else np.isfinite(a["truth"][row])
        truth, prediction = np.where(good, a["truth"][row], np.nan), a["prediction"][row]
        top.plot(a["wave"], truth, color=GREY, linewidth=0.7, label="observed")
        top.plot(a["wave"], prediction, color=COLOURS[0], linewidth=0.9, label="predicted")
        top.set_title(f"{_arrow(name)}, {title}")
        if "ivar" in a:
            with np.errstate(divide="ignore", invalid="ignore"):
                noise = np.where(a["ivar"][row] > 0, a["ivar"][row] ** -0.5, np.nan)
            for side in (-noise, noise):
                bottom.plot(a["wave"], side, color=INK, linewidth=0.8, zorder=3)
        bottom.plot(a["wave"], prediction - truth, color=ACCENT, linewidth=0.6)
        limit = np.nanpercentile(np.abs(prediction - truth), 99) * 1.3 or 1.0
        bottom.set_ylim(-limit, limit)
        bottom.set_xlabel(_wave_title(a, a["wave"]))
    panels[0][0].legend()
    panels[0][0].set_ylabel("flux")
    panels[1][0].set_ylabel("predicted − obs.")
    return drawn


def translation_residual_figure(translation: dict[str, Arrays]) -> Figure | None:
    """Percentiles over objects of prediction - truth at each wavelength, a panel for each direction."""
    if not translation:
        return None
    drawn, panels = figure(1, len(translation), width=min(9.6, 4.8 * len(translation)), height=2.3)
    for axes, (name, a) in zip(panels[0], translation.items(), strict=True):
        low, middle, high = pixel_residuals(a["truth"], a["prediction"], a.get("mask"))
        axes.fill_between(a["wave"], low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="16–84 %")
        axes.plot(a["wave"], middle, color=COLOURS[0], linewidth=0.9, label="median")
        if "ivar" in a:
            with np.errstate(divide="ignore", invalid="ignore"):
                noise = np.nanmedian(np.where(a["ivar"] > 0, a["ivar"] ** -0.5, np.nan), axis=0)
            axes.plot(a["wave"], noise, color=ACCENT, linestyle="--", linewidth=0.8, label="± median noise")
            axes.plot(a["wave"], -noise, color=ACCENT, linestyle="--", linewidth=0.8)
        limit = 1.8 * np.nanpercentile(np.abs([low, high]), 97) or 1.0
        axes.set(title=_arrow(name), xlabel=_wave_title(a, a["wave"]), ylabel="predicted − observed")
        axes.set_ylim(-limit, limit)
        axes.legend(ncols=3, loc="upper center")
    return drawn
