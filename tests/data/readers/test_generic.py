"""The generic importer: names, shapes, units, masks and ids of other people's files."""

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from astroclip_train.data.convert import ConvertOptions, parse_grid
from astroclip_train.data.convert_generic import GenericTarget, convert_generic
from astroclip_train.data.grids import LRS_GRID
from astroclip_train.data.readers.generic import Layout, label_keys
from astroclip_train.data.readers.spectrum import air_to_vacuum
from astroclip_train.data.readers.tables import number_column, read_columns
from astroclip_train.data.store import Store
from astroclip_train.errors import DataError

N, L = 5, 300
WAVE = 4000 + 3.0 * np.arange(L)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        "flux": rng.normal(100, 5, (N, L, 1)),
        "ivar": np.full((N, L), 0.04),
        "wave": WAVE,
        "bad": (rng.random((N, L)) < 0.02).astype(int),
        "params": rng.normal(size=(N, 2)),
        "gaia": np.array([3872221881327708672 + k for k in range(N)]),
        "ra": 150.0 + np.arange(N),
        "dec": -5.0 * np.arange(N),
    }


@pytest.fixture
def run(arrays, tmp_path):
    def convert(kind="hdf5", target=None, limit=0.1, **layout):
        path = tmp_path / {"hdf5": "in.h5", "npz": "in.npz"}[kind]
        if kind == "hdf5":
            with h5py.File(path, "w") as file:
                for name, values in arrays.items():
                    file[f"set/{name}"] = values
            layout = {k: f"set/{v}" if v in arrays and k != "mask_true" else v for k, v in layout.items()}
        else:
            np.savez(path, **arrays)
        options = ConvertOptions(out=tmp_path / "out.h5", progress=False, max_bad_fraction=limit)
        target = target or GenericTarget("mine", "observed", flux_unit="counts")
        convert_generic(path, kind, Layout(modality="lrs", **layout), target, options)
        return Store(tmp_path / "out.h5", max_bad_fraction=1.0)

    return convert


def test_codes_of_missing_labels_are_missing(run, arrays):
    arrays["params"][3] = -9999.0
    store = run("npz", flux="flux", wave="wave", labels="params:teff,logg")
    assert np.isnan([store.labels["teff"][3], store.labels["logg"][3]]).all()
    assert np.isfinite(store.labels["teff"]).sum() == N - 1


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_everything_arrives(run, arrays, kind):
    store = run(
        kind,
        flux="flux",
        ivar="ivar",
        wave="wave",
        mask="bad",
        mask_true="bad",
        object_id="gaia",
        ra="ra",
        dec="dec",
        labels="set/params:teff,logg" if kind == "hdf5" else "params:teff,logg",
    )
    part = store.read("lrs", np.arange(N))
    np.testing.assert_allclose(part["flux"], arrays["flux"][..., 0], rtol=1e-6)
    np.testing.assert_array_equal(part["mask"], arrays["bad"] == 0)
    np.testing.assert_allclose(store.wave("lrs"), WAVE)
    assert store.modalities["lrs"].grid.kind == "linear"
    assert list(store.object_id) == [str(i) for i in arrays["gaia"]]
    assert store.label_units == {"teff": "K", "logg": "dex"}
    np.testing.assert_allclose(store.labels["logg"], arrays["params"][:, 1], rtol=1e-6)


def test_wave_by_formula_unit_and_air(run, arrays):
    assert run(flux="flux", wave="log10:3.6:1e-4").modalities["lrs"].grid.kind == "log10"
    arrays["wave"] = WAVE / 10
    air = run(
        flux="flux", ivar="ivar", wave="wave", unit="nm", medium="air",
        target=GenericTarget("mine", "rest", grid=parse_grid("linear:4100:3:200")),
    )  # fmt: skip
    info = air.modalities["lrs"]
    assert (info.medium, info.frame) == ("vacuum", "rest")
    expected = np.interp(air.wave("lrs"), air_to_vacuum(WAVE), arrays["flux"][0, :, 0])
    np.testing.assert_allclose(air.read("lrs", np.array([0]))["flux"][0], expected, rtol=1e-5)
    kept = run(flux="flux", wave="wave", unit="nm", medium="air")
    assert kept.modalities["lrs"].medium == "air"


def test_one_scale_per_row(run, arrays):
    arrays["wave"] = WAVE + np.arange(N)[:, None]
    store = run(flux="flux", wave="wave")
    assert store.modalities["lrs"].per_row
    np.testing.assert_allclose(store.wave("lrs", np.array([3]))[0], WAVE + 3)
    grid = parse_grid("linear:4010:3:200")
    same = run(
        flux="flux", wave="wave", ivar="ivar", target=GenericTarget("mine", "rest", "counts", grid=grid)
    )
    expected = np.interp(grid.wave(), WAVE + 3, arrays["flux"][3, :, 0])
    np.testing.assert_allclose(same.read("lrs", np.array([3]))["flux"][0], expected, rtol=1e-5)


def test_normalising_once(run, arrays):
    target = GenericTarget("mine", "rest", normalise="flux_550nm")
    arrays["wave"] = 5000 + 4.0 * np.arange(L)
    store = run(flux="flux", ivar="ivar", wave="wave", target=target)
    part = store.read("lrs", np.arange(N))
    np.testing.assert_allclose(part["flux"][:, 125], 1, rtol=1e-6)
    np.testing.assert_allclose(part["flux"] * np.sqrt(part["ivar"]), arrays["flux"][..., 0] * 0.2, rtol=1e-5)
    arrays["flux"][2] = -1
    assert run(flux="flux", ivar="ivar", wave="wave", target=target, limit=0.5).n == N - 1
    continuum = GenericTarget("mine", "rest", normalise="continuum", applied=("continuum",))
    with pytest.raises(DataError, match="already"):
        run(flux="flux", wave="wave", target=continuum)
    applied = GenericTarget("mine", "rest", applied=("continuum",))
    with pytest.raises(DataError, match=r"1 of 5 spectra for .* are bad \(1 because its variance is zero\)"):
        run(flux="flux", wave="wave", target=applied)
    done = run(flux="flux", wave="wave", target=applied, limit=0.3)
    assert done.modalities["lrs"].normalisation == ("continuum",)


def test_lrs_grid_from_other_pixels(run, arrays):
    arrays["wave"] = 3950 + 6.0 * np.arange(L)
    target = GenericTarget("mine", "heliocentric", normalise="continuum", grid=LRS_GRID)
    store = run(flux="flux", ivar="ivar", wave="wave", target=target)
    assert store.modalities["lrs"].grid == LRS_GRID
    assert store.modalities["lrs"].unit == ""


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"flux": "fluxes", "wave": "wave"}, "nearest: set/flux"),
        ({"flux": "flux", "wave": "ra"}, "300 pixels"),
        ({"flux": "flux", "wave": "wave", "ivar": "params"}, "not \\(300,\\)"),
        ({"flux": "flux", "wave": "wave", "ivar": "wave"}, "has 300 rows"),
        ({"flux": "flux", "wave": "linear:x:1"}, "linear:start:step"),
        ({"flux": "flux", "wave": "wave", "unit": "nm"}, "is --unit Angstrom meant"),
        ({"flux": "flux", "wave": "linear:400:0.1"}, "median 41[45].* Å: is --unit nm meant"),
        ({"flux": "flux", "wave": "log10:3.602:1e-4", "unit": "um"}, "µm: is another --unit meant"),
        ({"flux": "flux", "wave": "linear:-10000:100"}, "does not increase through positive numbers"),
        ({"flux": "flux", "wave": "log10:4000:1"}, "does not increase through positive numbers"),
        ({"flux": "flux", "wave": "linear:3.6:1e-4"}, "looks like log10: begin with log10"),
        ({"flux": "flux", "wave": "wave", "ra": "dec", "dec": "ra"}, "--dec set/ra has 150: .* exchanged"),
        ({"flux": "flux", "wave": "wave", "mask": "bad"}, "--mask-true good or --mask-true bad"),
        ({"flux": "flux", "wave": "wave", "labels": "set/params:teff,logg,feh"}, "too few columns"),
        ({"flux": "ra", "wave": "wave"}, "expected \\(pixels,\\)"),
        ({"flux": "flux", "wave": "wave", "ivar": "ivar", "sigma": "ivar"}, "keep one"),
    ],
)
def test_what_does_not_fit_is_one_sentence(run, layout, said):
    with pytest.raises(DataError, match=said) as error:
        run(**layout)
    assert "\n" not in str(error.value)


def test_flags_of_bad_pixels_are_not_taken_for_good_ones(run, arrays):
    arrays["flags"] = np.zeros((N, L), dtype=bool)  # nothing is flagged, as NumPy's masked arrays mean it
    with pytest.raises(
        DataError, match=r"is False in 100% of the pixels.*: add --mask-true bad if True means bad"
    ):
        run(flux="flux", wave="wave", mask="flags")
    assert (
        run(flux="flux", wave="wave", mask="flags", mask_true="bad").read("lrs", np.arange(N))["mask"].all()
    )


def test_codes_of_missing_positions_are_missing(run, arrays):
    arrays["dec"][2] = -9999.0
    store = run(flux="flux", wave="wave", ra="ra", dec="dec")
    dec = store.shards[0].numbers("sample/dec")
    assert np.isnan(dec[2])
    assert np.isfinite(dec).sum() == N - 1


def test_log10_wavelengths_are_recognised(run, arrays):
    arrays["wave"] = np.log10(WAVE)
    with pytest.raises(DataError, match="--wave-scale log10"):
        run(flux="flux", wave="wave")
    store = run(flux="flux", wave="wave", wave_scale="log10")
    np.testing.assert_allclose(store.wave("lrs"), WAVE, rtol=1e-6)


def test_nan_flux_has_no_weight(run, arrays):
    arrays["flux"][1, 10:20] = np.nan
    part = run(flux="flux", ivar="ivar", wave="wave").read("lrs", np.array([1]))
    assert not part["mask"][0, 10:20].any()
    assert (part["ivar"][0, 10:20] == 0).all()
    assert np.isfinite(part["flux"]).all()


def test_inexact_ids_are_refused(run, arrays):
    arrays["gaia"] = arrays["gaia"].astype(float)
    with pytest.raises(DataError, match="no longer exact"):
        run(flux="flux", wave="wave", object_id="gaia")


def test_pickled_arrays_are_never_loaded(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, flux=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="pickled"):
        convert_generic(
            path, "npz", Layout("lrs", "flux", "linear:1:1"), GenericTarget("x", "rest"),
            ConvertOptions(out=tmp_path / "o.h5"),
        )  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "fits", "ecsv", "vot"])
def test_tables_wide_and_with_arrays(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    flux = np.random.default_rng(0).normal(10, 1, (N, 30))
    table = Table({"id": [str(3872221881327708672 + k) for k in range(N)], "teff": 5000.0 + np.arange(N)})
    if suffix == "csv":
        for k in range(30):
            table[f"f_{k}"] = flux[:, k]
    else:
        table["f"] = flux
    table.write(path, format={"csv": "ascii.csv", "ecsv": "ascii.ecsv", "vot": "votable"}.get(suffix))
    layout = Layout("lrs", "f_*" if suffix == "csv" else "f", "linear:4000:10", labels="teff", object_id="id")
    out = tmp_path / "o.h5"
    convert_generic(
        path,
        "table",
        layout,
        GenericTarget("mine", "rest", "counts"),
        ConvertOptions(out=out, progress=False),
    )
    store = Store(out)
    np.testing.assert_allclose(store.read("lrs", np.arange(N))["flux"], flux, rtol=1e-6)
    assert list(store.object_id) == list(table["id"])
    np.testing.assert_array_equal(store.labels["teff"], table["teff"])


def test_label_options():
    assert label_keys("p:a,b") == {"a": ("p", 0), "b": ("p", 1)}
    assert label_keys("teff,logg=LG") == {"teff": ("teff", None), "logg": ("LG", None)}
    assert label_keys("") == {}
    for wrong in ("a,a", "p:a=b", "a=", ",a"):
        with pytest.raises(DataError, match="--labels"):
            label_keys(wrong)


def test_labels_of_another_length_are_refused(run, arrays):
    arrays["other"] = np.arange(N + 3.0)
    with pytest.raises(DataError, match=f"--labels other has {N + 3} rows, the flux {N}"):
        run("npz", flux="flux", wave="wave", labels="other:teff")


def test_rows_without_an_observation_id_are_no_repeats(run, arrays):
    arrays["visit"] = np.array(["a", "", "", "b", ""])
    store = run("npz", flux="flux", wave="wave", obs_id="visit", object_id="gaia")
    assert store.n == N
    assert {"a", "b"} < set(store.obs_id)


@pytest.mark.parametrize("suffix", ["fits", "vot"])
def test_masked_integers_are_missing(tmp_path, suffix):
    """FITS says by TNULL which integer means "none"; read as a number it would be a star of -2e9 K."""
    big, small = -(2**63), -(2**31)
    table = Table({"flux": np.random.default_rng(0).normal(10, 1, (4, 20))})
    table["gaia"] = np.ma.masked_equal(np.array([3872221881327708672, 3872221881327708673, big, big]), big)
    table["teff"] = np.ma.masked_equal(np.array([5000, small, 6000, 7000], dtype=np.int32), small)
    table["ra"] = 10.0 + np.arange(4)
    table["dec"] = np.zeros(4)
    path = tmp_path / f"t.{suffix}"
    if suffix == "fits":
        columns = [
            fits.Column("flux", "20D", array=np.asarray(table["flux"])),
            fits.Column("gaia", "K", null=big, array=table["gaia"].filled(big)),
            fits.Column("teff", "J", null=small, array=table["teff"].filled(small)),
            *(fits.Column(axis, "D", array=np.asarray(table[axis])) for axis in ("ra", "dec")),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(path)
    else:
        table.write(path, format="votable")
    layout = Layout(
        modality="lrs",
        flux="flux",
        wave="linear:4000:1",
        object_id="gaia",
        ra="ra",
        dec="dec",
        labels="teff",
    )
    target = GenericTarget("mine", "observed", flux_unit="counts")
    convert_generic(path, "table", layout, target, ConvertOptions(out=tmp_path / "out.h5", progress=False))
    store = Store(tmp_path / "out.h5")
    assert list(store.object_id[:2]) == ["3872221881327708672", "3872221881327708673"]
    assert store.object_id[2] != store.object_id[3]
    assert all(name.startswith("J00") for name in store.object_id[2:])
    np.testing.assert_array_equal(np.isnan(store.labels["teff"]), [False, True, False, False])


@pytest.mark.parametrize(
    ("kind", "bzero", "null", "stored"),
    [("I", 32768, -32768, 0), ("K", 2**63, -(2**63), 0), ("I", 0, 99999, None), ("I", 0, -9, -9)],
)
def test_nulls_of_fits_in_any_integer_type(tmp_path, kind, bzero, null, stored):
    """The null is that of the integer in the file, which may not fit the type that TZERO makes of it."""
    dtype = {("I", 32768): np.uint16, ("K", 2**63): np.uint64, ("I", 0): np.int16}[kind, bzero]
    values = np.array([5, 7, 0 if stored is None else stored], dtype=dtype)
    column = fits.Column("n", kind, array=values, null=null, **({"bzero": bzero} if bzero else {}))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "t.fits")
    found = number_column(read_columns(tmp_path / "t.fits")["n"])
    np.testing.assert_array_equal(found, [5, 7, np.nan if stored is not None else 0])


def test_text_nulls_of_ascii_tables_are_no_error(tmp_path):
    column = fits.Column("n", "I5", array=np.array([5, 7]), null="***", ascii=True)
    fits.TableHDU.from_columns([column]).writeto(tmp_path / "t.fits")
    np.testing.assert_array_equal(number_column(read_columns(tmp_path / "t.fits")["n"]), [5, 7])
