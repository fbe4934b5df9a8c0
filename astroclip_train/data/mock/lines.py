"""The embedded line list: atomic lines in `lines.csv`, hydrogen lines, molecular bands, and their elements."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

__all__ = ["BANDS", "ELEMENTS", "HYDROGEN", "LINE_LISTS", "Band", "Element", "LineList", "line_list"]


@dataclass(frozen=True)
class Element:
    """An element: solar abundance (H = 12), mass (u), ionisation energies (eV), log₁₀ partition functions, α or not."""

    abundance: float
    mass: float
    ionisation: tuple[float, float]
    partition: tuple[float, float]
    alpha: bool = False


# Abundances after Asplund et al. 2009; ionisation energies of NIST; partition functions near 5000 K after Gray 2005.
ELEMENTS: dict[str, Element] = {
    "O": Element(8.69, 16.0, (13.62, 35.12), (0.95, 0.60), True),
    "Na": Element(6.24, 23.0, (5.14, 47.29), (0.31, 0.00)),
    "Mg": Element(7.60, 24.3, (7.65, 15.04), (0.01, 0.31), True),
    "Al": Element(6.45, 27.0, (5.99, 18.83), (0.77, 0.00)),
    "Si": Element(7.51, 28.1, (8.15, 16.35), (0.98, 0.76), True),
    "K": Element(5.03, 39.1, (4.34, 31.63), (0.34, 0.00)),
    "Ca": Element(6.34, 40.1, (6.11, 11.87), (0.07, 0.35), True),
    "Sc": Element(3.15, 45.0, (6.56, 12.80), (1.08, 1.36)),
    "Ti": Element(4.95, 47.9, (6.83, 13.58), (1.48, 1.75), True),
    "V": Element(3.93, 50.9, (6.75, 14.62), (1.63, 1.65)),
    "Cr": Element(5.64, 52.0, (6.77, 16.49), (1.02, 0.86)),
    "Mn": Element(5.43, 54.9, (7.43, 15.64), (0.81, 0.89)),
    "Fe": Element(7.50, 55.8, (7.90, 16.19), (1.43, 1.63)),
    "Co": Element(4.99, 58.9, (7.88, 17.08), (1.52, 1.46)),
    "Ni": Element(6.22, 58.7, (7.64, 18.17), (1.47, 1.02)),
    "Sr": Element(2.87, 87.6, (5.69, 11.03), (0.10, 0.34)),
    "Y": Element(2.21, 88.9, (6.22, 12.22), (1.08, 1.18)),
    "Zr": Element(2.58, 91.2, (6.63, 13.13), (1.53, 1.66)),
    "Ba": Element(2.18, 137.3, (5.21, 10.00), (0.36, 0.60)),
}

# Hydrogen: vacuum wavelength in Å, lower level, oscillator strength, coefficient C of the Stark wing C·α^(−5/2).
HYDROGEN: tuple[tuple[float, int, float, float], ...] = (
    (6564.61, 2, 0.6407, 1.2e-3),
    (4862.71, 2, 0.1193, 3.0e-3),
    (4341.69, 2, 0.04467, 4.5e-3),
    (4102.90, 2, 0.02209, 7.0e-3),
    (3971.20, 2, 0.01270, 1.1e-2),
    (3890.17, 2, 0.008036, 1.2e-2),
    (3836.48, 2, 0.005429, 1.5e-2),
    (3798.98, 2, 0.003851, 1.8e-2),
    (3771.70, 2, 0.002835, 2.1e-2),
    (3751.22, 2, 0.002151, 2.4e-2),
    (10052.13, 3, 0.05584, 7.0e-3),
    (9548.59, 3, 0.02768, 1.0e-2),
    (9231.55, 3, 0.01604, 1.2e-2),
    (9017.39, 3, 0.01023, 1.5e-2),
    (8865.22, 3, 0.006980, 1.8e-2),
    (8752.88, 3, 0.004996, 2.1e-2),
    (8667.40, 3, 0.003711, 2.4e-2),
    (8600.75, 3, 0.002839, 2.7e-2),
)


@dataclass(frozen=True)
class Band:
    """A molecular band: its heads as (vacuum Å, decay length in Å, positive redwards, relative weight)."""

    molecule: str
    heads: tuple[tuple[float, float, float], ...]


BANDS: tuple[Band, ...] = (
    Band("CH", ((4315.5, -9.0, 4.5), (4304.0, -14.0, 1.0), (3901.0, -12.0, 0.6))),
    Band("CN", ((3884.5, -16.0, 1.0), (3872.5, -12.0, 0.6), (4217.2, -18.0, 0.31), (4198.0, -12.0, 0.60))),
    Band("C2", ((5166.7, -55.0, 1.0), (4738.5, -45.0, 0.6), (5637.0, -60.0, 0.5), (4716.0, -25.0, 0.3))),
    Band("MgH", ((5212.5, -45.0, 4.5), (4846.0, -40.0, 0.25), (5622.0, -40.0, 0.15))),
    Band(
        "TiO",
        (
            (4763.0, 90.0, 0.35),
            (4956.0, 110.0, 0.55),
            (5168.6, 130.0, 0.75),
            (5450.0, 120.0, 0.60),
            (5599.0, 60.0, 0.25),
            (5849.0, 110.0, 0.50),
            (6161.0, 160.0, 0.75),
            (6653.0, 160.0, 0.80),
            (7056.0, 220.0, 1.30),
            (7591.0, 170.0, 0.75),
            (8208.0, 120.0, 0.35),
            (8434.0, 150.0, 0.65),
            (8862.0, 130.0, 0.65),
            (9211.0, 200.0, 0.40),
        ),
    ),
)


@dataclass(frozen=True)
class LineList:
    """Atomic lines as arrays of shape (L,): vacuum Å, element index, ion stage 0 or 1, lower level in eV, log gf.

    `strong` (S,) are the lines whose damping wings are followed.
    """

    wave: np.ndarray
    element: np.ndarray
    stage: np.ndarray
    excitation: np.ndarray
    log_gf: np.ndarray
    strong: np.ndarray

    def __len__(self) -> int:
        return len(self.wave)


LINE_LISTS = ("observed", "laboratory")


@cache
def line_list(kind: str = "observed") -> LineList:
    """The atomic lines of `lines.csv`: laboratory wavelengths in vacuum and effective log gf.

    The log gf stand for blends at R = 1800, too: laboratory values were shifted, by at most 1 dex, until the model
    followed LAMOST spectra of A, F and G stars. `kind="laboratory"` takes them as they were before, which no observed
    spectrum has touched.
    """
    text = resources.files(__package__).joinpath("lines.csv").read_text(encoding="utf-8")
    rows = [row.split(",") for row in text.splitlines()[1:]]
    names = list(ELEMENTS)
    species = [row[1].split() for row in rows]
    return LineList(
        wave=np.array([float(row[0]) for row in rows]),
        element=np.array([names.index(name) for name, _ in species]),
        stage=np.array([len(roman) - 1 for _, roman in species]),
        excitation=np.array([float(row[2]) for row in rows]),
        log_gf=np.array([float(row[3 if kind == "observed" else 5]) for row in rows]),
        strong=np.flatnonzero([row[4] == "1" for row in rows]),
    )
