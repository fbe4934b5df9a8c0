"""metrics.csv: one row per (stage, step), safe against a kill at any moment, cut back on resume."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_text

__all__ = ["MetricsLog"]

KEYS = ("stage", "step")


class MetricsLog:
    """Appends rows to a CSV file whose columns grow with the metrics.

    A row written twice for the same (stage, step) is merged. A torn last line, left by a kill, is dropped.

    Arguments:
        path: the file; made when the first row comes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.columns: list[str] = list(KEYS)
        self.rows: dict[tuple[str, int], dict[str, str]] = {}
        self._end = 0  # size of the file as far as it holds whole rows
        self._last: tuple[tuple[str, int], int] | None = None  # the newest row and where it begins
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        lines = list(csv.reader(io.StringIO(whole)))
        if lines and lines[0][:2] == list(KEYS):
            self.columns = lines[0]
            for line in lines[1:]:
                if len(line) == len(self.columns) and line[1].lstrip("-").isdigit():
                    row = {k: v for k, v in zip(self.columns[2:], line[2:], strict=True) if v != ""}
                    self.rows.setdefault((line[0], int(line[1])), {}).update(row)
        self._rewrite()

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds values to the row of (stage, step); None is left empty."""
        key = (stage, int(step))
        values = {
            name: _text(value) for name, value in metrics.items() if value is not None and name not in KEYS
        }
        is_new = key not in self.rows
        self.rows.setdefault(key, {}).update(values)
        fresh = [name for name in values if name not in self.columns]
        self.columns += fresh
        at_end = is_new or (self._last is not None and self._last[0] == key)
        if fresh or not at_end or not self.path.exists():
            self._rewrite()
            return
        start = self._end if is_new or self._last is None else self._last[1]
        line = self._line(key).encode()
        with open(self.path, "rb+") as handle:  # the merged row is never shorter than the one it covers
            handle.seek(start)
            handle.write(line)
            handle.truncate()
        self._last, self._end = (key, start), start + len(line)

    def cut(self, stage: str, step: int) -> int:
        """Removes the rows of `stage` beyond `step` and returns how many there were."""
        beyond = [key for key in self.rows if key[0] == stage and key[1] > step]
        for key in beyond:
            del self.rows[key]
        if beyond:
            self._rewrite()
        return len(beyond)

    def last_step(self, stage: str) -> int | None:
        """The newest step of a stage."""
        return max((s for name, s in self.rows if name == stage), default=None)

    def _line(self, key: tuple[str, int]) -> str:
        row = self.rows[key]
        return _csv([*key, *(row.get(c, "") for c in self.columns[2:])])

    def _rewrite(self) -> None:
        header = _csv(self.columns)
        lines = [self._line(key) for key in self.rows]
        write_text(self.path, header + "".join(lines))
        self._end = len((header + "".join(lines)).encode())
        last = list(self.rows)[-1:] if self.rows else []
        self._last = (last[0], self._end - len(lines[-1].encode())) if last else None


def _csv(values: Sequence[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _text(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    return str(value)
