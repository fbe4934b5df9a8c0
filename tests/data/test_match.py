"""Two stores into one: by id, by catalogue, by position; labels; what is told."""

import numpy as np
import pytest

from astroclip_train.data.convert import ConvertOptions, convert_lamost
from astroclip_train.data.convert_xp import convert_gaia_xp
from astroclip_train.data.grids import Grid
from astroclip_train.data.inspect_store import inspect
from astroclip_train.data.match import match_stores
from astroclip_train.data.modality import ModalityInfo
from astroclip_train.data.store import Store, StoreWriter
from astroclip_train.data.validate_store import validate
from astroclip_train.errors import DataError

GRID = Grid("linear", 4000.0, 10.0, 20, "Angstrom", "vacuum")


def make(path, name, objects, ra=None, labels=None, split=None, prefix="o"):
    rng = np.random.default_rng(len(name))
    n = len(objects)
    with StoreWriter(path, created_by="test") as writer:
        writer.add_modality(name, ModalityInfo(name, GRID, "counts", "vacuum", "rest", "R=1"))
        flux = rng.normal(10, 1, (n, 20)) + np.arange(n)[:, None]
        rows = writer.append(name, flux=flux, ivar=np.ones((n, 20)))
        writer.set_samples(objects, [f"{prefix}{name}{k}" for k in range(n)], {name: rows}, split)
        if ra is not None:
            writer.set_positions(np.asarray(ra, dtype=float), np.zeros(n))
        for label, (values, unit) in (labels or {}).items():
            writer.set_label(label, np.asarray(values, dtype=float), unit, "made up")
    return path


def options(tmp_path, **more):
    return ConvertOptions(**({"out": tmp_path / "out.h5", "progress": False} | more))


def test_join_by_id_shares_rows_and_keeps_numbers(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1", "1", "2", "9"], labels={"teff": ([1, 2, 3, 4], "K")})
    b = make(tmp_path / "b.h5", "xp", ["2", "1", "7"], labels={"feh": ([0.2, 0.1, 0.7], "dex")})
    report = match_stores(a, b, options(tmp_path))
    store, first, second = Store(report.out), Store(a), Store(b)
    assert (report.n, report.objects, report.by_id) == (3, 2, 3)
    assert list(store.object_id) == ["1", "1", "2"]
    assert list(store.obs_id) == ["olrs0", "olrs1", "olrs2"]
    np.testing.assert_array_equal(store.rows["xp"][:2], store.rows["xp"][[0, 0]])
    assert len(store.shards[0].file["xp/flux"]) == 2
    everything = np.arange(3)
    np.testing.assert_array_equal(
        store.read("lrs", everything)["flux"], first.read("lrs", np.array([0, 1, 2]))["flux"]
    )
    np.testing.assert_array_equal(
        store.read("xp", everything)["flux"], second.read("xp", np.array([1, 1, 0]))["flux"]
    )
    np.testing.assert_allclose(store.labels["teff"], [1, 2, 3])
    np.testing.assert_allclose(store.labels["feh"], [0.1, 0.1, 0.2], rtol=1e-6)
    assert "1 without a partner" in report.text()


def test_order_of_the_stores_gives_the_same_pairs(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1", "1", "2", "9"])
    b = make(tmp_path / "b.h5", "xp", ["2", "1", "7"])
    match_stores(a, b, options(tmp_path))
    match_stores(b, a, options(tmp_path, out=tmp_path / "ba.h5"))
    one, two = Store(tmp_path / "out.h5"), Store(tmp_path / "ba.h5")
    assert sorted(one.obs_id) == sorted(two.obs_id)
    assert sorted(one.object_id) == sorted(two.object_id)


def test_join_by_position_takes_the_nearest_and_the_gaia_name(tmp_path):
    second = 1 / 3600
    a = make(tmp_path / "a.h5", "lrs", ["Ja", "Jb", "Jc"], ra=[10, 20, 30])
    b = make(tmp_path / "b.h5", "xp", ["5", "6", "7"], ra=[10 + 2 * second, 10 + second, 20 + 5 * second])
    report = match_stores(a, b, options(tmp_path))
    assert list(Store(report.out).object_id) == ["6"]
    assert (report.by_id, report.by_position, report.ambiguous) == (0, 1, 1)
    wide = match_stores(a, b, options(tmp_path, radius=6.0))
    assert wide.by_position == 2


def test_unmatched_may_stay(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1", "2"], ra=[1, 2])
    b = make(tmp_path / "b.h5", "xp", ["2", "3"])
    store = Store(match_stores(a, b, options(tmp_path), keep_unmatched=True).out)
    assert sorted(store.object_id) == ["1", "2", "3"]
    assert (store.rows["lrs"] >= 0).sum() == 2
    assert (store.rows["xp"] >= 0).sum() == 2
    assert validate(tmp_path / "out.h5") == []


def test_catalogue_gives_the_ids(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["Ja", "Jb"])
    b = make(tmp_path / "b.h5", "xp", ["77", "88"])
    table = tmp_path / "pairs.csv"
    table.write_text("obsid,gaia_source_id,teff\nolrs0,88,5000\nolrs1,99,-9999\n")
    with pytest.raises(DataError, match="give --catalog"):
        match_stores(a, b, options(tmp_path))
    report = match_stores(a, b, options(tmp_path, catalogue=table, labels=(f"{table}:teff",)))
    store = Store(report.out)
    assert list(store.object_id) == ["88"]
    assert list(store.labels["teff"]) == [5000]
    assert store.label_units["teff"] == "K"


def test_labels_by_gaia_id_and_position_and_missing_codes(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1", "2"], ra=[10, 20])
    b = make(tmp_path / "b.h5", "xp", ["1", "2"])
    by_id, by_position = tmp_path / "id.csv", tmp_path / "position.csv"
    by_id.write_text("source_id,Fe_H\n2,-1.5\n1,-9999\n")
    by_position.write_text("RA,DEC,logg\n10.0001,0,4.5\n")
    labels = (f"{by_id}:feh=fe_h", f"{by_position}:logg")
    report = match_stores(a, b, options(tmp_path, labels=labels))
    store = Store(report.out)
    np.testing.assert_array_equal(store.labels["feh"], [np.nan, -1.5])
    np.testing.assert_array_equal(store.labels["logg"], [4.5, np.nan])
    assert "by Gaia source id for 2 of 2" in report.text()
    assert "by position within 3 arcsec for 1 of 2" in report.text()
    wrong = {f"{by_id}:feh": "nearest: Fe_H", "none.csv:feh": "does not exist", "feh": "is not FILE"}
    for option, said in wrong.items():
        with pytest.raises(DataError, match=said):
            match_stores(a, b, options(tmp_path, labels=(option,)))


def test_refusals(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1"], labels={"teff": ([1], "K")})
    same = make(tmp_path / "same.h5", "lrs", ["1"])
    with pytest.raises(DataError, match="both hold lrs"):
        match_stores(a, same, options(tmp_path))
    other = make(tmp_path / "b.h5", "xp", ["1"], labels={"teff": ([1], "kK")})
    with pytest.raises(DataError, match="label teff is in 'K' and 'kK'"):
        match_stores(a, other, options(tmp_path))
    assert not (tmp_path / "out.h5").exists()


def test_published_test_objects_stay_test(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", [str(k) for k in range(30)], split=["test"] * 10 + [""] * 20)
    b = make(tmp_path / "b.h5", "xp", [str(k) for k in range(30)])
    store = Store(match_stores(a, b, options(tmp_path)).out)
    assert (store.splits[:10] == "test").all()


def test_real_pairs(shared_data, tmp_path):
    pytest.importorskip("gaiaxpy")
    folder = shared_data / "pairs_lamost_xp"
    lrs = convert_lamost(sorted(folder.glob("spec*")), options(tmp_path, out=tmp_path / "lrs.h5"))
    xp = convert_gaia_xp([folder / "xp_coefficients_3stars.fits"], options(tmp_path, out=tmp_path / "xp.h5"))
    assert lrs.objects == 3  # without a catalogue, by position alone
    report = match_stores(lrs.out, xp.out, options(tmp_path, catalogue=folder / "pairs.csv"))
    assert (report.n, report.objects) == (9, 3)
    assert validate(report.out) == []
    content = inspect(report.out)
    assert content["modalities"]["xp"]["spectra"] == 3
    assert content["modalities"]["lrs"]["samples"] == 9
    assert content["labels"]["rv"]["n"] == 9


def test_validate_names_each_broken_promise(tmp_path):
    path = tmp_path / "bad.h5"
    info = ModalityInfo(
        "x", Grid("linear", 1.0, 1.0, 20, "nm", "vacuum"), "", "vacuum", "rest", "R=1", ("continuum",)
    )
    with StoreWriter(path, created_by="test") as writer:
        writer.add_modality("lrs", info)
        flux = 500 + np.random.default_rng(0).normal(size=(4, 20))
        flux[0, 3] = np.nan
        ivar = np.ones((4, 20))
        ivar[1, 2] = -1
        writer.append("lrs", flux=flux, ivar=ivar)
        writer.set_samples(["Ja", "Jb", "c"], ["1", "2", "3"], {"lrs": np.array([0, 1, 2])})
        writer.set_positions(np.array([1, 1.0001, 5]), np.zeros(3))
        writer.set_label("teff", np.array([5.0, np.inf, np.nan]), "kK", "")
    said = "\n".join(validate(path))
    for part in (
        "the unit nm is wrong",
        "1 of 4 rows belong to no sample",
        "negative or non-finite ivar",
        "non-finite flux at a good pixel",
        "the median is 5",
        "in kK, expected K",
        "outside 1000",
        "does not say where it comes from",
        "infinite",
        "under different object ids",
    ):
        assert part in said, said


def test_validate_finds_changed_and_truncated_files(tmp_path):
    import h5py

    path = make(tmp_path / "a.h5", "lrs", ["1", "2"])
    assert validate(path) == []
    with h5py.File(path, "r+") as file:
        file["lrs/flux"][0, 0] = 5
    assert "has changed" in validate(path)[0]
    path.write_bytes(path.read_bytes()[:3000])
    assert "damaged or truncated" in validate(path)[0]
    assert "does not exist" in validate(tmp_path / "none.h5")[0]


def test_near_stars_with_ids_of_their_own_stay_apart(tmp_path):
    """A neighbour within the radius is no partner where both stores number alike; one without an id is."""
    a = make(tmp_path / "a.h5", "lrs", ["111", "333", "J1"], ra=[10.0, 20.0, 30.0])
    b = make(tmp_path / "b.h5", "xp", ["222", "333", "444"], ra=[10.0 + 2.5 / 3600, 20.0, 30.0 + 1 / 3600])
    report = match_stores(a, b, options(tmp_path))
    assert (report.by_id, report.by_position) == (1, 1)
    assert sorted(Store(report.out).object_id) == ["333", "444"]
    assert "1 of 3 observations matched" not in report.text()
    assert "2 of 3 observations matched, 1 without a partner" in report.text()


def test_numbers_of_two_surveys_do_not_forbid_positions(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["1", "2"], ra=[10.0, 20.0])
    b = make(tmp_path / "b.h5", "xp", ["39627", "39628"], ra=[10.0 + 1 / 3600, 20.0])
    assert match_stores(a, b, options(tmp_path)).by_position == 2


def test_visits_without_a_partner_have_the_catalogues_id(tmp_path):
    a = make(tmp_path / "a.h5", "lrs", ["v1", "v2", "q"])
    b = make(tmp_path / "b.h5", "xp", ["777"])
    catalogue = tmp_path / "c.csv"
    catalogue.write_text("obs_id,source_id\nolrs0,555\nolrs1,555\nolrs2,777\n")
    report = match_stores(a, b, options(tmp_path, catalogue=catalogue), keep_unmatched=True)
    store = Store(report.out)
    assert dict(zip(store.obs_id, store.object_id, strict=True)) == {
        "olrs0": "555",
        "olrs1": "555",
        "olrs2": "777",
    }
