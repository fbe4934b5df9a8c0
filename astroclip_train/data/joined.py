"""One modality of several stores seen as one array, read from the files or kept in memory."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..errors import DataError
from .checks import agree
from .quality import clean
from .slabs import Buffers
from .store import Store

__all__ = ["JoinedModality"]


class JoinedModality:
    """Spectra of a modality by sample number, counted through the stores.

    Arguments:
        name: the modality.
        stores: all stores; some may lack the modality.
        edges: first sample of each store, and the number of all, shape (stores + 1,).

    Raises:
        DataError: no store has the modality, or stores disagree about grid, unit, frame or normalisation.
    """

    def __init__(self, name: str, stores: Sequence[Store], edges: np.ndarray) -> None:
        self.name, self.stores, self.edges = name, list(stores), edges
        self.having = [store for store in self.stores if name in store.modalities]
        if not self.having:
            names = ", ".join(sorted({m for store in self.stores for m in store.modalities}))
            raise DataError(f"no store has the modality {name!r}: {self.stores[0].paths[0]} has {names}.")
        first = self.having[0]
        self.info = first.modalities[name]
        self.length = first.lengths[name]
        for store in self.having[1:]:
            agree(name, self.info, first.paths[0], store.modalities[name], store.paths[0])
            if store.lengths[name] != self.length:
                raise DataError(
                    f"{store.paths[0]}: {name} has {store.lengths[name]} pixels but {self.length} in "
                    f"{first.paths[0]}: convert both alike."
                )
        # a missing mask means good; a missing ivar cannot be made up, and then that of others only says what is bad
        known = [store.has(name, "ivar") for store in self.having]
        self._by_ivar = any(known) and not all(known)
        masked = self._by_ivar or any(store.has(name, "mask") for store in self.having)
        self.columns = ["flux", *(["ivar"] if known and all(known) else []), *(["mask"] if masked else [])]
        self.present = np.concatenate([self._of(s, s.rows, False) for s in self.stores])
        self.snr = np.concatenate(
            [s.snr(name) if s in self.having else np.full(s.n, np.nan, dtype=np.float32) for s in self.stores]
        )
        self._whole = all(store.finite(name) for store in self.having)
        self._buffers = Buffers()
        self._memory: dict[tuple[int, str], np.ndarray] = {}

    def _of(self, store: Store, rows: dict[str, np.ndarray], missing: bool) -> np.ndarray:
        return rows[self.name] >= 0 if store in self.having else np.full(store.n, missing)

    @property
    def nbytes(self) -> int:
        """Size of all columns as stored."""
        return sum(
            store.nbytes(self.name, c)
            for store in self.having
            for c in self.columns
            if store.has(self.name, c)
        )

    def tasks(
        self, samples: np.ndarray, keep: bool
    ) -> tuple[dict[str, np.ndarray], list[Callable[[], None]]]:
        """Arrays for all columns and the reads that fill them, which may run side by side.

        Arguments:
            samples: sample numbers, shape (b,).
            keep: whether to read whole columns once and keep them.
        """
        raw = {
            c: self._buffers.take(len(samples), (self.length,), np.bool_ if c == "mask" else np.float32)
            for c in self.columns
        }
        for store in self.having:
            store.open()  # here, so that no two threads do
        return raw, [partial(self._fill, out, c, samples, keep) for c, out in raw.items()]

    def cleaned(
        self, raw: dict[str, np.ndarray], samples: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Filled columns with bad pixels made harmless and weighted zero.

        Returns:
            flux (b, l) float32, ivar (b, l) or None, mask (b, l) True at good pixels or None if all are.

        Raises:
            DataError: an object that its store calls good has no good pixel.
        """
        # three pixels of each row tell whether it was emptied since; looking at all would cost as much as reading
        seen = raw["flux"][:, :: max(1, self.length // 3)]
        if self._whole and bool(self.present[samples].all()) and bool(np.isfinite(seen).all()):
            return raw["flux"], raw.get("ivar"), None
        flux, ivar, mask = clean(raw["flux"], raw.get("ivar"), raw.get("mask"), self.info)
        empty = self.present[samples] & ~mask.any(axis=1)
        if empty.any():
            self._refuse_outdated(samples[empty])
        return flux, ivar, mask

    def _refuse_outdated(self, samples: np.ndarray) -> None:
        """Verdicts are as old as the file: spectra that became empty later would train nothing, and say nothing."""
        owner = np.searchsorted(self.edges, samples, side="right") - 1
        for number, k in zip(samples, owner, strict=True):
            store, own = self.stores[k], number - self.edges[k]
            if store.reasons(self.name)[own] == 0:
                raise DataError(
                    f"{store.paths[0]}: {self.name} of {store.obs_id[own]} has no good pixel, though the file calls it "
                    "good: it was changed after it was written, write it again (astro-data validate tells more)."
                )

    def _fill(self, out: np.ndarray, column: str, samples: np.ndarray, keep: bool) -> None:
        if not self.present[samples].all():
            out[~self.present[samples]] = np.nan if column == "flux" else 0
        owner = np.searchsorted(self.edges, samples, side="right") - 1
        for k, store in enumerate(self.stores):
            places = np.flatnonzero(owner == k) if len(self.stores) > 1 else np.arange(len(samples))
            if not len(places) or store not in self.having:
                continue
            own = samples[places] - self.edges[k]
            if column == "mask" and not store.has(self.name, "mask"):
                out[places] = True
            else:
                self._copy(out, places, k, column, own, keep)
            if column == "mask" and self._by_ivar and store.has(self.name, "ivar"):
                ivar = np.zeros((len(own), self.length), dtype=np.float32)
                self._copy(ivar, np.arange(len(own)), k, "ivar", own, keep)
                out[places] &= ivar > 0

    def _copy(
        self, out: np.ndarray, places: np.ndarray, k: int, column: str, samples: np.ndarray, keep: bool
    ) -> None:
        if keep:
            self._copy_kept(out, places, k, column, samples)
        else:
            self.stores[k].read_into(out, places, self.name, column, samples)

    def _copy_kept(
        self, out: np.ndarray, places: np.ndarray, k: int, column: str, samples: np.ndarray
    ) -> None:
        store = self.stores[k]
        if (k, column) not in self._memory:
            self._memory[k, column] = store.column(self.name, column)
        kept, rows = self._memory[k, column], store.stacked_rows(self.name)[samples]
        if len(places) == len(out) and kept.dtype == out.dtype and (rows >= 0).all():
            np.take(kept, rows, axis=0, out=out, mode="clip")  # without the copy that indexing makes
        else:
            out[places[rows >= 0]] = kept[rows[rows >= 0]]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_memory": {}}
