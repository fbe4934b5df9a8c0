"""Reads rows of an HDF5 dataset straight into their places in memory, in few large reads.

A shuffled window needs every row of a few contiguous slabs, in another order. HDF5 would read a slab into a
buffer from which rows are copied on; a scattered read (POSIX `preadv`) puts each row where it belongs at once. It
is called through ctypes because `os.preadv` wants a Python object for every row, which costs as much as reading.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import h5py
import numpy as np
from torch.utils.data import get_worker_info

from ..distributed.geometry import usable_cores

__all__ = ["SLAB_ROWS", "Buffers", "RowLayout", "in_threads", "read_rows", "row_layout"]

MAX_GAP = 16  # rows that are cheaper to read and drop than to seek over
THREADS = 4  # at most: columns read side by side, by as many threads as there are cores
WORTH_KEEPING = 256  # rows of a buffer
SLAB_ROWS = 4096  # bounds the memory of one read through HDF5
MAX_BUFFERS = 1024  # of one preadv (IOV_MAX)
MAX_BYTES = 1 << 30  # of one preadv


def _preadv() -> Callable[..., int] | None:
    """The C library's preadv, or None where it is missing or its types are not those of 64-bit POSIX."""
    if sys.platform not in ("linux", "darwin") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    function = getattr(ctypes.CDLL(None), "preadv", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
        function.restype = ctypes.c_ssize_t
    return function


_PREADV = _preadv()


_pool: tuple[int, ThreadPoolExecutor] | None = None


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    """Runs reads side by side; in the one thread of a loader's worker, one after another."""
    global _pool
    if len(tasks) < 2 or get_worker_info() is not None:
        for task in tasks:
            task()
        return
    if _pool is None or _pool[0] != os.getpid():  # threads do not live on in a forked process
        _pool = (os.getpid(), ThreadPoolExecutor(min(THREADS, usable_cores()), thread_name_prefix="read"))
    for done in [_pool[1].submit(task) for task in tasks]:
        done.result()


class Buffers:
    """Arrays to read into, used again once nobody else holds them: fresh memory costs as much as the reading."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._arrays: dict[tuple[tuple[int, ...], str], list[np.ndarray]] = {}

    def take(self, n: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An uninitialised array (n, …), free of other uses; tensors and views made of it count as uses."""
        kept = self._arrays.setdefault((shape, np.dtype(dtype).str), [])
        for i in range(len(kept)):
            if sys.getrefcount(kept[i]) == 2 and len(kept[i]) >= n:  # the list's and the argument's
                return kept[i][:n]
        array: np.ndarray = np.empty((n, *shape), dtype=dtype)
        if n >= WORTH_KEEPING:
            kept.append(array)
            del kept[: -self.most]
        return array[:n]

    def __getstate__(self) -> dict:
        return {"most": self.most, "_arrays": {}}


class RowLayout(NamedTuple):
    """Where the rows of a dataset lie in the file."""

    offsets: np.ndarray  # byte offset of each chunk, int64
    chunk_rows: int
    row_bytes: int

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """Byte offset of each row."""
        chunk, inside = np.divmod(rows, self.chunk_rows)
        return self.offsets[chunk] + inside * self.row_bytes


def row_layout(dataset: h5py.Dataset) -> RowLayout | None:
    """The layout of a dataset whose rows lie uncompressed in the file, else None."""
    plain = _PREADV is not None and dataset.dtype.isnative and dataset.file.userblock_size == 0
    if not plain or dataset.file.driver != "sec2" or dataset.size == 0:
        return None
    row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return None if offset is None else RowLayout(np.array([offset]), len(dataset), row_bytes)
    if dataset.id.get_create_plist().get_nfilters() or dataset.chunks[1:] != dataset.shape[1:]:
        return None
    offsets = np.full(-(-len(dataset) // dataset.chunks[0]), -1, dtype=np.int64)
    for i in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(i)
        offsets[info.chunk_offset[0] // dataset.chunks[0]] = info.byte_offset
    return RowLayout(offsets, dataset.chunks[0], row_bytes) if (offsets >= 0).all() else None


def read_rows(
    dataset: h5py.Dataset, layout: RowLayout | None, rows: np.ndarray, places: np.ndarray, out: np.ndarray
) -> None:
    """out[places[i]] = dataset[rows[i]].

    Arguments:
        dataset: (n, …).
        layout: from `row_layout`, or None to read through HDF5.
        rows: rows in any order, shape (b,).
        places: rows of `out`, shape (b,).
        out: (m, …) C-contiguous.

    Raises:
        OSError: the file ends before a row does, or cannot be read.
    """
    if len(rows) > 1 and np.any(rows[1:] < rows[:-1]):
        order = np.argsort(rows, kind="stable")
        rows, places = rows[order], places[order]
    if layout is None or out.dtype != dataset.dtype or not out.flags.c_contiguous:
        _through_hdf5(dataset, rows, places, out)
    else:
        _scattered(dataset, layout, rows, places, out)


def _through_hdf5(dataset: h5py.Dataset, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    for first, last in _runs(rows, 1):
        for low in range(first, last, SLAB_ROWS):
            high = min(low + SLAB_ROWS, last)
            slab = dataset[int(rows[low]) : int(rows[high - 1]) + 1]
            out[places[low:high]] = slab[rows[low:high] - rows[low]]


def _scattered(
    dataset: h5py.Dataset, layout: RowLayout, rows: np.ndarray, places: np.ndarray, out: np.ndarray
) -> None:
    size = layout.row_bytes
    addresses = layout.addresses(rows)
    dropped = np.empty(MAX_GAP * size, dtype=np.uint8)
    descriptor = dataset.file.id.get_vfd_handle()
    assert _PREADV is not None  # otherwise there is no layout
    most = max(1, min(MAX_BUFFERS // 2, MAX_BYTES // ((MAX_GAP + 1) * size)))
    for start, stop in _runs(addresses, size):
        for first in range(start, stop, most):
            last = min(first + most, stop)
            gaps = np.diff(addresses[first:last]) - size
            buffers = np.empty((2 * (last - first) - 1, 2), dtype=np.uint64)  # struct iovec: address, length
            buffers[::2, 0] = out.ctypes.data + places[first:last] * size
            buffers[::2, 1] = size
            buffers[1::2, 0] = dropped.ctypes.data
            buffers[1::2, 1] = gaps
            buffers = np.ascontiguousarray(buffers[buffers[:, 1] > 0])
            expected = int(buffers[:, 1].sum())
            found = _PREADV(descriptor, buffers.ctypes.data, len(buffers), int(addresses[first]))
            if found != expected:
                _check_end(descriptor, int(addresses[last - 1]) + size)
                _through_hdf5(dataset, rows[first:last], places[first:last], out)


def _check_end(descriptor: int, end: int) -> None:
    """HDF5 would fill with zeros what is missing at the end of a file."""
    size = os.fstat(descriptor).st_size
    if size < end:
        raise OSError(f"truncated file: {size} bytes, data up to {end}")


def _runs(positions: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of increasing positions to be read together: no repeats and no large gaps."""
    if len(positions):
        steps = np.diff(positions)
        cuts = np.flatnonzero((steps > (MAX_GAP + 1) * size) | (steps < size)) + 1
        yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(positions)], strict=True)
