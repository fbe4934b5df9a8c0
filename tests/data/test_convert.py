"""From survey files to stores: numbers kept, what is left out told, nothing half written."""

import shutil

import h5py
import numpy as np
import pytest

from astroclip_train.data import convert
from astroclip_train.data.convert import ConvertOptions, convert_lamost, parse_grid
from astroclip_train.data.convert_xp import convert_gaia_xp
from astroclip_train.data.grids import LRS_GRID
from astroclip_train.data.readers import gaia_calibration, gaia_xp, lamost
from astroclip_train.data.resample import resample
from astroclip_train.data.store import Store
from astroclip_train.data.validate_store import validate
from astroclip_train.errors import ConfigError, DataError


def options(tmp_path, **more):
    return ConvertOptions(**({"out": tmp_path / "out.h5", "progress": False} | more))


def test_lamost_files_become_a_sound_store(real_files, tmp_path):
    report = convert_lamost([real_files / "lamost"], options(tmp_path))
    assert (report.n, report.objects, report.left_out) == (5, 5, [])
    assert validate(report.out) == []
    store = Store(report.out)
    info = store.modalities["lrs"]
    assert info.grid == LRS_GRID
    assert (info.frame, info.medium, info.normalisation) == ("heliocentric", "vacuum", ("continuum",))
    assert store.label_units == {"rv": "km/s"}
    k = list(store.obs_id).index("740103050")
    assert store.object_id[k] == "J103148.5+354713"
    assert store.snr("lrs")[k] == pytest.approx(28.03)
    part = store.read("lrs", np.array([k]))
    good = part["mask"][0]
    raw = lamost.read(real_files / "lamost" / "spec-58575-HD103621N361936B01_sp03-050.fits.gz")
    first = int(np.argmin(np.abs(raw.wave - LRS_GRID.wave()[0])))
    native = (raw.flux * np.sqrt(raw.ivar))[first : first + 1462]
    np.testing.assert_allclose((part["flux"][0] * np.sqrt(part["ivar"][0]))[good], native[good], rtol=1e-4)


def test_workers_and_order_change_nothing(real_files, tmp_path):
    one = convert_lamost([real_files / "lamost"], options(tmp_path))
    two = convert_lamost([real_files / "lamost"], options(tmp_path, out=tmp_path / "two.h5"), workers=2)
    assert Store(one.out).content_hash == Store(two.out).content_hash


def test_unnormalised_and_other_grids(real_files, tmp_path):
    grid = parse_grid("linear:4000:2:700")
    report = convert_lamost([real_files / "lamost"], options(tmp_path), grid=grid, continuum="none")
    info = Store(report.out).modalities["lrs"]
    assert (info.unit, info.normalisation, info.grid) == ("relative", (), grid)
    smooth = convert_lamost(
        [real_files / "lamost"], options(tmp_path, out=tmp_path / "p.h5"), continuum="polynomial"
    )
    assert abs(np.median(Store(smooth.out).read("lrs", np.arange(5))["flux"]) - 1) < 0.05
    for wrong in ("lrx", "log10:1:2", "log10:a:b:c", "cubic:1:1:5"):
        with pytest.raises(ConfigError, match="--grid"):
            parse_grid(wrong)


def folder_with_bad_files(real_files, tmp_path, n_bad):
    folder = tmp_path / "spectra"
    shutil.copytree(real_files / "lamost", folder)
    for k in range(n_bad):
        (folder / f"bad{k}.fits.gz").write_bytes((folder / next(folder.iterdir()).name).read_bytes()[:2000])
    return folder


def test_bad_files_are_counted_named_and_left_out(real_files, tmp_path):
    folder = folder_with_bad_files(real_files, tmp_path, 2)
    report = convert_lamost([folder], options(tmp_path, max_bad_fraction=0.5))
    assert report.n == 5
    assert len(report.left_out) == 2
    listed = report.left_out_file.read_text().splitlines()
    assert listed[0] == "name,reason"
    assert "bad0.fits.gz" in listed[1]
    assert "left out: 2" in report.text()
    clean = convert_lamost([real_files / "lamost"], options(tmp_path))
    assert clean.left_out_file is None
    assert not report.left_out_file.exists()  # it told of the store that was replaced


def test_too_many_bad_files_stop_and_leave_nothing(real_files, tmp_path):
    folder = folder_with_bad_files(real_files, tmp_path, 2)
    with pytest.raises(DataError, match=r"--max-bad-fraction 0\.1.*bad0"):
        convert_lamost([folder], options(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spectra"]


def test_interrupt_leaves_nothing_and_keeps_the_old_store(real_files, tmp_path, monkeypatch):
    old = convert_lamost([real_files / "lamost"], options(tmp_path)).out.read_bytes()

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert.lamost, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_lamost([real_files / "lamost"], options(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert (tmp_path / "out.h5").read_bytes() == old


def test_repeated_observations_are_left_out(real_files, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(real_files / "lamost", folder)
    report = convert_lamost([real_files / "lamost", folder], options(tmp_path))
    assert (report.n, report.duplicates) == (5, 5)
    assert "5 repeats" in report.text()


def test_wrong_frame_is_left_out(real_files, tmp_path):
    with pytest.raises(DataError, match="heliocentric frame, expected observed"):
        convert_lamost([real_files / "lamost"], options(tmp_path), frame="observed")


def test_xp_is_scaled_with_its_errors_and_coefficients(real_files, tmp_path):
    pytest.importorskip("gaiaxpy")
    path = real_files / "gaia_xp" / "XP_CONTINUOUS_RAW.csv"
    report = convert_gaia_xp([path], options(tmp_path))
    store = Store(report.out)
    assert list(store.object_id) == ["5853498713190525696", "5762406957886626816"]
    part = store.read("xp", np.arange(2), ("flux", "ivar", "coeff", "coeff_error", "coeff_cov_factor"))
    batch = next(iter(gaia_xp.read(path)))
    spectra = gaia_calibration.calibrate(batch)
    np.testing.assert_allclose(part["flux"][:, 107], 1, rtol=1e-6)
    np.testing.assert_allclose(
        part["flux"] * np.sqrt(part["ivar"]), spectra.flux / spectra.sigma, rtol=1e-4, atol=1e-3
    )
    # the coefficients are in the same unit as the flux: calibrating them gives the stored flux
    np.testing.assert_allclose(
        part["coeff"] @ gaia_calibration.design_matrix(), part["flux"], rtol=2e-3, atol=1e-4
    )
    factor = part["coeff_cov_factor"].astype(float)
    variance = np.square(factor.transpose(0, 2, 1) @ gaia_calibration.design_matrix()).sum(axis=1)
    np.testing.assert_allclose(variance * part["ivar"], 1, rtol=1e-3)
    assert validate(report.out) == []


def test_xp_without_a_normaliser_is_left_out_and_named(real_files, tmp_path):
    pytest.importorskip("gaiaxpy")
    path = real_files / "gaia_xp" / "XP_CONTINUOUS_RAW_with_missing_BP.csv"
    report = convert_gaia_xp([path], options(tmp_path, max_bad_fraction=0.5), covariance=False)
    assert report.n == 2
    assert "5405570973190252288" in report.left_out[0].name
    assert not Store(report.out).has("xp", "coeff_cov_factor")
    raw = convert_gaia_xp([path], options(tmp_path, out=tmp_path / "raw.h5"), normalise=False)
    assert raw.n == 3
    assert Store(raw.out).modalities["xp"].unit == "1e-18 W m-2 nm-1"


def test_mixed_kinds_of_xp_are_left_out(real_files, tmp_path):
    pytest.importorskip("gaiaxpy")
    folder = real_files / "gaia_xp"
    files = [folder / "XP_SAMPLED_RAW_dr3int6.csv", folder / "XP_CONTINUOUS_RAW.csv"]
    report = convert_gaia_xp(files, options(tmp_path, max_bad_fraction=0.5))
    assert report.n == 2
    assert "convert them apart" in report.left_out[0].reason


def test_afg_store_holds_out_whole_stars(shared_data, tmp_path):
    path = shared_data / "lamost_afg" / "lamost_dr10_afg.h5"
    report = convert.convert_lamost_afg(path, options(tmp_path))
    assert (report.n, report.objects) == (2304, 2277)
    assert report.labels == {"feh": 2304, "logg": 2304, "teff": 2304}
    store = Store(report.out)
    assert store.modalities["lrs"].grid.n == 1600
    for name in np.unique(store.object_id[np.unique(store.object_id, return_index=True)[1]])[:50]:
        assert len(set(store.splits[store.object_id == name])) == 1
    assert validate(report.out) == []


@pytest.mark.slow
def test_afg_on_the_models_grid(shared_data, tmp_path):
    path = shared_data / "lamost_afg" / "lamost_dr10_afg.h5"
    report = convert.convert_lamost_afg(path, options(tmp_path), grid="lrs", continuum="polynomial")
    store = Store(report.out)
    assert store.modalities["lrs"].grid == LRS_GRID
    assert abs(np.median(store.read("lrs", np.arange(store.n))["flux"]) - 1) < 0.02


def test_specclip_layouts(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "pairs.h5"
    with h5py.File(path, "w") as file:
        for split, n in (("train", 6), ("test", 3)):
            file[f"{split}/gaia_spectra"] = rng.normal(1, 0.1, (n, 343, 1)).astype("f4")
            file[f"{split}/lamost_spectra"] = rng.normal(1, 0.1, (n, 1462, 1)).astype("f4")
    report = convert.convert_specclip(path, options(tmp_path))
    store = Store(report.out)
    assert set(store.modalities) == {"lrs", "xp"}
    assert (store.splits[-3:] == "test").all()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            store.read("xp", np.arange(6))["flux"], file["train/gaia_spectra"][..., 0]
        )
    assert "object of its own" in report.text()

    public = tmp_path / "public.h5"
    with h5py.File(public, "w") as file:
        file["test/source_ids"] = np.array([3872221881327708672, 12])
        file["test/gaia_spectra"] = rng.normal(1, 0.1, (2, 343))
        file["test/lamost_spectra"] = rng.normal(1, 0.1, (2, 1462))
    store = Store(convert.convert_specclip(public, options(tmp_path)).out)
    assert list(store.object_id) == ["3872221881327708672", "12"]
    assert list(store.splits) == ["test", "test"]

    single = tmp_path / "single.h5"
    with h5py.File(single, "w") as file:
        file["train/spectra"] = rng.normal(1, 0.1, (4, 1462, 1))
        file["train/ivar"] = np.ones((4, 1462, 1))
    store = Store(convert.convert_specclip(single, options(tmp_path)).out)
    assert store.has("lrs", "ivar")

    with h5py.File(single, "w") as file:
        file["train/spectra"] = np.ones((4, 100, 1))
    with pytest.raises(DataError, match="100 pixels"):
        convert.convert_specclip(single, options(tmp_path))
    with h5py.File(single, "w") as file:
        file["train/gaia_spectra"], file["train/lamost_spectra"] = np.ones((4, 343, 1)), np.ones((3, 1462, 1))
    with pytest.raises(DataError, match="different numbers"):
        convert.convert_specclip(single, options(tmp_path))


def test_resampling_propagates_variance_and_masks():
    wave = np.array([1.0, 2.0, 3.0, 4.0])
    flux, ivar = np.array([[0.0, 10.0, 20.0, 30.0]]), np.array([[1.0, 4.0, 4.0, 1.0]])
    mask = np.array([[True, True, True, False]])
    out = resample(wave, flux, ivar, mask, np.array([0.5, 1.0, 2.5, 3.25, 4.5]), logarithmic=False)
    np.testing.assert_array_equal(out.mask, [[False, True, True, False, False]])
    np.testing.assert_allclose(out.flux[0, 1:4], [0, 15, 22.5])
    np.testing.assert_allclose(out.ivar, [[0, 1, 1 / (0.25 / 4 + 0.25 / 4), 0, 0]])


def test_spectrum_that_starts_after_the_grid_is_masked_there():
    """The published code let a spectrum from 4000.0 Å pass and then failed at 3999.45 Å."""
    wave = 10 ** (np.log10(4000.0) + 1e-4 * np.arange(1500))
    flux = np.ones((1, 1500))
    out = resample(wave, flux, flux, flux > 0, LRS_GRID.wave())
    assert list(out.mask[0, :3]) == [False, True, True]
    assert out.mask[0, 1:].all()
