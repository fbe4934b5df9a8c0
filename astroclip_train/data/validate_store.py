"""Every promise of a store's layout, checked; each broken one is one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .grids import ANGSTROM
from .identity import RADIUS, position_groups
from .label_units import LABEL_UNITS
from .match import positions_of
from .splits import SPLITS
from .store import Store

__all__ = ["validate"]

SLAB = 2048
OPTICAL = (500.0, 300000.0)  # Å, outside of which a unit is surely wrong
RANGES = {
    "teff": (1000.0, 250000.0),
    "logg": (-2.0, 10.0),
    "feh": (-8.0, 2.0),
    "alpha_fe": (-2.0, 3.0),
    "rv": (-2000.0, 2000.0),
    "ebv": (-1.0, 20.0),
}
NEUTRAL = {
    "continuum": (0.5, 1.5),
    "continuum_polynomial": (0.5, 1.5),
    "flux_550nm": (0.01, 100.0),
}  # plausible medians after normalisation


def validate(path: str | Path, *, max_bad_fraction: float = 0.1, radius: float = RADIUS) -> list[str]:
    """What is wrong with a store, one sentence each; an empty list is a sound store.

    Checked are: that it opens and every byte is as written, attributes, grids and units, rows and ids,
    positions against object ids, finite and non-negative numbers, normalisations, labels with units and
    ranges, the share of bad objects, and that no split is empty.
    """
    try:
        store = Store(path, max_bad_fraction=1.0)
    except DataError as error:
        return [str(error)]
    with contextlib.closing(store):
        try:
            store.verify()
        except DataError as error:
            return [str(error)]
        problems: list[str] = []
        for check in (_identity, _modalities, _labels, _splits):
            try:
                problems += list(check(store))
            except DataError as error:
                problems.append(str(error))
        problems += _bad(store, max_bad_fraction)
        return problems + list(_neighbours(store, radius))


def _identity(store: Store) -> Iterator[str]:
    for name, ids in (("object_id", store.object_id), ("obs_id", store.obs_id)):
        empty = int((np.char.str_len(ids.astype(str)) == 0).sum())
        if empty:
            yield f"{empty} of {store.n} samples have an empty {name}: name them."
    present = np.any([rows >= 0 for rows in store.rows.values()], axis=0)
    if not present.all():
        yield f"{int((~present).sum())} samples have no spectrum in any modality: remove them."


def _modalities(store: Store) -> Iterator[str]:
    for m, info in store.modalities.items():
        wave = store.wave(m, np.flatnonzero(store.rows[m] >= 0)[:1]) * ANGSTROM[info.wave_unit]
        if not OPTICAL[0] < np.median(wave) < OPTICAL[1]:
            middle = float(np.median(wave))
            yield f"{m}: the wavelengths have median {middle:.4g} Å, so the unit {info.wave_unit} is wrong."
        if len(set(info.normalisation)) < len(info.normalisation):
            applied = ", ".join(info.normalisation)
            yield f"{m}: a normalisation was applied twice ({applied}): convert it again."
        if not info.unit and not info.normalisation:
            yield f"{m}: the flux has neither a unit nor a normalisation: state one of them."
        rows = np.concatenate([shard.numbers(f"sample/{m}_row") for shard in store.shards])
        used = len(np.unique(rows[rows >= 0]))
        stored = sum(len(shard.file[m]["flux"]) for shard in store.shards)
        if len(store.shards) == 1 and used < stored:
            yield f"{m}: {stored - used} of {stored} rows belong to no sample: remove them."
        yield from _numbers(store, m)


def _numbers(store: Store, m: str) -> Iterator[str]:
    info = store.modalities[m]
    samples = np.flatnonzero(store.rows[m] >= 0)
    wrong = {
        "negative or non-finite ivar": 0,
        "non-finite flux at a good pixel": 0,
        "wavelengths out of order": 0,
    }
    medians = []
    for start in range(0, len(samples), SLAB):
        part = store.read(m, samples[start : start + SLAB], ("flux", "ivar", "mask", "wave"))
        flux, ivar = part["flux"], part.get("ivar")
        good = part.get("mask", np.ones(flux.shape, dtype=bool)).copy()
        if ivar is not None:
            wrong["negative or non-finite ivar"] += int(
                (~(np.isfinite(ivar) & (ivar >= 0))).any(axis=1).sum()
            )
            good &= ivar > 0
        wrong["non-finite flux at a good pixel"] += int((good & ~np.isfinite(flux)).any(axis=1).sum())
        if "wave" in part:
            wrong["wavelengths out of order"] += int((np.diff(part["wave"], axis=1) <= 0).any(axis=1).sum())
        medians.append(np.median(flux[good & np.isfinite(flux)]) if good.any() else np.nan)
    for what, count in wrong.items():
        if count:
            yield f"{m}: {count} of {len(samples)} spectra have {what}: convert them again."
    middle = float(np.nanmedian(medians)) if np.isfinite(medians).any() else float("nan")
    for name in info.normalisation:
        low, high = NEUTRAL.get(name, (-np.inf, np.inf))
        if not low <= middle <= high:
            yield f"{m}: divided by {name}, it says, but the median is {middle:.3g}: mend `normalisation`."


def _labels(store: Store) -> Iterator[str]:
    for name, values in store.labels.items():
        known = values[np.isfinite(values)]
        unit, expected = store.label_units.get(name, ""), LABEL_UNITS.get(name)
        if not len(known):
            yield f"label {name} has no value in any sample: leave it out or join it again."
        if expected is not None and unit != expected:
            yield f"label {name} is in {unit or 'no unit'}, expected {expected}."
        low, high = RANGES.get(name, (-np.inf, np.inf))
        outside = int(((known < low) | (known > high)).sum())
        if outside:
            yield f"label {name}: {outside} of {len(known)} values lie outside {low:g} to {high:g} {unit}."
        if np.isinf(values).any():
            yield f"label {name} holds infinite values: write NaN where it is missing."
        if not store.label_sources.get(name):
            yield f"label {name} does not say where it comes from (attribute source)."


def _splits(store: Store) -> Iterator[str]:
    for name in SPLITS:
        if not (store.splits == name).any() and store.n >= 50:
            yield f"the {name} split is empty."


def _bad(store: Store, limit: float) -> list[str]:
    problems = []
    for m in store.modalities:
        share = (store.reasons(m) > 0).sum() / max(1, (store.rows[m] >= 0).sum())
        if share > limit:
            problems.append(
                f"{m}: {100 * share:.1f} % of the spectra are bad, more than the limit of {100 * limit:g} %."
            )
    return problems


def _neighbours(store: Store, radius: float) -> Iterator[str]:
    """One object under two names would put the same star into train and test."""
    ra, dec = positions_of(store)
    if not np.isfinite(ra).any():
        return
    groups = position_groups(ra, dec, radius)
    ids = store.object_id.astype(str)
    order = np.argsort(groups, kind="stable")
    split = [
        g for g in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(np.unique(ids[g])) > 1
    ]
    # two Gaia sources within the radius are two stars, whatever their distance
    doubtful = [g for g in split if not all(i.isdigit() for i in ids[g])]
    if doubtful:
        names = ", ".join(sorted(set(ids[doubtful[0]])))
        yield (
            f"{len(doubtful)} groups of samples lie within {radius:g} arcsec under different object ids "
            "(such as "
            f"{names}), so one star could be in train and test: convert with --catalog, or write one id."
        )
