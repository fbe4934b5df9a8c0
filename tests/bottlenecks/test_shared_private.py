"""The split of an embedding."""

import pytest
import torch

from astroclip_train.bottlenecks import BOTTLENECKS, Bottleneck, SharedPrivate
from astroclip_train.errors import ConfigError


def test_parts_make_the_whole():
    z = torch.randn(3, 768)
    split = SharedPrivate()
    assert torch.equal(torch.cat([split.shared(z), split.private(z)], dim=1), z)
    assert (split.shared_features(768), split.private_features(768)) == (512, 256)


def test_without_a_bottleneck_all_is_shared():
    z = torch.randn(3, 5)
    assert torch.equal(Bottleneck().shared(z), z)
    assert Bottleneck().private(z).shape == (3, 0)


def test_other_lengths_are_refused():
    with pytest.raises(ConfigError, match="768"):
        SharedPrivate().shared_features(512)
    with pytest.raises(ConfigError, match="at least 1"):
        SharedPrivate(0, 5)


def test_registry():
    assert {"SharedPrivate": SharedPrivate} == BOTTLENECKS
