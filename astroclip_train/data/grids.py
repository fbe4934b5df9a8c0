"""Wavelength grids: equal spacing in wavelength or in its logarithm, or an explicit list."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError

__all__ = ["LRS_GRID", "XP_GRID", "Grid"]

ANGSTROM = {"Angstrom": 1.0, "nm": 10.0, "um": 1e4}
KINDS = ("log10", "linear", "explicit")
MEDIA = ("vacuum", "air")


@dataclass(frozen=True, eq=False)
class Grid:
    """The wavelengths of a modality's pixels.

    Formula:
        log10:    λ_i = 10^(start + i·step)
        linear:   λ_i = start + i·step
        explicit: λ_i = values_i

    Two grids are equal if their medium is the same and no pixel centre differs by more than 1 % of a pixel.

    Raises:
        DataError: unknown kind, unit or medium, no pixels, or wavelengths that do not increase.
    """

    kind: str
    start: float
    step: float
    n: int
    unit: str = "Angstrom"
    medium: str = "vacuum"
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("unit", self.unit, tuple(ANGSTROM)),
            ("medium", self.medium, MEDIA),
        ):
            if value not in known:
                raise DataError(f"a grid's {name} is {value!r}, expected one of {', '.join(known)}.")
        if self.kind == "explicit":
            if self.values is None or len(self.values) != self.n:
                raise DataError(f"an explicit grid of {self.n} pixels needs as many values.")
            object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        if self.n < 1 or (self.n > 1 and not bool(np.all(np.diff(self.wave()) > 0))):
            raise DataError(f"a grid needs at least one pixel and increasing wavelengths, got {self!r}.")

    @classmethod
    def from_wave(cls, wave: np.ndarray, unit: str = "Angstrom", medium: str = "vacuum") -> "Grid":
        """The grid of given pixel centres (l,), recognised as log10 or linear where it is one."""
        wave = np.asarray(wave, dtype=np.float64)
        if wave.ndim != 1 or not np.all(np.isfinite(wave)) or wave.size == 0:
            raise DataError("a grid is made of a one-dimensional list of finite wavelengths.")
        explicit = cls("explicit", float(wave[0]), 0.0, len(wave), unit, medium, tuple(wave))
        if len(wave) < 3:
            return explicit
        for kind, axis in (("linear", wave), ("log10", np.log10(wave))):
            step = round(float(axis[-1] - axis[0]) / (len(wave) - 1), 10)
            grid = cls(kind, round(float(axis[0]), 8), step, len(wave), unit, medium) if step > 0 else None
            if grid is not None and grid == explicit:
                return grid
        return explicit

    def wave(self) -> np.ndarray:
        """Pixel centres in `unit`, float64 of shape (l,)."""
        if self.kind == "explicit":
            return np.asarray(self.values, dtype=np.float64)
        axis = self.start + self.step * np.arange(self.n, dtype=np.float64)
        return np.power(10.0, axis) if self.kind == "log10" else axis

    def angstrom(self) -> np.ndarray:
        """Pixel centres in ångström, float64 of shape (l,)."""
        return self.wave() * ANGSTROM[self.unit]

    def crop(self, low: float, high: float) -> tuple["Grid", slice]:
        """The part of the grid with low ≤ λ ≤ high (in `unit`) and the slice of pixels it takes.

        Raises:
            DataError: no pixel lies in the range.
        """
        wave = self.wave()
        inside = np.flatnonzero((wave >= low) & (wave <= high))
        if inside.size == 0:
            raise DataError(f"no pixel of the grid {self} lies between {low} and {high} {self.unit}.")
        first, last = int(inside[0]), int(inside[-1]) + 1
        values = None if self.values is None else self.values[first:last]
        start = float(wave[first]) if self.kind == "explicit" else self.start + first * self.step
        return Grid(self.kind, start, self.step, last - first, self.unit, self.medium, values), slice(
            first, last
        )

    def to_json(self) -> str:
        """A JSON object with the fields of the grid."""
        fields: dict[str, Any] = {
            "kind": self.kind,
            "start": float(self.start),
            "step": float(self.step),
            "n": int(self.n),
            "unit": self.unit,
            "medium": self.medium,
        }
        if self.values is not None:
            fields["values"] = list(self.values)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Grid":
        """The inverse of `to_json`.

        Raises:
            DataError: the text does not describe a grid.
        """
        try:
            fields = json.loads(text)
            values = fields.pop("values", None)
            return cls(**fields, values=None if values is None else tuple(values))
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"the grid {text[:80]!r} cannot be understood ({error}).") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        if self.n != other.n or self.medium != other.medium:
            return False
        mine, theirs = self.angstrom(), other.angstrom()
        pixel = np.gradient(mine) if self.n > 1 else np.ones(1)
        return bool(np.all(np.abs(mine - theirs) <= 0.01 * pixel))

    def __hash__(self) -> int:
        return hash((self.n, self.medium))

    def __str__(self) -> str:
        wave = self.wave()
        return f"{self.n} px, {wave[0]:.6g}–{wave[-1]:.6g} {self.unit} ({self.kind}, {self.medium})"


LRS_GRID = Grid("log10", 3.602, 1e-4, 1462, "Angstrom", "vacuum")
XP_GRID = Grid("linear", 336.0, 2.0, 343, "nm", "vacuum")
