"""Joins two stores of different surveys into one, object by object."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from ..errors import DataError
from .convert import ConvertOptions
from .identity import match_positions
from .label_units import check_label_units, label_in_unit
from .progress import track
from .readers.catalogue import Catalogue, join_labels
from .shard import COLUMNS
from .store import Store, StoreWriter

__all__ = ["MatchReport", "match_stores", "positions_of"]

SLAB = 1024  # rows copied together
MARKED_BAD = 4  # index of "marked bad by the reader" in quality.REASONS


@dataclasses.dataclass
class MatchReport:
    """How many observations found a partner, and how."""

    out: Path
    n: int
    objects: int
    sides: list[str]
    by_id: int
    by_position: int
    ambiguous: int
    notes: list[str]

    def text(self) -> str:
        """The report in a few lines."""
        lines = [
            f"{self.out}: {self.n:,} samples of {self.objects:,} objects",
            *(f"  {side}" for side in self.sides),
        ]
        lines.append(f"  pairs by id {self.by_id:,}, by position {self.by_position:,}")
        if self.ambiguous:
            lines.append(
                f"  {self.ambiguous:,} had several candidates within the radius: the nearest was taken"
            )
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def positions_of(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination of the samples in degrees, NaN where the store has none, (N,) each."""
    ra, dec = (
        np.concatenate(
            [
                s.numbers(f"sample/{axis}") if f"sample/{axis}" in s.file else np.full(s.n, np.nan)
                for s in store.shards
            ]
        )
        for axis in ("ra", "dec")
    )
    return ra, dec


@dataclasses.dataclass
class _Pairs:
    """Sample numbers of the two stores side by side, -1 where one is missing, and the object of each pair."""

    a: np.ndarray
    b: np.ndarray
    objects: np.ndarray
    by_id: int
    by_position: int
    ambiguous: int
    ids_a: np.ndarray
    ids_b: np.ndarray


def match_stores(
    a: str | Path, b: str | Path, options: ConvertOptions, *, keep_unmatched: bool = False
) -> MatchReport:
    """A store with the modalities of both: one sample for each pair of observations of one object.

    Objects are joined by id (Gaia source ids of `options.catalogue` take the place of the stores' own), and
    those without a partner by position within `options.radius` arcsec, where both stores have positions. Where
    some were joined by their numbers, the stores number alike, and two other numbers are two stars however near.
    Spectra that occur in several pairs are stored once. Unmatched observations are left out unless
    `keep_unmatched`.

    Raises:
        DataError: a store is unreadable, both hold the same modality, or nothing matches.
    """
    with (
        contextlib.closing(Store(a, max_bad_fraction=1.0)) as first,
        contextlib.closing(Store(b, max_bad_fraction=1.0)) as second,
    ):
        return _match(first, second, a, b, options, keep_unmatched)


def _match(
    first: Store, second: Store, a: str | Path, b: str | Path, options: ConvertOptions, keep_unmatched: bool
) -> MatchReport:
    both = sorted(set(first.modalities) & set(second.modalities))
    if both:
        raise DataError(
            f"{a} and {b} both hold {', '.join(both)}: match joins stores of different modalities."
        )
    pairs = _pair(first, second, options)
    if not (pairs.a >= 0).any():
        raise DataError(
            f"No object of {a} is in {b} (ids such as {first.object_id[0]} and {second.object_id[0]}): give "
            "--catalog "
            "with observation ids and Gaia source ids, or convert with positions and raise --radius."
        )
    matched = [len(np.unique(side)) for side in (pairs.a, pairs.b)]
    sides = [
        f"{Path(path).name}: {found:,} of {store.n:,} observations matched, {store.n - found:,} without a "
        "partner"
        for path, store, found in zip((a, b), (first, second), matched, strict=True)
    ]
    if keep_unmatched:
        pairs = _with_unmatched(pairs, first, second)
    notes = _write(first, second, pairs, options)
    n, objects = len(pairs.a), len(np.unique(pairs.objects))
    return MatchReport(options.out, n, objects, sides, pairs.by_id, pairs.by_position, pairs.ambiguous, notes)


def _pair(first: Store, second: Store, options: ConvertOptions) -> _Pairs:
    known = Catalogue(options.catalogue).sources_by_observation() if options.catalogue else {}
    ids_a, ids_b = (
        np.array(
            [known.get(o, i) for o, i in zip(s.obs_id.astype(str), s.object_id.astype(str), strict=True)]
        )
        for s in (first, second)
    )
    members: dict[str, list[int]] = {}
    for k, name in enumerate(ids_b):
        members.setdefault(str(name), []).append(k)
    pairs = [(i, k, name) for i, name in enumerate(ids_a) for k in members.get(str(name), ())]
    by_id = len(pairs)
    alone = np.setdiff1d(np.arange(first.n), [p[0] for p in pairs])
    nearest, counts = _nearest(first, second, ids_a, ids_b, alone, options.radius)
    hit = nearest >= 0
    for i, k in zip(alone[hit], nearest[hit], strict=True):
        name = ids_b[k] if ids_b[k].isdigit() or not ids_a[i].isdigit() else ids_a[i]
        # all observations of the partner object, so that the order of the two stores does not matter
        pairs += [(int(i), other, str(name)) for other in members[str(ids_b[k])]]
    a, b = (np.array([p[side] for p in pairs], dtype=int) for side in (0, 1))
    objects = np.array([p[2] for p in pairs], dtype=object)
    ambiguous = (
        int((counts[hit] > [len(members[str(ids_b[k])]) for k in nearest[hit]]).sum()) if hit.any() else 0
    )
    return _Pairs(a, b, objects, by_id, len(pairs) - by_id, ambiguous, ids_a, ids_b)


def _nearest(
    first: Store, second: Store, ids_a: np.ndarray, ids_b: np.ndarray, alone: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """`match_positions` of the samples `alone` of the first store with those of the second that may be theirs."""
    (ra_a, dec_a), (ra_b, dec_b) = positions_of(first), positions_of(second)
    numbered_a, numbered_b = (np.char.isdigit(ids.astype(str)) for ids in (ids_a, ids_b))
    alike = bool(np.isin(ids_a[numbered_a], ids_b[numbered_b]).any())
    nearest, counts = np.full(len(alone), -1), np.zeros(len(alone), dtype=int)
    for mine, theirs in ((~numbered_a, np.ones(len(ids_b), bool)), (numbered_a, ~(numbered_b & alike))):
        chosen, others = np.flatnonzero(mine[alone]), np.flatnonzero(theirs)
        rows = alone[chosen]
        found, counts[chosen] = match_positions(ra_a[rows], dec_a[rows], ra_b[others], dec_b[others], radius)
        nearest[chosen] = np.where(found >= 0, others[found], -1) if len(others) else -1
    return nearest, counts


def _with_unmatched(pairs: _Pairs, first: Store, second: Store) -> _Pairs:
    """Adds the observations without a partner; one of a matched object keeps that object's name."""
    a, b, objects = [pairs.a], [pairs.b], [pairs.objects]
    for store, side, ids in ((first, "a", pairs.ids_a), (second, "b", pairs.ids_b)):
        used = getattr(pairs, side)
        named = dict(zip(ids[used].astype(str), pairs.objects, strict=True))
        left = np.setdiff1d(np.arange(store.n), used)
        missing = np.full(len(left), -1)
        a.append(left if side == "a" else missing)
        b.append(left if side == "b" else missing)
        objects.append(np.array([named.get(str(i), str(i)) for i in ids[left]], dtype=object))
    return dataclasses.replace(
        pairs, a=np.concatenate(a), b=np.concatenate(b), objects=np.concatenate(objects).astype(object)
    )


def _write(first: Store, second: Store, pairs: _Pairs, options: ConvertOptions) -> list[str]:
    with StoreWriter(
        options.out, created_by=options.command, flux_dtype="float16" if options.half else "float32"
    ) as writer:
        rows = {}
        for store, side in ((first, pairs.a), (second, pairs.b)):
            for m in store.modalities:
                rows[m] = _copy_rows(writer, store, m, side, options.progress)
        obs_id = _observation_names(first, second, pairs)
        writer.set_samples(pairs.objects.astype(str), obs_id, rows, _published(first, second, pairs))
        ra, dec = (
            _either(pa, pb, pairs) for pa, pb in zip(positions_of(first), positions_of(second), strict=True)
        )
        if np.isfinite(ra).any():
            writer.set_positions(ra, dec)
        return _write_labels(writer, first, second, pairs, obs_id, ra, dec, options)


def _copy_rows(writer: StoreWriter, store: Store, m: str, side: np.ndarray, shown: bool) -> np.ndarray:
    """Copies the rows of the samples in `side` and returns the new row of each, -1 where there is none."""
    writer.add_modality(m, store.modalities[m])
    used = np.unique(side[side >= 0])
    used = used[store.rows[m][used] >= 0]
    old, inverse = np.unique(store.rows[m][used], return_index=True)
    samples = used[inverse]
    if not len(samples):
        raise DataError(f"{store.paths[0]}: no matched object has a spectrum of {m}.")
    new_row = dict(zip(old.tolist(), range(len(old)), strict=True))
    marked = store.reasons(m) == MARKED_BAD
    columns = tuple(c for c in COLUMNS if c != "quality")
    slabs = [samples[i : i + SLAB] for i in range(0, len(samples), SLAB)]
    for slab in track(slabs, len(slabs), f"blocks of {m}", shown=shown):
        writer.append(m, **store.read(m, slab, columns), good=~marked[slab])
    row = np.where(side >= 0, store.rows[m][np.maximum(side, 0)], -1)
    return np.array([new_row.get(int(r), -1) for r in row], dtype=np.int64)


def _observation_names(first: Store, second: Store, pairs: _Pairs) -> np.ndarray:
    """The first store's observation ids if they stay unique, else the second's, else both with a plus."""
    a = np.where(pairs.a >= 0, first.obs_id[pairs.a].astype(object), "")
    b = np.where(pairs.b >= 0, second.obs_id[pairs.b].astype(object), "")
    for names, other in ((a, b), (b, a)):
        full = np.where(names != "", names, other)
        if len(np.unique(full.astype(str))) == len(full):
            return full.astype(str)
    return np.array([f"{x}+{y}".strip("+") for x, y in zip(a, b, strict=True)])


def _either(a: np.ndarray, b: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """The first store's number of each pair, or the second's where it is missing."""
    left = np.where(pairs.a >= 0, a[pairs.a], np.nan)
    return np.where(np.isfinite(left), left, np.where(pairs.b >= 0, b[pairs.b], np.nan))


def _published(first: Store, second: Store, pairs: _Pairs) -> np.ndarray | None:
    """Published split names: test wins where either store says so."""
    parts = []
    for store, side in ((first, pairs.a), (second, pairs.b)):
        names = store.published
        if names is None:
            continue
        parts.append(np.where(side >= 0, names[side], ""))
    if not parts:
        return None
    return np.where(np.any([p == "test" for p in parts], axis=0), "test", parts[0])


def _write_labels(
    writer: StoreWriter,
    first: Store,
    second: Store,
    pairs: _Pairs,
    obs_id: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    options: ConvertOptions,
) -> list[str]:
    values: dict[str, tuple[np.ndarray, str, str]] = {}
    empty = {side: np.full(store.n, np.nan) for side, store in (("a", first), ("b", second))}
    for name in sorted({*first.labels, *second.labels}):
        units = {s.label_units[name] for s in (first, second) if name in s.labels}
        if len(units) > 1:
            raise DataError(f"label {name} is in {' and '.join(map(repr, sorted(units)))} in the two stores.")
        column = _either(first.labels.get(name, empty["a"]), second.labels.get(name, empty["b"]), pairs)
        sources = [s.label_sources[name] for s in (first, second) if name in s.labels]
        values[name] = column, units.pop(), "; ".join(dict.fromkeys(sources))
    notes, joined_names = [], set()
    for option in options.labels:
        names_a = np.where(pairs.a >= 0, first.obs_id[pairs.a].astype(object), obs_id)
        joined = join_labels(option, names_a, pairs.objects, ra, dec, options.radius)
        notes.append(joined.told)
        source = Path(option.rpartition(":")[0]).name
        for name, column in joined.values.items():
            values[name] = *label_in_unit(name, column, options.label_units.get(name)), source
            joined_names.add(name)
    check_label_units(options.label_units, joined_names)
    for name, (column, unit, source) in values.items():
        writer.set_label(name, column, unit, source)
    return notes
