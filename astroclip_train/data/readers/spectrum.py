"""What every reader of single spectra returns, and the air-to-vacuum conversion."""

import dataclasses
from pathlib import Path

import numpy as np

__all__ = ["Spectrum", "air_to_vacuum"]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """One observed spectrum as its file states it.

    wave (l,) in vacuum Å, increasing; flux, ivar (l,) in the file's flux unit and its inverse square; mask
    (l,) True where the pixel is good; snr per band; ra, dec in degrees (NaN if unknown); z as given (NaN if
    unknown); labels in the units of `LABEL_UNITS`; frame observed, heliocentric, barycentric or rest; medium
    as in the file before conversion.
    """

    wave: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    obs_id: str
    ra: float
    dec: float
    path: Path
    frame: str
    medium: str
    snr: dict[str, float] = dataclasses.field(default_factory=dict)
    z: float = float("nan")
    labels: dict[str, float] = dataclasses.field(default_factory=dict)
    designation: str = ""
    gaia_source_id: str = ""
    survey: str = ""
    release: str = ""
    subclass: str = ""


def air_to_vacuum(wave: np.ndarray) -> np.ndarray:
    """Vacuum wavelengths in Å of wavelengths in standard air in Å.

    The refractive index of dry air at 15 °C with 450 ppm CO₂ of Ciddor (1996, doi:10.1364/AO.35.001566) is a
    function of vacuum wavelength, so the relation is inverted by iteration; below 2000 Å, where it does not
    hold, nothing changes.
    """
    wave = np.asarray(wave, dtype=np.float64)
    vacuum = wave.copy()
    for _ in range(4):
        s2 = (1e4 / vacuum) ** 2
        index = 1 + 5.792105e-2 / (238.0185 - s2) + 1.67917e-3 / (57.362 - s2)
        vacuum = np.where(wave < 2000.0, wave, wave * index)
    return vacuum
