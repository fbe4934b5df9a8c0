"""Which samples of a store are bad, and why: found in one pass, counted, named, and too many refused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .quality import REASONS, assess
from .slabs import SLAB_ROWS

if TYPE_CHECKING:
    from .store import Store

__all__ = ["BadObject", "Verdicts"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadObject:
    """A sample left out, and why."""

    object_id: str
    obs_id: str
    modality: str
    reason: str


class Verdicts:
    """The bad samples of a store: the writer's verdicts where the file holds them, else one pass over the spectra.

    Arguments:
        store: the store.
        max_bad_fraction: a larger share of bad samples is an error.
    """

    def __init__(self, store: "Store", max_bad_fraction: float) -> None:
        self.store = store
        self.max_bad_fraction = max_bad_fraction
        self._reasons: dict[str, np.ndarray] = {}
        self._told: set[tuple[str, ...]] = set()

    def reasons(self, m: str) -> np.ndarray:
        """Why each sample is bad in a modality, an index into `REASONS`, uint8 (N,); 0 where it is missing."""
        if m not in self._reasons:
            samples = np.arange(self.store.n)
            if self.store.has(m, "quality"):
                self._reasons[m] = self.store.read(m, samples, ("quality",))["quality"]
            else:
                parts = [
                    self._assess(m, samples[i : i + SLAB_ROWS]) for i in range(0, len(samples), SLAB_ROWS)
                ]
                self._reasons[m] = np.concatenate(parts)
        return self._reasons[m]

    def _assess(self, m: str, samples: np.ndarray) -> np.ndarray:
        part = self.store.read(m, samples)
        reason = assess(part["flux"], part.get("ivar"), part.get("mask"), self.store.modalities[m])
        return np.where(self.store.rows[m][samples] >= 0, reason, 0).astype(np.uint8)

    def bad(self, modalities: tuple[str, ...]) -> np.ndarray:
        """Which samples are bad in any of the modalities, bool (N,); told once.

        Raises:
            DataError: a larger share than `max_bad_fraction` is bad.
        """
        bad = np.zeros(self.store.n, dtype=bool)
        for m in modalities:
            bad |= self.reasons(m) > 0
        if bad.any() and modalities not in self._told:
            self._told.add(modalities)
            self._tell(bad, modalities)
        if bad.mean() > self.max_bad_fraction:
            raise DataError(
                f"{self.store.name}: {int(bad.sum())} of {self.store.n} samples are bad "
                f"({self._summary(modalities)}), more than data.max_bad_fraction={self.max_bad_fraction:g}: "
                "check the reader or raise it."
            )
        return bad

    def listed(self, modalities: tuple[str, ...]) -> list[BadObject]:
        """Every bad sample with its modality and reason."""
        store = self.store
        return [
            BadObject(str(store.object_id[i]), str(store.obs_id[i]), m, REASONS[self.reasons(m)[i]])
            for m in modalities
            for i in np.flatnonzero(self.reasons(m))
        ]

    def _summary(self, modalities: Sequence[str]) -> str:
        parts = []
        for m in modalities:
            counts = np.bincount(self.reasons(m), minlength=len(REASONS))
            parts += [f"{m}: {counts[i]} because {REASONS[i]}" for i in range(1, len(REASONS)) if counts[i]]
        return "; ".join(parts)

    def _tell(self, bad: np.ndarray, modalities: Sequence[str]) -> None:
        ids = self.store.obs_id[bad].tolist()
        named = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        summary = self._summary(modalities)
        logger.warning(
            "%s: %d of %d samples left out (%s): %s", self.store.name, len(ids), self.store.n, summary, named
        )
