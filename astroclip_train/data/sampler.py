"""The order of samples: a function of (seed, epoch), shuffled in blocks so that files are read in slabs."""

import logging
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..randomness import hash64

__all__ = ["BlockSampler"]

logger = logging.getLogger(__name__)


class BlockSampler:
    """Cuts samples into batches; every batch is a function of (seed, batch number) alone.

    Blocks of neighbouring samples are put in random order, a window of several blocks is shuffled and cut
    into whole batches, so a window needs few slabs of the file and no two windows share a batch. The last,
    incomplete batch of an epoch is dropped when shuffling and kept otherwise.

    Arguments:
        samples: sample numbers, sorted; or a list of such arrays, one for each store.
        batch_size: samples in a batch, over all ranks; no more than there are samples.
        seed: the run's seed.
        block: neighbouring samples that stay together until the shuffle inside a window.
        window: blocks in a window.
        shuffle: whether to shuffle; otherwise one epoch in the given order.
        weights: for each store, its share of an epoch whose length is the number of all samples; a store with
            a small share is walked through over several epochs, one with a large share several times in one.

    Raises:
        DataError: no samples, or weights that do not fit.
    """

    def __init__(
        self,
        samples: np.ndarray | Sequence[np.ndarray],
        batch_size: int,
        seed: int,
        block: int = 256,
        shuffle: bool = True,
        window: int = 16,
        weights: Sequence[float] | None = None,
    ) -> None:
        parts = [samples] if isinstance(samples, np.ndarray) else list(samples)
        self.parts = [np.asarray(part, dtype=np.int64) for part in parts]
        self.total = sum(len(part) for part in self.parts)
        if self.total == 0:
            raise DataError("there are no samples to draw batches from.")
        if shuffle and batch_size > self.total:
            logger.warning("the batch of %d is cut to the %d samples there are", batch_size, self.total)
        self.batch_size = min(batch_size, self.total)
        self.seed, self.block, self.shuffle = seed, block, shuffle
        self.quotas = _quotas([len(part) for part in self.parts], weights)
        self.window_batches = max(1, round(window * block / self.batch_size))
        whole, rest = divmod(sum(self.quotas), self.batch_size)
        self.batches_per_epoch = whole if shuffle else whole + (rest > 0)
        self._epoch: tuple[int, np.ndarray] | None = None

    def locate(self, number: int) -> tuple[int, int]:
        """(epoch, batch in that epoch) of a batch number that counts through the epochs."""
        return divmod(number, self.batches_per_epoch)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, each of shape (batch_size,)."""
        return [self.batch(epoch, i) for i in range(self.batches_per_epoch)]

    def batch(self, epoch: int, i: int) -> np.ndarray:
        """Batch i of an epoch."""
        return self.order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]

    def size(self, i: int) -> int:
        """Samples in batch i of any epoch."""
        return min(self.batch_size, sum(self.quotas) - i * self.batch_size)

    def window_end(self, i: int) -> int:
        """The first batch behind the window that batch i of an epoch is in."""
        return min((i // self.window_batches + 1) * self.window_batches, self.batches_per_epoch)

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch in their order; the last one asked for is kept."""
        kept = self._epoch  # taken once, because a thread that reads ahead may replace it
        if kept is None or kept[0] != epoch:
            kept = (epoch, self._shuffled(epoch) if self.shuffle else np.concatenate(self.parts))
            self._epoch = kept
        return kept[1]

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = self._generator("epoch", epoch)
        blocks = [b for i in range(len(self.parts)) for b in self._blocks(i, epoch, rng)]
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        step = self.window_batches * self.batch_size
        for low in range(0, len(order), step):
            order[low : low + step] = rng.permutation(order[low : low + step])
        return order

    def _blocks(self, part: int, epoch: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Blocks of one store for one epoch; if its share is not all of it, the next of an endless walk."""
        samples, quota = self.parts[part], self.quotas[part]
        if quota == len(samples):
            return np.split(samples, range(self.block, len(samples), self.block))
        position, end = epoch * quota, (epoch + 1) * quota
        taken: list[np.ndarray] = []
        while position < end:
            lap, offset = divmod(position, len(samples))
            walk = self._lap(part, lap)[offset : offset + end - position]
            taken.append(walk)
            position += len(walk)
        return [b for walk in taken for b in np.split(walk, range(self.block, len(walk), self.block))]

    def _lap(self, part: int, lap: int) -> np.ndarray:
        samples = self.parts[part]
        blocks = np.split(samples, range(self.block, len(samples), self.block))
        return np.concatenate([blocks[i] for i in self._generator("lap", part, lap).permutation(len(blocks))])

    def _generator(self, *parts: int | str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(hash64("order", self.seed, *parts) & 0x7FFFFFFFFFFFFFFF))


def _quotas(sizes: list[int], weights: Sequence[float] | None) -> list[int]:
    if weights is None:
        return sizes
    if len(weights) != len(sizes) or min(weights) < 0 or sum(weights) <= 0:
        raise DataError(
            f"{len(sizes)} stores need as many weights, none negative and one positive, got {weights}."
        )
    if any(weight > 0 and size == 0 for weight, size in zip(weights, sizes, strict=True)):
        raise DataError("a store with a weight has no samples in this split: give it weight 0 or more data.")
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    edges = np.round(np.cumsum(shares) * sum(sizes)).astype(int)
    return [int(q) for q in np.diff(np.r_[0, edges])]
