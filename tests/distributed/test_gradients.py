"""The gradient on W ranks is that of one process with the whole batch, to rounding."""

import json

import pytest
import torch
from gradients import aligned, batch, cases
from ranks import run

from astroclip_train.errors import ConfigError
from astroclip_train.objectives import Contrastive, ContrastiveDecoders, DecoderMI


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    run("gradients.py", request.param, str(folder))
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", list(cases()))
def test_gradient_equals_that_of_one_process(found: dict, name: str) -> None:
    result = found[name]
    assert result["norm"] > 1e-3 or name == "one"
    assert result["gradient"] < 1e-12, result
    assert result["loss"] < 1e-12, result
    assert result["buffers"] < 1e-12, result
    assert result["missing"] == 0


@pytest.mark.parametrize("name", ["clip_unfrozen", "sigmoid", "clip_pr", "clip_split"])
def test_chunks_change_no_gradient(name: str) -> None:
    results = []
    for tag in ("", "_chunks"):
        make, n = cases()[name + tag]
        torch.manual_seed(0)
        system = make().double().train()
        loss, metrics = system.loss(batch(n), epoch=0, stream="test")
        loss.backward()
        results.append(
            (loss, metrics, {k: p.grad for k, p in system.named_parameters() if p.grad is not None})
        )
    (loss, metrics, grads), (chunked, other, found) = results
    torch.testing.assert_close(loss, chunked, rtol=1e-12, atol=0)
    assert grads.keys() == found.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(grad, found[key], rtol=1e-10, atol=1e-13)
    for key, value in metrics.items():
        torch.testing.assert_close(value, other[key], rtol=1e-10, atol=1e-12)


def test_recomputation_sees_the_dropout_masks_of_the_first_pass() -> None:
    torch.manual_seed(0)
    system = aligned(Contrastive(chunk_size=2), frozen=False).double().train()
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    rows = batch(8)
    torch.manual_seed(1)
    system.loss(rows, epoch=0, stream="test")[0].backward()
    cached = {k: p.grad.clone() for k, p in system.named_parameters() if p.grad is not None}
    system.zero_grad()
    torch.manual_seed(1)
    parts = {
        m: torch.cat([system.embed(m, {k: v[i : i + 2] for k, v in rows.items()}) for i in range(0, 8, 2)])
        for m in system.heads
    }
    system.objective(parts, rows)[0].backward()
    for key, grad in cached.items():
        torch.testing.assert_close(grad, dict(system.named_parameters())[key].grad, rtol=1e-12, atol=1e-14)


def test_batch_norm_with_chunks_and_gather_without_gradient_are_refused() -> None:
    norm = ContrastiveDecoders(DecoderMI(norm="batch", widths={"lrs": (4,), "xp": (4,)}), chunk_size=4)
    with pytest.raises(
        ConfigError, match=r"chunk_size=4 cannot be used with the BatchNorm layers of the objective"
    ):
        aligned(norm)
    with pytest.raises(ConfigError, match="drops the gradient through the other ranks"):
        Contrastive(gather="local_no_grad")
