"""Simulated universes; the first is stars seen by LAMOST LRS and Gaia XP."""

from .labels import LABELS, UNITS, sample_labels
from .lrs import LRS, LinearContinuum
from .spectrum import model_spectrum
from .stars import MockStars, object_ids, sample_snr, simulate
from .xp import XP

__all__ = [
    "LABELS",
    "LRS",
    "UNITS",
    "XP",
    "LinearContinuum",
    "MockStars",
    "model_spectrum",
    "object_ids",
    "sample_labels",
    "sample_snr",
    "simulate",
]
