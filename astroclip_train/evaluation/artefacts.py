"""Reads what the stages of a run left for evaluation: predictions, retrieval, translation, bounds, timing."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import read_json

__all__ = ["Prediction", "RunFiles", "read_npz"]

Array = NDArray[Any]


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an NPZ file, without pickles.

    Raises:
        DataError: the file is damaged or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}): run the stage that writes it again.") from error


@dataclass(frozen=True)
class Prediction:
    """Predictions of one head on one input for the test objects: `predictions/<head>__<input>.npz`."""

    head: str
    input: str
    arrays: dict[str, Array]

    @property
    def labels(self) -> list[str]:
        """Names of the k labels."""
        return [str(x) for x in self.arrays["labels"]]

    @property
    def units(self) -> dict[str, str]:
        """Unit of each label; empty where none was recorded."""
        given = self.arrays.get("label_units")
        units = [""] * len(self.labels) if given is None else [str(x) for x in np.atleast_1d(given)]
        return dict(zip(self.labels, units, strict=True))

    def column(self, name: str, label: str) -> Array | None:
        """One label's column of an (n, k, ...) array, float64, or None if the head has no such array."""
        array = self.arrays.get(name)
        return None if array is None else np.asarray(array[:, self.labels.index(label)], np.float64)

    def pair(self, label: str) -> tuple[Array, Array]:
        """Truth and prediction of one label, (n,) each, float64."""
        j = self.labels.index(label)
        truth, mean = self.arrays["truth"][:, j], self.arrays["mean"][:, j]
        return np.asarray(truth, np.float64), np.asarray(mean, np.float64)

    def get(self, name: str) -> Array | None:
        """An array, or None."""
        return self.arrays.get(name)


class RunFiles:
    """The artefacts of a run directory, each read when asked for; a missing kind is empty, not an error.

    Arguments:
        path: the run directory.

    Raises:
        DataError: it is not a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a run directory: name a folder that astro-train wrote.")
        self._predictions: list[Prediction] | None = None

    def predictions(self) -> list[Prediction]:
        """Every head on every input, sorted by file name."""
        if self._predictions is None:
            self._predictions = [self._prediction(p) for p in self._files("predictions")]
        return self._predictions

    def _prediction(self, path: Path) -> Prediction:
        head, separator, name = path.stem.partition("__")
        arrays = read_npz(path)
        missing = [key for key in ("labels", "truth", "mean") if key not in arrays]
        if missing or not separator:
            what = f"lacks {', '.join(missing)}" if missing else "is not named <head>__<input>.npz"
            raise DataError(f"{path} {what}: run the heads stage again.")
        return Prediction(head, name, arrays)

    def folder(self, kind: str) -> dict[str, dict[str, Array]]:
        """Stem -> arrays of every NPZ file in `retrieval`, `translation`, `embedding`, `spectra` or `crb`."""
        return {path.stem: read_npz(path) for path in self._files(kind)}

    def _files(self, kind: str) -> list[Path]:
        return [p for p in sorted((self.path / kind).glob("*.npz")) if not p.name.startswith(".")]

    def json(self, name: str) -> Any:
        """A JSON file of the run, or an empty dictionary."""
        path = self.path / name
        return read_json(path) if path.exists() else {}

    def text(self, name: str) -> str:
        """A text file of the run, or an empty string."""
        path = self.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
