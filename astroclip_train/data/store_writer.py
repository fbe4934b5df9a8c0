"""Writes a store whole or not at all: rows of modalities, the samples that join them, labels, bounds."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from .. import __version__
from ..errors import DataError
from ..files import atomic_write, remove_abandoned
from ..randomness import object_hash
from .modality import ModalityInfo
from .quality import assess, good_pixels, median_snr
from .shard import FORMAT, NOT_MODALITIES, VERSION, content_hash
from .sink import Sink

__all__ = ["StoreWriter"]

CHUNK_ROWS = 256  # about a megabyte of spectra, and the sampler's block
CHUNK_BYTES = 4 << 20  # bounds the chunks of wide columns, such as covariance factors


class StoreWriter:
    """Writes a store file under a temporary name and renames it when the `with` block ends well.

    Arguments:
        path: the file to write.
        created_by: command or programme, kept in the file.
        flux_dtype: "float32", or "float16" to halve the file (inverse variances stay float32).

    Example:
        with StoreWriter("pairs.h5", created_by="astro-data match") as writer:
            writer.add_modality("xp", info)
            rows = writer.append("xp", flux=flux, ivar=ivar)
            writer.set_samples(object_id, obs_id, {"xp": rows})
            writer.set_label("teff", teff, "K", "LASP")

    Raises:
        DataError: shapes or ids do not fit, or the file cannot be written (disk full).
    """

    def __init__(self, path: str | Path, *, created_by: str, flux_dtype: str = "float32") -> None:
        if flux_dtype not in ("float32", "float16"):
            raise DataError(f"flux_dtype is {flux_dtype!r}, expected float32 or float16.")
        self.path = Path(path)
        self.created_by = created_by
        self.flux_dtype = flux_dtype
        self._stack = contextlib.ExitStack()
        self._infos: dict[str, ModalityInfo] = {}
        self._finite: dict[str, bool] = {}
        self._n: int | None = None

    def __enter__(self) -> "StoreWriter":
        remove_abandoned(self.path)
        temporary = self._stack.enter_context(atomic_write(self.path))
        self._sink = self._stack.enter_context(Sink(temporary))
        self._h5 = h5py.File(self._sink, "w")
        self._h5.attrs.update(
            format=FORMAT, version=VERSION, created_by=self.created_by, software=__version__
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:  # hands what is raised here to atomic_write
            try:
                if error is None:
                    self._finish()
            finally:
                self._h5.close()
            self._sink.check()
            if error is not None:
                raise error

    def add_modality(self, name: str, info: ModalityInfo) -> None:
        """Declares a modality with its required attributes."""
        if name in self._infos or name in NOT_MODALITIES or "/" in name or not name:
            raise DataError(f"{name!r} cannot be the name of another modality of {self.path}.")
        self._infos[name] = info
        self._finite[name] = True
        self._h5.create_group(name).attrs.update(info.to_attributes())

    def append(
        self,
        modality: str,
        *,
        flux: np.ndarray,
        ivar: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        snr: np.ndarray | None = None,
        wave: np.ndarray | None = None,
        coeff: np.ndarray | None = None,
        coeff_error: np.ndarray | None = None,
        coeff_cov_factor: np.ndarray | None = None,
        good: np.ndarray | None = None,
    ) -> np.ndarray:
        """Appends rows to a modality.

        Arguments:
            flux: (n, l) in the unit of the modality.
            ivar: (n, l) inverse variance in the inverse square of that unit.
            mask: (n, l) True at good pixels.
            snr: (n,) per pixel; by default the median of flux·√ivar where ivar is given.
            wave: (n, l) in `wave_unit`, where the grid is per row.
            coeff, coeff_error: (n, c) basis coefficients and their errors.
            coeff_cov_factor: (n, c, …) factor of the coefficients' covariance.
            good: (n,) False where the reader itself found an object bad (such as its normaliser).

        Returns:
            The rows taken, int64 of shape (n,).
        """
        if modality not in self._infos:
            raise DataError(f"modality {modality!r} of {self.path} was not declared with add_modality.")
        info = self._infos[modality]
        flux = np.atleast_2d(np.asarray(flux))
        self._check_shapes(modality, info, flux, ivar, mask, wave)
        if snr is None and ivar is not None:
            snr = median_snr(flux, ivar, mask)
        usable = good_pixels(flux, ivar, mask)  # and what is judged below is what will be read
        flux = self._as_stored(f"{modality}/flux", flux, self.flux_dtype, usable)
        if ivar is not None:
            ivar = self._as_stored(f"{modality}/ivar", np.asarray(ivar), "float32", usable)
        reason = assess(flux, ivar, mask, info)
        if good is not None:
            reason[(reason == 0) & ~np.asarray(good, dtype=bool)] = 4
        finite = np.isfinite(flux).all() and (ivar is None or bool((np.isfinite(ivar) & (ivar > 0)).all()))
        self._finite[modality] &= bool(finite) and (mask is None or bool(np.all(mask)))
        columns = {
            "flux": flux,
            "ivar": ivar,
            "mask": _as(mask, "bool"),
            "snr": _as(snr, "float32"),
            "wave": _as(wave, "float64"),
            "coeff": _as(coeff, "float32"),
            "coeff_error": _as(coeff_error, "float32"),
            "coeff_cov_factor": _as(coeff_cov_factor, "float32"),
            "quality": reason,
        }
        return self._write_rows(modality, {k: v for k, v in columns.items() if v is not None})

    def verdicts(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """Why each of the appended rows is bad, as an index into `quality.REASONS`, (n,)."""
        return self._h5[modality]["quality"][rows.min() : rows.max() + 1]

    def _as_stored(self, name: str, values: np.ndarray, dtype: str, good: np.ndarray) -> np.ndarray:
        """Flux or ivar in the type of the file.

        Raises:
            DataError: more than half of the good pixels would be zero or infinite in it.
        """
        with np.errstate(over="ignore"):
            stored = values.astype(dtype, copy=False)
        if stored.dtype == values.dtype:
            return stored
        size = np.abs(stored[good & (values != 0)])
        lost = (size < np.finfo(stored.dtype).tiny) | np.isinf(size)
        if 2 * np.count_nonzero(lost) > lost.size:
            typical = float(np.median(np.abs(values[good])))
            without = " or leave out --half" if dtype == "float16" else ""
            raise DataError(
                f"{self.path}: {name} is {typical:.3g} in the median, which {dtype} cannot hold: give the flux in a "
                f"unit in which it is near 1{without}."
            )
        return stored

    def _check_shapes(self, m: str, info: ModalityInfo, flux: np.ndarray, *others: np.ndarray | None) -> None:
        if not info.per_row and flux.shape[1] != info.grid.n:  # type: ignore[union-attr]
            raise DataError(f"{self.path}, {m}: flux has {flux.shape[1]} pixels but the grid is {info.grid}.")
        if info.per_row and others[-1] is None:
            raise DataError(f"{self.path}, {m}: the grid is per row but no wave was given.")
        for other in others:
            if other is not None and np.shape(other) != flux.shape:
                raise DataError(f"{self.path}, {m}: shape {np.shape(other)} beside flux of {flux.shape}.")

    def _write_rows(self, m: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        group = self._h5[m]
        start = len(group["flux"]) if "flux" in group else 0
        if start and set(group) != set(columns):
            raise DataError(
                f"{self.path}, {m}: columns {sorted(columns)} after {sorted(group)}; keep them the same."
            )
        n = len(columns["flux"])
        for name, values in columns.items():
            if len(values) != n:
                raise DataError(f"{self.path}, {m}/{name} has {len(values)} rows beside {n} of flux.")
            if not start:
                shape = values.shape[1:]
                row_bytes = values.dtype.itemsize * int(np.prod(shape))
                rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))
                group.create_dataset(
                    name, (0, *shape), values.dtype, maxshape=(None, *shape), chunks=(rows, *shape)
                )
            group[name].resize(start + n, axis=0)
            group[name][start:] = values
        self._sink.check()
        return np.arange(start, start + n, dtype=np.int64)

    def set_samples(
        self,
        object_id: Sequence[str] | np.ndarray,
        obs_id: Sequence[str] | np.ndarray,
        rows: Mapping[str, np.ndarray],
        split: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Names the samples and joins them to the rows of the modalities.

        Arguments:
            object_id: (N,) the object on the sky (Gaia source id where known).
            obs_id: (N,) the observation, unique.
            rows: for each modality the row of each sample, (N,), -1 where the modality is missing.
            split: (N,) published split names or "".
        """
        self._n = len(object_id)
        unique, counts = np.unique(np.asarray(obs_id).astype(str), return_counts=True)
        if len(unique) != self._n:
            named = ", ".join(unique[counts > 1][:3]) or f"{len(obs_id)} ids for {self._n} objects"
            raise DataError(
                f"{self.path}: obs_id must be unique, but is not ({named}): name each observation."
            )
        if set(rows) != set(self._infos):
            raise DataError(
                f"{self.path}: rows are given for {sorted(rows)}, modalities are {sorted(self._infos)}."
            )
        group = self._h5.create_group("sample")
        group["object_id"] = _bytes(object_id)
        group["obs_id"] = _bytes(obs_id)
        group["object_hash"] = object_hash(np.asarray(object_id).astype(str))
        if split is not None:
            group["split"] = _bytes(split)
        for m, index in rows.items():
            index = np.asarray(index, dtype=np.int64)
            available = len(self._h5[m]["flux"]) if "flux" in self._h5[m] else 0
            if index.shape != (self._n,) or (index.size and (index.max() >= available or index.min() < -1)):
                raise DataError(
                    f"{self.path}: rows of {m} do not fit {self._n} samples and {available} rows."
                )
            group[f"{m}_row"] = index

    def set_positions(self, ra: np.ndarray, dec: np.ndarray) -> None:
        """Right ascension and declination of every sample in degrees (ICRS), (N,) each, NaN where unknown."""
        for name, values in (("ra", ra), ("dec", dec)):
            values = np.asarray(values, dtype=np.float64)
            if values.shape != (self._n,):
                raise DataError(f"{self.path}: {name} has shape {values.shape}, expected ({self._n},).")
            self._h5["sample"].create_dataset(name, data=values).attrs["unit"] = "deg"

    def set_label(self, name: str, values: np.ndarray, unit: str, source: str) -> None:
        """A label of every sample, (N,), NaN where missing."""
        dataset = self._per_sample(f"labels/{name}", values)
        dataset.attrs.update(unit=unit, source=source)

    def set_bound(self, modality: str, label: str, values: np.ndarray) -> None:
        """The Cramér–Rao bound σ of a label from one modality ("joint": all), (N,), in the label's unit."""
        self._per_sample(f"bounds/{modality}/{label}", values)

    def _per_sample(self, name: str, values: np.ndarray) -> h5py.Dataset:
        values = np.asarray(values, dtype=np.float32)
        if values.shape != (self._n,):
            raise DataError(
                f"{self.path}: {name} has shape {values.shape}, expected ({self._n},) after set_samples."
            )
        return self._h5.create_dataset(name, data=values)

    def _finish(self) -> None:
        if self._n is None:
            raise DataError(f"{self.path}: set_samples was not called, so no row belongs to an object.")
        for m, finite in self._finite.items():
            if "flux" not in self._h5[m]:
                raise DataError(f"{self.path}: modality {m} was declared but has no rows.")
            self._h5[m].attrs["finite"] = finite
        self._h5.flush()
        self._h5.attrs["content_hash"] = content_hash(self._h5)


def _as(values: np.ndarray | None, dtype: str) -> np.ndarray | None:
    return None if values is None else np.asarray(values).astype(dtype, copy=False)


def _bytes(values: Sequence[str] | np.ndarray) -> np.ndarray:
    encoded = np.char.encode(np.asarray(values).astype(str), "utf-8")
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")
