"""Which observations are of one object: by Gaia source ids where known, else by near positions."""

import numpy as np

__all__ = ["known_ids", "match_positions", "name_objects", "position_groups", "position_name", "unit_vectors"]

RADIUS = 3.0  # arcsec
NO_ID = ("-1", "-999", "-9999", str(-(2**31)), str(-(2**63)))  # what catalogues write where an id is unknown


def known_ids(ids: np.ndarray) -> np.ndarray:
    """Ids as text, (n,), empty where a catalogue's code stands for an unknown one.

    0 is such a code too, except among running numbers, where there is a 1.
    """
    text = np.array([str(i).strip() for i in ids], dtype=object)
    codes = NO_ID if (text == "1").any() else (*NO_ID, "0")
    text[np.isin(text.astype(str), codes)] = ""
    return text


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Directions (n, 3) of right ascensions and declinations in degrees."""
    a, d = np.radians(np.asarray(ra, dtype=np.float64)), np.radians(np.asarray(dec, dtype=np.float64))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _chord(radius: float) -> float:
    """Length of the chord of an angle in arcsec."""
    return float(2 * np.sin(np.radians(radius / 3600) / 2))


def position_groups(ra: np.ndarray, dec: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Friends-of-friends group numbers (n,) of positions in degrees, linked within `radius` arcsec.

    Positions that are not finite are groups of their own.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    n = len(ra)
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    links = np.zeros((0, 2), dtype=int)
    if len(known) > 1:
        tree = cKDTree(unit_vectors(np.asarray(ra)[known], np.asarray(dec)[known]))
        links = known[tree.query_pairs(_chord(radius), output_type="ndarray")]
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def position_name(ra: float, dec: float) -> str:
    """A name of a position in degrees, cut (not rounded) to 0.1 s and 1 arcsec, such as J030024.0+005432."""
    tiny = 1e-5  # of the last digit, so that exact values are not cut below themselves
    tenths = int((ra % 360) / 15 * 36000 + tiny) % (24 * 36000)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    degrees, left = divmod(int(abs(dec) * 3600 + tiny), 3600)
    sign = "-" if dec < 0 else "+"
    return f"J{hours:02d}{minutes:02d}{rest / 10:04.1f}{sign}{degrees:02d}{left // 60:02d}{left % 60:02d}"


def name_objects(
    ra: np.ndarray, dec: np.ndarray, source_ids: np.ndarray, obs_ids: np.ndarray, radius: float = RADIUS
) -> np.ndarray:
    """Object ids (n,) of observations: a Gaia source id where known, for a group where any member's is known.

    Members of a position group without an own id take the id of the nearest member that has one; groups
    without any are named by their median position; observations without a position keep their own obs_id.

    Arguments:
        ra, dec: degrees, NaN where unknown, shape (n,).
        source_ids: Gaia source ids as text, empty (or a code, see `known_ids`) where unknown, shape (n,).
        obs_ids: ids of the observations, shape (n,).
        radius: linking length in arcsec.
    """
    ra, dec = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    names = known_ids(source_ids)
    groups = position_groups(ra, dec, radius)
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        nameless = members[names[members] == ""]
        if not len(nameless):
            continue
        named = members[names[members] != ""]
        if len(named):
            distance = unit_vectors(ra[nameless], dec[nameless]) @ unit_vectors(ra[named], dec[named]).T
            names[nameless] = names[named[np.argmax(distance, axis=1)]]
        elif np.isfinite(ra[members]).all() and np.isfinite(dec[members]).all():
            centre = np.median(unit_vectors(ra[members], dec[members]), axis=0)
            middle = np.degrees(np.arctan2(centre[1], centre[0])) % 360
            names[members] = position_name(middle, np.degrees(np.arctan2(centre[2], np.hypot(*centre[:2]))))
        else:
            names[members] = [str(o) for o in np.asarray(obs_ids)[members]]
    return names.astype(str)


def match_positions(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius: float = RADIUS
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other position within `radius` arcsec, -1 where none, and how many lie within it.

    Positions in degrees; those that are not finite match nothing. Returns two int arrays of shape (n,).
    """
    from scipy.spatial import cKDTree

    found, counts = np.full(len(ra), -1), np.zeros(len(ra), dtype=int)
    mine = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    theirs = np.flatnonzero(np.isfinite(other_ra) & np.isfinite(other_dec))
    if not len(mine) or not len(theirs):
        return found, counts
    tree = cKDTree(unit_vectors(np.asarray(other_ra)[theirs], np.asarray(other_dec)[theirs]))
    vectors = unit_vectors(np.asarray(ra)[mine], np.asarray(dec)[mine])
    distance, nearest = tree.query(vectors, distance_upper_bound=_chord(radius))
    hit = np.isfinite(distance)
    found[mine[hit]] = theirs[nearest[hit]]
    counts[mine] = tree.query_ball_point(vectors, _chord(radius), return_length=True)
    return found, counts
