"""The loader: the batch contract, any number of workers, exact positions, forks."""

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from toy_stores import info, spectra

from astroclip_train.data.source import DataSource
from astroclip_train.data.store import Store


def same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0, equal_nan=True)


def all_same(ones, twos):
    for one, two in itertools.zip_longest(ones, twos, fillvalue={}):
        same(one, two)


def copies(loader, n=None):
    """Batches are views of a window that is used again once nobody holds it."""
    return list(itertools.islice(loader, n))


@pytest.fixture
def paths(make_store):
    flux, ivar = spectra(400)
    rng = np.random.default_rng(0)
    mask = rng.random(flux.shape) > 0.1
    flux[7, 3] = np.nan
    xp_rows = np.arange(400)
    xp_rows[::10] = -1
    ids = [f"star {i // 2}" for i in range(400)]
    return [
        make_store("a.h5", 400, flux=flux, ivar=ivar, mask=mask, xp_rows=xp_rows, object_id=ids),
        make_store("b.h5", 200, start=400, flux_dtype="float16"),
    ]


def source(paths, **options):
    stores = [Store(path) for path in paths]
    return DataSource(stores, labels=("teff", "feh"), block=16, **{"require": "any", **options})


def test_batch_contract(paths):
    data = source(paths[:1])
    samples = np.array([7, 10, 3, 4])
    batch = data.batch(samples, epoch=3)
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert shapes == {
        "lrs": ((4, 40), torch.float32),
        "lrs_ivar": ((4, 40), torch.float32),
        "lrs_mask": ((4, 40), torch.bool),
        "lrs_snr": ((4,), torch.float32),
        "lrs_present": ((4,), torch.bool),
        "xp": ((4, 12), torch.float32),
        "xp_mask": ((4, 12), torch.bool),
        "xp_snr": ((4,), torch.float32),
        "xp_present": ((4,), torch.bool),
        "labels": ((4, 2), torch.float32),
        "index": ((4,), torch.int64),
        "object": ((4,), torch.int64),
        "epoch": ((), torch.int64),
    }
    assert batch["xp_present"].tolist() == [True, False, True, True]
    assert batch["epoch"] == 3
    assert torch.isnan(batch["labels"][3, 0])
    assert batch["object"][0] != batch["object"][1]
    assert data.batch(np.array([8, 9]))["object"].unique().numel() == 1
    assert all(torch.isfinite(batch[m]).all() for m in ("lrs", "lrs_ivar", "xp"))
    assert not batch["lrs_mask"][0, 3]
    assert (batch["lrs_ivar"][~batch["lrs_mask"]] == 0).all()
    assert not batch["xp_mask"][1].any()


def test_values_are_those_of_the_store(paths):
    data = source(paths)
    flux = np.concatenate([spectra(400)[0], spectra(200, seed=400)[0].astype(np.float16).astype(np.float32)])
    for batch in data.loader("train", 32, seed=0, total_batches=30):
        good = batch["lrs_mask"].numpy()
        np.testing.assert_array_equal(batch["lrs"].numpy()[good], flux[batch["index"].numpy()][good])
    found = data.lookup(np.array([5, 405]))
    assert [(f.sample, f.object_id, f.obs_id) for f in found] == [
        (5, "star 2", "obs 5"),
        (5, "star 405", "obs 405"),
    ]
    assert data.lookup(405).store.endswith("b.h5")


@pytest.mark.parametrize("in_memory_mb", [0, 100])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_same_batches_for_any_number_of_workers(paths, workers, in_memory_mb):
    reference = copies(source(paths, in_memory_mb=0).loader("train", 48, seed=3), 25)
    assert reference[-1]["epoch"] >= 2
    data = source(paths, in_memory_mb=in_memory_mb)
    loader = data.loader("train", 48, seed=3, num_workers=workers)
    try:
        all_same(copies(loader, 25), reference)
        assert loader.source is data
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 9, 10, 17])
def test_resume_continues_the_uninterrupted_stream(paths, start, workers):
    reference = copies(source(paths).loader("train", 48, seed=3, total_batches=20))
    loader = source(paths).loader(
        "train", 48, seed=3, num_workers=workers, start_batch=start, total_batches=20
    )
    try:
        assert len(loader) == 20 - start
        all_same(copies(loader), reference[start:])
    finally:
        loader.close()


def test_resume_does_not_read_what_it_skips(paths, monkeypatch):
    data = source(paths)
    read = []
    original = data.batch
    monkeypatch.setattr(
        data, "batch", lambda samples, epoch: read.append(samples) or original(samples, epoch)
    )
    first = next(iter(data.loader("train", 48, seed=3, start_batch=5, total_batches=7)))
    assert sum(map(len, read)) == 96
    assert (first["index"].numpy() == read[0][:48]).all()


def test_batches_that_are_kept_stay_as_they_were(paths):
    loader = source(paths, in_memory_mb=0).loader("train", 300, seed=0, total_batches=6)
    kept = list(loader)
    snapshots = [{k: v.clone() for k, v in batch.items()} for batch in loader]
    all_same(kept, snapshots)


def test_validation_is_one_pass_in_order(paths):
    data = source(paths)
    loader = data.loader("validation", 10, shuffle=False)
    for _ in range(2):
        index = torch.cat([batch["index"] for batch in loader]).numpy()
        np.testing.assert_array_equal(index, data.samples("validation"))
    assert len(loader) == -(-data.n("validation") // 10)


def test_ranks_share_each_batch(paths):
    data = source(paths)
    whole = copies(data.loader("train", 48, seed=3, total_batches=12))
    ranks = [copies(data.loader("train", 48, seed=3, total_batches=12, rank=r, world_size=2)) for r in (0, 1)]
    for batch, even, odd in zip(whole, *ranks, strict=True):
        torch.testing.assert_close(batch["index"][0::2], even["index"])
        torch.testing.assert_close(batch["lrs"][1::2], odd["lrs"])


def test_weighted_stores(paths):
    data = source(paths, weights=[1, 3])
    index = torch.cat([b["index"] for b in data.loader("train", 32, seed=0, total_batches=30)])
    assert abs((index >= 400).float().mean() - 0.75) < 0.05


def test_an_endless_loader_has_no_length(paths):
    with pytest.raises(TypeError):
        len(source(paths).loader("train", 32, seed=0))


def _child(data, expected, answer):
    batch = data.batch(np.arange(100))
    answer.put(bool((batch["lrs"].numpy() == expected).all()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_used_before_works_in_a_new_process(paths, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    data = source(paths, in_memory_mb=0)
    expected = data.batch(np.arange(100))["lrs"].numpy()
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    process = context.Process(target=_child, args=(data, expected, answer))
    process.start()
    # the parent reads on while the child does
    for _ in range(20):
        assert (data.batch(np.arange(100))["lrs"].numpy() == expected).all()
    assert answer.get(timeout=60)
    process.join()


def test_workers_ignore_signals_and_end_when_told(paths):
    loader = source(paths).loader("train", 48, seed=3, num_workers=2)
    batches = iter(loader)
    next(batches)
    pids = [worker.pid for worker in loader._workers._iterator._workers]
    for pid, number in itertools.product(
        pids, (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)
    ):
        os.kill(pid, number)
    reference = copies(source(paths).loader("train", 48, seed=3), 40)
    all_same([next(batches) for _ in range(39)], reference[1:])
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 3  # torch waits 5 s for a worker that was not told
    assert not any(_alive(pid) for pid in pids)


def test_workers_of_a_forgotten_loader_end_at_once(paths):
    """In a cycle with its iterator, as Lightning's loops keep them."""
    loader = source(paths).loader("train", 48, seed=3, num_workers=2)
    batches = iter(loader)
    next(batches)
    pids = [worker.pid for worker in loader._workers._iterator._workers]
    cycle = {"loader": loader, "batches": batches}
    cycle["self"] = cycle
    del loader, batches, cycle
    start = time.monotonic()
    gc.collect()
    assert time.monotonic() - start < 3
    assert not any(_alive(pid) for pid in pids)


UNCLOSED = """
import sys
from astroclip_train.data.source import DataSource
from astroclip_train.data.store import Store
loader = DataSource([Store(p) for p in sys.argv[1:]]).loader("train", 48, num_workers=2)
next(iter(loader))
print(*[worker.pid for worker in loader._workers._iterator._workers])
"""


def test_program_that_closes_nothing_ends_at_once(paths):
    start = time.monotonic()
    command = [sys.executable, "-c", UNCLOSED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert time.monotonic() - start < 20
    assert done.stderr == ""
    assert not any(_alive(int(pid)) for pid in done.stdout.split())


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_unmasked_data_has_a_mask_that_costs_nothing(make_store):
    data = DataSource(Store(make_store(lrs=info())), modalities=("lrs",))
    mask = data.batch(np.arange(10))["lrs_mask"]
    assert mask.shape == (10, 40)
    assert mask.all()
    assert mask.untyped_storage().nbytes() == 1
