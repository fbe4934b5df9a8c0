"""Which observations are of one star."""

import numpy as np
import pytest

from astroclip_train.data.identity import (
    known_ids,
    match_positions,
    name_objects,
    position_groups,
    position_name,
)

ARCSEC = 1 / 3600


def test_friends_of_friends_link_through_each_other_and_across_zero_and_poles():
    ra = np.array([10.0, 10.0, 10.0, 359.9999, 0.0001, 50.0, 230.0])
    dec = np.array([0.0, 2 * ARCSEC, 4 * ARCSEC, 20.0, 20.0, 89.9999, 89.9999])
    groups = position_groups(ra, dec, 3.0)
    assert groups[0] == groups[1] == groups[2]  # 4 arcsec apart, linked by the one between
    assert groups[3] == groups[4]
    assert groups[5] == groups[6]
    assert len(set(groups)) == 3
    assert len(set(position_groups(ra, dec, 1.0))) == 5


def test_groups_agree_with_brute_force():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 0.02, 200), rng.uniform(-0.01, 0.01, 200)
    v = np.stack([np.cos(np.radians(dec)) * np.cos(np.radians(ra)), np.cos(np.radians(dec)) * np.sin(np.radians(ra)),
                  np.sin(np.radians(dec))], 1)  # fmt: skip
    near = np.degrees(np.arccos(np.clip(v @ v.T, -1, 1))) * 3600 < 3
    np.fill_diagonal(near, True)
    reach = near
    for _ in range(20):
        reach = (reach.astype(int) @ near.astype(int)) > 0
    groups = position_groups(ra, dec, 3.0)
    np.testing.assert_array_equal(groups[:, None] == groups[None, :], reach)


def test_unknown_positions_are_alone():
    groups = position_groups(np.array([np.nan, np.nan, 1.0]), np.array([0.0, 0.0, 1.0]))
    assert len(set(groups)) == 3


def test_names_prefer_gaia_and_spread_through_a_group():
    ra = np.array([45.1, 45.1, 45.1, 80.0, 80.0 + ARCSEC, np.nan])
    dec = np.array([0.9, 0.9 + ARCSEC, 0.9, -5.0, -5.0, np.nan])
    source = np.array(["", "120435178731136", "", "", "", ""])
    names = name_objects(ra, dec, source, np.array(list("abcdef")))
    assert list(names[:3]) == ["120435178731136"] * 3
    assert names[3] == names[4] == "J052000.0-050000"
    assert names[5] == "f"


def test_two_gaia_stars_within_the_radius_stay_two():
    ra, dec = np.array([10.0, 10.0, 10.0]), np.array([0.0, 2.0, 0.2]) * ARCSEC
    assert list(name_objects(ra, dec, np.array(["1", "2", ""]), np.array(list("abc")))) == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (45.100046, 0.908912, "J030024.0+005432"),
        (0.0, -0.5, "J000000.0-003000"),
        (359.99999999, 89.0, "J235959.9+890000"),
        (-1e-12, 0, "J000000.0+000000"),
    ],
)
def test_position_names(ra, dec, name):
    assert position_name(ra, dec) == name


def test_nearest_within_the_radius():
    found, counts = match_positions(
        np.array([10.0, 20.0, np.nan]), np.array([0.0, 0.0, 0.0]),
        np.array([10.0, 10.0, 21.0]), np.array([2.0, 1.0, 0.0]) * ARCSEC, 3.0,
    )  # fmt: skip
    assert list(found) == [1, -1, -1]
    assert list(counts) == [2, 0, 0]
    assert list(match_positions(np.ones(1), np.ones(1), np.array([]), np.array([]))[0]) == [-1]


@pytest.mark.parametrize("code", ["0", "-1", "-9999", str(-(2**63))])
def test_codes_of_unknown_ids_join_nobody(code):
    ra, dec = np.arange(4.0), np.zeros(4)
    source = np.array(["349511554371328", code, code, ""])
    names = name_objects(ra, dec, source, np.array(list("abcd")))
    assert names[0] == "349511554371328"
    assert len(set(names)) == 4
    assert list(known_ids(source)) == ["349511554371328", "", "", ""]


def test_zero_is_an_id_among_running_numbers():
    assert list(known_ids(np.array([0, 1, 2, 0]))) == ["0", "1", "2", "0"]


def test_a_position_measured_again_may_have_another_name_as_documented():
    """The numbers of docs/store.md: 0.2 arcsec change a fifth of the names."""
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 4000), np.degrees(np.arcsin(rng.uniform(-0.2, 0.9, 4000)))
    offset = rng.normal(0, 0.2 / np.sqrt(2), (2, 4000)) / 3600
    again = ra + offset[0] / np.cos(np.radians(dec)), dec + offset[1]
    other = [position_name(ra[i], dec[i]) != position_name(again[0][i], again[1][i]) for i in range(4000)]
    assert 0.15 < np.mean(other) < 0.25
