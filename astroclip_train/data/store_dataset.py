"""The dataset that is already a store: files made by `astro-data` or by a StoreWriter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .checks import find_paths
from .store import Store

__all__ = ["StoreDataset"]


class StoreDataset:
    """A store file, a folder of shards, or a list of shard files.

    Arguments:
        path: where it is.
        modalities: those that must be in it (default: whatever is there).

    Raises:
        ConfigError: no path is given.
        DataError: a file is missing or damaged (in `prepare` and `describe`), or lacks a modality.
    """

    def __init__(self, path: str | Path | Sequence[str | Path], modalities: Sequence[str] = ()) -> None:
        if not path:
            raise ConfigError(
                "dataset.path is empty: name a store file, a folder of shards, or a list of files."
            )
        self.path = path if isinstance(path, str | Path) else list(path)
        self.modalities = tuple(modalities)

    def prepare(self, cache_root: str | Path | None = None, progress: bool = True) -> list[Path]:
        """Finds the files and checks their headers; nothing is written."""
        paths = find_paths(self.path)
        store = Store(paths)
        for m in self.modalities:
            store.require(m)
        store.close()
        return paths

    def describe(self) -> dict[str, Any]:
        """What identifies the data: the hash of the contents, not the place."""
        store = Store(find_paths(self.path))
        try:
            return {"dataset": "store", "content_hash": store.content_hash}
        finally:
            store.close()
