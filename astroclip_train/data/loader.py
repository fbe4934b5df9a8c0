"""Batches in the sampler's order, read in this process or by workers, from any position of the stream."""

import atexit
import itertools
import os
import signal
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .sampler import BlockSampler
from .source import Batch, DataSource

__all__ = ["Loader", "make_loader"]

Request = tuple[int, int, int]  # epoch, first batch, batch behind the last: all in one window


class Loader:
    """An iterable of batches, the same for any number of workers.

    Workers read whole windows of the sampler, because a window is a few slabs of the file while a batch is
    scattered over all of them; the window is cut into batches here.

    Arguments:
        source: where samples are read.
        sampler: their order.
        start_batch: number of the first batch, counted through the epochs; earlier ones are not read.
        total_batches: number behind the last batch; None is endless when shuffling, else one pass.
        num_workers: processes that read, each with its own files; 0 reads here.
        rank, world_size: this process gets every world_size-th sample of each batch.
    """

    def __init__(
        self,
        source: DataSource,
        sampler: BlockSampler,
        start_batch: int = 0,
        total_batches: int | None = None,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.sampler = source, sampler
        self.start_batch = start_batch
        self.total_batches = (
            sampler.batches_per_epoch if total_batches is None and not sampler.shuffle else total_batches
        )
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available()
        self._windows = _Windows(source, sampler, rank, world_size)
        self._workers: DataLoader | None = None
        self._end: weakref.finalize | None = None

    @property
    def batch_size(self) -> int:
        """Samples in a batch, over all ranks."""
        return self.sampler.batch_size

    def __len__(self) -> int:
        if self.total_batches is None:
            raise TypeError("an endless loader has no length")
        return max(0, self.total_batches - self.start_batch)

    def __iter__(self) -> Iterator[Batch]:
        if self.num_workers == 0:
            yield from self._read_ahead()
            return
        for request, window in zip(self.requests(), self._worker_windows(), strict=False):
            yield from self._windows.cut(request, window)

    def _read_ahead(self) -> Iterator[Batch]:
        """Batches, the next window read by a thread while this one is used; reading holds no Python lock.

        It begins when the first batch of this window is done with: then nobody holds the window before any longer, and
        two sets of buffers do, which is faster than three by a fifth.
        """
        self.source.open()  # here, so that no two threads do
        requests = self.requests()
        with ThreadPoolExecutor(1, thread_name_prefix="window") as pool:

            def read() -> tuple[Request, Future[Batch]] | None:
                request = next(requests, None)
                return request and (request, pool.submit(self._windows.__getitem__, request))

            coming = read()
            while coming is not None:
                (epoch, first, last), window = coming
                begin = min(first + 1, last - 1)  # a window of one batch has no second
                for number, batch in enumerate(
                    self._windows.cut((epoch, first, last), window.result()), first
                ):
                    if number == begin:
                        coming = read()
                    yield self._pinned(batch)

    def _worker_windows(self) -> Iterator[Batch]:
        if self._workers is not None:
            return iter(self._workers)
        self.source.close()  # so that no worker inherits an open file
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")
            self._workers = DataLoader(
                self._windows,
                batch_size=None,
                sampler=_Requests(self.sampler, self.start_batch, self.total_batches),
                num_workers=self.num_workers,
                collate_fn=_same,
                worker_init_fn=_quiet_worker,
                persistent_workers=True,
                pin_memory=self.pin_memory,
            )
            windows: Any = iter(self._workers)
        # holds the iterator: taken apart by the garbage collector in any order, it could not tell its workers to leave
        self._end = weakref.finalize(self, _end_workers, os.getpid(), windows)
        self._end.atexit = False
        atexit.register(self._end)  # runs before torch's and multiprocessing's, which wait for every worker
        return windows

    def close(self) -> None:
        """Ends the workers; the next pass starts new ones."""
        end, self._end, self._workers = self._end, None, None
        if end is not None:
            end()
            atexit.unregister(end)

    def requests(self) -> Iterator[Request]:
        """The windows to read, from `start_batch` on."""
        return iter(_Requests(self.sampler, self.start_batch, self.total_batches))

    def _pinned(self, batch: Batch) -> Batch:
        return {k: v.pin_memory() for k, v in batch.items()} if self.pin_memory else batch


class _Windows(Dataset):
    """Reads windows: what runs in a worker."""

    def __init__(self, source: DataSource, sampler: BlockSampler, rank: int, world_size: int) -> None:
        self.source, self.sampler = source, sampler
        self.rank, self.world_size = rank, world_size

    def samples(self, request: Request) -> list[np.ndarray]:
        """This rank's samples of each batch of a window."""
        epoch, first, last = request
        return [self.sampler.batch(epoch, i)[self.rank :: self.world_size] for i in range(first, last)]

    def __getitem__(self, request: Request) -> Batch:
        samples = np.concatenate(self.samples(request))
        if len(samples) == 0:  # a last batch smaller than the number of ranks: no rows, but all keys
            first = self.sampler.batch(request[0], request[1])[:1]
            return {k: v if k == "epoch" else v[:0] for k, v in self.source.batch(first, request[0]).items()}
        return self.source.batch(samples, request[0])

    def cut(self, request: Request, window: Batch) -> Iterator[Batch]:
        """The batches of a window, as views of it."""
        sizes = (self.sampler.size(i) for i in range(*request[1:]))
        edges = np.cumsum([0, *(len(range(self.rank, size, self.world_size)) for size in sizes)])
        for low, high in itertools.pairwise(edges):
            yield {k: v if k == "epoch" else v[low:high] for k, v in window.items()}


class _Requests:
    """The windows to read from a first batch on, anew for every pass; it knows no loader, which may be gone."""

    def __init__(self, sampler: BlockSampler, start: int, total: int | None) -> None:
        self.sampler, self.start, self.total = sampler, start, total

    def __iter__(self) -> Iterator[Request]:
        number = self.start
        while self.total is None or number < self.total:
            epoch, first = self.sampler.locate(number)
            last = self.sampler.window_end(first)
            if self.total is not None:
                last = min(last, first + self.total - number)
            yield epoch, first, last
            number += last - first


def make_loader(
    source: DataSource,
    samples: str | np.ndarray,
    batch_size: int,
    seed: int,
    shuffle: bool,
    *,
    num_workers: int = 0,
    start_batch: int = 0,
    total_batches: int | None = None,
    labelled_only: bool = False,
    n_labels: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """A loader over a split ("train", "validation", "test") or over given sample numbers.

    Raises:
        DataError: the split is empty.
    """
    if isinstance(samples, str):
        samples = source.samples(samples, labelled_only, n_labels)
    parts = source.by_store(samples) if shuffle else [np.asarray(samples)]
    weights = source.weights if shuffle else None
    sampler = BlockSampler(parts, batch_size, seed, block=source.block, shuffle=shuffle, weights=weights)
    return Loader(source, sampler, start_batch, total_batches, num_workers, rank, world_size)


def _end_workers(pid: int, windows: Any) -> None:
    """Tells workers to leave; one that has not left some seconds later hangs in a read and is killed."""
    if os.getpid() != pid:
        return  # a fork of the process that has them
    windows._shutdown_workers()
    for worker in windows._workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def _same(window: Any) -> Any:
    return window


def _quiet_worker(_: int) -> None:
    """Signals to the group are the main process's business, which needs its workers until it has saved.

    A worker ends when it is told to through its queue, or when its parent is gone.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
