"""`astro-model` from files to tables: units, neighbours, real survey files, and errors in one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.table import QTable, Table

from astroclip_train.cli.model import main
from astroclip_train.data.grids import LRS_GRID, XP_GRID
from astroclip_train.data.modality import ModalityInfo
from astroclip_train.hub.load import load
from astroclip_train.hub.tables import write_table
from tests.hub import conftest as tiny

run, store_path = tiny.run, tiny.store_path  # fixtures
LRS = ("--modality", "lrs")
FILES = Path(__file__).parents[1] / "data" / "files"


def test_predictions_agree_with_the_model_and_carry_units_in_every_format(run, store_path, tmp_path, capsys):
    model = load(run)
    with h5py.File(store_path) as file:
        flux, ivar, mask = (file[f"lrs/{k}"][:] for k in ("flux", "ivar", "mask"))
    expected = model.predict("lrs", flux, ivar, mask)
    for suffix in ("csv", "ecsv", "fits", "parquet"):
        out = tmp_path / f"labels.{suffix}"
        assert main(["predict", str(run), str(store_path), "--modality", "lrs", "--out", str(out)]) == 0
        if suffix == "parquet":
            table = pytest.importorskip("pyarrow.parquet").read_table(out)
            assert table.schema.field("teff_std").metadata[b"unit"] == b"K"
            teff, ids = table["teff"].to_numpy(), table["object_id"].to_pylist()
        elif suffix == "csv":
            table = Table.read(out, format="ascii.csv")
            teff, ids = (
                np.ma.filled(np.ma.asarray(table["teff [K]"], dtype=float), np.nan),
                list(table["object_id"]),
            )
            assert table["quality"][3] == "fewer than half of its pixels are good"
        else:
            table = QTable.read(out)
            assert table["teff"].unit == "K"
            assert str(table["feh_std"].unit) == "dex"
            teff, ids = np.asarray(table["teff"].value), [str(name) for name in table["object_id"]]
        good = np.arange(24) != 3
        np.testing.assert_allclose(teff[good], expected["teff"].mean.numpy()[good], rtol=1e-6)
        assert np.isnan(teff[3])
        assert ids[:2] == ["star0", "star1"]
    assert "head flow on lrs.aligned" in capsys.readouterr().err


def test_embed_search_and_translate(run, store_path, tmp_path):
    out = tmp_path / "z.ecsv"
    common = [str(run), str(store_path), "--modality", "lrs", "--out", str(out)]
    assert main(["embed", *common, "--split", "train"]) == 0
    assert Table.read(out)["z"].shape[1] == 12
    assert (
        main(["search", *common, "--gallery", str(store_path), "--ids", "star1", "obs-star7", "-k", "3"]) == 0
    )
    found = Table.read(out)
    assert list(found["query_object_id"]) == ["star1"] * 3 + ["star7"] * 3
    assert found[0]["object_id"] == "star1"
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert main(["search", *common, "--gallery", str(store_path), "--ids", "star1", "--exclude-self"]) == 0
    assert "star1" not in Table.read(out)["object_id"]
    across = ["--gallery", str(store_path), "--gallery-modality", "xp", "-k", "2"]
    assert main(["search", *common, *across]) == 0
    found = Table.read(out)  # star3 is bad: it neither asks nor answers
    assert len(found) == 23 * 2 + 1
    refused = found[found["query_object_id"] == "star3"]
    assert list(refused["rank"]) == [0]
    assert refused["quality"][0] != "good"
    assert np.isnan(refused["similarity"][0])
    assert "star3" not in found["object_id"].filled("").tolist()
    assert main(["translate", *common]) == 0
    table = Table.read(out)
    assert table["flux"].shape == (24, 41)
    assert json.loads(table.meta["grid"])["step"] == 12.0
    assert (table.meta["frame"], table.meta["flux divided by"]) == ("observed", "flux_550nm")
    csv = tmp_path / "flux.csv"
    assert main(["translate", *common[:-1], str(csv)]) == 0
    assert "flux_348nm" in Table.read(csv, format="ascii.csv").colnames


def test_export_then_use_the_folder(run, store_path, tmp_path, capsys):
    folder = tmp_path / "model"
    assert main(["export", str(run), "--out", str(folder), "--reference", str(store_path)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    out = tmp_path / "labels.ecsv"
    assert main(["predict", str(folder), str(store_path), "--out", str(out)]) == 0
    assert Table.read(out)["in_domain"].dtype == bool
    assert main(["describe", str(folder), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out.split("\n", 1)[1])["parts"]["domain.lrs.aligned"]["parameters"]
        == 0
    )


@pytest.fixture
def survey_model(tmp_path):
    """A model on the survey grids, to read real files with."""
    torch.manual_seed(0)
    lrs = ModalityInfo("LAMOST LRS", LRS_GRID, "", "vacuum", "heliocentric", "R=1800", ("continuum",))
    xp = ModalityInfo("Gaia XP", XP_GRID, "", "vacuum", "observed", "R=30-100", ("flux_550nm",))
    for m, info in (("lrs", lrs), ("xp", xp)):
        plan = {
            "_target_": "astroclip_train.encoders.AutoEncoder",
            "length": info.grid.n,
            "width": 8,
            "hidden": 8,
        }
        extra = {"modalities": {m: info.to_attributes()}, "modality": m}
        tiny.write_stage(tmp_path / "run" / "stages" / m, m, {"encoder": plan}, extra)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("modality", "pattern"), [("lrs", "*lamost*/**/*.fits*"), ("xp", "**/XP_SAMPLED*.csv")]
)
def test_survey_files_go_through_the_same_preparation_as_convert(survey_model, tmp_path, modality, pattern):
    files = sorted(str(p) for p in FILES.glob(pattern))[:2]
    if not files:
        pytest.skip(f"no {modality} survey file lies in {FILES}")
    out = tmp_path / "z.ecsv"
    arguments = ["--modality", modality, "--kind", "single", "--out", str(out)]
    assert main(["embed", str(survey_model), *files, *arguments]) == 0
    from astroclip_train.data.convert import ConvertOptions, convert_lamost
    from astroclip_train.data.convert_xp import convert_gaia_xp

    convert = {"lrs": convert_lamost, "xp": convert_gaia_xp}[modality]
    convert(files, ConvertOptions(out=tmp_path / "s.h5", max_bad_fraction=1.0, progress=False))
    with h5py.File(tmp_path / "s.h5") as file:
        arrays = {k: file[f"{modality}/{k}"][:] for k in ("flux", "ivar", "mask")}
    expected = load(survey_model).embed(modality, **arrays, kind="single").numpy()
    table = Table.read(out)
    good = table["quality"] == "good"
    np.testing.assert_array_equal(np.asarray(table["z"])[good], expected[good])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "{run}", "{store}", "--out", "x.txt"], "use one of .csv"),
        (["predict", "{run}", "{tmp}/none.h5", "--out", "x.csv"], "does not exist"),
        (["predict", "{tmp}/none", "{store}", "--out", "x.csv"], "is not a run directory"),
        (["predict", "{run}", "{store}", "--modality", "image", "--out", "x.csv"], "lrs and xp, not image"),
        (["predict", "{run}", "{store}", "--head", "forest", "--out", "x.csv"], "for head forest"),
        (["predict", "{run}", "{broken}", "--modality", "lrs", "--out", "x.csv"], "broken.h5"),
        (["predict", "{run}", "{other}", "--modality", "lrs", "--out", "x.csv"], "convert the files again"),
        (["embed", "{run}", "{store}", "--out", "x.csv"], "--modality"),
        (["search", "{run}", "{store}", *LRS, "--gallery", "{store}", "--ids", "me", "--out", "x.csv"], "me"),
        (["describe", "nothing", "here"], "overrides"),
        (["describe", "+experiment=specclpi"], "specclip"),
        (["predict", "{run}"], "required"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_exit_code_2(run, store_path, tmp_path, capsys, arguments, words):
    broken, other = tmp_path / "broken.h5", tmp_path / "other.h5"
    broken.write_bytes(store_path.read_bytes()[:5000])
    shutil.copy(store_path, other)
    with h5py.File(other, "r+") as file:
        file["lrs"].attrs["normalisation"] = "[]"
    names = {"run": run, "store": store_path, "tmp": tmp_path, "broken": broken, "other": other}
    assert main([a.format(**names) for a in arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert words in told[-1]
    assert "Traceback" not in "\n".join(told)


def test_full_precision_survives_csv(tmp_path):
    values = np.array([1 / 3, np.nan, 5777.123456789])
    write_table(tmp_path / "t.csv", {"teff": (values, "K")})
    back = np.ma.filled(Table.read(tmp_path / "t.csv", format="ascii.csv")["teff [K]"], np.nan)
    np.testing.assert_array_equal(back, values)


def test_single_precision_is_written_without_the_digits_of_its_conversion(tmp_path):
    values = np.array([5675.54, np.nan, -0.1], dtype=np.float32)
    write_table(tmp_path / "t.csv", {"teff": (values.astype(np.float64), "K")})
    lines = (tmp_path / "t.csv").read_text().split()[-3:]
    assert (lines[0], lines[2]) == ("5675.54", "-0.1")


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from astroclip_train.cli.model import parser\n"
        "parser().format_help()\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
