"""Whether files are there, and whether stores fit each other and those who read them."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .grids import Grid
from .modality import ModalityInfo

if TYPE_CHECKING:
    from .store import Store

__all__ = ["agree", "check_grid", "find_paths"]

SUFFIXES = (".h5", ".hdf5")


def find_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of a store given as a file, a folder of `*.h5`, or a list of either.

    Raises:
        DataError: nothing is there; the message names what lies nearest.
    """
    if isinstance(paths, str | Path):
        path = Path(paths).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
            if not found:
                raise DataError(
                    f"{path} is a folder without *.h5 files: give a store file or a folder of shards."
                )
            return found
        if not path.exists():
            raise DataError(f"{path} does not exist{_nearest(path)}.")
        return [path]
    found = [file for entry in paths for file in find_paths(entry)]
    if not found:
        raise DataError("no store file was given: set dataset.path.")
    return found


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", nor does the folder {folder}: check dataset.path"
    names = [p.name for p in folder.iterdir() if p.suffix in SUFFIXES or p.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3) or sorted(names)[:3]
    return f"; nearest in its folder: {', '.join(near)}" if near else f" and {folder} holds no *.h5 file"


def check_grid(store: "Store", modality: str, expected: Grid | int, reader: str = "the encoder") -> None:
    """Refuses a store whose pixels are not those expected.

    Arguments:
        store: the store.
        modality: its name.
        expected: a grid, or only the number of pixels.
        reader: who expects it, for the message.

    Raises:
        DataError: the modality is absent or on another grid.
    """
    store.require(modality, reader)
    where = str(store.paths[0])
    grid, length = store.modalities[modality].grid, store.lengths[modality]
    if isinstance(expected, int):
        if length != expected:
            raise DataError(
                f"{where}: {modality} has {length} pixels, {reader} expects {expected}: "
                "resample when converting, or change the encoder's length."
            )
    elif isinstance(grid, str) or grid != expected:
        raise DataError(
            f"{where}: {modality} is on {grid}, {reader} expects {expected}: resample when converting."
        )


def agree(m: str, first: ModalityInfo, first_path: Path, other: ModalityInfo, other_path: Path) -> None:
    """Refuses files whose spectra of one modality cannot be mixed.

    Raises:
        DataError: grid, unit, medium, frame or normalisation differ.
    """
    for name in ("grid", "unit", "medium", "frame", "normalisation"):
        mine, theirs = getattr(first, name), getattr(other, name)
        if mine != theirs:
            raise DataError(
                f"{other_path}: {name} of {m} is {_shown(theirs)} but {_shown(mine)} in {first_path}: "
                "convert both alike."
            )


def _shown(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)
