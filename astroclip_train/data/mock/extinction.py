"""Interstellar reddening after Cardelli, Clayton and Mathis 1989 (doi:10.1086/167900) with R_V = 3.1."""

import numpy as np

__all__ = ["extinction_curve"]

# Coefficients of y = x − 1.82 in 1.1 ≤ x ≤ 3.3 µm⁻¹, lowest order first.
_A = (1.0, 0.17699, -0.50447, -0.02427, 0.72085, 0.01979, -0.77530, 0.32999)
_B = (0.0, 1.41338, 2.28305, 1.07233, -5.38434, -0.62251, 5.30260, -2.09002)


def extinction_curve(wave: np.ndarray, r_v: float = 3.1) -> np.ndarray:
    """Extinction in magnitudes for E(B−V) = 1.

    Formula:
        A(λ)/E(B−V) = R_V a(x) + b(x), x = 1 µm/λ

    Arguments:
        wave: wavelengths in Å between 3030 Å and 33,000 Å, any shape.
        r_v: ratio of total to selective extinction.
    """
    x = 1e4 / np.asarray(wave, dtype=np.float64)
    y = x - 1.82
    optical = np.polynomial.polynomial.polyval(y, _A), np.polynomial.polynomial.polyval(y, _B)
    infrared = 0.574 * x**1.61, -0.527 * x**1.61
    a, b = (np.where(x > 1.1, o, i) for o, i in zip(optical, infrared, strict=True))
    return r_v * a + b
