"""The model card of an exported folder: what it is, its training data, how good it is, how to load it."""

import math
from typing import Any

from .model import AstroModel

__all__ = ["card"]

LIMITS = """\
- Inputs must be prepared as stated above: same grid, medium, frame and normalisation. `astro-model` and
  `astro-data convert` do this; a spectrum on another grid is refused, one with another normalisation is not
  recognised by its numbers and gives wrong answers.
- Labels outside the range of the training set are extrapolated. `in_domain` is false for objects whose
  embedding lies farther from the training set than 99.5 % of its members; true is no guarantee.
- Standard deviations are those of the head: check their calibration on your own objects.
"""


def card(config: dict[str, Any], model: AstroModel, metrics: dict[str, Any] | None) -> str:
    """The text of README.md, with Hugging Face front matter."""
    sections = [
        _front_matter(config, model),
        f"# {config['name']}\n",
        f"A model of {' and '.join(_survey(model, m) for m in model.modalities)} spectra, trained with "
        f"astro-train {config['versions']['astro-train']}.\n",
        "## Load\n" + _snippet(model),
        "## Inputs\n" + _inputs(model),
        "## Parts\n" + _parts(config),
        "## Training data\n" + _training(config["metadata"]),
        "## Metrics\n" + _metrics(metrics),
        "## Limits\n" + LIMITS,
    ]
    return "\n".join(sections)


def _survey(model: AstroModel, modality: str) -> str:
    attributes = model.metadata.get("modalities", {}).get(modality, {})
    return f"{attributes.get('survey', modality)} (`{modality}`)"


def _front_matter(config: dict[str, Any], model: AstroModel) -> str:
    tags = ["astronomy", "spectroscopy", "foundation-model", "astro-train", *model.modalities]
    lines = ["---", f"license: {config['licence']}", "library_name: astro-train", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---\n"])


def _snippet(model: AstroModel) -> str:
    m = model.modalities[0]
    kind = "aligned" if f"{m}.aligned" in model.routes else "single"
    lines = [
        "```python",
        "from astroclip_train.hub.load import load",
        "",
        'model = load("path/to/this/folder")  # plain PyTorch: neither Hydra nor Lightning is imported',
        f'z = model.embed("{m}", flux, ivar, mask, kind="{kind}")  # flux (b, {model.length(m)}) -> (b, k)',
    ]
    if model.predictors:
        lines.append(f'labels = model.predict("{m}", flux, ivar, mask)  # label -> mean, std, unit')
    if len(model.modalities) > 1 and model.can_translate(*model.modalities[:2]):
        a, b = model.modalities[:2]
        lines.append(f'{b} = model.translate("{a}", "{b}", flux)  # (b, {model.length(b)})')
    return "\n".join([*lines, "```\n"])


def _inputs(model: AstroModel) -> str:
    rows = [
        "| modality | survey | grid | medium | frame | flux unit | normalisation |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in model.modalities:
        info = model.info(m)
        applied = ", ".join(info.normalisation) or "none"
        cells = (m, info.survey, info.grid, info.medium, info.frame, info.unit or "1", applied)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def _parts(config: dict[str, Any]) -> str:
    rows = ["| part | class | parameters |", "|---|---|---|"]
    for name, entry in config["architecture"].items():
        inner = entry.get("objective", entry) if isinstance(entry.get("objective"), dict) else entry
        rows.append(f"| {name} | {inner['_target_'].rsplit('.', 1)[-1]} | {config['parameters'][name]:,} |")
    return "\n".join(rows) + "\n"


def _training(metadata: dict[str, Any]) -> str:
    lines = [f"- content hash of the data: `{metadata['data']}`"] if "data" in metadata else []
    if metadata.get("dataset"):
        told = ", ".join(
            f"{key} = {value}" for key, value in metadata["dataset"].items() if value is not None
        )
        lines.append(f"- dataset: `{told}`")
    units = metadata.get("label_units", {})
    if metadata.get("labels"):
        lines.append("- labels: " + ", ".join(f"{n} [{units.get(n) or '1'}]" for n in metadata["labels"]))
    return "\n".join(lines or ["Not recorded."]) + "\n"


def _metrics(metrics: dict[str, Any] | None) -> str:
    """One row per label, head and input, on test objects; the errors are bootstrap standard deviations."""
    heads = (metrics or {}).get("heads", {})
    if not heads:
        return "None were recorded with this model.\n"
    rows = [
        "| label | head | input | n | σ | bias | R² | σ at S/N > 50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, by_head in heads.items():
        for head, by_input in by_head.items():
            for source, groups in by_input.items():
                every, bright = groups.get("all") or {}, groups.get("snr50") or {}
                cells = [_number(every, key) for key in ("sigma", "bias", "r2")] + [_number(bright, "sigma")]
                rows.append(
                    f"| {label} | {head} | {source} | {every.get('n', '–')} | " + " | ".join(cells) + " |"
                )
    for pair, values in (metrics or {}).get("retrieval", {}).items():
        recall = _number(values, "recall@10")
        rows.append(f"\nRetrieval {pair.replace('_', ' ')}: recall@10 {recall} (n = {values.get('n')}).")
    return "\n".join(rows) + "\n"


def _number(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    error = next(
        (values[k] for k in (f"{key}_error", f"{key}_err", f"{key}_std") if values.get(k) is not None), None
    )
    if value is None:
        return "–"
    if not error:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(abs(error))))  # two significant digits of the error
    return f"{value:.{digits}f} ± {error:.{digits}f}"
