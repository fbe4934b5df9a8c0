"""Bytes per second of the loader beside one contiguous h5py read of the same bytes.

    python benchmarks/loader_rate.py [--store FILE] [--samples 20000] [--batch 256] [--workers 2] [--rounds 15]

The files are in the page cache, so that this measures the code and not the disk.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from _common import alternated, header

from astroclip_train.data.grids import LRS_GRID, XP_GRID
from astroclip_train.data.source import DataSource
from astroclip_train.data.store import ModalityInfo, Store, StoreWriter


def write_store(path: Path, n: int) -> None:
    """A store of noise in the sizes of LAMOST LRS and Gaia XP, with inverse variances."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, created_by="benchmarks/loader_rate.py") as writer:
        rows = {}
        for m, grid in (("lrs", LRS_GRID), ("xp", XP_GRID)):
            writer.add_modality(m, ModalityInfo("noise", grid, "", "vacuum", "rest", "none", ("continuum",)))
            parts = []
            for low in range(0, n, 2000):
                flux = 1 + 0.1 * rng.standard_normal((min(2000, n - low), grid.n), dtype=np.float32)
                parts.append(writer.append(m, flux=flux, ivar=np.full_like(flux, 100.0)))
            rows[m] = np.concatenate(parts)
        writer.set_samples([f"object {i}" for i in range(n)], [f"observation {i}" for i in range(n)], rows)
        writer.set_label("teff", rng.normal(5500, 500, n), "K", "noise")


def contiguous(path: Path, rows: int) -> int:
    """Reads the first rows of every column with h5py; returns the bytes."""
    with h5py.File(path, "r", locking=False) as file:
        return sum(file[m][c][:rows].nbytes for m in ("lrs", "xp") for c in ("flux", "ivar") if c in file[m])


def epoch(source: DataSource, samples: np.ndarray, batch: int, workers: int) -> Callable[[], int]:
    """One epoch of the loader; a new seed each time, so that no order is met twice."""
    loader = source.loader(samples, batch, seed=1, num_workers=workers)
    loader.total_batches = loader.sampler.batches_per_epoch
    return lambda: sum(len(b["index"]) for b in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    header()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.store or Path(folder) / "noise.h5"
        if arguments.store is None:
            write_store(path, arguments.samples)
        store = Store(path)
        measure(store, np.arange(store.n), arguments, "all samples")
        measure(store, store.split("train"), arguments, "the train split (scattered rows)")


def measure(store: Store, samples: np.ndarray, arguments: argparse.Namespace, what: str) -> None:
    """Prints the rates for some samples of a store."""
    path = store.paths[0]
    size = contiguous(path, len(samples)) / 1e6
    streamed, kept = (DataSource(store, labels=(), in_memory_mb=mb) for mb in (0, 1e6))
    functions = {
        "one contiguous h5py read": lambda: contiguous(path, len(samples)),
        "loader from the file": epoch(streamed, samples, arguments.batch, 0),
        f"loader from the file, {arguments.workers} workers": epoch(
            streamed, samples, arguments.batch, arguments.workers
        ),
        "loader from memory": epoch(kept, samples, arguments.batch, 0),
    }
    print(f"\n{what}: {len(samples)} samples, {size:.0f} MB, batches of {arguments.batch}")
    timings = alternated(functions, arguments.rounds)
    reference = timings["one contiguous h5py read"].median
    for name, timing in timings.items():
        print(f"  {name:34s} {timing.rate(size, 'MB/s')}  {reference / timing.median:6.1%}")


if __name__ == "__main__":
    main()
