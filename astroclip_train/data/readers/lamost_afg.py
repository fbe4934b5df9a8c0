"""2,304 labelled LAMOST DR10 spectra of A, F and G stars, repacked in one HDF5 file on native pixels."""

from pathlib import Path

import numpy as np

from ...errors import DataError
from ..grids import Grid
from .rows import Rows

__all__ = ["LABELS", "read"]

LABELS = ("teff", "logg", "feh")
NEEDED = ("flux", "ivar", "mask", "log10_wave_vacuum_angstrom", "labels", "obsid", "ra", "dec", "snrg")


def read(path: str | Path) -> tuple[Grid, Rows]:
    """The file's grid (1,600 px, 3972–5740 Å, heliocentric) and its rows as modality `lrs`, not normalised.

    A pixel is good if no exposure-wide flag (bit 0, ANDMASK) is set and its inverse variance is positive.
    Labels are the survey pipeline's Teff in K, log g and [Fe/H] in dex; S/N is that of the g band, capped at
    999 by the survey.

    Raises:
        DataError: damaged, or datasets are missing.
    """
    import h5py

    path = Path(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            missing = [name for name in NEEDED if name not in file]
            if missing:
                raise DataError(f"{path} has no dataset {', '.join(missing)}: it is not the lamost_afg file.")
            data = {name: file[name][:] for name in NEEDED}
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as HDF5 ({reason}): it is missing or damaged.") from error
    x = data["log10_wave_vacuum_angstrom"]
    grid = Grid("log10", round(float(x[0]), 6), 1e-4, len(x), "Angstrom", "vacuum")
    flux, ivar = data["flux"].astype(np.float64), data["ivar"].astype(np.float64)
    good = (data["mask"] & 1 == 0) & (ivar > 0) & np.isfinite(flux) & (flux != 0)
    arrays = {"lrs": {"flux": flux, "ivar": np.where(good, ivar, 0.0), "mask": good, "snr": data["snrg"]}}
    labels = {name: data["labels"][:, k].astype(np.float64) for k, name in enumerate(LABELS)}
    obs_id = np.array([str(i) for i in data["obsid"]])
    return grid, Rows(arrays, obs_id, np.full(len(obs_id), ""), data["ra"], data["dec"], labels)
