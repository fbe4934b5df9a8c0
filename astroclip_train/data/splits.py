"""Train, validation and test by a salted hash of the object, the same in every store and every run."""

from collections.abc import Sequence

import numpy as np
import torch

from ..randomness import object_hash, uniform

__all__ = ["FRACTIONS", "SALT", "SPLITS", "fold_split", "label_order", "split_of"]

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.08, 0.12)
SALT = "astro-train-1"


def split_of(
    objects: Sequence[str] | np.ndarray,
    fractions: tuple[float, float, float] = FRACTIONS,
    salt: str = SALT,
    published: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
    """The split of each sample, by its object.

    Formula:
        u = hash(salt, object) in [0, 1); train if u < f₀, validation if u < f₀ + f₁, else test.

    Arguments:
        objects: object ids, or their int64 hashes, shape (N,).
        fractions: shares of train, validation and test.
        salt: another salt gives another partition (repeated splits by star).
        published: split names that came with the data; every observation of an object that was once published
            as "test" stays test.

    Returns:
        Names "train", "validation" or "test", shape (N,).
    """
    hashes = _hashes(objects)
    draws = _draw(hashes, "split " + salt)
    edges = np.cumsum(np.asarray(fractions, dtype=np.float64) / sum(fractions))[:2]
    split = np.array(SPLITS)[np.searchsorted(edges, draws, side="right")]
    if published is not None:
        is_test = np.isin(hashes, hashes[np.asarray(published) == "test"])
        split[is_test] = "test"
    return split


def fold_split(
    objects: Sequence[str] | np.ndarray, fold: int, folds: int, validation: float = 0.1, salt: str = SALT
) -> np.ndarray:
    """Cross-validation by star: fold `fold` of `folds` is test, a share of the others validation, the rest train.

    Formula:
        test where ⌊folds · hash(salt, object)⌋ = fold; of the others, validation where a second hash < `validation`.

    Arguments:
        objects: object ids, or their int64 hashes, shape (N,).
        fold, folds: which of how many.
        validation: share of the objects outside of the test fold.
        salt: as in `split_of`.

    Returns:
        Names "train", "validation" or "test", shape (N,).
    """
    hashes = _hashes(objects)
    number = np.floor(_draw(hashes, "fold " + salt) * folds)
    held_out = _draw(hashes, "fold validation " + salt) < validation
    return np.where(number == fold, "test", np.where(held_out, "validation", "train"))


def label_order(objects: Sequence[str] | np.ndarray, salt: str = SALT) -> np.ndarray:
    """The order in which labelled samples are taken, so that a smaller subset is part of a larger one.

    Arguments:
        objects: object ids, or their int64 hashes, shape (N,).
        salt: as in `split_of`, whose hash is independent of this one.

    Returns:
        Positions into `objects`, shape (N,); the first n are the labelled subset of size n.
    """
    return np.argsort(_draw(_hashes(objects), "labels " + salt), kind="stable")


def _hashes(objects: Sequence[str] | np.ndarray) -> np.ndarray:
    array = np.asarray(objects)
    return array if array.dtype == np.int64 else object_hash(array.astype(str))


def _draw(hashes: np.ndarray, stream: str) -> np.ndarray:
    return uniform(0, 0, torch.from_numpy(np.ascontiguousarray(hashes)), 1, stream).numpy()[:, 0]
