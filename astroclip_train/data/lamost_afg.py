"""The 2,304 labelled LAMOST spectra of A, F and G stars as a dataset with folds by star."""

from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..files import write_json
from ..randomness import hash64
from .convert import ConvertOptions, convert_lamost_afg

__all__ = ["LamostAFG"]

VERSION = 2  # of the preparation


class LamostAFG:
    """Spectra of 3972–5740 Å over the same polynomial pseudo-continuum as the mock stars, with pipeline labels.

    Arguments:
        path: the repacked HDF5 file (`lamost_dr10_afg.h5`).
        fold: the test fold, 0 ≤ fold < folds; stars, not spectra, are divided.
        folds: how many.

    Raises:
        ConfigError: the fold does not exist.
        DataError: the file is missing or damaged (in `prepare`).
    """

    def __init__(self, path: str | Path, fold: int = 0, folds: int = 5) -> None:
        if not 0 <= fold < folds:
            raise ConfigError(f"dataset.fold={fold} must be at least 0 and below dataset.folds={folds}.")
        self.path, self.folds = Path(path), (int(fold), int(folds))

    def describe(self) -> dict[str, Any]:
        """What the prepared store is a function of."""
        return {"dataset": "lamost_afg", "version": VERSION, "folds": list(self.folds)}

    def prepare(self, cache_root: str | Path, progress: bool = True) -> list[Path]:
        """Writes the normalised store unless it is there, and returns its path."""
        if not self.path.is_file():
            raise DataError(f"dataset.path={self.path} does not exist: point it to lamost_dr10_afg.h5.")
        stat = self.path.stat()
        key = f"{hash64(VERSION, str(self.path.resolve()), stat.st_size, stat.st_mtime_ns) & 0xFFFFFFFFFFFF:012x}"
        store = Path(cache_root) / "lamost_afg" / f"afg-{key}.h5"
        if not store.exists():
            options = ConvertOptions(
                out=store, command="astroclip_train.data.lamost_afg.LamostAFG", progress=progress
            )
            convert_lamost_afg(self.path, options, continuum="polynomial")
            write_json(store.with_suffix(".json"), self.describe())
        return [store]
