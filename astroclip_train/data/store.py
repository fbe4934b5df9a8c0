"""A store: one or more HDF5 files of spectra, joined into samples, with labels, bounds and splits."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..randomness import object_hash
from .checks import agree, check_grid, find_paths
from .grids import Grid
from .modality import ModalityInfo
from .shard import Shard, content_hash, damaged
from .splits import SPLITS, fold_split, split_of
from .store_writer import StoreWriter
from .verdicts import BadObject, Verdicts

__all__ = ["BadObject", "ModalityInfo", "Store", "StoreWriter", "check_grid", "find_paths"]


class Store:
    """Samples of one or more files in the layout of `docs/store.md`, numbered through.

    Arguments:
        paths: a file, a folder of `*.h5`, or a list of files (shards with the same modalities).
        max_bad_fraction: more bad objects than this share are an error.
        folds: (k, n) makes fold k of n the test split, for cross-validation; see `splits.fold_split`.

    Raises:
        DataError: a file is missing, damaged, or not a store; shards disagree; an observation occurs twice.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        max_bad_fraction: float = 0.1,
        folds: tuple[int, int] | None = None,
    ) -> None:
        self.paths = find_paths(paths)
        self.folds = folds
        self.shards = [Shard(path) for path in self.paths]
        first = self.shards[0]
        for shard in self.shards[1:]:
            _check_shards(first, shard)
        self.modalities: dict[str, ModalityInfo] = first.modalities
        self.lengths = first.lengths
        self._edges = np.cumsum([0, *(shard.n for shard in self.shards)])
        self.n = int(self._edges[-1])
        if self.n == 0:
            raise DataError(f"{self.name} holds no samples.")
        self.rows = {
            m: np.concatenate([s.numbers(f"sample/{m}_row") for s in self.shards]) for m in self.modalities
        }
        self.object_id = np.concatenate([shard.text("object_id") for shard in self.shards])
        self.obs_id = np.concatenate([shard.text("obs_id") for shard in self.shards])
        self._shard_of = np.repeat(np.arange(len(self.shards)), [shard.n for shard in self.shards])
        self._verdicts = Verdicts(self, max_bad_fraction)
        unique, counts = np.unique(self.obs_id, return_counts=True)
        if len(unique) != self.n:
            raise DataError(
                f"{self.name}: obs_id {unique[counts > 1][0]} occurs twice: remove one of the samples."
            )

    @property
    def name(self) -> str:
        """The file, for messages."""
        return (
            str(self.paths[0])
            if len(self.paths) == 1
            else f"{self.paths[0]} and {len(self.paths) - 1} more shards"
        )

    @cached_property
    def object_hash(self) -> np.ndarray:
        """int64 hashes of the objects, (N,)."""
        with damaged(self.paths[0]):
            if all("sample/object_hash" in shard.file for shard in self.shards):
                return np.concatenate([shard.numbers("sample/object_hash") for shard in self.shards])
        return object_hash(self.object_id)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of the contents, over the shards in their order."""
        hashes = [shard.stored_hash or content_hash(shard.file) for shard in self.shards]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def verify(self) -> None:
        """Reads everything and compares it with the hash taken when the file was written.

        Raises:
            DataError: a file is not what was written.
        """
        for shard in self.shards:
            with damaged(shard.path):
                found = content_hash(shard.file)
            if shard.stored_hash is not None and found != shard.stored_hash:
                raise DataError(
                    f"{shard.path} has changed since it was written (its hash differs): restore it."
                )

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Labels in float64 of shape (N,), NaN where missing."""
        names = sorted({name for shard in self.shards for name in shard.file.get("labels", ())})
        return {name: self._per_sample(f"labels/{name}") for name in names}

    @cached_property
    def label_units(self) -> dict[str, str]:
        """Units of the labels; shards that disagree are an error."""
        return self._label_attribute("unit")

    @cached_property
    def label_sources(self) -> dict[str, str]:
        """Where each label comes from."""
        return self._label_attribute("source")

    def _label_attribute(self, key: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for shard in self.shards:
            for name, dataset in shard.file.get("labels", {}).items():
                value = str(dataset.attrs.get(key, ""))
                if key == "unit" and found.setdefault(name, value) != value:
                    raise DataError(
                        f"{shard.path}: label {name} is in {value!r}, in other shards {found[name]!r}."
                    )
                found.setdefault(name, value)
        return found

    @cached_property
    def bounds(self) -> dict[str, dict[str, np.ndarray]]:
        """Cramér–Rao σ by modality (or "joint") and label, float64 of shape (N,)."""
        keys = {(m, name) for s in self.shards for m, g in s.file.get("bounds", {}).items() for name in g}
        result: dict[str, dict[str, np.ndarray]] = {}
        for m, name in sorted(keys):
            result.setdefault(m, {})[name] = self._per_sample(f"bounds/{m}/{name}")
        return result

    def _per_sample(self, name: str) -> np.ndarray:
        parts = [s.numbers(name) if name in s.file else np.full(s.n, np.nan) for s in self.shards]
        return np.concatenate(parts).astype(np.float64)

    def require(self, modality: str, reader: str = "this run") -> None:
        """Refuses a store without a modality (DataError)."""
        if modality not in self.modalities:
            have = ", ".join(self.modalities)
            raise DataError(
                f"{self.name} has no modality {modality!r} (it has {have}), which {reader} needs."
            )

    def has(self, modality: str, column: str) -> bool:
        """Whether every shard holds a column ("ivar", "mask", "snr", "coeff", …) of a modality."""
        return all(column in shard.columns[modality] for shard in self.shards)

    def finite(self, modality: str) -> bool:
        """Whether the writer found every pixel good, so that none needs care."""
        return all(shard.finite[modality] for shard in self.shards)

    def read(
        self, modality: str, samples: np.ndarray, columns: Sequence[str] = ("flux", "ivar", "mask")
    ) -> dict[str, np.ndarray]:
        """Columns of a modality as stored, in sample order.

        Arguments:
            modality: its name.
            samples: sample numbers, shape (b,), in any order.
            columns: those wanted; those that the store lacks are left out of the answer.

        Returns:
            Arrays (b, …): float32 (float64 for wave, bool for mask); where the modality is missing, NaN, with
            ivar 0 and mask False.
        """
        samples = np.asarray(samples, dtype=np.int64)
        rows = self.rows[modality][samples]
        return {c: self._read_column(modality, c, samples, rows) for c in columns if self.has(modality, c)}

    def _read_column(self, m: str, column: str, samples: np.ndarray, rows: np.ndarray) -> np.ndarray:
        shape = self.shards[0].file[m][column].shape[1:]
        dtype = {"mask": np.bool_, "wave": np.float64, "quality": np.uint8}.get(column, np.float32)
        out: np.ndarray = np.empty((len(samples), *shape), dtype=dtype)
        out[rows < 0] = 0 if column in ("ivar", "mask", "quality") else np.nan
        self.read_into(out, np.arange(len(samples)), m, column, samples)
        return out

    def read_into(
        self, out: np.ndarray, places: np.ndarray, m: str, column: str, samples: np.ndarray
    ) -> None:
        """out[places[i]] = the row of samples[i], if it has the modality; out (n, …) is C-contiguous."""
        rows = self.rows[m][samples]
        owner = np.where(rows >= 0, self._shard_of[samples], -1)
        for number, shard in enumerate(self.shards):
            mine = np.flatnonzero(owner == number)
            if len(mine):
                shard.read_into(out, places[mine], m, column, rows[mine])

    def column(self, modality: str, name: str) -> np.ndarray:
        """A whole column in the type it is stored in, shard after shard; see `stacked_rows`."""
        parts = [shard.numbers(f"{modality}/{name}") for shard in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def nbytes(self, modality: str, name: str) -> int:
        """Bytes that `column` takes."""
        return sum(shard.file[f"{modality}/{name}"].nbytes for shard in self.shards)

    def stacked_rows(self, modality: str) -> np.ndarray:
        """The row of each sample in `column`, -1 where the modality is missing, (N,)."""
        if len(self.shards) == 1:
            return self.rows[modality]
        counts = [len(shard.file[f"{modality}/flux"]) for shard in self.shards]
        offsets = np.cumsum([0, *counts[:-1]])[self._shard_of]
        return np.where(self.rows[modality] < 0, -1, self.rows[modality] + offsets)

    def wave(self, modality: str, samples: np.ndarray | None = None) -> np.ndarray:
        """Pixel centres in the modality's wave_unit: (l,), or (b, l) where each row has its own."""
        grid = self.modalities[modality].grid
        if isinstance(grid, Grid):
            return grid.wave()
        return self.read(modality, np.arange(self.n) if samples is None else samples, ("wave",))["wave"]

    def snr(self, modality: str) -> np.ndarray:
        """Signal to noise per pixel of each sample, float32 (N,), NaN where unknown."""
        if not self.has(modality, "snr"):
            return np.full(self.n, np.nan, dtype=np.float32)
        return self.read(modality, np.arange(self.n), ("snr",))["snr"]

    @cached_property
    def splits(self) -> np.ndarray:
        """The split of each sample, bad ones included, (N,)."""
        if self.folds is not None:
            return fold_split(self.object_hash, *self.folds)
        return split_of(self.object_hash, published=self.published)

    @cached_property
    def published(self) -> np.ndarray | None:
        """Published split names, "" where there is none, (N,); None where no shard has any."""
        if not any("sample/split" in shard.file for shard in self.shards):
            return None
        return np.concatenate(
            [s.text("split") if "sample/split" in s.file else np.full(s.n, "") for s in self.shards]
        )

    def split(self, name: str, modalities: Sequence[str] | None = None) -> np.ndarray:
        """Sorted sample numbers of a split, without objects that are bad in any modality (default all).

        Raises:
            DataError: unknown split, or too many bad objects.
        """
        if name not in SPLITS:
            raise DataError(f"split is {name!r}, expected one of {', '.join(SPLITS)}.")
        return np.flatnonzero((self.splits == name) & ~self.bad(modalities))

    def bad(self, modalities: Sequence[str] | None = None) -> np.ndarray:
        """Which samples are bad in any of the modalities, bool (N,); counted and named in the log once.

        Raises:
            DataError: a larger share than `max_bad_fraction` is bad.
        """
        return self._verdicts.bad(tuple(self.modalities if modalities is None else modalities))

    def bad_objects(self, modalities: Sequence[str] | None = None) -> list[BadObject]:
        """Every bad sample with its modality and reason."""
        return self._verdicts.listed(tuple(self.modalities if modalities is None else modalities))

    def reasons(self, modality: str) -> np.ndarray:
        """Why each sample is bad in a modality, an index into `quality.REASONS`, uint8 (N,); 0 if absent."""
        return self._verdicts.reasons(modality)

    def open(self) -> None:
        """Opens this process's files, which the first access does otherwise."""
        for shard in self.shards:
            _ = shard.file

    def close(self) -> None:
        """Closes this process's files; the next access opens them again."""
        for shard in self.shards:
            shard.close()


def _check_shards(first: Shard, other: Shard) -> None:
    if set(first.modalities) != set(other.modalities):
        mine, theirs = ", ".join(first.modalities), ", ".join(other.modalities)
        raise DataError(f"{other.path} holds {theirs} but {first.path} holds {mine}: shards hold the same.")
    for m, info in first.modalities.items():
        agree(m, info, first.path, other.modalities[m], other.path)
        if first.lengths[m] != other.lengths[m]:
            raise DataError(
                f"{other.path}: {m} has {other.lengths[m]} pixels, in {first.path} {first.lengths[m]}."
            )
        for column in ("ivar", "mask"):  # half of them would be lost without a word
            if (column in first.columns[m]) != (column in other.columns[m]):
                has, lacks = (first, other) if column in first.columns[m] else (other, first)
                raise DataError(
                    f"{has.path} has {m}/{column} but {lacks.path} has none: shards hold the same columns, so write "
                    f"one (mask: True at good pixels) or name them as stores of a mixture."
                )
