"""`astro-data` as a person types it: exit codes, one-sentence errors, real files through every command."""

import json
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from astroclip_train.cli.data import main
from astroclip_train.data.store import Store


def refused(capsys, *argv):
    """Runs a command that must fail and returns its one sentence."""
    assert main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("astro-data")
    assert "Traceback" not in out + err
    return lines[0]


def test_real_files_through_every_command(real_files, tmp_path, capsys):
    pytest.importorskip("gaiaxpy")
    lrs, xp, pairs = tmp_path / "lrs.h5", tmp_path / "xp.h5", tmp_path / "pairs.h5"
    assert main(["convert", "lamost", str(real_files / "lamost"), "--out", str(lrs)]) == 0
    assert "5 observations of 5 objects" in capsys.readouterr().out
    source = real_files / "gaia_xp" / "xp_coefficients_3stars.fits"
    assert main(["convert", "gaia-xp", str(source), "--out", str(xp), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    catalogue = tmp_path / "ids.csv"
    catalogue.write_text(
        "obsid,gaia_source_id,teff\n740103050,319343704120704,5500\n359910161,120435178731136,6500\n"
    )
    argv = ["match", lrs, xp, "--catalog", catalogue, "--labels", f"{catalogue}:teff", "--out", pairs]
    assert main([str(a) for a in argv]) == 0
    assert "2 samples of 2 objects" in capsys.readouterr().out
    assert main(["inspect", str(pairs)]) == 0
    shown = capsys.readouterr().out
    for part in ("lrs: LAMOST LRS", "xp: Gaia XP", "teff", "5500", "splits by object", "heliocentric"):
        assert part in shown
    assert main(["inspect", str(pairs), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["samples"] == 2
    assert content["labels"]["teff"]["unit"] == "K"
    assert "astro-data match" in content["created_by"]
    assert main(["validate", str(pairs)]) == 0
    with h5py.File(pairs, "r+") as file:
        file["labels/teff"].attrs["unit"] = "kK"
    assert main(["validate", str(pairs)]) == 2
    assert "hash differs" in capsys.readouterr().out


def test_generic_kinds(tmp_path, capsys):
    flux = np.random.default_rng(0).normal(5, 1, (4, 50))
    flux_key = {"hdf5": "a/flux", "npz": "flux", "table": "f*"}
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["a/flux"] = flux
    np.savez(tmp_path / "in.npz", flux=flux)
    header = ",".join(f"f{k}" for k in range(50))
    np.savetxt(tmp_path / "in.csv", flux, delimiter=",", header=header, comments="")
    for kind, name in (("hdf5", "in.h5"), ("npz", "in.npz"), ("table", "in.csv")):
        out = tmp_path / f"{kind}.h5"
        argv = [
            "convert",
            kind,
            tmp_path / name,
            "--modality",
            "lrs",
            "--flux",
            flux_key[kind],
            "--frame",
            "rest",
        ]
        assert main([str(a) for a in [*argv, "--wave", "log10:3.6:1e-4", "--out", out]]) == 0
        np.testing.assert_allclose(Store(out).read("lrs", np.arange(4))["flux"], flux, rtol=1e-6)
    capsys.readouterr()
    said = refused(capsys, "convert", "hdf5", tmp_path / "in.h5", "--modality", "lrs", "--flux", "a/flix", "--frame",
                   "rest", "--wave", "log10:3.6:1e-4", "--out", tmp_path / "x.h5")  # fmt: skip
    assert "nearest: a/flux" in said


def test_labels_in_units_of_their_own(tmp_path, capsys):
    source, out = tmp_path / "mine.npz", tmp_path / "mine.h5"
    rng = np.random.default_rng(0)
    labels = {"t": np.array([5.5, 6.0]), "age": np.array([1.0, 4.5]), "mystery": np.array([1.0, 2.0])}
    np.savez(source, flux=rng.normal(5, 1, (2, 50)), **labels)
    words = ["convert", "npz", source, "--modality", "lrs", "--flux", "flux", "--wave", "linear:4000:2", "--frame",
             "rest", "--labels", "teff=t,age=age,mystery=mystery", "--out", out]  # fmt: skip
    assert main([str(w) for w in [*words, "--label-units", "teff=kK,age=Gyr"]]) == 0
    store = Store(out)
    assert store.labels["teff"].tolist() == [5500.0, 6000.0]
    assert store.labels["age"].tolist() == [1.0, 4.5]
    assert store.label_units == {"teff": "K", "age": "Gyr", "mystery": ""}
    capsys.readouterr()
    for text, told in (
        ("teff=Gyr", "--label-units teff=Gyr is not a unit for teff: expected K or what converts to it."),
        ("age=years-ago", "expected one that astropy knows"),
        ("mass=Msun", "--label-units names mass, but the labels that are joined are age, mystery, teff."),
        ("teff", "is not NAME=UNIT: write for example age=Gyr,teff=kK."),
    ):
        assert told in refused(capsys, *words, "--overwrite", "--label-units", text)
    assert Store(out).labels["teff"].tolist() == [5500.0, 6000.0]


def test_mistakes_are_one_sentence_and_exit_code_2(real_files, tmp_path, capsys):
    lamost, out = real_files / "lamost", tmp_path / "out.h5"
    (tmp_path / "there.h5").write_bytes(b"precious")
    (tmp_path / "empty.fits.gz").write_bytes(b"")
    cases = {
        ("convert", "lamost", lamost): "--out",
        ("convert", "lamost", tmp_path / "none", "--out", out): "does not exist",
        ("convert", "lamost", lamost, "--out", tmp_path / "there.h5"): "--overwrite",
        ("convert", "lamost", lamost, "--out", tmp_path): "is a folder",
        ("convert", "lamost", lamost, "--out", out, "--grid", "lsr"): "--grid",
        ("convert", "lamost", lamost, "--out", out, "--workers", 0): "--workers",
        ("convert", "lamost", lamost, "--out", out, "--max-bad-fraction", 7): "share between 0 and 1",
        ("convert", "lamost", lamost, "--out", out, "--radius", -1): "positive angle",
        ("convert", "lamost", lamost, "--out", out, "--contnuum", "none"): "--contnuum",
        ("convert", "lamost", tmp_path / "empty.fits.gz", "--out", out): "0 bytes",
        ("convert", "lamost", lamost, "--out", out, "--labels", "none.csv:teff"): "does not exist",
        ("convert", "lamots", lamost, "--out", out): "lamost",
        ("convert", "specclip", tmp_path / "there.h5", "--out", out): "damaged",
        ("convert", "npz", lamost / "x.npz", "--modality", "a", "--flux", "f", "--wave", "w", "--frame", "rest",
         "--out", out): "does not exist",
        ("convert", "gaia-xp", lamost, "--out", out): "lamost",
        ("inspect", tmp_path / "there.h5"): "damaged",
        ("inspect", tmp_path / "their.h5"): "there.h5",
        ("match", out, out, "--out", tmp_path / "m.h5"): "does not exist",
        ("mock", "stars", "--n", 0, "--out", out): "positive number",
        ("mock", "galaxies", "--out", out): "stars",
    }  # fmt: skip
    for argv, part in cases.items():
        assert part in refused(capsys, *argv), argv
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.fits.gz", "there.h5"]
    assert (tmp_path / "there.h5").read_bytes() == b"precious"


def test_mock_stars(tmp_path, capsys):
    out = tmp_path / "mock.h5"
    assert main(["mock", "stars", "--n", "20", "--seed", "3", "--out", str(out)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["mock.h5"]
    assert set(Store(out).modalities) == {"lrs", "xp"}
    assert main(["validate", str(out)]) == 0
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, "mock", "stars", "--out", out)


def test_help_is_fast_and_imports_nothing_heavy():
    code = "import sys; from astroclip_train.cli.data import main\ntry: main(['convert', 'hdf5', '--help'])\n"
    code += "except SystemExit: pass\nprint([m for m in ('torch', 'numpy', 'astropy', 'h5py') if m in sys.modules])"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "--mask-true" in done.stdout
    assert time.monotonic() - began < 5  # a loaded machine; alone it takes 0.1 s


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 0
    assert "astro-data convert lamost" in capsys.readouterr().out


def own_file(path, ids, flux):
    np.savez(path, flux=flux, ids=ids)
    return ["convert", "npz", path, "--modality", "lrs", "--flux", "flux", "--wave", "linear:4000:2", "--frame",
            "rest", "--id", "ids"]  # fmt: skip


def test_a_missing_id_merges_no_objects(tmp_path, capsys):
    """Text, numbers and tables: an empty name is no name, and 19 digits never pass through a float."""
    flux = np.random.default_rng(0).normal(5, 1, (4, 50))
    big = [5853498713190525696, 5853498713190525697, None, 5853498713190525699]
    table = tmp_path / "t.csv"
    rows = [",".join([str(i or ""), *(f"{v:.4f}" for v in row)]) for i, row in zip(big, flux, strict=True)]
    table.write_text("ids," + ",".join(f"f{k}" for k in range(50)) + "\n" + "\n".join(rows) + "\n")
    words = ["convert", "table", table, "--modality", "lrs", "--flux", "f*", "--wave", "linear:4000:2", "--frame",
             "rest", "--id", "ids", "--out", tmp_path / "t.h5"]  # fmt: skip
    assert main([str(w) for w in words]) == 0
    names = Store(tmp_path / "t.h5").object_id.tolist()
    assert [n for n in names if n.startswith("58534")] == [str(i) for i in big if i]
    assert len(set(names)) == 4
    small = own_file(tmp_path / "s.npz", np.array([1e12, 7.0, np.nan, np.nan]), flux)
    assert main([str(w) for w in [*small, "--out", tmp_path / "s.h5"]]) == 0
    assert Store(tmp_path / "s.h5").object_id[:2].tolist() == ["1000000000000", "7"]
    assert len(set(Store(tmp_path / "s.h5").object_id)) == 4
    capsys.readouterr()
    rounded = own_file(tmp_path / "b.npz", np.array([5.8e18, np.nan, 1.0, 2.0]), flux)
    assert "no longer exact" in refused(capsys, *rounded, "--out", tmp_path / "b.h5")


def test_bad_spectra_are_counted_and_too_many_refused(tmp_path, capsys):
    flux = np.random.default_rng(0).normal(5, 1, (40, 50))
    flux[:2] = np.nan
    few = own_file(tmp_path / "few.npz", np.arange(40), flux)
    assert main([str(w) for w in [*few, "--out", tmp_path / "few.h5"]]) == 0
    told = capsys.readouterr().out
    assert "2 spectra are bad and will not be used: 2 because fewer than half of its pixels are good" in told
    flux[:] = np.nan
    many = own_file(tmp_path / "many.npz", np.arange(40), flux)
    assert "40 of 40 spectra for " in refused(capsys, *many, "--out", tmp_path / "many.h5")
    assert not (tmp_path / "many.h5").exists()


def test_ones_own_spectra_over_the_continuum_of_mock_stars(tmp_path):
    flux = np.random.default_rng(0).normal(5, 0.1, (3, 800)) * np.linspace(1, 2, 800)
    words = own_file(tmp_path / "m.npz", np.arange(3), flux)
    words += ["--normalise", "continuum_polynomial", "--grid", "lrs", "--out", tmp_path / "m.h5"]
    words[words.index("linear:4000:2")] = "linear:3950:2.2"
    assert main([str(w) for w in words]) == 0
    info = Store(tmp_path / "m.h5").modalities["lrs"]
    assert (info.normalisation, info.unit, info.grid.n) == (("continuum_polynomial",), "", 1462)
