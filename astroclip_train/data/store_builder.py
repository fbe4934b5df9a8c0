"""Collects what readers deliver into one store: identity, labels, and what was left out."""

import csv
import dataclasses
from collections import Counter
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import DataError
from ..files import atomic_write
from .identity import RADIUS, known_ids, name_objects
from .label_units import check_label_units, label_in_unit
from .modality import ModalityInfo
from .quality import REASONS
from .readers.catalogue import Catalogue, join_labels
from .readers.rows import Rows
from .store_writer import StoreWriter

__all__ = ["LeftOut", "Report", "StoreBuilder"]

HOPELESS = 50  # left-out entries after which a conversion that must fail does so at once


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A file or object that is not in the store, and why."""

    name: str
    reason: str


@dataclasses.dataclass
class Report:
    """What a conversion did, for the person who asked for it."""

    out: Path
    n: int = 0
    objects: int = 0
    infos: dict[str, ModalityInfo] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)
    duplicates: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    left_out_file: Path | None = None

    def text(self) -> str:
        """The report in a few lines."""
        lines = [f"{self.out}: {_count(self.n, 'observation')} of {_count(self.objects, 'object')}"]
        for name, info in self.infos.items():
            applied = f", divided by {', '.join(info.normalisation)}" if info.normalisation else ""
            lines.append(f"  {name}: {info.survey}, {info.grid}, {info.frame}{applied}")
        if self.labels:
            lines.append("  labels: " + ", ".join(f"{name} {n}" for name, n in self.labels.items()))
        lines += [f"  {note}" for note in self.notes]
        if self.duplicates:
            lines.append(f"  {_count(self.duplicates, 'repeat')} of an observation already read left out")
        if self.left_out:
            lines.append(f"  left out: {len(self.left_out)}, all named in {self.left_out_file}")
            lines += [f"    {item.name}: {item.reason}" for item in self.left_out[:5]]
            if len(self.left_out) > 5:
                lines.append(f"    and {len(self.left_out) - 5} more")
        return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


class StoreBuilder:
    """A store in the making, as a context manager; nothing is left behind where it fails.

    Arguments:
        out: the store to write.
        infos: modalities and their attributes.
        created_by: the command, kept in the file.
        catalogue: a table that gives Gaia source ids for observation ids.
        labels: options `FILE:name,name=COLUMN`.
        label_units: label -> unit of its values, where that is not `label_unit`; they are converted.
        label_source: where labels that come with the spectra are from.
        max_bad_fraction: more left-out entries than this share stop the conversion.
        expected: number of entries, where known, so that a hopeless conversion stops early.
        flux_dtype: float32 or float16.
        radius: arcsec within which positions are one object.

    Raises:
        DataError: too much left out, nothing left, or the file cannot be written.
    """

    def __init__(
        self,
        out: str | Path,
        infos: dict[str, ModalityInfo],
        *,
        created_by: str,
        catalogue: str | Path | None = None,
        labels: list[str] | None = None,
        label_units: dict[str, str] | None = None,
        label_source: str = "",
        max_bad_fraction: float = 0.1,
        expected: int | None = None,
        flux_dtype: str = "float32",
        radius: float = RADIUS,
    ) -> None:
        self.out, self.infos, self.labels = Path(out), infos, list(labels or [])
        self.label_source, self.max_bad_fraction, self.expected = label_source, max_bad_fraction, expected
        self.radius, self.label_units = radius, dict(label_units or {})
        self._sources = Catalogue(catalogue).sources_by_observation() if catalogue else {}
        self._writer = StoreWriter(out, created_by=created_by, flux_dtype=flux_dtype)
        self._parts: list[Rows] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._seen: set[str] = set()
        self._bad: Counter[str] = Counter()
        self.report = Report(self.out, infos=infos)

    def __enter__(self) -> "StoreBuilder":
        self._writer.__enter__()
        try:
            for name, info in self.infos.items():
                self._writer.add_modality(name, info)
        except BaseException as error:
            self._writer.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._writer.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._writer.__exit__(kind, error, trace)
        if error is None:
            self._write_left_out()

    def leave_out(self, name: str | Path, reason: str) -> None:
        """Records what is left out; stops early where it is many and must become more than the limit."""
        self.report.left_out.append(LeftOut(str(name), reason))
        left = len(self.report.left_out)
        if self.expected is not None and left >= HOPELESS and left > self.max_bad_fraction * self.expected:
            self._refuse(self.expected)

    def _refuse(self, total: int) -> None:
        first = self.report.left_out[0]
        raise DataError(
            f"{len(self.report.left_out)} of {total} entries cannot be used, more than --max-bad-fraction "
            f"{self.max_bad_fraction:g}, first {first.name} ({first.reason.rstrip('.')}): mend them or raise "
            "the limit."
        )

    def add(self, rows: Rows) -> None:
        """Appends rows to their modalities; observations seen before are left out and counted."""
        kept = np.zeros(len(rows), dtype=bool)
        for k, name in enumerate(rows.obs_id):
            kept[k] = str(name) not in self._seen
            self._seen.add(str(name))
        self.report.duplicates += int((~kept).sum())
        if not kept.all():
            rows = rows.take(kept)
        if not len(rows):
            return
        written = {m: self._writer.append(m, **arrays) for m, arrays in rows.arrays.items()}
        for m, taken in written.items():
            verdict = self._writer.verdicts(m, taken)
            self._bad.update(REASONS[k] for k in verdict[verdict > 0])
        self._rows.append({m: written.get(m, np.full(len(rows), -1)) for m in self.infos})
        rows.arrays = {}
        self._parts.append(rows)

    def _finish(self) -> None:
        n = sum(len(part) for part in self._parts)
        left = len(self.report.left_out)
        if left and left > self.max_bad_fraction * (n + left):
            self._refuse(n + left)
        bad = sum(self._bad.values())
        if bad:
            why = ", ".join(f"{count:,} because {reason}" for reason, count in self._bad.most_common())
            if bad + left > self.max_bad_fraction * (n + left):
                raise DataError(
                    f"{bad:,} of {n:,} spectra for {self.out} are bad ({why}), more than --max-bad-fraction "
                    f"{self.max_bad_fraction:g}: check units and columns, or raise the limit."
                )
            self.report.notes.append(f"{bad:,} spectra are bad and will not be used: {why}")
        if n == 0:
            first = self.report.left_out[0] if left else None
            why = f", first {first.name} ({first.reason.rstrip('.')})" if first else ""
            raise DataError(f"Nothing is left to write into {self.out}: every entry was left out{why}.")
        obs_id = np.concatenate([part.obs_id for part in self._parts]).astype(str)
        source = np.concatenate([part.source_id for part in self._parts]).astype(object)
        source = np.array(
            [self._sources.get(o, s) for o, s in zip(obs_id, source, strict=True)], dtype=object
        )
        ra, dec = (
            np.concatenate([getattr(p, axis) for p in self._parts]).astype(float) for axis in ("ra", "dec")
        )
        objects = name_objects(ra, dec, source, obs_id, self.radius)
        split = None
        if any(part.split is not None for part in self._parts):
            blank = [np.full(len(p), "") if p.split is None else p.split for p in self._parts]
            split = np.concatenate(blank).astype(str)
        rows = {m: np.concatenate([part[m] for part in self._rows]) for m in self.infos}
        self._writer.set_samples(objects, obs_id, rows, split)
        if np.isfinite(ra).any():
            self._writer.set_positions(ra, dec)
        self._write_labels(obs_id, objects, ra, dec)
        self.report.n, self.report.objects = n, len(np.unique(objects))
        if not (known_ids(source) != "").any() and not np.isfinite(ra).any():
            self.report.notes.append(
                "no object ids and no positions: each row counts as an object of its own"
            )
        self._note_positions(objects, source, obs_id)
        if self._sources:
            named = sum(o in self._sources for o in obs_id)
            self.report.notes.append(f"Gaia source ids for {named} of {n} observations by the catalogue")

    def _note_positions(self, objects: np.ndarray, source: np.ndarray, obs_id: np.ndarray) -> None:
        by_position = np.unique(
            objects[~np.isin(objects, known_ids(source).astype(str)) & (objects != obs_id)]
        )
        if len(by_position):
            self.report.notes.append(
                f"{_count(len(by_position), 'object')} named by position: measured a little differently in another "
                "store, a star may have another name and split there; --catalog gives Gaia source ids"
            )

    def _write_labels(self, obs_id: np.ndarray, objects: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> None:
        values: dict[str, tuple[np.ndarray, str]] = {}
        for name in sorted({name for part in self._parts for name in part.labels}):
            blank = [p.labels.get(name, np.full(len(p), np.nan)) for p in self._parts]
            values[name] = (np.concatenate(blank), self.label_source)
        for option in self.labels:
            joined = join_labels(option, obs_id, objects, ra, dec, self.radius)
            self.report.notes.append(joined.told)
            values |= {
                name: (column, Path(option.rpartition(":")[0]).name) for name, column in joined.values.items()
            }
        check_label_units(self.label_units, values)
        for name, (column, source) in values.items():
            converted, unit = label_in_unit(name, column, self.label_units.get(name))
            self._writer.set_label(name, converted, unit, source)
            self.report.labels[name] = int(np.isfinite(column).sum())

    def _write_left_out(self) -> None:
        path = self.out.with_suffix(".left_out.csv")
        path.unlink(missing_ok=True)  # that of a store replaced
        if not self.report.left_out:
            return
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["name", "reason"])
            table.writerows([item.name, item.reason] for item in self.report.left_out)
        self.report.left_out_file = path
