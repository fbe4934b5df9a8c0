"""What a stage reads from: weighted stores seen as one list of samples, turned into batches of tensors."""

import csv
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import atomic_write
from .checks import check_grid
from .grids import Grid
from .joined import JoinedModality
from .slabs import in_threads
from .splits import SPLITS, label_order
from .store import Store

if TYPE_CHECKING:
    from .loader import Loader

__all__ = ["Batch", "DataSource", "Located"]

Batch = dict[str, Tensor]
Spectra = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]  # flux, ivar, mask


class Located(NamedTuple):
    """Where a sample stands and how it is called."""

    store: str
    sample: int
    object_id: str
    obs_id: str


class DataSource:
    """Stores joined to one list of samples; sample numbers count through the stores in their order.

    Arguments:
        stores: one store or a list.
        modalities: those that batches hold.
        labels: names of the labels that batches hold, in this order.
        require: "all" keeps samples that have all modalities, "any" those that have at least one.
        weights: shares of the stores in training (default: by size).
        block: samples that the sampler keeps together.
        show_labels: for each store whether its labels are seen; those hidden are NaN.
        in_memory_mb: data up to this size are read whole on first use; batches are the same either way.

    Raises:
        DataError: a modality or label is nowhere, or stores disagree about grid, units or normalisation.
    """

    def __init__(
        self,
        stores: Store | Sequence[Store],
        modalities: Sequence[str] = ("lrs", "xp"),
        labels: Sequence[str] = (),
        require: str = "all",
        weights: Sequence[float] | None = None,
        block: int = 256,
        in_memory_mb: float = 2048,
        show_labels: Sequence[bool] | None = None,
    ) -> None:
        self.stores = [stores] if isinstance(stores, Store) else list(stores)
        self.modalities = tuple(modalities)
        self.label_names = tuple(labels)
        if require not in ("all", "any"):
            raise DataError(f"require is {require!r}, expected all or any.")
        self.require = require
        self.weights = None if weights is None else [float(w) for w in weights]
        self.block = block
        self.in_memory_mb = in_memory_mb
        self._edges = np.cumsum([0, *(store.n for store in self.stores)])
        self.total = int(self._edges[-1])
        self.joined = {m: JoinedModality(m, self.stores, self._edges) for m in self.modalities}
        self.infos = {m: joined.info for m, joined in self.joined.items()}
        self.lengths = {m: joined.length for m, joined in self.joined.items()}
        self.label_units = {name: self._agreed_unit(name) for name in self.label_names}
        self.object_hash = np.concatenate([store.object_hash for store in self.stores])
        self._labels = self._all_labels()
        for k, shown in enumerate(show_labels or ()):
            if not shown:
                self._labels[self._edges[k] : self._edges[k + 1]] = np.nan

    # What is there

    @property
    def content_hash(self) -> str:
        """sha256 over the stores' contents and weights."""
        parts = [store.content_hash for store in self.stores]
        if len(parts) == 1:
            return parts[0]
        return hashlib.sha256("\n".join([*parts, repr(self.weights)]).encode()).hexdigest()

    def samples(
        self,
        split: str,
        labelled_only: bool = False,
        n_labels: int | None = None,
        modalities: Sequence[str] = (),
    ) -> np.ndarray:
        """Sorted sample numbers of a split, bad objects left out.

        Arguments:
            split: "train", "validation" or "test".
            labelled_only: only samples with at least one finite label.
            n_labels: the first n of them in the order of `splits.label_order`, so that subsets nest.
            modalities: of which a sample needs all (default by `require`).

        Raises:
            DataError: nothing is left, or too many objects are bad.
        """
        if split not in SPLITS:
            raise DataError(f"split is {split!r}, expected one of {', '.join(SPLITS)}.")
        bad = [store.bad([m for m in self.modalities if m in store.modalities]) for store in self.stores]
        in_split = np.flatnonzero((self.splits == SPLITS.index(split)) & ~np.concatenate(bad))
        wanted = tuple(modalities) or self.modalities
        combine = np.logical_and if self.require == "all" or modalities else np.logical_or
        samples = in_split[combine.reduce([self.joined[m].present[in_split] for m in wanted])]
        counted = len(samples)
        if labelled_only or n_labels is not None:
            samples = samples[np.isfinite(self._labels[samples]).any(axis=1)]
        if len(samples) == 0:
            names = ", ".join(str(store.paths[0]) for store in self.stores)
            raise DataError(f"the {split} split of {names} {self._lacks(len(in_split), counted, wanted)}.")
        if n_labels is not None:
            samples = np.sort(samples[label_order(self.object_hash[samples])[:n_labels]])
        return samples

    def _lacks(self, usable: int, counted: int, wanted: Sequence[str]) -> str:
        """Why a split has nothing to give, and what to do."""
        if counted:
            known = ", ".join(self.label_names) or "none asked for"
            return f"has no label among {known} in its {counted} samples: join labels, or choose labels.names"
        if usable:
            return (
                f"has {usable} usable samples, none with the {', '.join(wanted)} needed: match more objects"
            )
        objects = len(np.unique(self.object_hash))
        return (
            f"is empty: splits are a hash of the object, and {len(self.splits)} samples of {objects} objects are too "
            "few, or too bad, for one to be in it: add objects"
        )

    def n(self, split: str) -> int:
        """Samples in a split."""
        return len(self.samples(split))

    def check_grid(self, modality: str, expected: Grid | int, reader: str = "the encoder") -> None:
        """Refuses stores whose pixels are not those expected (DataError)."""
        for store in self.joined[modality].having:
            check_grid(store, modality, expected, reader)

    def wave(self, modality: str) -> np.ndarray:
        """Pixel centres of a modality with one grid, (l,)."""
        grid = self.infos[modality].grid
        if not isinstance(grid, Grid):
            raise DataError(f"{modality} has its own wavelengths in each row: resample it when converting.")
        return grid.wave()

    def labels(self, samples: np.ndarray) -> np.ndarray:
        """Labels (b, k) in float32, NaN where missing."""
        return self._labels[np.asarray(samples)]

    def snr(self, modality: str, samples: np.ndarray) -> np.ndarray:
        """Signal to noise (b,), NaN where unknown."""
        return self.joined[modality].snr[np.asarray(samples)]

    def bounds(self, modality: str, samples: np.ndarray) -> np.ndarray | None:
        """Cramér–Rao σ of the labels from one modality or "joint", (b, k), or None where nobody has them."""
        if not any(modality in store.bounds for store in self.stores):
            return None
        columns = [
            self._concatenated(lambda s, name=name: _bound(s, modality, name)) for name in self.label_names
        ]
        return np.stack(columns, axis=1)[np.asarray(samples)] if columns else None

    def lookup(self, index: int | np.ndarray | Tensor) -> Any:
        """Names of samples by their number: one `Located`, or a list for an array."""
        numbers = np.atleast_1d(np.asarray(index))
        found = []
        for number in numbers:
            k, sample = self._locate(int(number))
            store = self.stores[k]
            found.append(
                Located(str(store.paths[0]), sample, str(store.object_id[sample]), str(store.obs_id[sample]))
            )
        return found[0] if np.ndim(index) == 0 else found

    def write_bad_objects(self, path: str | Path) -> int:
        """Writes every object left out and why as CSV; returns their number."""
        rows = [
            bad
            for store in self.stores
            for bad in store.bad_objects([m for m in self.modalities if m in store.modalities])
        ]
        with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["object_id", "obs_id", "modality", "reason"])
            writer.writerows([bad.object_id, bad.obs_id, bad.modality, bad.reason] for bad in rows)
        return len(rows)

    @cached_property
    def splits(self) -> np.ndarray:
        """The split of each sample as an index into `SPLITS`, (N,).

        An object that any store has for testing is for testing in all of them, whatever made it so; likewise, of the
        others, for validation.
        """
        own = np.concatenate([store.splits for store in self.stores])
        codes = np.select([own == name for name in SPLITS], range(len(SPLITS)))
        if len(self.stores) == 1:
            return codes
        objects, place = np.unique(self.object_hash, return_inverse=True)
        strictest = np.zeros(len(objects), dtype=codes.dtype)
        np.maximum.at(strictest, place, codes)
        return strictest[place]

    # Reading

    def arrays(self, modality: str, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Everything about one modality for many samples, bad pixels filled.

        Returns:
            flux (b, l) float32, mask (b, l) True at good pixels, present (b,), snr (b,), and ivar (b, l) if
            known.
        """
        samples = np.asarray(samples, dtype=np.int64)
        ((flux, ivar, mask),) = self._spectra(samples, [modality])
        mask = np.ones(flux.shape, dtype=np.bool_) if mask is None else mask
        found = {"flux": flux, "mask": mask, "present": self.joined[modality].present[samples]}
        found["snr"] = self.snr(modality, samples)
        return found if ivar is None else {**found, "ivar": ivar}

    def batch(self, samples: np.ndarray, epoch: int = 0) -> Batch:
        """The batch of given samples: keys as in the batch contract, float32, on the CPU."""
        samples = np.asarray(samples, dtype=np.int64)
        batch: Batch = {}
        spectra = self._spectra(samples, self.modalities)
        for m, (flux, ivar, mask) in zip(self.modalities, spectra, strict=True):
            batch[m] = torch.from_numpy(flux)
            if ivar is not None:
                batch[f"{m}_ivar"] = torch.from_numpy(ivar)
            # one element seen from everywhere, where no pixel is bad
            batch[f"{m}_mask"] = (
                torch.ones(1, 1).bool().expand(flux.shape) if mask is None else torch.from_numpy(mask)
            )
            batch[f"{m}_snr"] = torch.from_numpy(self.joined[m].snr[samples])
            batch[f"{m}_present"] = torch.from_numpy(self.joined[m].present[samples])
        batch["labels"] = torch.from_numpy(self._labels[samples])
        batch["index"] = torch.from_numpy(samples.copy())
        batch["object"] = torch.from_numpy(self.object_hash[samples])
        batch["epoch"] = torch.tensor(epoch, dtype=torch.int64)
        return batch

    def _spectra(self, samples: np.ndarray, modalities: Sequence[str]) -> list[Spectra]:
        keep = self.in_memory
        started = [self.joined[m].tasks(samples, keep) for m in modalities]
        in_threads([task for _, tasks in started for task in tasks])
        return [self.joined[m].cleaned(raw, samples) for m, (raw, _) in zip(modalities, started, strict=True)]

    def loader(
        self, samples: str | np.ndarray, batch_size: int, seed: int = 0, shuffle: bool = True, **options: Any
    ) -> "Loader":
        """A loader over a split or over given samples; see `data.loader.Loader` for the options."""
        from .loader import make_loader

        return make_loader(self, samples, batch_size, seed, shuffle, **options)

    @property
    def in_memory(self) -> bool:
        """Whether the spectra are kept in memory by each process that reads them."""
        return sum(joined.nbytes for joined in self.joined.values()) <= self.in_memory_mb * 1e6

    def by_store(self, samples: np.ndarray) -> list[np.ndarray]:
        """Sample numbers sorted and divided by store."""
        samples = np.sort(np.asarray(samples, dtype=np.int64))
        return np.split(samples, np.searchsorted(samples, self._edges[1:-1]))

    def open(self) -> None:
        """Opens this process's files."""
        for store in self.stores:
            store.open()

    def close(self) -> None:
        """Closes this process's files, as before workers are started."""
        for store in self.stores:
            store.close()

    def _agreed_unit(self, name: str) -> str:
        units = {store.label_units[name] for store in self.stores if name in store.label_units}
        if not units:
            have = sorted({label for store in self.stores for label in store.label_units})
            raise DataError(
                f"no store has the label {name!r}: {self.stores[0].paths[0]} has "
                f"{', '.join(have) or 'no labels'}; choose labels.names among them."
            )
        if len(units) > 1:
            raise DataError(
                f"label {name} comes in several units ({', '.join(sorted(units))}): convert alike."
            )
        return units.pop()

    def _all_labels(self) -> np.ndarray:
        columns = [
            self._concatenated(lambda s, name=name: s.labels.get(name, np.full(s.n, np.nan)))
            for name in self.label_names
        ]
        table = np.stack(columns, axis=1) if columns else np.empty((self.total, 0))
        return np.ascontiguousarray(table, dtype=np.float32)

    def _concatenated(self, function: Any) -> np.ndarray:
        return np.concatenate([function(store) for store in self.stores])

    def _locate(self, number: int) -> tuple[int, int]:
        k = int(np.searchsorted(self._edges, number, side="right") - 1)
        return k, number - int(self._edges[k])


def _bound(store: Store, m: str, name: str) -> np.ndarray:
    return store.bounds.get(m, {}).get(name, np.full(store.n, np.nan))
