"""metrics.json and report.html of a simulated run directory, whole, in part, damaged, and in a browser."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from astroclip_train.errors import DataError
from astroclip_train.evaluation.assemble import assemble
from astroclip_train.evaluation.compare import compare, compare_rows
from astroclip_train.evaluation.metrics import biweight_scale
from astroclip_train.evaluation.report import render_report
from astroclip_train.evaluation.report_tables import preferred_head
from astroclip_train.evaluation.schema import METRICS_SCHEMA, validate_metrics
from astroclip_train.evaluation.style import number

_spec = importlib.util.spec_from_file_location("synthetic_run", Path(__file__).with_name("synthetic_run.py"))
synthetic_run = importlib.util.module_from_spec(_spec)
sys.modules["synthetic_run"] = synthetic_run
_spec.loader.exec_module(synthetic_run)
make_run, save = synthetic_run.make_run, synthetic_run.save


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = make_run(tmp_path_factory.mktemp("runs") / "demo_mock_s0", n=500, gallery=150)
    assemble(path, replicates=40)
    return path


@pytest.fixture(scope="module")
def metrics(run) -> dict:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def page(run) -> str:
    return render_report(run).read_text()


class Outline(HTMLParser):
    """Collects what a page loads, its anchors and ids, and checks that tags close in order."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.sources, self.ids, self.anchors, self.text = [], [], set(), [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.sources += [(tag, values[k]) for k in ("src", "data") if k in values]
        self.sources += [(tag, values["href"])] if tag == "link" else []
        self.anchors += [values["href"]] if tag == "a" and values["href"].startswith("#") else []
        self.ids |= {values["id"]} if "id" in values else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


# -- metrics.json -----------------------------------------------------------------------------------------------------


def test_metrics_have_the_promised_keys(metrics):
    part = metrics["heads"]["teff"]["mlp"]["lrs.aligned"]
    for subset in ("all", "snr50"):
        assert {"n", "bias", "sigma", "mad", "r2", "outliers", "pull_sigma"} <= set(part[subset])
    assert {"all", "snr50"} <= set(metrics["crb"]["rv"]["lrs"])
    assert {"n", "recall@1", "recall@10", "median_rank", "oracle@10"} <= set(
        metrics["retrieval"]["lrs_to_xp"]
    )
    assert {"rmse", "chi2"} <= set(metrics["translation"]["xp_to_lrs"])
    assert {"seconds", "samples_per_second", "data_wait", "mfu"} <= set(metrics["timing"]["align"])
    assert {"coverage68", "coverage95", "nll", "n", "labels"} <= set(
        metrics["calibration"]["flow"]["lrs.aligned"]
    )
    assert "mlp" not in metrics["calibration"]  # it reports no errors


def test_metrics_are_those_of_the_files(run, metrics):
    with np.load(run / "predictions" / "mlp__lrs.aligned.npz") as a:
        residual, snr = a["mean"][:, 1].astype(float) - a["truth"][:, 1], a["snr"]
        bound = a["crb"][:, 1]
    ok = np.isfinite(residual)
    found = metrics["heads"]["logg"]["mlp"]["lrs.aligned"]
    assert found["all"]["n"] == ok.sum()
    assert found["all"]["sigma"] == pytest.approx(float(biweight_scale(residual[ok])), rel=1e-5)
    bright = ok & (snr > 50)
    assert found["snr50"]["pull_sigma"] == pytest.approx(
        float(biweight_scale((residual / bound)[bright])), rel=1e-5
    )
    assert metrics["heads"]["feh"]["finetune"]["lrs.single"]["snr50"]["pull_sigma"] == pytest.approx(
        1.5, rel=0.2
    )
    assert metrics["crb"]["logg"]["lrs"]["snr50"] == pytest.approx(np.median(bound[snr > 50]), rel=1e-5)
    assert metrics["calibration"]["flow"]["lrs.aligned"]["coverage68"] == pytest.approx(0.68, abs=0.03)
    assert metrics["labels"]["rv"]["unit"] == "km/s"
    assert metrics["timing"]["align"]["mfu"] is None


def test_schema_agrees_with_the_reference_implementation(metrics):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(METRICS_SCHEMA)
    jsonschema.validate(metrics, METRICS_SCHEMA)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("heads"), "lacks heads"),
        (lambda m: m.update(version=2), "version is 2"),
        (lambda m: m.update(extra=1), "unknown key extra"),
        (
            lambda m: m["retrieval"]["lrs_to_xp"].update({"recall@10": 1.2}),
            r"retrieval.lrs_to_xp.recall@10 is 1.2",
        ),
        (lambda m: m["heads"]["teff"]["mlp"]["lrs.raw"]["all"].update(sigma="x"), "sigma is str"),
        (lambda m: m["heads"]["teff"]["mlp"]["lrs.raw"]["all"].update(n=None), "n is NoneType"),
        (lambda m: m["heads"]["teff"]["mlp"]["lrs.raw"]["bins"][0].pop("n"), r"bins\[0\] lacks n"),
        (lambda m: m["translation"]["lrs_to_xp"].update(chi2=float("nan")), "finite number"),
        (lambda m: m["timing"]["lrs"].update(data_wait=True), "data_wait is bool"),
    ],
)
def test_schema_names_what_is_wrong(metrics, change, words):
    broken = json.loads(json.dumps(metrics))
    validate_metrics(broken)
    change(broken)
    with pytest.raises(DataError, match=words):
        validate_metrics(broken)


def test_documentation_names_every_metric():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

    def names(schema: dict) -> set[str]:
        found = set(schema.get("properties", {}))
        extra = schema.get("additionalProperties")
        for child in [*schema.get("properties", {}).values(), extra, schema.get("items")]:
            found |= names(child) if isinstance(child, dict) else set()
        return found

    missing = {n for n in names(METRICS_SCHEMA) if not n.endswith("_err") and f"`{n}`" not in text}
    assert missing == set()


# -- damage -----------------------------------------------------------------------------------------------------------


def test_damaged_and_misnamed_files(tmp_path):
    run = make_run(tmp_path / "run", parts="empty")
    (run / "predictions").mkdir()
    (run / "predictions" / "mlp__lrs.raw.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"mlp__lrs.raw.npz cannot be read"):
        assemble(run)
    save(run / "predictions" / "mlp__lrs.raw.npz", labels=np.array(["teff"]), truth=np.ones((3, 1)))
    with pytest.raises(DataError, match="lacks mean"):
        assemble(run)
    with pytest.raises(DataError, match="not a run directory"):
        assemble(tmp_path / "nowhere")


# -- report.html ------------------------------------------------------------------------------------------------------


def test_report_is_one_self_contained_file(run, page):
    outline = read(page)
    assert outline.sources
    assert all(address.startswith("data:image/png;base64,") for _, address in outline.sources)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert {a[1:] for a in outline.anchors} <= outline.ids
    assert len(page) < 4_000_000
    assert not list(run.glob(".*"))  # no temporary file is left


def test_report_shows_every_part(page, metrics):
    outline = read(page)
    text = " ".join(outline.text)
    assert "Nothing to show" not in text
    for words in (
        "raw spectrum, CNN",
        "encoder alone, frozen",
        "aligned, frozen",
        "fine-tuned",
        "Cramér–Rao bound",
    ):
        assert words in text
    assert number(metrics["heads"]["teff"]["cnn"]["lrs.raw"]["snr50"]["pull_sigma"]) in text
    assert "variant=clip_pr" in text  # overrides
    assert "MockStars" in text  # configuration
    assert "2.13.0" in text  # environment
    assert "Simulated stars" in text
    assert "lamost.org" not in page  # simulated LAMOST is not LAMOST
    assert page.count("<img") >= 14
    assert page.count('class="caption"') >= page.count("<img")


def test_report_of_an_empty_run_says_what_is_absent(tmp_path):
    run = make_run(tmp_path / "run", parts="empty")
    text = " ".join(read(render_report(run).read_text()).text)
    assert "the heads stage has not been evaluated" in text
    assert "seed 0" in text


def test_report_of_alignment_alone_and_a_damaged_artefact(tmp_path):
    run = make_run(tmp_path / "run", n=100, gallery=40, parts="align")
    assemble(run, replicates=10)
    (run / "translation" / "lrs_to_xp.npz").write_bytes(b"torn")
    text = " ".join(read(render_report(run).read_text()).text)
    assert "the heads stage has not been evaluated" in text
    assert "lrs_to_xp.npz cannot be read" in text  # costs only its section
    assert "recall@10" in text


def test_report_of_real_labels_without_bounds_or_snr(tmp_path):
    run = make_run(tmp_path / "run", parts="empty")
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 2))
    save(
        run / "predictions" / "mlp__lrs.raw.npz",
        labels=np.array(["teff", "metal<b>"]), truth=truth, mean=truth + 0.1 * rng.normal(size=(60, 2)),
    )  # fmt: skip
    (run / "config.yaml").write_text("dataset: {_target_: x, path: lamost_afg.h5}\nrun: {seed: 3}\n")
    page = render_report(run).read_text()
    text = " ".join(read(page).text)
    assert "all objects" in text
    assert "lamost.org" in page
    assert "metal<b>" in text  # escaped, not a tag


def test_fixed_choice_of_the_shown_head():
    assert preferred_head(["knn", "flow", "mlp", "cnn"]) == "mlp"
    assert preferred_head(["finetune", "cnn"]) is None
    assert preferred_head(["other"]) == "other"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (1.5, "1.50"), (15.04, "15.0"), (101.4, "101"), (5432.1, "5,432"), (0, "0"), (None, "–"),
     (float("nan"), "–"), (-0.5, "-0.500"), (1e-7, "1e-07"), (99.96, "100")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_compare(run, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.npz", "*.html"))
    rows = compare_rows([run, copy], heads=["mlp"], inputs=["lrs.raw", "lrs.aligned"])
    assert [r["run"] for r in rows] == ["demo_mock_s0"] * 2 + ["other"] * 2
    assert rows[0]["values"]["teff"][0] == pytest.approx(1.8, rel=0.2)
    assert compare([run, copy]).row_count == 2 * 18
    with pytest.raises(DataError, match=r"no metrics\.json"):
        compare([tmp_path])


@pytest.mark.slow
def test_report_in_a_browser(run, page, tmp_path, browser):
    shot, address = tmp_path / "report.png", (run / "report.html").as_uri()
    subprocess.run(
        [*browser, f"--screenshot={shot}", "--window-size=1200,6000", address], check=True, timeout=120
    )
    dom = subprocess.run(
        [*browser, "--dump-dom", address], check=True, timeout=120, capture_output=True, text=True
    )
    assert len(re.findall("<img", dom.stdout)) == page.count("<img")
    from matplotlib.image import imread

    pixels = imread(shot)
    assert pixels.shape[:2] == (6000, 1200)
    inked = (pixels[..., :3].min(-1) < 0.6).mean(1)
    blank = np.diff(np.flatnonzero(inked > 0)).max()
    assert blank < 400  # no hole where a figure should be
