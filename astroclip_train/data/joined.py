"""One modality of several stores seen as one array, read from the files or kept in memory."""

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .checks import agree
from .quality import clean
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
        optional = {"ivar": all, "mask": any}  # a missing mask means good, a missing ivar cannot be made up
        self.columns = ["flux", *(c for c, q in optional.items() if q(s.has(name, c) for s in self.having))]
        self.present = np.concatenate([self._of(s, s.rows, False) for s in self.stores])
        self.snr = np.concatenate(
            [s.snr(name) if s in self.having else np.full(s.n, np.nan, dtype=np.float32) for s in self.stores]
        )
        self._whole = all(store.finite(name) for store in self.having)
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

    def read(self, samples: np.ndarray, keep: bool) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Spectra with bad pixels filled and weighted zero.

        Arguments:
            samples: sample numbers, shape (b,).
            keep: whether to read whole columns once and keep them.

        Returns:
            flux (b, l) float32, ivar (b, l) or None, mask (b, l) True at good pixels.
        """
        raw = {c: self._column(c, samples, keep) for c in self.columns}
        if self._whole and bool(self.present[samples].all()):
            return raw["flux"], raw.get("ivar"), np.ones(raw["flux"].shape, dtype=np.bool_)
        return clean(raw["flux"], raw.get("ivar"), raw.get("mask"), self.info)

    def _column(self, column: str, samples: np.ndarray, keep: bool) -> np.ndarray:
        if len(self.stores) == 1:
            return self._rows(0, column, samples, keep)
        owner = np.searchsorted(self.edges, samples, side="right") - 1
        dtype: type = np.bool_ if column == "mask" else np.float32
        out: np.ndarray = np.full((len(samples), self.length), np.nan if column == "flux" else 0, dtype=dtype)
        for k in np.unique(owner):
            if self.stores[k] in self.having:
                places = np.flatnonzero(owner == k)
                out[places] = self._rows(int(k), column, samples[places] - self.edges[k], keep)
        return out

    def _rows(self, k: int, column: str, samples: np.ndarray, keep: bool) -> np.ndarray:
        store, m = self.stores[k], self.name
        if column == "mask" and not store.has(m, "mask"):
            return np.ones((len(samples), self.length), dtype=np.bool_)
        if not keep:
            return store.read(m, samples, (column,))[column]
        if (k, column) not in self._memory:
            self._memory[k, column] = store.column(m, column)
        rows = store.stacked_rows(m)[samples]
        taken = np.take(self._memory[k, column], rows, axis=0, mode="clip")
        taken = taken.astype(np.bool_ if column == "mask" else np.float32, copy=False)
        taken[rows < 0] = np.nan if column == "flux" else 0
        return taken

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_memory": {}}
