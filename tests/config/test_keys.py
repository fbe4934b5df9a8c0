"""The table of identity and operational keys: complete, and right where it matters."""

import hashlib

import numpy as np
import pytest
from omegaconf import OmegaConf

from astroclip_train.config.compose import compose
from astroclip_train.config.fingerprint import canonical, fingerprint, stage_fingerprint
from astroclip_train.config.folder import conf_folder, groups
from astroclip_train.config.keys import (
    CONTENT,
    IDENTITY,
    OPERATIONAL,
    TABLE,
    classify,
    differences,
    flat,
    identity,
    operational,
    stage_identity,
)
from astroclip_train.errors import ConfigError

CHOICES = groups([conf_folder()])
SHIPPED = [
    *(f"+experiment={e} scale={s}" for e in CHOICES["experiment"] for s in ("tiny", "paper")),
    *(f"+experiment=specclip variant={v}" for v in CHOICES["variant"]),
    "+experiment=specclip dataset=store logger=wandb callbacks=timer",
    "+experiment=finetune adapt=lora",
    "+experiment=specclip  stages.lrs.dataset=[mock_stars,{path: a.h5}]",
]


@pytest.mark.parametrize("command", SHIPPED)
def test_every_key_of_every_shipped_experiment_is_classified(command):
    cfg = compose(command.split("  " if "[" in command else " "), resolved=False)
    kinds = {key: classify(key) for key in flat(cfg)}
    assert set(kinds.values()) <= {IDENTITY, OPERATIONAL, CONTENT}
    assert sum(k == IDENTITY for k in kinds.values()) > 10


def test_a_new_trainer_key_must_be_classified():
    with pytest.raises(ConfigError, match="add a row"):
        classify("stages.lrs.trainer.newly_invented")
    with pytest.raises(ConfigError, match="add a row"):
        classify("run.newly_invented")


def test_every_row_of_the_table_gives_a_reason():
    assert all(reason for _, _, reason in TABLE)
    patterns = [pattern for pattern, _, _ in TABLE]
    assert len(set(patterns)) == len(patterns)


@pytest.fixture(scope="module")
def plain():
    return compose(["+experiment=specclip", "scale=tiny"])


def changed(cfg, key, value):
    other = cfg.copy()
    OmegaConf.update(other, key, value, force_add=True)
    return other


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.stages", ["lrs"]), ("run.root", "elsewhere"), ("run.name", "x"), ("data.num_workers", 4),
        ("stages.lrs.trainer.devices", 8), ("stages.lrs.trainer.accelerator", "cpu"), ("stages.align.cache", False),
        ("stages.lrs.trainer.checkpoint_every_steps", 3), ("logger.tensorboard", True), ("stages.lrs.probe", None),
        ("evaluation.report", False), ("data.cache_root", "/c"), ("run.preflight", True), ("trainer.devices", 3),
        ("stages.lrs.optimizer.fused", False), ("stages.heads.tasks.cnn.optimizer.fused", False),
    ],
)  # fmt: skip
def test_how_and_where_change_nothing(plain, key, value):
    other = changed(plain, key, value)
    assert identity(other) == identity(plain)
    assert operational(other) != operational(plain)
    for stage in plain.stages:
        assert stage_fingerprint(other, stage, "d", {}) == stage_fingerprint(plain, stage, "d", {})


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("run.seed", 1, {"lrs", "xp", "align", "heads"}),
        ("data.block", 64, {"lrs", "xp", "align", "heads"}),
        ("dataset.n", 601, {"lrs", "xp", "align", "heads"}),
        ("stages.lrs.trainer.batch_size", 32, {"lrs"}),
        ("stages.lrs.trainer.precision", "bf16-mixed", {"lrs"}),
        ("stages.xp.encoder.width", 32, {"xp"}),
        ("stages.align.objective.temperature", 0.1, {"align"}),
        ("labels.n", 100, {"heads"}),
        ("labels.names", ["teff"], {"heads"}),
        ("stages.heads.tasks.mlp.head.dropout", 0.5, {"heads"}),
        ("evaluation.bootstrap", 7, set()),
    ],
)
def test_what_a_key_invalidates_by_itself(plain, key, value, stages):
    """Stages downstream become stale through their inputs' fingerprints, not through keys that are not theirs."""
    other = changed(plain, key, value)
    assert identity(other) != identity(plain)
    touched = {
        s
        for s in plain.stages
        if stage_fingerprint(other, s, "d", {}) != stage_fingerprint(plain, s, "d", {})
    }
    assert touched == stages


def test_fingerprint_follows_data_and_inputs(plain):
    base = stage_fingerprint(plain, "align", "d", {"lrs": "a"})
    assert base != stage_fingerprint(plain, "align", "e", {"lrs": "a"})
    assert base != stage_fingerprint(plain, "align", "d", {"lrs": "b"})


def test_a_moved_store_is_the_same_data(plain):
    here = changed(
        plain, "dataset", {"_target_": "astroclip_train.data.store_dataset.StoreDataset", "path": "a.h5"}
    )
    there = changed(here, "dataset.path", "/elsewhere/b.h5")
    assert stage_identity(here, "lrs") == stage_identity(there, "lrs")
    assert classify("dataset.path") == CONTENT


def test_own_dataset_replaces_the_runs(plain):
    own = changed(plain, "stages.lrs.dataset", {"_target_": "astroclip_train.data.mock.MockStars", "n": 5})
    assert stage_identity(changed(own, "dataset.n", 9), "lrs") == stage_identity(own, "lrs")
    assert stage_identity(own, "lrs") != stage_identity(plain, "lrs")
    assert stage_identity(own, "xp") == stage_identity(plain, "xp")


def test_differences_name_both_values():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == {"b": (2, 3)}


def test_canonical_form():
    assert fingerprint({"a": 1, "b": [1.0, None]}) == fingerprint({"b": (1, None), "a": 1.0})
    assert fingerprint({"a": np.float64(0.5)}) == fingerprint({"a": 0.5})
    assert fingerprint(True) != fingerprint(1)
    assert fingerprint("1") != fingerprint(1)
    assert canonical({"b": float("nan"), "a": 1e-5}) == '{"a":1e-05,"b":"nan"}'
    assert fingerprint({"x": 0.1}) == hashlib.sha256(b'{"x":0.1}').hexdigest()
    with pytest.raises(TypeError):
        fingerprint(object())
