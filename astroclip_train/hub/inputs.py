"""Spectra for a model from stores or from survey files, prepared by the same code as `astro-data convert`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.grids import Grid
from ..data.modality import ModalityInfo
from ..data.quality import REASONS
from ..data.store import Store
from ..errors import ConfigError, DataError
from .model import AstroModel, Spectra

__all__ = ["Inputs", "open_inputs"]

STORE_SUFFIXES = (".h5", ".hdf5")
log = logging.getLogger(__name__)


@dataclass
class Inputs:
    """Samples of a store that have all of some modalities.

    Attributes:
        store: the store.
        modalities: those that are read.
        samples: sample numbers (n,).
    """

    store: Store
    modalities: tuple[str, ...]
    samples: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def spectra(self, rows: slice) -> dict[str, Spectra]:
        """Spectra of some of the samples."""
        found = {}
        for m in self.modalities:
            part = self.store.read(m, self.samples[rows])
            found[m] = Spectra(part["flux"], part.get("ivar"), part.get("mask"))
        return found

    @property
    def object_id(self) -> np.ndarray:
        """Names of the objects, text (n,)."""
        return self.store.object_id[self.samples].astype(str)

    @property
    def obs_id(self) -> np.ndarray:
        """Names of the observations, text (n,)."""
        return self.store.obs_id[self.samples].astype(str)

    def quality(self) -> np.ndarray:
        """`good`, or why an object should not be used, text (n,)."""
        worst = np.max([self.store.reasons(m)[self.samples] for m in self.modalities], axis=0)
        return np.array(REASONS)[worst]

    def distinct(self) -> "Inputs":
        """One sample for each spectrum: in a store of pairs one of Gaia may stand beside several of LAMOST."""
        rows = np.stack([self.store.stacked_rows(m)[self.samples] for m in self.modalities], axis=1)
        _, first = np.unique(rows, axis=0, return_index=True)
        return Inputs(self.store, self.modalities, self.samples[np.sort(first)])

    def take(self, names: Sequence[str]) -> "Inputs":
        """Only the samples with these object or observation ids.

        Raises:
            DataError: one of them is not there.
        """
        missing = [n for n in names if n not in set(self.object_id) | set(self.obs_id)]
        if missing:
            raise DataError(f"{self.store.paths[0]} has no object or observation {missing[0]}: check --ids.")
        keep = np.isin(self.object_id, names) | np.isin(self.obs_id, names)
        return Inputs(self.store, self.modalities, self.samples[keep])


def open_inputs(
    files: Sequence[str | Path],
    model: AstroModel,
    modalities: Sequence[str] | None,
    scratch: Path,
    split: str | None = None,
) -> Inputs:
    """Opens stores, or converts survey files (LAMOST FITS, Gaia XP tables) into a store in `scratch`.

    Arguments:
        files: stores, or files and folders of one survey.
        model: whose grid and normalisation the spectra must have.
        modalities: those to read; by default all that both the store and the model have.
        scratch: an empty folder for converted files.
        split: only this split of a store, by the folds that the model was trained with, if it was.

    Raises:
        ConfigError: the modality is not the model's, or cannot be guessed.
        DataError: a file is missing or damaged, or its spectra are not what the model reads.
    """
    for m in modalities or ():
        model.length(m)
    paths = [Path(f) for f in files]
    stores = [p for p in paths if p.suffix in STORE_SUFFIXES or (p.is_dir() and any(p.glob("*.h5")))]
    if stores and len(stores) < len(paths):
        other = next(p for p in paths if p not in stores)
        raise ConfigError(f"{other} is not a store but {stores[0]} is: give either stores or survey files.")
    if not stores:
        paths = [_convert(paths, model, modalities, scratch)]
    folds = model.metadata.get("folds") if split is not None and stores else None
    store = Store(paths, max_bad_fraction=1.0, folds=tuple(folds) if folds else None)
    chosen = tuple(modalities or [m for m in store.modalities if m in model.modalities])
    if not chosen:
        have, wanted = ", ".join(store.modalities), ", ".join(model.modalities)
        raise DataError(f"{paths[0]} holds {have}, and this model reads {wanted}: give spectra of that kind.")
    for m in chosen:
        _check(store, m, model.info(m))
    keep = np.logical_and.reduce([store.rows[m] >= 0 for m in chosen])
    if split is not None:
        keep &= store.splits == split
    if not keep.any():
        where = f" in its {split} split" if split else ""
        raise DataError(f"{paths[0]} has no sample with {' and '.join(chosen)}{where}: nothing to do.")
    return Inputs(store, chosen, np.flatnonzero(keep))


def _convert(paths: list[Path], model: AstroModel, modalities: Sequence[str] | None, scratch: Path) -> Path:
    from ..data.convert import ConvertOptions, convert_lamost
    from ..data.convert_xp import convert_gaia_xp

    names = list(modalities or model.modalities)
    if len(names) != 1:
        raise ConfigError(f"say with --modality which of {', '.join(names)} the files {paths[0]} … hold.")
    info = model.info(names[0])
    options = ConvertOptions(out=scratch / f"{names[0]}.h5", command="astro-model", max_bad_fraction=1.0)
    if not isinstance(info.grid, Grid):
        raise ConfigError(
            f"this model reads {names[0]} with wavelengths per object: convert the files to a store."
        )
    if names[0] == "lrs":
        frame = info.frame if info.frame in ("heliocentric", "observed") else "heliocentric"
        kind = _continuum(info)
        report = convert_lamost(list(paths), options, grid=info.grid, continuum=kind, frame=frame)
    elif names[0] == "xp":
        normalise = "flux_550nm" in info.normalisation
        report = convert_gaia_xp(list(paths), options, normalise=normalise, covariance=False)
    else:
        raise ConfigError(
            f"there is no reader for files of {names[0]}: make a store with astro-data convert."
        )
    for item in report.left_out:
        log.warning("%s left out: %s", item.name, item.reason)
    return options.out


def _continuum(info: ModalityInfo) -> str:
    """Which continuum the model's spectra were divided by, as `astro-data convert lamost` names it."""
    names = " ".join(info.normalisation)
    if "continuum" not in names:
        return "none"
    return "polynomial" if "polynomial" in names else "envelope"


def _check(store: Store, modality: str, expected: ModalityInfo) -> None:
    """Refuses spectra that the model would misread; a different frame is only told."""
    where = f"{store.paths[0]}: {modality}"
    if modality not in store.modalities:
        have = ", ".join(store.modalities)
        raise DataError(
            f"{store.paths[0]} has no modality {modality} (it has {have}): choose another --modality."
        )
    info = store.modalities[modality]
    for name in ("grid", "medium", "normalisation", "unit"):
        mine, theirs = getattr(info, name), getattr(expected, name)
        if mine != theirs:
            told = [", ".join(v) or "none" if isinstance(v, tuple) else str(v) or "1" for v in (mine, theirs)]
            raise DataError(
                f"{where} has {name} {told[0]}, and the model was trained with {told[1]}: "
                "convert the files again with astro-data convert."
            )
    if info.frame != expected.frame:
        log.warning(
            "%s is in the %s frame, the model was trained in the %s frame", where, info.frame, expected.frame
        )
