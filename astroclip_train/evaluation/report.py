"""report.html: one self-contained page with the tables and figures of a run."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import AstroTrainError
from ..files import write_text
from . import curves, plots, spectra_plots
from . import report_tables as tables
from .artefacts import Prediction, RunFiles
from .assemble import assemble
from .captions import caption
from .style import number, png_uri, report_style
from .surveys import acknowledgements

__all__ = ["render_report"]

Tree = dict[str, Any]
Block = dict[str, Any]
MOST_EMBEDDINGS = 4


def render_report(run_path: str | Path) -> Path:
    """Writes report.html of a run from its files; parts whose artefacts are absent are named as such.

    metrics.json is computed first if the run has none.

    Returns:
        The path of the report.

    Raises:
        DataError: the path is no run directory, or a file is damaged.
    """
    files = RunFiles(run_path)
    metrics = files.json("metrics.json") or assemble(files.path)
    config = _config(files.text("config.yaml"))
    page = {
        "name": files.path.name,
        "subtitle": _subtitle(config),
        "facts": _facts(metrics, files.predictions()),
        "sections": _sections(files, metrics),
        "config": files.text("config.yaml").strip(),
        "overrides": files.text("overrides.txt").strip(),
        "environment": _environment(files.json("environment.json")),
        "acknowledgements": acknowledgements(files, config),
    }
    source = resources.files("astroclip_train.evaluation").joinpath("templates/report.html.j2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    path = files.path / "report.html"
    write_text(path, environment.from_string(source.read_text(encoding="utf-8")).render(page))
    return path


def _config(text: str) -> Tree:
    """The resolved configuration; a damaged one only costs the report its subtitle."""
    try:
        found = OmegaConf.to_container(OmegaConf.create(text or "{}"), resolve=False)
    except (OmegaConfBaseException, ValueError):
        return {}
    return found if isinstance(found, dict) else {}  # type: ignore[return-value]


def _subtitle(config: Tree) -> list[str]:
    run = config.get("run") or {}
    values = {"scale": config.get("scale"), "variant": config.get("variant"), "seed": run.get("seed")}
    return [f"{key} {value}" for key, value in values.items() if value is not None]


def _environment(record: Any) -> list[tuple[str, str]]:
    if not isinstance(record, dict):
        return []
    rows = []
    for key, value in record.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items())
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text:
            rows.append((str(key).replace("_", " "), text))
    return rows


def _facts(metrics: Tree, predictions: list[Prediction]) -> list[dict[str, str]]:
    """The few numbers at the top: recall, scatter over the bound of three routes, coverage of the flow."""
    out = []
    for name, r in metrics["retrieval"].items():
        beside = [f"chance {number(r['chance@10'], 2)}"]
        if r["oracle@10"] is not None:
            beside.insert(0, f"oracle {number(r['oracle@10'], 2)}")
        out.append({
            "value": number(r["recall@10"], 2), "what": f"recall@10, {name.replace('_to_', ' → ')}",
            "beside": f"{', '.join(beside)}; {r['gallery']:,} objects",
        })  # fmt: skip
    for modality in _modalities(predictions)[:1]:
        table = tables.headline_table(metrics, predictions, modality)
        if table and table.columns[-1].startswith("worst"):
            for row in table.rows:
                if row[0][0].startswith(("encoder alone", "fine-tuned", "raw spectrum, CNN")):
                    what = f"scatter / bound, {modality}, {row[0][0]}"
                    out.append(
                        {"value": row[-1][0], "what": what, "beside": f"{table.columns[-1]}; {table.title}"}
                    )
    for head, inputs in metrics["calibration"].items():
        if head.startswith("flow"):
            name = next((i for i in inputs if i.endswith("aligned")), next(iter(inputs)))
            c = inputs[name]
            if c["coverage68"] is not None:
                out.append({
                    "value": f"{c['coverage68']:.1%}",
                    "what": f"of truths in the 68 % interval, {head} on {name}",
                    "beside": f"{c['n']:,} objects",
                })  # fmt: skip
    return out


def _modalities(predictions: list[Prediction]) -> list[str]:
    names = {p.input.split(".")[0] for p in predictions if "+" not in p.input}
    return sorted(names, key=lambda m: (m != "lrs", m))


def _figure(drawn: Figure | None, text: str, title: str = "") -> Block:
    if drawn is None:
        return {}
    return {"kind": "figure", "src": png_uri(drawn), "caption": text, "title": title}


def _table(table: tables.Table | None, text: str, title: str = "", folded: bool = False) -> Block:
    if table is None:
        return {}
    return {"kind": "table", "table": table, "caption": text, "title": title, "folded": folded}


Builder = Callable[[RunFiles, Tree], list[Block]]


def _sections(files: RunFiles, metrics: Tree) -> list[Tree]:
    plan: list[tuple[str, str, Builder, str]] = [
        ("summary", "Results in short", _summary, "no head has been evaluated in this run"),
        ("training", "Training", _training, "metrics.csv holds no curves"),
        ("parameters", "Parameters", _parameters, "the heads stage has not been evaluated in this run"),
        ("calibration", "Calibration", _calibration, "no head of this run reports errors"),
        ("retrieval", "Retrieval", _retrieval, "the alignment stage has not been evaluated in this run"),
        ("translation", "Translated spectra", _translation, "this run has no decoders between surveys"),
        ("embedding", "Embedding", _embedding, "no embedding was kept in this run"),
        ("timing", "Timing", _timing, "no stage has reported its timing"),
    ]
    out = []
    for key, title, builder, absent in plan:
        try:
            with report_style():
                blocks = [b for b in builder(files, metrics) if b]
        except AstroTrainError as error:
            blocks, absent = [], str(error)  # one damaged file must not cost the other sections
        out.append({"key": key, "title": title, "blocks": blocks, "absent": absent})
    return out


def _summary(files: RunFiles, metrics: Tree) -> list[Block]:
    predictions = files.predictions()
    blocks = []
    for modality in _modalities(predictions):
        table = tables.headline_table(metrics, predictions, modality)
        if table:
            bounded = any(modality in m for m in metrics["crb"].values())
            main = "residual scatter over the Cramér–Rao bound" if bounded else "residual scatter"
            text = caption("headline", main=main, small="the scatter itself" if bounded else "R²")
            blocks.append(_table(table, text, f"{modality}, {table.title}"))
    return blocks


def _training(files: RunFiles, metrics: Tree) -> list[Block]:
    lines = curves.read_curves(files.text("metrics.csv"))
    return [
        _figure(curves.loss_figure(lines), caption("loss"), "Loss"),
        _figure(curves.probe_figure(lines), caption("probes"), "Online probes"),
    ]


def _shown(predictions: list[Prediction], modality: str) -> Prediction | None:
    """The prediction that stands for a modality in figures: aligned, else single, else raw; never chosen."""
    for kind in ("aligned", "single", "raw"):
        inputs = {p.head: p for p in predictions if p.input == f"{modality}.{kind}"}
        head = tables.preferred_head(inputs)
        if head:
            return inputs[head]
    return next((p for p in predictions if p.input.startswith(modality)), None)


def _parameters(files: RunFiles, metrics: Tree) -> list[Block]:
    predictions = files.predictions()
    blocks = []
    for modality in _modalities(predictions):
        p = _shown(predictions, modality)
        if p is None:
            continue
        name = f"{p.head} on {p.input}"
        rows = tables.headline_rows(predictions, modality)
        blocks += [
            _figure(plots.truth_figure(p), caption("truth"), f"Truth against prediction: {name}"),
            _figure(plots.residual_figure(p), caption("residuals"), f"Residuals: {name}"),
            _figure(
                plots.pull_figure(metrics["heads"], rows), caption("pull"), f"Scatter over bound: {modality}"
            ),
        ]
    everything = tables.full_table(metrics)
    return [*blocks, _table(everything, caption("all_heads"), "Every head and input", folded=True)]


def _calibration(files: RunFiles, metrics: Tree) -> list[Block]:
    predictions = [p for p in files.predictions() if p.get("pit") is not None]
    flows = [p for p in predictions if p.head.startswith("flow")] or predictions
    aligned = [p for p in flows if p.input.endswith("aligned")] or flows
    return [
        _table(tables.calibration_table(metrics), caption("coverage"), "Coverage"),
        _figure(plots.pit_figure(aligned[:3]), caption("pit"), "Probability integral transform"),
    ]


def _labels_by_sample(predictions: list[Prediction]) -> dict[int, dict[str, float]]:
    for p in predictions:
        if "sample" in p.arrays:
            rows = zip(p.arrays["sample"].tolist(), p.arrays["truth"].tolist(), strict=True)
            return {int(sample): dict(zip(p.labels, truth, strict=True)) for sample, truth in rows}
    return {}


def _retrieval(files: RunFiles, metrics: Tree) -> list[Block]:
    found = files.folder("retrieval")
    spectra, labels = files.folder("spectra"), _labels_by_sample(files.predictions())
    blocks = [
        _table(tables.retrieval_table(metrics), caption("recall"), "Recall"),
        _figure(spectra_plots.rank_figure(found), caption("ranks"), "Recall against k"),
    ]
    for name, arrays in found.items():
        drawn = spectra_plots.retrieval_figure(name, arrays, spectra, labels)
        blocks.append(_figure(drawn, caption("neighbours"), f"Examples, {name.replace('_to_', ' → ')}"))
    return blocks


def _translation(files: RunFiles, metrics: Tree) -> list[Block]:
    found = files.folder("translation")
    blocks = [
        _table(tables.translation_table(metrics), caption("translation"), "Residuals"),
        _table(
            tables.information_table(metrics), caption("information"), "Information gained by the decoders"
        ),
    ]
    for name, arrays in found.items():
        drawn = spectra_plots.translation_figure(name, arrays)
        blocks.append(_figure(drawn, caption("translated"), f"Examples, {name.replace('_to_', ' → ')}"))
    drawn = spectra_plots.translation_residual_figure(found)
    return [*blocks, _figure(drawn, caption("wavelengths"), "Residuals by wavelength")]


def _embedding(files: RunFiles, metrics: Tree) -> list[Block]:
    units = {label: entry["unit"] for label, entry in metrics["labels"].items()}
    found = files.folder("embedding")
    # pictures of raw pixels say nothing about the training, and four embeddings are enough for one page
    names = sorted(found, key=lambda n: (n.endswith("raw"), "aligned" not in n, n))[:MOST_EMBEDDINGS]
    blocks = []
    for name in names:
        arrays = found[name]
        method = str(arrays["method"]) if "method" in arrays else "two dimensions"
        text = caption("embedding", method=method, n=min(len(arrays["xy"]), plots.MOST_POINTS))
        blocks.append(_figure(plots.embedding_figure(arrays, units), text, name))
    return blocks


def _timing(files: RunFiles, metrics: Tree) -> list[Block]:
    return [_table(tables.timing_table(metrics), caption("timing"))]
