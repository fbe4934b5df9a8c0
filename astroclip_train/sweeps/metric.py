"""The validation metric that a sweep reads: its name, and its values in a run's metrics.csv."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.messages import closest, listing
from ..config.rules import references
from ..errors import ConfigError
from ..files import read_json

__all__ = ["Metric", "metric_of", "needed_stages"]

TEST = ("test", "retrieval", "calibration", "translation", "crb", "evaluation", "metrics")
VALIDATION = ("val_", "probe_")


@dataclass(frozen=True)
class Metric:
    """One column of one fit.

    Attributes:
        name: as given, `<stage>.<column>` or `heads.<task>__<input>.<column>`.
        stage: the stage that measures it.
        fit: its rows in metrics.csv.
        column: of metrics.csv.
    """

    name: str
    stage: str
    fit: str
    column: str

    def _home(self, run: Path) -> Path:
        """The run that trained the stage: this one, or the one it was taken from."""
        link = run / "stages" / self.stage / "reused.json"
        return Path(read_json(link)["folder"]).parents[1] if link.exists() else run

    def rows(self, run: Path, *, growing: bool = False) -> list[tuple[int, float]]:
        """(step, value) of every row that has it; the last line of a growing file may be torn and is left out."""
        return [
            (step, float(row[self.column])) for step, row in self._table(run, growing) if row.get(self.column)
        ]

    def measured(self, run: Path, *, growing: bool = False) -> list[str]:
        """The metrics of its kind (validation or probes) that the fit has written so far, by their whole names."""
        columns = {k for _, row in self._table(run, growing) for k, v in row.items() if v}
        prefix = self.name.removesuffix(self.column)
        kind = next(v for v in VALIDATION if self.column.startswith(v))  # the two come at steps of their own
        return sorted(prefix + c for c in columns if c.startswith(kind))

    def value(self, run: Path) -> float | None:
        """The value of the checkpoint that the stage keeps: at its best step, else the last one; None if absent."""
        rows = dict(self.rows(run))
        if not rows:
            return None
        folder = self._home(run) / "stages" / self.stage
        if "/" in self.fit:
            folder = folder / "tasks" / self.fit.split("/", 1)[1]
        done = folder / "done.json"
        best = read_json(done).get("best_step") if done.exists() else None
        return rows[best] if best in rows else rows[max(rows)]

    def absent(self, run: Path, *, growing: bool = False) -> ConfigError | None:
        """The error to raise once the fit validates but does not measure this; None while that is open."""
        known = self.measured(run, growing=growing)
        if not known or self.name in known:
            return None
        near = closest(self.name, known)
        advice = f"did you mean {near}?" if near else f"choose one of {listing(known)}."
        return ConfigError(f"sweep.metric={self.name} is not measured by stage {self.stage}: {advice}")

    def _table(self, run: Path, growing: bool) -> list[tuple[int, dict[str, str]]]:
        path = self._home(run) / "metrics.csv"
        if not path.exists():
            return []
        text = path.read_bytes().decode("utf-8", errors="replace")
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        if growing and len(lines) > 1:
            del lines[-1]
        header = lines[0] if lines else []
        return [
            (int(line[1]), dict(zip(header, line, strict=True)))
            for line in lines[1:]
            if len(line) == len(header) and line[0] == self.fit and line[1].isdigit()
        ]


def metric_of(name: str | None, config: Mapping[str, Any]) -> Metric:
    """Reads and checks `sweep.metric`.

    Raises:
        ConfigError: it is absent, measured on test or training objects, or names no fit of the experiment.
    """
    fits = _fits(config)
    known = [f"{fit}.val_loss" for fit in fits]
    if not name:
        raise ConfigError(f"sweep.metric is not set: name a validation metric, one of {listing(known)}.")
    labels = config["labels"]["names"]
    parts = name.split(".")
    is_label = parts[0] == "heads" and len(parts) > 1 and parts[1] in labels
    if parts[0] in TEST or is_label or "test" in re.split(r"[._]", name):
        example = closest(name, known) or next(iter(known), "<stage>.val_loss")
        raise ConfigError(
            f"sweep.metric={name} is measured on test objects, which a sweep must not see: "
            f"take a validation metric such as {example}."
        )
    fit = next((f for f in sorted(fits, key=len, reverse=True) if name.startswith(f + ".")), None)
    if fit is None:
        near = closest(name, known)
        advice = f"did you mean {near}?" if near else f"choose one of {listing(known)}."
        raise ConfigError(f"sweep.metric={name} is not a metric of this experiment: {advice}")
    column = name.removeprefix(fit + ".")
    if not column.startswith(VALIDATION):
        meant = closest(column, ["val_loss", f"val_{column}"]) or "val_loss"
        raise ConfigError(
            f"sweep.metric={name} is not a validation metric, whose names begin with val_ or probe_: "
            f"did you mean {fit}.{meant}?"
        )
    return Metric(name, fits[fit].split("/")[0], fits[fit], column)


def _fits(config: Mapping[str, Any]) -> dict[str, str]:
    """Fits that are validated, as they are spelt in a metric -> as they stand in metrics.csv."""
    found = {}
    for stage, node in config["stages"].items():
        if "tasks" not in node:
            found[stage] = stage
        for task, inner in (node.get("tasks") or {}).items():
            head = inner.get("head") or node["tasks"][inner["init"]].get("head") or {}
            if not _closed_form(str(head.get("_target_"))):
                found |= {f"{stage}.{task}__{i}": f"{stage}/{task}__{i}" for i in inner["inputs"]}
    return found


def _closed_form(target: str) -> bool:
    from ..config.targets import locate

    return bool(getattr(locate(target, "head"), "closed_form", False))


def needed_stages(stage: str, config: Mapping[str, Any]) -> list[str]:
    """A stage and those it builds on, in the order of the experiment."""
    stages, wanted = config["stages"], [stage]
    for name in wanted:
        wanted += [o for _, o in references(stages[name]) if o in stages and o not in wanted]
    return [name for name in stages if name in wanted]
