"""The sampler: permutations, positions, windows, weights."""

import logging

import numpy as np
import pytest

from astroclip_train.data.sampler import BlockSampler
from astroclip_train.errors import DataError

SAMPLES = np.arange(1000) * 3


def flat(batches):
    return np.concatenate(batches)


def test_an_epoch_is_a_permutation_without_the_last_incomplete_batch():
    sampler = BlockSampler(SAMPLES, 64, seed=0, block=50)
    first, second = sampler.batches(0), sampler.batches(1)
    assert len(first) == sampler.batches_per_epoch == 15
    assert {len(b) for b in first} == {64}
    assert len(set(flat(first))) == 960
    assert set(flat(first)) <= set(SAMPLES)
    assert not np.array_equal(flat(first), flat(second))


def test_order_is_a_function_of_seed_and_epoch():
    one, two = (BlockSampler(SAMPLES, 64, seed=5, block=50) for _ in range(2))
    two.batches(7)  # history does not matter
    np.testing.assert_array_equal(one.order(3), two.order(3))
    assert not np.array_equal(one.order(3), BlockSampler(SAMPLES, 64, seed=6, block=50).order(3))


def test_order_is_pinned():
    # a change here would break the exact resume of existing runs
    found = BlockSampler(np.arange(12), 4, seed=1, block=3, window=2).order(0)
    assert found.tolist() == [11, 0, 7, 9, 1, 10, 6, 2, 3, 8, 5, 4]


def test_a_window_is_a_few_slabs():
    sampler = BlockSampler(np.arange(10000), 100, seed=0, block=100, window=5)
    order = sampler.order(2)
    for low in range(0, 10000, 500):
        window = np.sort(order[low : low + 500])
        assert (np.diff(window) > 1).sum() <= 5
        assert not np.array_equal(window, order[low : low + 500])
    assert sampler.window_end(0) == sampler.window_end(4) == 5
    assert sampler.window_end(99) == 100


def test_no_sample_is_dropped_for_ever():
    sampler = BlockSampler(np.arange(300), 64, seed=0)
    assert set(flat([batch for epoch in range(10) for batch in sampler.batches(epoch)])) == set(range(300))


def test_unshuffled_is_one_pass_in_order_with_the_rest():
    sampler = BlockSampler(SAMPLES, 64, seed=0, shuffle=False)
    assert [len(b) for b in sampler.batches(0)] == [64] * 15 + [40]
    np.testing.assert_array_equal(flat(sampler.batches(0)), SAMPLES)


def test_locate():
    sampler = BlockSampler(SAMPLES, 64, seed=0)
    assert sampler.locate(0) == (0, 0)
    assert sampler.locate(14) == (0, 14)
    assert sampler.locate(15) == (1, 0)


def test_weights_hold_over_every_epoch_and_walk_through_all():
    parts = [np.arange(1000), np.arange(1000, 1100)]
    sampler = BlockSampler(parts, 100, seed=0, block=10, weights=[1, 1])
    for epoch in range(3):
        order = sampler.order(epoch)
        assert abs((order >= 1000).mean() - 0.5) < 0.01
        assert set(order[order >= 1000]) == set(range(1000, 1100))  # five and a half times
    seen = flat([sampler.order(e) for e in range(4)])
    assert set(seen) == set(range(1100))
    counts = np.bincount(seen[seen < 1000])
    assert counts.max() - counts.min() <= 1


def test_a_weight_of_zero_leaves_a_store_out():
    sampler = BlockSampler([np.arange(100), np.arange(100, 200)], 10, seed=0, weights=[0, 2])
    assert sampler.order(0).min() >= 100


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_wrong_weights(weights):
    with pytest.raises(DataError, match="weights"):
        BlockSampler([np.arange(5), np.arange(5, 9)], 2, seed=0, weights=weights)


def test_few_samples_make_a_smaller_batch_and_none_an_error(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = BlockSampler(np.arange(5), 64, seed=0)
    assert sampler.batch_size == 5
    assert "the batch of 64 is cut to the 5 samples" in caplog.text
    with pytest.raises(DataError, match="no samples"):
        BlockSampler(np.arange(0), 64, seed=0)
