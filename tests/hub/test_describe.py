"""Counts of the published sizes, without memory; FLOPs against a hand count."""

import pytest
from omegaconf import OmegaConf

from astroclip_train.config.compose import compose
from astroclip_train.errors import ConfigError
from astroclip_train.hub.describe import describe, describe_config, describe_path

PAPER = {
    "clip": 99_710_814,
    "clip_r": 134_002_283,
    "clip_p": 134_002_283,
    "clip_pr": 168_293_752,
    "clip_split": 126_229_506,
}


@pytest.mark.parametrize("variant", PAPER)
def test_paper_sizes(variant):
    config = compose(["+experiment=specclip", "scale=paper", f"variant={variant}"])
    told = describe_config(OmegaConf.to_container(config, resolve=True))
    parts = told["parts"]
    assert parts["encoders.lrs"]["parameters"] == 42_677_013
    assert parts["encoders.lrs"]["tokens"] == [146, 21]
    assert parts["encoders.xp"]["parameters"] == 42_846_129
    assert parts["encoders.xp"]["tokens"] == [345]
    if variant != "clip_split":
        assert (parts["heads.lrs"]["parameters"], parts["heads.xp"]["parameters"]) == (7_087_104, 7_100_568)
    assert told["total_parameters"] == PAPER[variant]


def test_flops_of_the_autoencoder_are_two_per_weight():
    plan = {
        "_target_": "astroclip_train.encoders.AutoEncoder",
        "length": 10,
        "width": 4,
        "hidden": 6,
        "blocks": 1,
    }
    part = describe({"encoders.xp": plan})["parts"]["encoders.xp"]
    assert part["flops_per_object"] == 2 * (12 * 6 + 6 * 18 + 18 * 6 + 6 * 4)
    assert part["output"] == [1, 4]


def test_xp_transformer_has_one_token_per_pixel():
    plan = {
        "_target_": "astroclip_train.encoders.MaskedTransformer",
        "length": 343,
        "window": 1,
        "stride": 1,
        "stats": "mean_std",
        "positions": 350,
    }
    part = describe({"encoders.xp": plan})["parts"]["encoders.xp"]
    assert (part["tokens"], part["parameters"]) == ([344, 3], 42_802_947)


def test_a_run_is_described_from_its_checkpoints(run):
    told = describe_path(run)
    assert told["parts"]["encoders.lrs"]["tokens"] == [6, 21]
    assert told["parts"]["predictors.linear__xp.raw"]["class"] == "LinearHead"


def test_configuration_without_encoder_is_one_sentence():
    with pytest.raises(ConfigError, match=r"\+experiment=NAME"):
        describe_config({"stages": {}})
