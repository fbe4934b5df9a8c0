"""Catalogues of labels and identifiers, joined to observations by their ids or by position."""

import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..identity import known_ids, match_positions
from . import tables

__all__ = ["Catalogue", "JoinedLabels", "join_labels", "parse_label_option"]

OBSERVATION = ("obsid", "obs_id", "combined_obsid", "lamost_obsid")
SOURCE = ("gaia_source_id", "source_id", "dr3_source_id", "gaia_dr3_source_id", "gaiadr3", "object_id")
POSITION = (("ra", "dec"), ("ra_gaia", "dec_gaia"), ("raj2000", "dej2000"), ("ra_obs", "dec_obs"))
MISSING = (-999.0, -9999.0, -99999.0)  # what surveys write for "no value"


class JoinedLabels(NamedTuple):
    """Labels (n,) by name, NaN where missing, and a sentence about how they were found."""

    values: dict[str, np.ndarray]
    told: str


class Catalogue:
    """A table whose columns are found by name whatever their case.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        columns = tables.read_columns(self.path)
        self.columns = {name.lower(): values for name, values in columns.items()}
        self.names = list(columns)
        self.n = len(next(iter(columns.values())))

    def find(self, choices: tuple[str, ...]) -> str:
        """The first of `choices` that is a column, or an empty text."""
        return next((c for c in choices if c in self.columns), "")

    def ids(self, column: str) -> np.ndarray:
        """A column of ids as text, (n,), empty where missing or a code of that."""
        return known_ids(np.array([_id_text(v) for v in self._column(column)], dtype=object))

    def numbers(self, column: str) -> np.ndarray:
        """A numeric column, float64 (n,), with NaN for the surveys' codes of missing values."""
        values = tables.number_column(self._column(column))
        return np.where(np.isin(values, MISSING), np.nan, values)

    def positions(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Right ascension and declination in degrees, if there are such columns."""
        for ra, dec in POSITION:
            if ra in self.columns and dec in self.columns:
                return self.numbers(ra), self.numbers(dec)
        return None

    def _column(self, name: str):
        if name.lower() not in self.columns:
            lowered = {known.lower(): known for known in self.names}
            near = [lowered[k] for k in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
            hint = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(self.names[:12])}"
            raise DataError(f"{self.path} has no column {name!r} ({hint}).")
        return self.columns[name.lower()]

    def sources_by_observation(self) -> dict[str, str]:
        """Gaia source ids by observation id.

        Raises:
            DataError: one of the two columns is missing.
        """
        obs, source = self.find(OBSERVATION), self.find(SOURCE)
        if not obs or not source:
            raise DataError(
                f"{self.path} cannot name objects: expected a column of observation ids "
                f"({', '.join(OBSERVATION)}) and "
                f"one of Gaia source ids ({', '.join(SOURCE[:-1])}), found {', '.join(self.names[:12])}."
            )
        pairs = zip(self.ids(obs), self.ids(source), strict=True)
        return {o: s for o, s in pairs if o and s}


def _id_text(value: object) -> str:
    if value is None or value is np.ma.masked:
        return ""
    if isinstance(value, float | np.floating):  # an id column with gaps is read as floats
        value = float(value)
        return str(int(value)) if np.isfinite(value) and abs(value) < 2**53 else ""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.strip()


def parse_label_option(text: str) -> tuple[Path, dict[str, str]]:
    """`FILE:teff,logg,feh=FE_H` as a file and its columns by label name.

    Raises:
        DataError: no file or no columns in it.
    """
    file, colon, names = text.rpartition(":")
    columns: dict[str, str] = {}
    for item in names.split(","):
        name, equals, column = item.strip().partition("=")
        if not name or (equals and not column):
            colon = ""
        columns[name] = column or name
    if not colon or not file:
        raise DataError(
            f"--labels {text!r} is not FILE:name,name=COLUMN,...: such as stars.csv:teff,logg,feh=fe_h."
        )
    return Path(file), columns


def join_labels(
    option: str, obs_id: np.ndarray, object_id: np.ndarray, ra: np.ndarray, dec: np.ndarray, radius: float
) -> JoinedLabels:
    """Labels of a catalogue for observations: by observation id, else by Gaia source id, else by position.

    The first of these that finds any row is used for all. Where several rows belong to one object, the first
    is taken. `option` as `parse_label_option` reads it; ids (n,) text; ra, dec (n,) degrees; radius in
    arcsec.

    Raises:
        DataError: unreadable, a column is missing, or no row belongs to any observation.
    """
    path, columns = parse_label_option(option)
    catalogue = Catalogue(path)
    labels = {name: catalogue.numbers(column) for name, column in columns.items()}
    row, how = _rows(catalogue, obs_id, object_id, ra, dec, radius)
    found = row >= 0
    if not found.any():
        raise DataError(
            f"{path} has no row for any of the {len(row)} observations, by observation id, Gaia source id or "
            "position: "
            f"it has the columns {', '.join(catalogue.names[:12])}."
        )
    values = {
        name: np.where(found, column[np.where(found, row, 0)], np.nan) for name, column in labels.items()
    }
    told = f"{', '.join(values)} from {path.name} by {how} for {int(found.sum())} of {len(row)} observations"
    return JoinedLabels(values, told)


def _rows(
    catalogue: Catalogue,
    obs_id: np.ndarray,
    object_id: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    radius: float,
) -> tuple[np.ndarray, str]:
    for choices, ids, how in ((OBSERVATION, obs_id, "observation id"), (SOURCE, object_id, "Gaia source id")):
        column = catalogue.find(choices)
        if column:
            first: dict[str, int] = {}
            for k, name in enumerate(catalogue.ids(column)):
                if name:
                    first.setdefault(name, k)
            row = np.array([first.get(str(i), -1) for i in ids], dtype=int)
            if (row >= 0).any():
                return row, how
    positions = catalogue.positions()
    if positions is None:
        return np.full(len(obs_id), -1), ""
    return match_positions(ra, dec, *positions, radius)[0], f"position within {radius:g} arcsec"
