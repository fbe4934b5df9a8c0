"""Export and reload: identical numbers, plain torch, and one sentence for whatever is wrong."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from astroclip_train.errors import ConfigError, DataError, RunError
from astroclip_train.hub.export import _stores_of_run, export, training_features
from astroclip_train.hub.load import checkpoint_of, load
from astroclip_train.hub.model import Spectra


@pytest.fixture
def exported(run, tmp_path, store_path):
    return export(run, tmp_path / "model", name="tiny", training=training_features(run, [store_path]))


def both(spectra):
    return {m: Spectra(s["flux"], s["ivar"], s["mask"]) for m, s in spectra.items()}


def answers(model, spectra):
    lrs, xp = spectra["lrs"], spectra["xp"]
    found = {
        "aligned": model.embed("lrs", lrs["flux"], lrs["ivar"], lrs["mask"]),
        "single": model.embed("xp", xp["flux"], xp["ivar"], xp["mask"], kind="single"),
        "shared": model.embed("xp", xp["flux"], kind="shared"),
        "translated": model.translate("lrs", "xp", lrs["flux"]),
    }
    for label, value in model.predict(both(spectra)).items():
        found[f"{label} mean"], found[f"{label} std"] = value.mean, value.std
    return found


def test_reloaded_export_gives_the_same_bits_as_the_run(run, exported, spectra):
    before, after = answers(load(run), spectra), answers(load(exported), spectra)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert torch.isfinite(value[[0, 1, 2, 4]]).all(), name


def test_posterior_of_a_spectrum_does_not_depend_on_its_company(run, spectra):
    model, lrs = load(run), spectra["lrs"]
    pick = lambda rows: model.predict(  # noqa: E731
        "lrs", lrs["flux"][rows], lrs["ivar"][rows], lrs["mask"][rows], head="flow"
    )
    together, alone = pick(slice(0, 5)), pick(slice(4, 5))
    for label, value in together.items():
        assert value.std[4] > 0
        torch.testing.assert_close(value.mean[4:5], alone[label].mean, rtol=1e-5, atol=0)
        torch.testing.assert_close(value.std[4:5], alone[label].std, rtol=1e-3, atol=0)


def test_embedding_follows_the_parts_and_rounds_tokens_as_the_cache_does(run, spectra):
    model = load(run)
    lrs = {k: torch.as_tensor(v) for k, v in spectra["lrs"].items()}
    good = lrs["mask"] & (lrs["ivar"] > 0)
    tokens = model.part("encoders.lrs")(
        torch.where(good, lrs["flux"], torch.ones(()))[:3],
        torch.where(good, lrs["ivar"], torch.zeros(()))[:3],
        good[:3],
    )
    expected = model.part("heads.lrs")(tokens.bfloat16().float())
    found = model.embed("lrs", lrs["flux"][:3], lrs["ivar"][:3], lrs["mask"][:3])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_exporting_an_export_changes_no_bit(exported, tmp_path):
    again = export(exported, tmp_path / "again", name="tiny")
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


def test_loading_imports_neither_hydra_nor_lightning(exported):
    code = (
        "import sys, torch\n"
        "from astroclip_train.hub.load import load\n"
        f"m = load({str(exported)!r})\n"
        "m.predict('lrs', torch.ones(2, 67) + torch.rand(2, 67))\n"
        "heavy = ('hydra', 'omegaconf', 'pytorch_lightning', 'lightning', 'h5py', 'wandb')\n"
        "bad = [n for n in heavy if n in sys.modules]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_card_states_inputs_parts_labels_and_a_snippet_that_runs(exported, spectra, monkeypatch):
    text = (exported / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    assert {"astronomy", "lrs", "xp"} <= set(front["tags"])
    assert "67 px" in text
    assert "continuum" in text
    assert "teff [K]" in text
    snippet = text.split("```python")[1].split("```")[0].replace("path/to/this/folder", str(exported))
    scope = {name: torch.as_tensor(value) for name, value in spectra["lrs"].items()}
    exec(snippet, scope)
    assert scope["z"].shape == (8, 12)
    assert scope["xp"].shape == (8, 41)


def test_domain_flags_know_noise_from_stars(exported, spectra):
    model = load(exported)
    inside = model.in_domain("lrs.aligned", model.embed("lrs", spectra["lrs"]["flux"][:3]))
    strange = model.embed("lrs", 1 + 50 * torch.randn(3, 67).cumsum(1))
    assert inside.tolist() == [True] * 3 or inside.sum() >= 2
    assert model.in_domain("lrs.aligned", 100 * strange).tolist() == [False] * 3


def test_an_encoder_changed_by_alignment_stays_as_single(run, tmp_path, spectra):
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    path = changed / "stages/align/checkpoints/best-00000001.ckpt"
    content = torch.load(path, weights_only=True)
    for tensor in content["modules"]["encoders.lrs"].values():
        tensor.mul_(1.5)
    torch.save(content, path)
    flux = spectra["lrs"]["flux"]
    before, after = load(run), load(changed)
    assert torch.equal(before.embed("lrs", flux, kind="single"), after.embed("lrs", flux, kind="single"))
    assert not torch.equal(before.embed("lrs", flux), after.embed("lrs", flux))


def test_export_of_one_encoder_offers_it_as_a_stage_does(run, tmp_path):
    folder = export(run / "stages/lrs", tmp_path / "encoder")
    checkpoint = checkpoint_of(folder)
    assert checkpoint["architecture"]["encoder"]["length"] == 67
    assert checkpoint["metadata"]["modalities"]["lrs"]["survey"] == "LAMOST LRS"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.embed("image", torch.ones(1, 67)), ConfigError, "reads lrs and xp"),
        (lambda m: m.embed("lrs", torch.ones(1, 60)), DataError, "67 px"),
        (lambda m: m.embed("lrs", torch.ones(2, 67), ivar=torch.ones(2, 66)), DataError, "ivar has shape"),
        (lambda m: m.embed("lrs", torch.ones(1, 67), kind="odd"), ConfigError, "no input lrs.odd"),
        (lambda m: m.predict("lrs", torch.ones(1, 67), head="mlp"), ConfigError, "no predictor for head mlp"),
        (lambda m: m.translate("lrs", "image", torch.ones(1, 67)), ConfigError, "not image"),
    ],
)
def test_wrong_calls_are_one_sentence(run, call, error, words):
    with pytest.raises(error, match=words) as caught:
        call(load(run))
    assert "\n" not in str(caught.value)


def test_predictor_is_chosen_by_the_modalities_at_hand(run):
    model = load(run)
    assert model.choose_predictor(["lrs"]) == "flow__lrs.aligned"
    assert model.choose_predictor(["xp"]) == "linear__xp.raw"
    assert model.choose_predictor(["lrs", "xp"]) == "mlp__lrs.single+xp.aligned"
    assert model.choose_predictor(["lrs", "xp"], head="flow") == "flow__lrs.aligned"


def test_damaged_and_foreign_folders_are_one_sentence(exported, tmp_path):
    weights = exported / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="damaged or cut short"):
        load(exported)
    weights.write_bytes(whole)
    config = json.loads((exported / "config.json").read_text())
    plan = config["architecture"]["encoders.lrs"]
    for change, words in (
        ({"_target_": "os.system"}, "do not trust"),
        ({"_target_": "astroclip_train.files.write_text"}, "do not trust"),
        ({"_target_": "astroclip_train.encoders.Nothing"}, "is not in this astro-train"),
        ({"widht": 3}, "does not take these arguments"),
        ({"width": 32}, "do not fit"),
    ):
        config["architecture"]["encoders.lrs"] = plan | change
        (exported / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match=words):
            load(exported)
    (exported / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load(exported)
    with pytest.raises(RunError, match="not a run directory"):
        load(tmp_path)


def test_export_never_overwrites_what_is_not_an_export(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(RunError, match="exists"):
        export(run, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"
    out = export(run, tmp_path / "new")
    with pytest.raises(RunError, match="--overwrite"):
        export(run, out)
    export(run, out, overwrite=True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_training_data_are_looked_for_beside_the_run(tmp_path, monkeypatch):
    """The run's root was relative to the folder that training was started in: nothing is simulated in another one."""
    run, elsewhere = tmp_path / "runs" / "specclip" / "one", tmp_path / "elsewhere"
    run.mkdir(parents=True)
    elsewhere.mkdir()
    dataset = {"_target_": "astroclip_train.data.mock.MockStars", "n": 30, "bounds": "none"}
    config = {"run": {"root": "runs"}, "data": {"cache_root": None}, "dataset": dataset}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(elsewhere)
    (store,) = _stores_of_run(run)
    assert store.is_relative_to(tmp_path / "runs" / ".cache")
    assert not list(elsewhere.iterdir())
