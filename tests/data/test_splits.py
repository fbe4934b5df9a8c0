"""Splits and labelled subsets: constant, by object, nested."""

import numpy as np

from astroclip_train.data.splits import label_order, split_of
from astroclip_train.randomness import object_hash

IDS = [f"Gaia DR3 {i}" for i in range(20000)]


def test_split_is_pinned_forever():
    # a change here would move stars between train and test of existing runs
    assert split_of(IDS[:12]).tolist() == [
        "validation",
        "train",
        "train",
        "test",
        "validation",
        "validation",
        "train",
        "train",
        "train",
        "train",
        "test",
        "train",
    ]
    assert label_order(IDS[:8]).tolist() == [5, 7, 1, 6, 4, 3, 0, 2]


def test_fractions():
    names, counts = np.unique(split_of(IDS), return_counts=True)
    shares = dict(zip(names.tolist(), counts / len(IDS), strict=True))
    for name, share in {"train": 0.8, "validation": 0.08, "test": 0.12}.items():
        assert abs(shares[name] - share) < 0.01


def test_an_object_has_one_split_wherever_it_stands():
    order = np.random.default_rng(0).permutation(len(IDS))
    assert (split_of(np.array(IDS)[order]) == split_of(IDS)[order]).all()
    assert (split_of(object_hash(np.array(IDS))) == split_of(IDS)).all()


def test_published_test_objects_stay_test_with_all_their_observations():
    ids = ["a", "b", "a", "c"]
    free = split_of(ids)
    split = split_of(ids, published=["", "train", "test", "validation"])
    assert split[[0, 2]].tolist() == ["test", "test"]
    assert split[[1, 3]].tolist() == free[[1, 3]].tolist()


def test_labelled_subsets_nest_when_objects_are_added():
    few, many = np.array(IDS[:1000]), np.array(IDS[:3000])
    first = set(few[label_order(few)[:100]])
    larger = few[label_order(few)[:400]]
    assert first <= set(larger)
    ranked = [name for name in many[label_order(many)] if name in set(few)]
    assert ranked == few[label_order(few)].tolist()


def test_splits_and_labels_are_independent():
    order = label_order(IDS)
    train = split_of(IDS)[order[:5000]] == "train"
    assert abs(train.mean() - 0.8) < 0.02


def test_another_salt_gives_another_partition():
    same = (split_of(IDS) == split_of(IDS, salt="second")).mean()
    assert 0.6 < same < 0.75  # 0.8² + 0.08² + 0.12² = 0.66
