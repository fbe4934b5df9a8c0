"""Every shipped experiment takes real steps in each of its stages; one is taken to its report and its model is used."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from astroclip_train.evaluation.schema import validate_metrics

VARIANTS = ("clip", "clip_r", "clip_p", "clip_pr", "clip_split")


def command(name: str, *words: str, cwd: Path) -> str:
    """Runs a console command as a user would; returns its standard output."""
    program = Path(sys.executable).with_name(name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [program, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished tiny run in `runs`."""
    folder = tmp_path_factory.mktemp("tiny")
    command("astro-train", "+experiment=specclip", "scale=tiny", cwd=folder)
    return folder


def run_of(folder: Path) -> Path:
    return next((folder / "runs" / "specclip").iterdir())


def test_whole_recipe_leaves_what_the_schema_promises(tiny: Path) -> None:
    run = run_of(tiny)
    metrics = json.loads((run / "metrics.json").read_text())
    validate_metrics(metrics)
    teff = metrics["heads"]["teff"]
    assert {"linear", "knn", "mlp", "cnn", "flow", "finetune"} <= set(teff)
    assert teff["mlp"]["lrs.raw"]["all"]["n"] > 50
    assert metrics["crb"]["teff"]["lrs"]["all"] > metrics["crb"]["teff"]["joint"]["all"]
    for way in ("lrs_to_xp", "xp_to_lrs"):
        assert 0 < metrics["retrieval"][way]["recall@10"] <= 1
        assert metrics["retrieval"][way]["oracle@10"] > metrics["retrieval"][way]["chance@10"]
        assert metrics["translation"][way]["rmse"] > 0
        assert np.isfinite(metrics["information"][way]["gain"])
    for stage in ("lrs", "xp", "align", "heads"):
        assert metrics["timing"][stage]["samples_per_second"] > 0
    page = (run / "report.html").read_text()
    assert "<script src" not in page
    assert "http://" not in page.split("</style>")[-1].replace("http://www.w3.org", "")


def test_finetuning_is_never_worse_on_validation_than_the_head_it_starts_from(tiny: Path) -> None:
    tasks = run_of(tiny) / "stages" / "heads" / "tasks"
    frozen = json.loads((tasks / "mlp__lrs.single" / "done.json").read_text())["best_value"]
    tuned = json.loads((tasks / "finetune__lrs.single" / "done.json").read_text())["best_value"]
    assert tuned <= frozen + 1e-2  # cached features are rounded to bfloat16, those of fine-tuning are not


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_steps(variant: str, tiny: Path) -> None:
    plan = command(
        "astro-train",
        "+experiment=specclip",
        "scale=tiny",
        f"variant={variant}",
        "run.preflight=true",
        cwd=tiny,
    )
    for fit in ("lrs", "xp", "align", "heads/flow"):
        assert fit in plan


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["probe", "lora", "full"])
def test_an_exported_model_is_adapted_to_a_store(adapt: str, tiny: Path) -> None:
    if not (tiny / "model").exists():
        command("astro-model", "export", str(run_of(tiny)), "--out", "model", cwd=tiny)
    store = next((tiny / "runs" / ".cache" / "mock_stars").glob("*.h5"))
    words = ["+experiment=finetune", "scale=tiny", "model=model", f"dataset.path={store}", f"adapt={adapt}"]
    run = Path(command("astro-train", *words, cwd=tiny).strip().splitlines()[-1]).parent
    heads = json.loads((tiny / run / "metrics.json").read_text())["heads"]["teff"]
    assert "lrs.single" in heads["finetune" if adapt != "probe" else "mlp"]
    command("astro-model", "export", str(run), "--out", f"adapted-{adapt}", cwd=tiny)
    answers = []
    for model in (str(run), f"adapted-{adapt}"):
        words = [model, str(store), "--modality", "lrs", "--split", "test", "--out", "labels.csv"]
        command("astro-model", "predict", *words, cwd=tiny)
        with (tiny / "labels.csv").open() as file:
            answers.append([row["teff [K]"] for row in csv.DictReader(file)])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 50


@pytest.mark.slow
def test_unfrozen_alignment_and_token_masking_take_steps(tiny: Path) -> None:
    words = ["stages.align.frozen=false", "stages.align.layer_decay=0.8", "stages.align.cache=false"]
    words += [
        "stages.lrs.encoder.masking=token",
        "stages.lrs.objective.fill=token",
        "run.stages=[lrs,xp,align]",
    ]
    plan = command(
        "astro-train", "+experiment=specclip", "scale=tiny", "run.preflight=true", *words, cwd=tiny
    )
    assert all(stage in plan for stage in ("lrs", "xp", "align"))
    assert "heads" not in plan


@pytest.mark.slow
def test_real_lamost_experiment(shared_data: Path, tiny: Path) -> None:
    """Preflight on the mixture of mock and real stars, then the whole of it."""
    file = shared_data / "lamost_afg" / "lamost_dr10_afg.h5"
    words = ["+experiment=lamost_parameters", "scale=tiny", f"dataset.path={file}", "dataset.fold=3"]
    plan = command("astro-train", *words, "run.preflight=true", cwd=tiny)
    assert "heads/finetune on lrs.single" in plan
    page = command("astro-train", *words, cwd=tiny)
    metrics = json.loads((tiny / page.strip().splitlines()[-1]).with_name("metrics.json").read_text())
    assert set(metrics["heads"]) == {"teff", "logg", "feh"}
    assert 400 < metrics["heads"]["feh"]["cnn"]["lrs.raw"]["all"]["n"] < 520
