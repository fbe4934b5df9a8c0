"""Tables of a report, as plain rows for the template: headline, all heads, calibration, retrieval, timing."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .artefacts import Prediction
from .style import number, symbol

__all__ = [
    "Table",
    "calibration_table",
    "full_table",
    "headline_rows",
    "headline_table",
    "preferred_head",
    "retrieval_table",
    "timing_table",
    "translation_table",
]

Tree = dict[str, Any]
HEAD_ORDER = ("mlp", "flow", "linear", "knn")
WORST_OF = ("teff", "logg", "feh", "rv")


@dataclass
class Table:
    """Column titles and rows of cells; a cell is text or (text, small text below, marked as best)."""

    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)
    title: str = ""


def preferred_head(heads: Iterable[str]) -> str | None:
    """The head that stands for frozen features: by a fixed order, never by its test result."""
    frozen = [h for h in heads if not _is_special(h)]
    ranked = [h for wanted in HEAD_ORDER for h in frozen if h.startswith(wanted)]
    return next(iter(ranked + sorted(frozen)), None)


def _is_special(head: str) -> bool:
    return "cnn" in head or head.startswith("finetune")


def headline_rows(predictions: list[Prediction], modality: str) -> list[tuple[str, str, str]]:
    """(title, head, input) of the methods to compare for one modality, in order of what they were given."""
    have = {(p.head, p.input) for p in predictions}
    rows = [("raw spectrum, CNN", h, i) for h, i in sorted(have) if "cnn" in h and i == f"{modality}.raw"]
    for title, name in (
        ("raw spectrum, {}", f"{modality}.raw"),
        ("encoder alone, frozen, {}", f"{modality}.single"),
        ("aligned, frozen, {}", f"{modality}.aligned"),
    ):
        head = preferred_head(h for h, i in have if i == name)
        if head:
            rows.append((title.format(head.upper() if head == "mlp" else head), head, name))
    rows += [
        (f"fine-tuned, {i.split('.')[-1]}", h, i)
        for h, i in sorted(have)
        if h.startswith("finetune") and i.split(".")[0] == modality and "+" not in i
    ]
    joint = sorted({i for _, i in have if "+" in i and i.startswith(modality)})
    for name in joint:
        head = preferred_head(h for h, i in have if i == name)
        if head:
            rows.append((f"both surveys, {head.upper() if head == 'mlp' else head}", head, name))
    return rows


def headline_table(metrics: Tree, predictions: list[Prediction], modality: str) -> Table | None:
    """Scatter over the bound, and scatter, of each method and label, at S/N > 50 where such objects exist."""
    methods = headline_rows(predictions, modality)
    labels = [label for label in metrics["labels"] if label in metrics["heads"]]
    if not methods or not labels:
        return None
    have = [
        metrics["heads"][x].get(h, {}).get(i, {}).get("snr50", {}).get("sigma")
        for x in labels
        for _, h, i in methods
    ]
    subset = "snr50" if any(v is not None for v in have) else "all"
    bounded = any(modality in metrics["crb"].get(label, {}) for label in labels)
    key = "pull_sigma" if bounded else "sigma"
    table = Table(
        ["method", *(_titled(metrics, x) for x in labels)],
        title="S/N > 50" if subset == "snr50" else "all objects",
    )
    worst = [x for x in WORST_OF if x in labels] if bounded else []
    if worst:
        table.columns.append("worst of " + ", ".join(map(symbol, worst)))
    values = {
        (x, h, i): metrics["heads"][x].get(h, {}).get(i, {}).get(subset, {})
        for x in labels
        for _, h, i in methods
    }
    best = {
        x: min(
            (v[key] for _, h, i in methods if (v := values[x, h, i]).get(key) is not None and "+" not in i),
            default=None,
        )
        for x in labels
    }
    for title, h, i in methods:
        cells: list[Any] = [(title, i, False)]
        cells += [_headline_cell(values[x, h, i], key, best[x]) for x in labels]
        if worst:
            pulls = [values[x, h, i].get(key) for x in worst]
            known = [v for v in pulls if v is not None]
            cells.append((number(max(known)) if len(known) == len(worst) else "–", "", False))
        table.rows.append(cells)
    if bounded:
        bounds = [metrics["crb"].get(x, {}).get(modality, {}).get(subset) for x in labels]
        cells = [("Cramér–Rao bound", "median of the test objects", False)]
        cells += [("1", f"σ {number(v)}", False) if v is not None else "–" for v in bounds]
        table.rows.append(cells + ([""] if worst else []))
    return table


def _titled(metrics: Tree, label: str) -> str:
    unit = metrics["labels"][label]["unit"]
    return f"{symbol(label)} [{unit}]" if unit else symbol(label)


def _headline_cell(values: Tree, key: str, best: float | None) -> Any:
    value, error = values.get(key), values.get(f"{key}_err")
    if value is None:
        sigma = values.get("sigma")
        return ("–", f"σ {number(sigma)}", False) if sigma is not None else "–"
    text = number(value) + (f" ± {number(error, 1)}" if error is not None else "")
    below = f"σ {number(values.get('sigma'))}" if key == "pull_sigma" else f"R² {number(values.get('r2'))}"
    return (text, below, value == best)


def full_table(metrics: Tree) -> Table | None:
    """Every label, head and input, for all objects and at S/N > 50."""
    table = Table(
        [
            "label",
            "head",
            "input",
            "n",
            "bias",
            "σ",
            "MAD",
            "R²",
            "outliers",
            "pull σ",
            "n, S/N > 50",
            "σ",
            "pull σ",
        ]
    )
    for label, heads in metrics["heads"].items():
        for head, inputs in heads.items():
            for name, sets in inputs.items():
                a, b = sets["all"], sets["snr50"]
                table.rows.append([
                    symbol(label), head, name, f"{a['n']:,}",
                    *(number(a[key]) for key in ("bias", "sigma", "mad", "r2")),
                    "–" if a["outliers"] is None else f"{a['outliers']:.1%}",
                    number(a["pull_sigma"]), f"{b['n']:,}", number(b["sigma"]), number(b["pull_sigma"]),
                ])  # fmt: skip
    return table if table.rows else None


def calibration_table(metrics: Tree) -> Table | None:
    """Coverage at 68 and 95 %, calibration error and likelihood of every head that reports errors."""
    table = Table(
        ["head", "input", "objects", "coverage 68 %", "coverage 95 %", "calibration error", "NLL [nats]"]
    )
    for head, inputs in metrics["calibration"].items():
        for name, c in inputs.items():
            error = c.get("coverage68_err")
            margin = f" ± {error:.1%}" if error is not None else ""
            table.rows.append([
                head, name, f"{c['n']:,}",
                "–" if c["coverage68"] is None else f"{c['coverage68']:.1%}{margin}",
                "–" if c["coverage95"] is None else f"{c['coverage95']:.1%}",
                number(c.get("ece"), 2), number(c["nll"]),
            ])  # fmt: skip
    return table if table.rows else None


def retrieval_table(metrics: Tree) -> Table | None:
    """Recall and median rank of each direction, beside the ideal observer and chance."""
    shown = ("recall@1", "recall@10", "median rank", "oracle@1", "oracle@10", "chance@10")
    table = Table(["direction", "gallery", "queries", *shown])
    for name, r in metrics["retrieval"].items():
        error = r.get("recall@10_err")
        margin = f" ± {number(error, 1)}" if error else ""
        table.rows.append([
            name.replace("_to_", " → "), f"{r['gallery']:,}", f"{r['n']:,}", number(r["recall@1"]),
            number(r["recall@10"]) + margin, "–" if r["median_rank"] is None else f"{r['median_rank']:,g}",
            number(r.get("oracle@1")), number(r["oracle@10"]), number(r["chance@10"], 2),
        ])  # fmt: skip
    return table if table.rows else None


def translation_table(metrics: Tree) -> Table | None:
    """Residuals of predicted spectra, beside those of predicting the mean spectrum."""
    table = Table(["direction", "objects", "rms residual", "rms of the mean spectrum", "median χ²/pixel"])
    for name, t in metrics["translation"].items():
        table.rows.append([
            name.replace("_to_", " → "), f"{t['n']:,}",
            number(t["rmse"]), number(t.get("rmse_baseline")), number(t["chi2"]),
        ])  # fmt: skip
    return table if table.rows else None


def information_table(metrics: Tree) -> Table | None:
    """Gains of the decoders over the Gaussian of all training spectra."""
    table = Table(["decoder", "gain [nats per object]", "error"])
    for name, t in (metrics.get("information") or {}).items():
        table.rows.append([name.replace("_to_", " → "), number(t["gain"]), number(t.get("gain_err"), 2)])
    return table if table.rows else None


def timing_table(metrics: Tree) -> Table | None:
    """Seconds, rate, data wait, FLOPs utilisation and memory of each stage."""
    table = Table(["stage", "seconds", "steps", "samples/s", "data wait", "MFU", "peak memory [GB]"])
    for stage, t in metrics["timing"].items():
        share = [("–" if t.get(key) is None else f"{t[key]:.1%}") for key in ("data_wait", "mfu")]
        steps = t.get("steps")
        table.rows.append([
            stage, number(t["seconds"]), "–" if steps is None else f"{int(steps):,}",
            number(t["samples_per_second"]), *share, number(t.get("peak_memory_gb"), 2),
        ])  # fmt: skip
    # the tasks of a stage, `heads/mlp__…`, are part of it
    total = sum(t["seconds"] or 0.0 for stage, t in metrics["timing"].items() if "/" not in stage)
    if len(table.rows) > 1:
        table.rows.append(["all", number(total), "", "", "", "", ""])
    return table if table.rows else None
