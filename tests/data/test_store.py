"""Stores: round trip, missing modalities, shards, float16, splits, bad objects."""

import logging

import h5py
import numpy as np
import pytest
from toy_stores import LRS, XP, info, spectra

from astroclip_train.data.grids import Grid
from astroclip_train.data.splits import split_of
from astroclip_train.data.store import Store, StoreWriter, check_grid
from astroclip_train.data.store_dataset import StoreDataset
from astroclip_train.errors import ConfigError, DataError


def test_round_trip(make_store):
    flux, ivar = spectra(300)
    store = Store(make_store())
    assert store.n == 300
    assert store.modalities["lrs"] == info()
    assert store.modalities["xp"].grid == XP
    assert store.object_id[7] == "star 7"
    assert store.obs_id[7] == "obs 7"
    order = np.random.default_rng(0).permutation(300)
    part = store.read("lrs", order)
    assert sorted(part) == ["flux", "ivar"]
    np.testing.assert_array_equal(part["flux"], flux[order])
    np.testing.assert_array_equal(part["ivar"], ivar[order])
    np.testing.assert_allclose(store.snr("lrs"), np.median(flux * 10, axis=1), rtol=1e-5)
    assert np.isnan(store.snr("xp")).all()
    assert np.isnan(store.labels["teff"][0])
    assert store.labels["teff"][1] == 5001
    assert store.label_units == {"teff": "K", "feh": "dex"}
    assert store.bounds["lrs"]["teff"][3] == 30
    np.testing.assert_array_equal(store.wave("xp"), XP.wave())


def test_repeated_and_single_samples_can_be_read(make_store):
    flux, _ = spectra(300)
    store = Store(make_store())
    for samples in ([5], [5, 5, 4, 299, 5], []):
        chosen = np.array(samples, dtype=int)
        np.testing.assert_array_equal(store.read("lrs", chosen)["flux"], flux[chosen])


@pytest.mark.parametrize("storage", [{"chunks": (7, 40)}, {"chunks": (64, 16), "compression": "gzip"}, {}])
def test_any_hdf5_layout_reads_the_same(make_store, storage):
    path = make_store()
    flux, _ = spectra(300)
    with h5py.File(path, "r+") as file:
        del file["lrs/flux"]
        file.create_dataset("lrs/flux", data=flux, **storage)
    rows = np.random.default_rng(0).permutation(300)[:200]
    np.testing.assert_array_equal(Store(path).read("lrs", rows)["flux"], flux[rows])


def test_missing_modalities_are_rows_of_nan_without_weight(make_store):
    xp_rows = np.full(300, -1)
    xp_rows[100:150] = np.arange(50)[::-1]
    store = Store(make_store(xp_rows=xp_rows))
    part = store.read("xp", np.array([0, 100, 149, 299]))["flux"]
    assert np.isnan(part[[0, 3]]).all()
    expected = spectra(300, 12, seed=1)[0]
    np.testing.assert_array_equal(part[1], expected[49])
    np.testing.assert_array_equal(part[2], expected[0])
    assert not store.bad().any()


def test_shards_are_one_store(make_store, tmp_path):
    whole = np.concatenate([spectra(100, seed=s)[0] for s in (0, 100, 200)])
    for start in (0, 100, 200):
        make_store(f"part-{start:03d}.h5", 100, start=start)
    store = Store(tmp_path)
    assert store.n == 300
    rows = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(store.read("lrs", rows)["flux"], whole[rows])
    np.testing.assert_array_equal(store.column("lrs", "flux")[store.stacked_rows("lrs")], whole)
    assert (store.splits == split_of([f"star {i}" for i in range(300)])).all()


def test_shards_must_be_alike_and_without_repeats(make_store):
    first = make_store("a.h5", 50)
    other = make_store("b.h5", 50, start=50, lrs=info(normalisation=()))
    with pytest.raises(DataError, match=r"normalisation of lrs is none but continuum in .*a\.h5"):
        Store([first, other])
    with pytest.raises(DataError, match="obs 0 occurs twice"):
        Store([first, make_store("c.h5", 50)])


@pytest.mark.parametrize("column", ["ivar", "mask"])
def test_shards_that_would_lose_a_column_are_refused(make_store, column):
    good = np.ones((50, 40), dtype=bool)
    paths = [make_store("a.h5", n=50, mask=good), make_store("b.h5", n=50, start=50, mask=good)]
    with h5py.File(paths[1], "r+") as file:
        del file[f"lrs/{column}"]
    with pytest.raises(
        DataError, match=rf"a\.h5 has lrs/{column} but .*b\.h5 has none: shards hold the same columns"
    ):
        Store(paths)


def test_float16_on_disk_is_float32_in_memory(make_store):
    flux, _ = spectra(300)
    path = make_store(flux_dtype="float16")
    with h5py.File(path) as file:
        assert file["lrs/flux"].dtype == np.float16
        assert file["lrs/ivar"].dtype == np.float32
    part = Store(path).read("lrs", np.arange(300)[::-1])["flux"]
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, flux[::-1].astype(np.float16).astype(np.float32))


def test_per_row_wavelengths(tmp_path):
    flux, ivar = spectra(10)
    wave = LRS.wave() + np.arange(10)[:, None]
    with StoreWriter(tmp_path / "rows.h5", created_by="test") as writer:
        writer.add_modality("lrs", info("per-row"))
        rows = writer.append("lrs", flux=flux, ivar=ivar, wave=wave)
        writer.set_samples(list("abcdefghij"), list("abcdefghij"), {"lrs": rows})
    store = Store(tmp_path / "rows.h5")
    np.testing.assert_array_equal(store.wave("lrs", np.array([3, 1])), wave[[3, 1]])
    with pytest.raises(DataError, match="per-row"):
        check_grid(store, "lrs", LRS)


def test_bad_objects_are_named_counted_and_left_out(make_store, caplog):
    flux, _ = spectra(300)
    flux[[4, 9], :30] = np.nan
    flux[11] = 1.0
    store = Store(make_store(flux=flux))
    with caplog.at_level(logging.WARNING):
        train = store.split("train")
        store.split("train")
    assert len(caplog.records) == 1
    message = caplog.text
    assert "3 of 300 samples left out" in message
    assert "2 because fewer than half" in message
    assert "obs 4, obs 9, obs 11" in message
    expected = np.flatnonzero(split_of(store.object_id) == "train")
    assert train.tolist() == [i for i in expected if i not in (4, 9, 11)]
    assert [b.obs_id for b in store.bad_objects()] == ["obs 4", "obs 9", "obs 11"]
    assert not store.bad(["xp"]).any()


def test_too_many_bad_objects_stop(make_store):
    flux, _ = spectra(300)
    flux[:40] = np.nan
    path = make_store(flux=flux)
    with pytest.raises(DataError, match=r"40 of 300 samples are bad .*data\.max_bad_fraction=0\.1"):
        Store(path).split("train")
    assert len(Store(path, max_bad_fraction=0.2).split("train")) > 0


def test_bad_objects_are_found_without_the_writers_verdict(make_store):
    flux, _ = spectra(300)
    flux[5] = np.nan
    path = make_store(flux=flux)
    with h5py.File(path, "r+") as file:
        del file["lrs/quality"]
    assert np.flatnonzero(Store(path).bad()).tolist() == [5]


def test_content_hash_follows_values_and_not_chunks_or_place(make_store, tmp_path):
    first, again = Store(make_store("a.h5")), Store(make_store("b.h5"))
    assert first.content_hash == again.content_hash
    flux, _ = spectra(300)
    flux[200, 3] += 1e-6
    assert Store(make_store("c.h5", flux=flux)).content_hash != first.content_hash
    assert StoreDataset(tmp_path / "a.h5").describe() == StoreDataset(tmp_path / "b.h5").describe()


def test_check_grid(make_store):
    store = Store(make_store())
    check_grid(store, "lrs", LRS)
    check_grid(store, "lrs", 40)
    with pytest.raises(DataError, match="40 pixels, the encoder expects 1462"):
        check_grid(store, "lrs", 1462)
    with pytest.raises(DataError, match=r"lrs is on 40 px, 3981\.07–4355\.12 Angstrom"):
        check_grid(store, "lrs", Grid("log10", 3.6005, 1e-3, 40))
    with pytest.raises(DataError, match=r"no modality 'desi' \(it has lrs, xp\)"):
        check_grid(store, "desi", LRS)


def test_store_dataset(make_store, tmp_path):
    path = make_store()
    assert StoreDataset(str(path)).prepare(tmp_path) == [path]
    with pytest.raises(DataError, match="has no modality 'hst'"):
        StoreDataset(path, modalities=["hst"]).prepare(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset\.path is empty"):
        StoreDataset("")


@pytest.mark.parametrize(
    ("level", "dtype", "said"),
    [
        (1e-16, "float16", "or leave out --half"),
        (2e5, "float16", "lrs/flux is .*float16 cannot hold"),
        (1e-20, "float32", "lrs/ivar"),
    ],
)
def test_numbers_that_the_file_cannot_hold_are_refused(tmp_path, level, dtype, said):
    flux = level * np.random.default_rng(0).normal(1, 0.1, (8, 40))
    path = tmp_path / "s.h5"
    ivar = np.full(flux.shape, (0.1 * level) ** -2.0)
    with StoreWriter(path, created_by="test", flux_dtype=dtype) as writer:
        writer.add_modality("lrs", info(unit="erg/s/cm2/A", normalisation=()))
        with pytest.raises(DataError, match=said):
            writer.append("lrs", flux=flux, ivar=ivar)
        rows = writer.append("lrs", flux=flux / level, ivar=ivar * level**2)
        writer.set_samples([f"star {k}" for k in range(8)], [f"obs {k}" for k in range(8)], {"lrs": rows})
    assert Store(path).n == 8


def test_a_pixel_that_the_file_cannot_hold_is_bad(make_store, tmp_path):
    flux, ivar = spectra(8)
    flux = flux.astype(np.float64)
    flux[3, 5], flux[4, :30] = 1e30, 1e30
    with StoreWriter(tmp_path / "s.h5", created_by="test", flux_dtype="float16") as writer:
        writer.add_modality("lrs", info())
        rows = writer.append("lrs", flux=flux, ivar=ivar)
        writer.set_samples([f"star {k}" for k in range(8)], [f"obs {k}" for k in range(8)], {"lrs": rows})
        assert list(writer.verdicts("lrs", rows)) == [0, 0, 0, 0, 1, 0, 0, 0]
    store = Store(tmp_path / "s.h5", max_bad_fraction=0.5)
    assert not store.finite("lrs")
