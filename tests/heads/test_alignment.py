"""Properties of every registered alignment head, and the published sizes."""

import io

import pytest
import torch

from astroclip_train.heads import ALIGNMENT_HEADS, AttentionHead, MLPBranchHead, SplitHead


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ALIGNMENT_HEADS)
class TestEveryAlignmentHead:
    def test_shape_gradient_and_float64(self, name):
        head = ALIGNMENT_HEADS[name].example().double()
        z = head(torch.randn(4, 5, 8, dtype=torch.float64))
        assert z.shape == (4, head.features)
        (z * torch.randn_like(z)).sum().backward()
        assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_eval_is_deterministic_with_a_batch_of_one(self, name):
        head = ALIGNMENT_HEADS[name].example().double().eval()
        tokens = torch.randn(4, 5, 8, dtype=torch.float64)
        torch.testing.assert_close(head(tokens[:1]), head(tokens)[:1])
        assert torch.equal(head(tokens), head(tokens))

    def test_save_and_load(self, name):
        head, other = ALIGNMENT_HEADS[name].example().eval(), ALIGNMENT_HEADS[name].example().eval()
        buffer = io.BytesIO()
        torch.save(head.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        tokens = torch.randn(2, 5, 8)
        assert torch.equal(head(tokens), other(tokens))


def test_published_sizes():
    with torch.device("meta"):
        assert count(AttentionHead(146, 768)) == 7_087_104
        assert count(MLPBranchHead(1, 768)) == 7_100_568
        assert count(SplitHead(146, 768)) == 4_465_664
        assert count(SplitHead(1, 768, kind="mlp")) == 5_006_896
