"""Small modalities and spectra for the tests of the data room."""

from typing import Any

import numpy as np

from astroclip_train.data.grids import Grid
from astroclip_train.data.store import ModalityInfo

LRS = Grid("log10", 3.6, 1e-3, 40)
XP = Grid("linear", 400.0, 10.0, 12, "nm")


def info(grid: Grid = LRS, **changes: Any) -> ModalityInfo:
    """Attributes of a small LAMOST-like modality."""
    fields: dict[str, Any] = {
        "survey": "test",
        "grid": grid,
        "unit": "",
        "medium": "vacuum",
        "frame": "heliocentric",
        "resolution": "R=1800",
        "normalisation": ("continuum",),
    }
    return ModalityInfo(**{**fields, **changes})


def spectra(n: int, length: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance of noise around 1."""
    rng = np.random.default_rng(seed)
    flux = (1 + 0.1 * rng.standard_normal((n, length))).astype(np.float32)
    return flux, np.full((n, length), 100.0, dtype=np.float32)
