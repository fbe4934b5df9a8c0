"""What is wrong with a file is one sentence that names it."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from toy_stores import LRS, info, spectra

from astroclip_train.data.source import DataSource
from astroclip_train.data.store import ModalityInfo, Store, StoreWriter
from astroclip_train.errors import DataError


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file(make_store, share):
    path = make_store()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"store\.h5 is damaged or truncated"):
        Store(path)


def test_flipped_bytes_are_found_by_verify(make_store):
    path = make_store()
    with h5py.File(path) as file:
        place = file["lrs/flux"].id.get_chunk_info(0).byte_offset
    Store(path).verify()
    content = bytearray(path.read_bytes())
    content[place + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"store\.h5 has changed since it was written"):
        Store(path).verify()


@pytest.mark.parametrize("all_good", [True, False])
def test_spectra_emptied_after_writing_do_not_train_silently(make_store, all_good):
    path = make_store()
    with h5py.File(path, "a") as file:
        file["lrs"].attrs["finite"] = all_good  # what the writer found of all pixels
        file["lrs/flux"][5] = np.nan
    source = DataSource(Store(path), modalities=("lrs",))
    assert len(source.batch(np.arange(5))["lrs"]) == 5
    with pytest.raises(
        DataError, match=r"store\.h5: lrs of obs 5 has no good pixel, though the file calls it good"
    ):
        source.batch(np.arange(8))


def test_file_cut_while_open(make_store):
    path = make_store(n=3000)
    store = Store(path)
    store.read("lrs", np.arange(10))
    with open(path, "r+b") as handle:
        handle.truncate(path.stat().st_size // 3)
    with pytest.raises(DataError, match=r"store\.h5 is damaged or truncated"):
        store.read("lrs", np.arange(3000))


def test_not_a_store(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match=r"text\.h5 is damaged"):
        Store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["spectra"] = np.zeros(3)
    with pytest.raises(
        DataError, match="not an astro-train store: convert it with `astro-data convert hdf5`"
    ):
        Store(tmp_path / "other.h5")


@pytest.mark.parametrize("name", ["survey", "grid", "unit", "medium", "frame", "resolution", "normalisation"])
def test_missing_attribute(make_store, name):
    path = make_store()
    with h5py.File(path, "r+") as file:
        del file["lrs"].attrs[name]
    with pytest.raises(DataError, match=rf"modality lrs has no attribute {name}"):
        Store(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("medium", "water", "medium is 'water'"),
        ("frame", "galactic", "frame is 'galactic'"),
        ("grid", "{}", "grid"),
        ("normalisation", "continuum", "modality lrs"),
        (
            "grid",
            json.dumps({**json.loads(LRS.to_json()), "n": 41}),
            "flux has 40 pixels but the grid is 41 px",
        ),
    ],
)
def test_wrong_attribute(make_store, name, value, message):
    path = make_store()
    with h5py.File(path, "r+") as file:
        file["lrs"].attrs[name] = value
    with pytest.raises(DataError, match=message):
        Store(path)


def test_missing_column_and_rows_out_of_range(make_store):
    path = make_store()
    with h5py.File(path, "r+") as file:
        file["sample/xp_row"][5] = 300
    with pytest.raises(DataError, match="xp_row points outside of the 300 rows"):
        Store(path)
    with h5py.File(path, "r+") as file:
        del file["sample/xp_row"]
    with pytest.raises(DataError, match="no sample/xp_row"):
        Store(path)


def test_missing_path_names_the_nearest(make_store, tmp_path):
    make_store("pairs.h5")
    with pytest.raises(DataError, match=r"pair\.h5 does not exist; nearest in its folder: pairs\.h5"):
        Store(tmp_path / "pair.h5")
    with pytest.raises(DataError, match="nor does the folder"):
        Store(tmp_path / "no" / "such.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"folder without \*\.h5 files"):
        Store(tmp_path / "empty")


def test_writer_refuses_what_does_not_fit(tmp_path):
    flux, ivar = spectra(4)

    def write(**changes):
        with StoreWriter(tmp_path / "x.h5", created_by="test") as writer:
            writer.add_modality("lrs", info())
            rows = writer.append("lrs", flux=changes.get("flux", flux), ivar=changes.get("ivar", ivar))
            ids = list("abcd")
            writer.set_samples(ids, changes.get("obs_id", ids), {"lrs": changes.get("rows", rows)})
            writer.set_label("teff", changes.get("teff", np.zeros(4)), "K", "")

    with pytest.raises(DataError, match=r"obs_id must be unique, but is not \(a\)"):
        write(obs_id=["a", "a", "b", "c"])
    with pytest.raises(DataError, match="flux has 39 pixels but the grid is 40 px"):
        write(flux=flux[:, :39])
    with pytest.raises(DataError, match="shape"):
        write(ivar=ivar[:3])
    with pytest.raises(DataError, match="rows of lrs do not fit"):
        write(rows=np.array([0, 1, 2, 4]))
    with pytest.raises(DataError, match="labels/teff has shape"):
        write(teff=np.zeros(3))
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays
    write()
    assert Store(tmp_path / "x.h5").n == 4


def test_an_error_inside_leaves_the_old_file(make_store, tmp_path):
    path = make_store()
    before = path.read_bytes()

    def interrupted():
        with StoreWriter(path, created_by="test") as writer:
            writer.add_modality("lrs", info())
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        interrupted()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["store.h5"]


def test_info_refuses_a_grid_in_another_medium():
    with pytest.raises(DataError, match="medium is air but the grid is in vacuum"):
        ModalityInfo("s", LRS, "", "air", "rest", "")


FULL_DISK = """
import resource, signal, sys
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from astroclip_train.data.grids import LRS_GRID
from astroclip_train.data.store import ModalityInfo, StoreWriter
from astroclip_train.errors import DataError
try:
    with StoreWriter(sys.argv[1], created_by="test") as writer:
        writer.add_modality("lrs", ModalityInfo("s", LRS_GRID, "", "vacuum", "rest", ""))
        rows = writer.append("lrs", flux=1 + np.random.rand(2000, 1462))
        ids = [str(i) for i in range(2000)]
        writer.set_samples(ids, ids, {"lrs": rows})
except DataError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as Linux does")
def test_full_disk(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "big.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "big.h5 could not be written" in done.stdout
    assert list(tmp_path.iterdir()) == []
