"""Grids: the published pixels, tolerance of equality, JSON."""

import numpy as np
import pytest

from astroclip_train.data.grids import LRS_GRID, XP_GRID, Grid
from astroclip_train.errors import DataError


def test_published_grids():
    lrs, xp = LRS_GRID.wave(), XP_GRID.wave()
    assert lrs.shape == (1462,)
    np.testing.assert_allclose(lrs[[0, -1]], [10**3.602, 10 ** (3.602 + 0.1461)], rtol=1e-12)
    assert xp.shape == (343,)
    assert (xp[0], xp[1], xp[-1]) == (336.0, 338.0, 1020.0)
    np.testing.assert_allclose(XP_GRID.angstrom(), 10 * xp)


def test_equality_sees_a_hundredth_of_a_pixel_and_the_medium():
    assert Grid("log10", 3.602 + 0.5e-6, 1e-4, 1462) == LRS_GRID
    assert Grid("log10", 3.602 + 2e-6, 1e-4, 1462) != LRS_GRID
    assert Grid("log10", 3.602, 1e-4, 1462, medium="air") != LRS_GRID
    assert Grid("linear", 3360.0, 20.0, 343, "Angstrom") == XP_GRID


@pytest.mark.parametrize("grid", [LRS_GRID, XP_GRID, Grid("explicit", 1.0, 0.0, 3, values=(1.0, 2.5, 7.0))])
def test_json_and_recognition_round_trip(grid):
    assert Grid.from_json(grid.to_json()) == grid
    again = Grid.from_wave(grid.wave(), grid.unit, grid.medium)
    assert again == grid
    assert again.kind == grid.kind


def test_crop_keeps_pixel_centres():
    grid, part = LRS_GRID.crop(4100.0, 5000.0)
    np.testing.assert_allclose(grid.wave(), LRS_GRID.wave()[part], rtol=1e-12)
    assert grid.wave()[0] >= 4100.0
    with pytest.raises(DataError, match="no pixel"):
        LRS_GRID.crop(9000.0, 9100.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cubic", 1.0, 1.0, 3),
        ("linear", 1.0, -1.0, 3),
        ("linear", 1.0, 1.0, 0),
        ("linear", 1.0, 1.0, 3, "inch"),
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(DataError):
        Grid(*arguments)
