"""The schema of metrics.json: JSON Schema (draft 2020-12) in a dictionary, and a check against it."""

from typing import Any

from ..errors import DataError

__all__ = ["METRICS_SCHEMA", "SCHEMA_VERSION", "validate_metrics"]

SCHEMA_VERSION = 1

Schema = dict[str, Any]


def _number(description: str, low: float | None = None, high: float | None = None) -> Schema:
    out: Schema = {"type": ["number", "null"], "description": description}
    out |= {} if low is None else {"minimum": low}
    return out | ({} if high is None else {"maximum": high})


def _count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def _object(properties: Schema, required: tuple[str, ...], extra: Schema | bool = False) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": extra,
    }


def _map(of: str, values: Schema) -> Schema:
    return {"type": "object", "description": f"one entry for each {of}", "additionalProperties": values}


def _with_errors(values: dict[str, Schema]) -> dict[str, Schema]:
    errors = {f"{key}_err": _number(f"bootstrap standard error of {key}", 0) for key in values}
    return {**values, **errors}


_RESIDUALS = {
    "bias": _number("median of prediction - truth, in the label's unit"),
    "sigma": _number("biweight scatter of prediction - truth, in the label's unit", 0),
    "mad": _number("median absolute deviation / 0.6745, in the label's unit", 0),
    "r2": _number("1 - SS_residual / SS_total", None, 1),
    "outliers": _number("fraction further than 5 sigma from the median", 0, 1),
    "pull_sigma": _number("biweight scatter of residual / Cramér–Rao bound", 0),
    "pull_bias": _number("median of residual / Cramér–Rao bound"),
    "std_pull": _number("biweight scatter of residual / the head's own error", 0),
}
_SET_KEYS = {
    "n": _count("objects with label and prediction"),
    "nonfinite": _count("labelled objects without a finite prediction"),
    **_with_errors(_RESIDUALS),
}
_SET_REQUIRED = ("n", "bias", "sigma", "mad", "r2", "outliers", "pull_sigma")
_SET = _object(_SET_KEYS, _SET_REQUIRED)
_EDGES = {"low": _number("lower edge in S/N"), "high": _number("upper edge in S/N, null is open")}
_BIN = _object({**_EDGES, **_SET_KEYS}, ("low", "high", *_SET_REQUIRED))
_HEAD = _object(
    {"all": _SET, "snr50": _SET, "snr120": _SET, "bins": {"type": "array", "items": _BIN}}, ("all", "snr50")
)

_CRB = _object(
    {
        "all": _number("median Cramér–Rao σ of the test objects, in the label's unit", 0),
        "snr50": _number("the same at S/N > 50", 0),
        "n": _count("objects"),
        "n_snr50": _count("objects at S/N > 50"),
    },
    ("all", "snr50"),
)

_RETRIEVAL = _object(
    {
        "n": _count("queries with a right answer in the gallery"),
        "gallery": _count("gallery entries"),
        "median_rank": _number("median rank of the best right answer, from 1", 1),
        **{
            f"{kind}@{k}{suffix}": _number(f"{text} in the first {k}", 0, 1)
            for k in (1, 10)
            for kind, suffix, text in (
                ("recall", "", "fraction of queries with a right answer"),
                ("recall", "_err", "binomial error of a right answer"),
                ("chance", "", "random ranking: right answer"),
                ("oracle", "", "ideal observer at the Cramér–Rao bound: right answer"),
            )
        },
    },
    ("n", "gallery", "recall@1", "recall@10", "median_rank", "oracle@10", "chance@10"),
)

_TRANSLATION = _object(
    {
        "n": _count("objects"),
        "unit": {"type": "string"},
        "rmse_baseline": _number("root mean square residual of predicting the mean spectrum", 0),
        **_with_errors(
            {
                "rmse": _number("root mean square residual over good pixels, in the flux unit", 0),
                "rmse_median": _number("median over objects of the same", 0),
                "chi2": _number("median over objects of the squared residual / variance per pixel", 0),
            }
        ),
    },
    ("n", "rmse", "chi2"),
)

_INFORMATION = _object(
    {
        "n": _count("test objects"),
        "batches": _count("batches of them"),
        **_with_errors({"gain": _number("E log q(x|z) - E log q0(x) over a full-covariance Gaussian, nats")}),
    },
    ("n", "batches", "gain"),
)

_CALIBRATION_KEYS = {
    "n": _count("objects"),
    "outside": _count("objects whose truth has no density at all; they are not in nll"),
    "ece": _number("mean |coverage - level| over central levels", 0, 0.5),
    **_with_errors(
        {
            "coverage68": _number("fraction of truths in the central 68 % interval", 0, 1),
            "coverage95": _number("fraction of truths in the central 95 % interval", 0, 1),
            "nll": _number("mean negative log density of the truth, nats"),
        }
    ),
}
_CALIBRATION_REQUIRED = ("n", "coverage68", "coverage95", "nll")
_CALIBRATION = _object(
    {**_CALIBRATION_KEYS, "labels": _map("label", _object(_CALIBRATION_KEYS, _CALIBRATION_REQUIRED))},
    (*_CALIBRATION_REQUIRED, "labels"),
)

_TIMING = _object(
    {
        "seconds": _number("wall seconds of the stage", 0),
        "samples_per_second": _number("training rate, waiting included", 0),
        "data_wait": _number("fraction of training time waiting for data", 0, 1),
        "mfu": _number("model FLOPs utilisation", 0),
    },
    ("seconds", "samples_per_second", "data_wait", "mfu"),
    extra=True,
)

METRICS_SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "metrics.json of an astro-train run",
    **_object(
        {
            "version": {"type": "integer", "enum": [SCHEMA_VERSION]},
            "run": {"type": "string"},
            "bootstrap": _count("resamples behind every _err"),
            "labels": _map("label", _object({"unit": {"type": "string"}}, ("unit",), extra=True)),
            "heads": _map("label", _map("head", _map("input", _HEAD))),
            "crb": _map("label", _map("modality", _CRB)),
            "retrieval": _map("<a>_to_<b>", _RETRIEVAL),
            "translation": _map("<a>_to_<b>", _TRANSLATION),
            "information": _map("<a>_to_<b>", _INFORMATION),
            "calibration": _map("head", _map("input", _CALIBRATION)),
            "timing": _map("stage", _TIMING),
        },
        ("version", "run", "labels", "heads", "crb", "retrieval", "translation", "calibration", "timing"),
    ),
}

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not isinstance(value, bool)


def _problem(value: Any, schema: Schema, path: str) -> str | None:
    """The first disagreement as `path: what is wrong`, or None; knows the keywords of METRICS_SCHEMA."""
    where = path or "the file"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} is {type(value).__name__}, expected {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is {value!r}, expected {' or '.join(map(repr, schema['enum']))}"
    if _is(value, "number"):
        if not value >= schema.get("minimum", -float("inf")) or value == float("inf"):
            return f"{where} is {value}, expected a finite number from {schema.get('minimum', '-inf')}"
        if value > schema.get("maximum", float("inf")):
            return f"{where} is {value}, expected at most {schema['maximum']}"
    if isinstance(value, dict):
        return _object_problem(value, schema, path)
    if isinstance(value, list | tuple) and "items" in schema:
        parts = (_problem(v, schema["items"], f"{path}[{i}]") for i, v in enumerate(value))
        return next((p for p in parts if p), None)
    return None


def _object_problem(value: dict[str, Any], schema: Schema, path: str) -> str | None:
    missing = [key for key in schema.get("required", ()) if key not in value]
    if missing:
        return f"{path or 'the file'} lacks {', '.join(missing)}"
    known, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, content in value.items():
        inner = known.get(key, extra)
        if inner is False:
            return f"{path or 'the file'} has the unknown key {key}"
        if isinstance(inner, dict):
            problem = _problem(content, inner, f"{path}.{key}" if path else str(key))
            if problem:
                return problem
    return None


def validate_metrics(metrics: dict[str, Any]) -> None:
    """Checks the content of metrics.json against `METRICS_SCHEMA`.

    Raises:
        DataError: it does not fit; the sentence names the first key that does not.
    """
    problem = _problem(metrics, METRICS_SCHEMA, "")
    if problem:
        raise DataError(
            f"metrics.json does not follow its schema (version {SCHEMA_VERSION}): {problem}; "
            "see docs/metrics.md for what is expected."
        )
