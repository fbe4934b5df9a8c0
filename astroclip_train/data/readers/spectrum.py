"""What every reader of single spectra returns, units of labels, and the air-to-vacuum conversion."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ...errors import ConfigError

__all__ = ["LABEL_UNITS", "Spectrum", "air_to_vacuum", "check_label_units", "label_in_unit", "label_unit"]

LABEL_UNITS = {
    "teff": "K",
    "logg": "dex",
    "feh": "dex",
    "alpha_fe": "dex",
    "c_fe": "dex",
    "ebv": "mag",
    "rv": "km/s",
    "vsini": "km/s",
    "parallax": "mas",
}


def label_unit(name: str) -> str:
    """The unit a label has in every store; abundance ratios are dex and unknown names have no unit."""
    if name in LABEL_UNITS:
        return LABEL_UNITS[name]
    return "dex" if name.endswith(("_fe", "_h", "_m")) else ""


def label_in_unit(name: str, values: np.ndarray, given: str | None) -> tuple[np.ndarray, str]:
    """Values of a label in the unit that it has in every store, from the unit that the user gives for them.

    Raises:
        ConfigError: a unit that astropy does not know, or that cannot be converted.
    """
    expected = label_unit(name)
    if given is None or given == expected:
        return values, expected
    from astropy import units

    try:
        unit = units.Unit(given)
        if not expected:
            return values, given
        return unit.to(units.Unit(expected), values), expected
    except (ValueError, units.UnitConversionError) as error:
        wanted = (
            f"expected {expected} or what converts to it" if expected else "expected one that astropy knows"
        )
        raise ConfigError(f"--label-units {name}={given} is not a unit for {name}: {wanted}.") from error


def check_label_units(given: Mapping[str, str], there: Collection[str]) -> None:
    """Checks that units are given for labels that are there.

    Raises:
        ConfigError: one is not.
    """
    strange = sorted(set(given) - set(there))
    if strange:
        have = ", ".join(sorted(there)) or "none"
        raise ConfigError(
            f"--label-units names {', '.join(strange)}, but the labels that are joined are {have}."
        )


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
