"""Runs side by side: one small table from their metrics.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import DataError
from ..files import read_json
from .schema import validate_metrics
from .style import number, symbol

__all__ = ["compare", "compare_rows"]


def compare_rows(
    runs: Sequence[str | Path], heads: Sequence[str] | None = None, inputs: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One row for each run, head and input: what `compare` prints, as numbers.

    Arguments:
        runs: run directories.
        heads, inputs: only these; None is all.

    Returns:
        Rows with `run, head, input`, and `values[label]` = (scatter over bound, or scatter where no bound is known,
        at S/N > 50 where such objects exist; its bootstrap error).

    Raises:
        DataError: a run has no metrics.json, or it does not follow the schema.
    """
    rows = []
    for run in map(Path, runs):
        path = run / "metrics.json"
        if not path.exists():
            raise DataError(f"{run} has no metrics.json: finish the run, or name another run directory.")
        metrics = read_json(path)
        validate_metrics(metrics)
        methods = sorted(
            {(h, i) for by_head in metrics["heads"].values() for h, m in by_head.items() for i in m}
        )
        for head, name in methods:
            if (heads is None or head in heads) and (inputs is None or name in inputs):
                values = {x: _value(metrics["heads"][x].get(head, {}).get(name)) for x in metrics["heads"]}
                rows.append({"run": run.name, "head": head, "input": name, "values": values})
    return rows


def _value(sets: dict[str, Any] | None) -> tuple[float | None, float | None]:
    for subset in ("snr50", "all"):
        for key in ("pull_sigma", "sigma"):
            found = (sets or {}).get(subset, {})
            if found.get(key) is not None:
                return found[key], found.get(f"{key}_err")
    return None, None


def compare(
    runs: Sequence[str | Path], heads: Sequence[str] | None = None, inputs: Sequence[str] | None = None
) -> Table:
    """A table for the terminal: scatter over bound (else scatter) of each label, by run, head and input.

    Arguments and errors as `compare_rows`.
    """
    rows = compare_rows(runs, heads, inputs)
    labels = list(dict.fromkeys(label for row in rows for label in row["values"]))
    table = Table(title="scatter / bound (scatter where no bound is known), S/N > 50")
    for column in ("run", "head", "input"):
        table.add_column(column)
    for label in labels:
        table.add_column(symbol(label), justify="right")
    for row in rows:
        cells = [_cell(row["values"].get(label, (None, None))) for label in labels]
        table.add_row(row["run"], row["head"], row["input"], *cells)
    return table


def _cell(value: tuple[float | None, float | None]) -> str:
    return number(value[0]) + (f" ± {number(value[1], 1)}" if value[1] is not None else "")
