"""Sources: which samples take part, agreement between stores, full arrays."""

import h5py
import numpy as np
import pytest
from toy_stores import LRS, XP, info, spectra

from astroclip_train.data.source import DataSource
from astroclip_train.data.store import Store, StoreWriter
from astroclip_train.errors import DataError


@pytest.fixture
def half_paired(make_store):
    xp_rows = np.arange(300)
    xp_rows[150:] = -1
    return Store(make_store(xp_rows=xp_rows))


def test_require_all_or_any(half_paired):
    train = half_paired.split("train")
    both = DataSource(half_paired, require="all").samples("train")
    either = DataSource(half_paired, require="any").samples("train")
    np.testing.assert_array_equal(both, train[train < 150])
    np.testing.assert_array_equal(either, train)
    only_xp = DataSource(half_paired, require="any").samples("train", modalities=["xp"])
    np.testing.assert_array_equal(only_xp, both)


def test_labelled_subsets_nest(half_paired):
    data = DataSource(half_paired, modalities=("lrs",), labels=("teff",))
    labelled = data.samples("train", labelled_only=True)
    assert np.isfinite(data.labels(labelled)).all()
    few, more = (set(data.samples("train", n_labels=n).tolist()) for n in (20, 60))
    assert len(few) == 20
    assert few < more < set(labelled.tolist())
    assert data.samples("train", n_labels=10**6).tolist() == labelled.tolist()


def test_empty_split_says_why(tmp_path, make_store):
    store = Store(make_store("few.h5", 1, object_id=["star 0"]))
    data = DataSource(store)
    empty = next(s for s in ("train", "validation", "test") if s != store.splits[0])
    with pytest.raises(
        DataError, match=rf"the {empty} split of .*few\.h5 is empty: splits are a hash of the object"
    ):
        data.samples(empty)
    path = tmp_path / "unlabelled.h5"
    with StoreWriter(path, created_by="test") as writer:
        writer.add_modality("lrs", info())
        rows = writer.append("lrs", flux=spectra(50)[0])
        ids = [str(i) for i in range(50)]
        writer.set_samples(ids, ids, {"lrs": rows})
        writer.set_label("teff", np.full(50, np.nan), "K", "none")
    bare = DataSource(Store(path), modalities=("lrs",), labels=("teff",))
    with pytest.raises(DataError, match="has no label among teff in its"):
        bare.samples("train", labelled_only=True)


def test_unknown_names_list_what_there_is(half_paired):
    with pytest.raises(DataError, match=r"modality 'hst': .* has lrs, xp"):
        DataSource(half_paired, modalities=("hst",))
    with pytest.raises(DataError, match=r"label 'age': .* has feh, teff"):
        DataSource(half_paired, labels=("age",))
    with pytest.raises(DataError, match="require is 'some'"):
        DataSource(half_paired, require="some")


def test_stores_that_cannot_be_mixed(make_store):
    first = Store(make_store("a.h5", 50))
    other = Store(make_store("b.h5", 50, start=50, lrs=info(frame="rest")))
    with pytest.raises(DataError, match=r"b\.h5: frame of lrs is rest but heliocentric in .*a\.h5"):
        DataSource([first, other])


def test_arrays_for_evaluation(half_paired):
    data = DataSource(half_paired, labels=("teff", "feh"), require="any")
    samples = np.array([200, 3])
    lrs, xp = (data.arrays(m, samples) for m in ("lrs", "xp"))
    np.testing.assert_array_equal(lrs["flux"], spectra(300)[0][samples])
    assert sorted(lrs) == ["flux", "ivar", "mask", "present", "snr"]
    assert xp["present"].tolist() == [False, True]
    assert not xp["mask"][0].any()
    assert np.isfinite(xp["flux"]).all()
    assert data.label_units == {"teff": "K", "feh": "dex"}
    np.testing.assert_allclose(data.bounds("lrs", samples), [[30, np.nan], [30, np.nan]])
    assert data.bounds("joint", samples) is None
    np.testing.assert_array_equal(data.wave("lrs"), LRS.wave())
    data.check_grid("xp", XP)
    with pytest.raises(DataError, match="the XP encoder expects 343"):
        data.check_grid("xp", 343, "the XP encoder")


def test_content_hash_depends_on_stores_and_weights(make_store):
    a, b = (Store(make_store(f"{s}.h5", 50, start=s)) for s in (0, 50))
    hashes = {DataSource(s, weights=w).content_hash for s, w in ([a, None], [[a, b], None], [[a, b], [1, 2]])}
    assert len(hashes) == 3
    assert DataSource(a).content_hash == a.content_hash


def test_bad_objects_are_written(make_store, tmp_path):
    flux, _ = spectra(300)
    flux[5] = np.nan
    data = DataSource(Store(make_store(flux=flux)))
    assert 5 not in data.samples("train")
    assert data.write_bad_objects(tmp_path / "bad_objects.csv") == 1
    assert (tmp_path / "bad_objects.csv").read_text().splitlines() == [
        "object_id,obs_id,modality,reason",
        "star 5,obs 5,lrs,fewer than half of its pixels are good",
    ]


def test_hidden_labels_are_not_seen(make_store):
    stores = [Store(make_store(name)) for name in ("simulated.h5", "observed.h5")]
    data = DataSource(stores, modalities=("lrs",), labels=("teff",), show_labels=[True, False])
    labelled = data.samples("train", labelled_only=True)
    assert len(labelled)
    assert labelled.max() < stores[0].n <= data.samples("train").max()
    assert np.isnan(data.labels(np.arange(stores[0].n, data.total))).all()


def test_an_object_for_testing_in_one_store_is_so_in_all(make_store):
    """By publication in one, by folds in another; and one for validation anywhere is in no training set."""
    published = Store(make_store("a.h5", split=["test" if i < 100 else "train" for i in range(300)]))
    mine = Store(make_store("b.h5"))
    folds = Store(make_store("c.h5"), folds=(0, 5))
    for others in ([published, mine], [folds, mine], [published, mine, folds]):
        data = DataSource(others, modalities=("lrs",))
        found = {
            s: {data.lookup(i).object_id for i in data.samples(s).tolist()}
            for s in ("train", "validation", "test")
        }
        assert not found["train"] & (found["test"] | found["validation"])
        assert not found["validation"] & found["test"]
        for store in others:
            assert set(store.object_id[store.splits == "test"]) <= found["test"]
    with pytest.raises(DataError, match="expected one of train, validation, test"):
        data.samples("tset")


@pytest.mark.parametrize("in_memory_mb", [0, 100])
def test_pixels_that_one_store_marks_are_bad_in_a_mixture(make_store, in_memory_mb):
    """By its mask, or by an ivar that the mixture cannot keep because another store has none."""
    flux, ivar = spectra(40)
    flux[:, 3], flux[:, 7] = 1000.0, 2000.0
    ivar[:, 7] = 0
    mask = np.ones(flux.shape, dtype=bool)
    mask[:, 3] = False
    marked = Store(make_store("a.h5", n=40, flux=flux, ivar=ivar, mask=mask))
    path = make_store("b.h5", n=40, start=500)
    with h5py.File(path, "r+") as file:
        del file["lrs/ivar"], file.attrs["content_hash"]
    data = DataSource([marked, Store(path)], modalities=("lrs",), in_memory_mb=in_memory_mb)
    batch = data.batch(np.array([0, 41]))
    assert "lrs_ivar" not in batch
    assert batch["lrs_mask"][0].nonzero().flatten().tolist() == [i for i in range(40) if i not in (3, 7)]
    assert batch["lrs_mask"][1].all()
    assert batch["lrs"].abs().max() < 10
