"""How figures of a report look, and how label names are written in them."""

import base64
import io
import warnings
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

__all__ = [
    "ACCENT",
    "COLOURS",
    "GREY",
    "INK",
    "figure",
    "label_title",
    "number",
    "png_uri",
    "report_style",
    "symbol",
]

INK, GREY, ACCENT = "#1f2933", "#8a94a0", "#c2410c"
COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7c3aed", "#ca8a04", "#0891b2", "#be185d", "#57534e")

RC: Any = {
    "text.usetex": False,  # GaiaXPy sets it for the whole process
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#eceff2",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "axes.axisbelow": True,
}

_SYMBOLS = {
    "teff": "Teff",
    "logg": "log g",
    "feh": "[Fe/H]",
    "alpha_fe": "[α/Fe]",
    "c_fe": "[C/Fe]",
    "ebv": "E(B−V)",
    "rv": "RV",
}


def symbol(label: str) -> str:
    """How a label is written in the field; unknown names stay as they are."""
    return _SYMBOLS.get(label, label)


def label_title(label: str, unit: str = "") -> str:
    """Symbol and unit, such as `Teff [K]`."""
    return f"{symbol(label)} [{unit}]" if unit else symbol(label)


def number(value: Any, digits: int = 3) -> str:
    """A number with `digits` significant digits and thousands separated; an en dash for None and NaN."""
    if value is None or value != value:
        return "–"
    value = float(value)
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        return text if abs(value) < 1e-4 else f"{value:.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    wanted = digits - (len(whole.lstrip("-0")) if whole.lstrip("-0") else 0)
    if not whole.lstrip("-0"):
        wanted += len(decimals) - len(decimals.lstrip("0"))
    return f"{whole}.{decimals.ljust(wanted, '0')}" if wanted > 0 else whole


def report_style() -> AbstractContextManager[None]:
    """Figures made and saved inside this context have the report's fonts and lines."""
    return mpl.rc_context(RC)


def figure(
    rows: int, columns: int, width: float = 9.6, height: float = 2.4, **keywords: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels without the global state of pyplot.

    Arguments:
        rows, columns: of panels.
        width: of the whole figure, inches.
        height: of one row, inches.
        keywords: of `Figure.subplots`.
    """
    drawn = Figure(figsize=(width, height * rows), layout="constrained", facecolor="white")
    panels = drawn.subplots(rows, columns, squeeze=False, **keywords)
    return drawn, [list(row) for row in panels]


def png_uri(drawn: Figure, dpi: int = 125) -> str:
    """A figure as a PNG in a data URI, so that the report needs no other file."""
    drawn.set_dpi(dpi)
    canvas = FigureCanvasAgg(drawn)
    with warnings.catch_warnings():  # of legends that take a second to place, on a slow machine
        warnings.filterwarnings("ignore", 'Creating legend with loc="best"')
        canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    # 256 colours: a third of the bytes, and no difference to the eye in figures
    pixels.quantize(256, dither=Image.Dither.NONE).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
