"""What one modality of a store is: survey, grid, units, frame, resolution and the normalisations applied."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import DataError
from .grids import ANGSTROM, MEDIA, Grid

__all__ = ["FRAMES", "ModalityInfo"]

FRAMES = ("observed", "heliocentric", "barycentric", "rest")
REQUIRED = ("survey", "grid", "unit", "medium", "frame", "resolution", "normalisation")
PER_ROW = "per-row"


@dataclass(frozen=True)
class ModalityInfo:
    """The required attributes of a modality.

    Arguments:
        survey: survey or instrument, such as "LAMOST LRS".
        grid: the wavelengths of the pixels, or "per-row" where each row has its own.
        unit: unit of the flux ("" for a pure number, such as flux over continuum).
        medium: "vacuum" or "air".
        frame: "observed", "heliocentric", "barycentric" or "rest".
        resolution: line spread in words or JSON, such as "R=1800".
        normalisation: names of what was divided out, in order, such as ("continuum",),
        ("continuum_polynomial",) or ("flux_550nm",).
        wave_unit: unit of the wavelengths where the grid is per row.

    Raises:
        DataError: a value is outside of its vocabulary or medium and grid disagree.
    """

    survey: str
    grid: Grid | str
    unit: str
    medium: str
    frame: str
    resolution: str
    normalisation: tuple[str, ...] = field(default=())
    wave_unit: str = "Angstrom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalisation", tuple(self.normalisation))
        if self.medium not in MEDIA:
            raise DataError(f"medium is {self.medium!r}, expected one of {', '.join(MEDIA)}.")
        if self.frame not in FRAMES:
            raise DataError(f"frame is {self.frame!r}, expected one of {', '.join(FRAMES)}.")
        if isinstance(self.grid, str) and self.grid != PER_ROW:
            object.__setattr__(self, "grid", Grid.from_json(self.grid))
        if isinstance(self.grid, Grid):
            object.__setattr__(self, "wave_unit", self.grid.unit)
            if self.grid.medium != self.medium:
                raise DataError(f"medium is {self.medium} but the grid is in {self.grid.medium}.")
        if self.wave_unit not in ANGSTROM:
            raise DataError(f"wave_unit is {self.wave_unit!r}, expected one of {', '.join(ANGSTROM)}.")

    @property
    def per_row(self) -> bool:
        """Whether each row has its own wavelengths."""
        return not isinstance(self.grid, Grid)

    @property
    def continuum_normalised(self) -> bool:
        """Whether the flux is a ratio to a continuum, whose neutral value is 1."""
        return any(name.startswith("continuum") for name in self.normalisation)

    @property
    def centred(self) -> bool:
        """Whether a mean was subtracted, so that the flux has no sign to check."""
        return any(name in self.normalisation for name in ("standardised", "zscore", "mean_subtracted"))

    def to_attributes(self) -> dict[str, str]:
        """The attributes as they stand in the file."""
        return {
            "survey": self.survey,
            "grid": self.grid.to_json() if isinstance(self.grid, Grid) else PER_ROW,
            "unit": self.unit,
            "medium": self.medium,
            "frame": self.frame,
            "resolution": self.resolution,
            "normalisation": json.dumps(list(self.normalisation)),
            "wave_unit": self.wave_unit,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], where: str) -> "ModalityInfo":
        """Reads the attributes of a modality's group; `where` names file and group in messages.

        Raises:
            DataError: a required attribute is missing or wrong.
        """
        missing = [name for name in REQUIRED if name not in attributes]
        if missing:
            raise DataError(
                f"{where} has no attribute {', '.join(missing)}: every modality must state "
                f"{', '.join(REQUIRED)}; write the file with `astro-data convert`."
            )
        text = {name: _text(attributes[name]) for name in (*REQUIRED, "wave_unit") if name in attributes}
        try:
            applied = json.loads(text.pop("normalisation"))
            if not isinstance(applied, list) or not all(isinstance(name, str) for name in applied):
                raise ValueError("normalisation must be a JSON list of names")
            return cls(normalisation=tuple(applied), **text)
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def with_grid(self, grid: Grid) -> "ModalityInfo":
        """The same modality on another grid."""
        return replace(self, grid=grid, medium=grid.medium, wave_unit=grid.unit)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
