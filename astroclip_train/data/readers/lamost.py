"""LAMOST low-resolution spectra in every layout of the survey's releases, from DR1 to DR10."""

import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .spectrum import Spectrum, air_to_vacuum

__all__ = ["find_files", "read"]

SUFFIXES = (".fits", ".fits.gz", ".fit", ".fit.gz")
LIGHT_SPEED = 299792.458  # km/s
COLUMNS = {
    "flux": ("FLUX", "INTENSITY", "SPEC"),
    "wave": ("WAVELENGTH", "WAVE", "LAMBDA"),
    "ivar": ("IVAR", "INVERSE"),
    "andmask": ("ANDMASK",),
    "ormask": ("ORMASK",),
}
SNAP = 1e-6  # dex: float32 wavelengths scatter by 5e-7 about the grid that the header states


def find_files(paths: list[str | Path]) -> list[Path]:
    """FITS files among `paths`, folders searched through, in sorted order without repeats.

    Raises:
        DataError: a path does not exist, or nothing was found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [p for p in sorted(path.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file()]
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist: give FITS files or folders that hold them.")
    if not found:
        raise DataError(
            f"No FITS files ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}: check the folder."
        )
    return list(dict.fromkeys(found))


def read(path: str | Path, *, strict_mask: bool = False) -> Spectrum:
    """One LAMOST LRS file, plain or gzipped.

    Layouts: primary image of 5 rows whose third is a continuum (DR1) or the wavelength (DR2 to DR9), or a
    table COADD (DR10). A pixel is good if flux and ivar are finite, ivar > 0, the flux is not the exact 0
    that fills gaps, and no exposure-wide flag (ANDMASK) is set; `strict_mask` also refuses pixels flagged in
    any single exposure (ORMASK).

    Raises:
        DataError: the file is damaged, truncated, or not an LRS spectrum.
    """
    path = Path(path)
    try:
        header, rows = _load(path)
        return _spectrum(path, header, rows, strict_mask)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: check the path.") from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as LAMOST FITS ({reason}): it is damaged or truncated, fetch it again."
        ) from error


def _load(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The primary header and the rows by name, float64."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes): fetch it again.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            telescope = str(header.get("TELESCOP", "LAMOST")).strip()
            if "LAMOST" not in telescope.upper():
                raise DataError(
                    f"{path} is from {telescope}, not from LAMOST: use `astro-data convert table` for it."
                )
            if hdus[0].data is not None:
                return header, _image_rows(path, header, np.asarray(hdus[0].data))
            tables = [h for h in hdus[1:] if getattr(h, "columns", None) is not None]
            coadd = next((h for h in tables if h.name == "COADD"), tables[0] if len(tables) == 1 else None)
            if coadd is None:
                names = ", ".join(h.name or "?" for h in hdus) or "none"
                raise DataError(
                    f"{path} is not a low-resolution LAMOST spectrum (extensions {names}): "
                    "expected a primary image of 5 rows or one table COADD."
                )
            return header, _table_rows(path, coadd)


def _image_rows(path: Path, header: Any, data: np.ndarray) -> dict[str, np.ndarray]:
    if data.ndim != 2 or not 3 <= data.shape[0] <= 6 or data.shape[1] < 100:
        raise DataError(
            f"{path} has a primary image of shape {data.shape}: expected 5 rows of about 3900 pixels "
            "(flux, inverse variance, wavelength or continuum, and-mask, or-mask)."
        )
    rows = {"flux": data[0], "ivar": data[1]}
    third = data[2].astype(np.float64)
    if "wavelength" in str(header.get("EXTEN0", "")).lower() or third.min() > 1000:
        rows["wave"] = third
    for name, index in (("andmask", 3), ("ormask", 4)):
        if data.shape[0] > index:
            rows[name] = data[index]
    return {name: row.astype(np.float64) for name, row in rows.items()}


def _table_rows(path: Path, table: Any) -> dict[str, np.ndarray]:
    names = {n.upper(): n for n in table.columns.names}
    rows = {}
    for key, aliases in COLUMNS.items():
        name = next((names[a] for a in aliases if a in names), None)
        if name is not None:
            values = np.asarray(table.data[name], dtype=np.float64)
            rows[key] = values[0] if values.ndim == 2 else values
    if "flux" not in rows:
        some = ", ".join(list(names)[:6])
        raise DataError(
            f"{path} has no column FLUX in its table (columns {some}, ...): it is not a spectrum."
        )
    return rows


def _wavelength(header: Any, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Wavelengths in Å: the file's row, without its float32 rounding where the header's grid is meant."""
    n = len(rows["flux"])
    start, step = header.get("COEFF0", header.get("CRVAL1")), header.get("COEFF1", header.get("CD1_1"))
    stated = None if start is None or step is None else 10 ** (float(start) + float(step) * np.arange(n))
    given = rows.get("wave")
    if given is None:
        if stated is None:
            raise ValueError("neither a wavelength row nor COEFF0 and COEFF1 in the header")
        return stated
    if given.min() <= 0 or not (np.diff(given) > 0).all():
        raise ValueError("the wavelengths do not increase")
    if stated is not None and np.abs(np.log10(given / stated)).max() < SNAP:
        return stated
    return given


def _spectrum(path: Path, header: Any, rows: dict[str, np.ndarray], strict_mask: bool) -> Spectrum:
    flux = rows["flux"]
    ivar = rows.get("ivar", np.ones_like(flux))
    wave = _wavelength(header, rows)
    medium = "air" if header.get("VACUUM") is False else "vacuum"
    mask = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & (flux != 0)
    for name in ("andmask", "ormask") if strict_mask else ("andmask",):
        mask &= rows.get(name, np.zeros_like(flux)) == 0
    z = _number(header.get("Z"), lowest=-1.0)
    star = str(header.get("CLASS", "")).strip().upper() == "STAR"
    source = str(header.get("OBJNAME", "")).strip()
    from_gaia = str(header.get("TFROM", header.get("T_FROM", ""))).strip().upper().startswith("GAIA")
    return Spectrum(
        wave=air_to_vacuum(wave) if medium == "air" else wave,
        flux=flux,
        ivar=np.where(mask, ivar, 0.0),
        mask=mask,
        obs_id=_obs_id(path, header),
        ra=_number(header.get("RA")),
        dec=_number(header.get("DEC"), lowest=-90.0),
        path=path,
        frame="heliocentric" if header.get("HELIO") else "observed",
        medium=medium,
        snr={
            b: _number(header.get(f"SNR{b.upper()}", header.get(f"SN_{b.upper()}")), lowest=0.0)
            for b in "ugriz"
        },
        z=z,
        labels={"rv": LIGHT_SPEED * z} if star and math.isfinite(z) else {},
        designation=str(header.get("DESIG", "")).strip(),
        gaia_source_id=source if from_gaia and source.isdigit() else "",
        survey="LAMOST LRS",
        release=str(header.get("DATA_V", "LAMOST DR1" if "wave" not in rows else "LAMOST")).strip(),
        subclass=str(header.get("SUBCLASS", "")).strip(),
    )


def _number(value: Any, lowest: float = -1e9) -> float:
    """A header value as a float; missing, not a number, or the survey's -9999 become NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) and number >= lowest else math.nan


def _obs_id(path: Path, header: Any) -> str:
    """OBSID, or date-plan_spectrograph-fibre where it is missing or overflowed to below zero (DR1 to DR3)."""
    obsid = _number(header.get("OBSID"))
    if obsid > 0:
        return str(int(obsid))
    date, plan = header.get("LMJD"), str(header.get("PLANID", "")).strip()
    spectrograph, fibre = _number(header.get("SPID")), _number(header.get("FIBERID"))
    if date is None or not plan or math.isnan(spectrograph) or math.isnan(fibre):
        name = path.name.removesuffix(".gz")
        return name.removesuffix(Path(name).suffix).removeprefix("spec-")
    return f"{int(date)}-{plan}_sp{int(spectrograph):02d}-{int(fibre):03d}"
