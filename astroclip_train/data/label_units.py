"""The unit that a label has in every store, and the conversion of those that come in another."""

from collections.abc import Collection, Mapping

import numpy as np

from ..errors import ConfigError

__all__ = ["LABEL_UNITS", "check_label_units", "label_in_unit", "label_unit"]

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
