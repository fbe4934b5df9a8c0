"""One rank of the gradient tests: `python gradients.py FOLDER`, with RANK and WORLD_SIZE set as torchrun does.

Every case is a module and a batch. Each rank takes its part of the batch, as the loader cuts it, through
`DistributedDataParallel`; rank 0 then takes the whole batch alone, and the largest difference is written down.
"""

import json
import os
import sys
from pathlib import Path

import torch
from registered import registered
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from astroclip_train.bottlenecks import SharedPrivate
from astroclip_train.distributed.batch_norm import globalise_batch_norm
from astroclip_train.distributed.collectives import alone, is_main, rank, world_size
from astroclip_train.distributed.geometry import find_geometry
from astroclip_train.distributed.group import open_group
from astroclip_train.encoders import AutoEncoder, MaskedTransformer
from astroclip_train.heads import AttentionHead, FlowHead, MLPBranchHead, MLPHead, SplitHead
from astroclip_train.objectives import (
    Autoencode,
    Contrastive,
    ContrastiveDecoders,
    DecoderMI,
    MaskedReconstruction,
)
from astroclip_train.stages.systems import AlignSystem, HeadSystem, PretrainSystem

PIXELS = {"lrs": 67, "xp": 23}


def batch(n: int) -> dict[str, torch.Tensor]:
    """Spectra with bad pixels, absent modalities, two observations of one object, missing labels."""
    g = torch.Generator().manual_seed(n)
    made = {m: torch.randn(n, l, generator=g, dtype=torch.float64) for m, l in PIXELS.items()}
    for m in PIXELS:
        made[f"{m}_ivar"] = torch.rand(n, PIXELS[m], generator=g, dtype=torch.float64) + 0.5
        made[f"{m}_mask"] = torch.rand(n, PIXELS[m], generator=g) > 0.2
        made[f"{m}_present"] = torch.rand(n, generator=g) > (0.15 if n > 1 else -1)
    labels = torch.randn(n, 3, generator=g, dtype=torch.float64)
    labels[torch.rand(n, 3, generator=g) < 0.3] = torch.nan
    return {**made, "labels": labels, "index": torch.arange(n), "object": torch.arange(n) % max(1, n - 3)}


def encoders() -> dict[str, nn.Module]:
    return {
        "lrs": MaskedTransformer(67, width=16, depth=1, heads=2, window=11, stride=8, masking="drop"),
        "xp": AutoEncoder(23, width=8, hidden=12),
    }


def aligned(objective: nn.Module, split: bool = False, frozen: bool = True) -> AlignSystem:
    parts = encoders()
    n, d = parts["lrs"].n_tokens, parts["lrs"].width
    if split:
        heads = {
            "lrs": SplitHead(n, d, kind="attention", shared=8, private=4, heads=2, dropout=0.0),
            "xp": SplitHead(1, 8, kind="mlp", shared=8, private=4, hidden=10, dropout=0.0),
        }
    else:
        heads = {
            "lrs": AttentionHead(n, d, features=12, heads=2, dropout=0.0),
            "xp": MLPBranchHead(1, 8, features=12, hidden=10, dropout=0.0),
        }
    bottleneck = SharedPrivate(8, 4) if split else None
    objective.bind(PIXELS, {m: h.features for m, h in heads.items()}, bottleneck)
    tables = {m: torch.randn(20, e.n_tokens, e.width, dtype=torch.float64) for m, e in parts.items()}
    caches = {m: table.__getitem__ for m, table in tables.items()} if frozen else {}
    return AlignSystem(parts, heads, objective, frozen=frozen, caches=caches)


def decoders(**options) -> DecoderMI:
    return DecoderMI(widths={"lrs": (9,), "xp": (7,)}, **options)


def pair(options: dict, family: str = "laplace", loss: str = "infonce") -> ContrastiveDecoders:
    return ContrastiveDecoders(decoders(family=family), loss=loss, **options)


def cases() -> dict[str, tuple]:
    """Name -> (maker of the system, objects in the batch)."""
    made = {}
    for chunk in (None, 2):
        tag = "" if chunk is None else "_chunks"
        options = {"learnable": True, "chunk_size": chunk}
        both = {"temperature": 0.1, "chunk_size": chunk}
        made |= {
            f"clip{tag}": (lambda o=options: aligned(Contrastive(**o)), 13),
            f"clip_unfrozen{tag}": (lambda o=options: aligned(Contrastive(**o), frozen=False), 13),
            f"sigmoid{tag}": (lambda o=options: aligned(Contrastive(loss="sigmoid", initial_bias=-2.0, **o)), 13),
            f"clip_pr{tag}": (lambda o=both: aligned(ContrastiveDecoders(decoders(), **o), frozen=False), 13),
            f"clip_pr_gaussian{tag}": (lambda o=both: aligned(pair(o, family="gaussian")), 13),
            f"clip_split{tag}": (lambda o=both: aligned(pair(o, loss="sigmoid"), split=True), 13),
        }  # fmt: skip
    made |= {
        "few": (lambda: aligned(ContrastiveDecoders(decoders(), temperature=0.1)), 3),  # no row for rank 3 of 4
        "one": (lambda: aligned(Contrastive(loss="sigmoid")), 1),
        "masked": (lambda: PretrainSystem(encoders()["lrs"], MaskedReconstruction(2, 3, fill="drop"), "lrs", 0), 13),
        "masked_few": (lambda: PretrainSystem(encoders()["lrs"], MaskedReconstruction(2, 3, fill="drop"), "lrs", 0), 2),
        "autoencode": (lambda: PretrainSystem(encoders()["xp"], Autoencode(ivar_weighted=True), "xp", 0), 13),
        "mlp": (lambda: head(MLPHead(67, list("abc"), (12, 6), dropout=0.0, heteroscedastic=True)), 13),
        "batch_norm": (lambda: head(MLPHead(67, list("abc"), (12, 6), norm="batch", dropout=0.0)), 13),
        "flow": (lambda: head(FlowHead(67, list("abc"), hidden=(8,), context=4, widths=(12,), dropout=0.0)), 13),
    }  # fmt: skip
    return {**made, **registered()}


def head(module: nn.Module) -> HeadSystem:
    module = module.double()
    whole = batch(200)
    module.prepare(whole["lrs"], whole["labels"])
    return HeadSystem(module, {"lrs.raw": nn.Identity()}, {"lrs.raw": lambda b: b["lrs"]})


class Whole(nn.Module):
    """Makes the loss a forward pass, as DDP wants it."""

    def __init__(self, system: nn.Module) -> None:
        super().__init__()
        self.system = system

    def forward(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        loss, self.metrics = self.system.loss(rows, epoch=0, stream="test")
        return loss


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def measure(make, n: int) -> dict[str, float]:
    torch.manual_seed(0)
    system = make().double().train()
    globalise_batch_norm(system)
    state = {k: v.clone() for k, v in system.state_dict().items()}
    module = Whole(system)
    whole = batch(n)
    wrapped = DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)
    loss = wrapped({k: v[rank() :: world_size()] for k, v in whole.items()})
    loss.backward()
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    mine, buffers = gradients(module), {k: v.clone() for k, v in system.named_buffers()}
    system.load_state_dict(state)
    module.zero_grad()
    with alone():
        alone_loss = module(whole)
        alone_loss.backward()
    theirs = gradients(module)
    largest = max((float(g.abs().max()) for g in theirs.values()), default=1.0)
    missing = set(theirs) ^ set(mine)
    missing = {k for k in missing if float({**mine, **theirs}[k].abs().max()) > 0}
    shared = [float((mine[k] - theirs[k]).abs().max()) for k in theirs if k in mine]
    names = dict(system.named_buffers())
    moved = [float((buffers[k].double() - names[k].double()).abs().max()) for k in names if names[k].numel()]
    return {
        "gradient": max(shared) / largest,
        "loss": abs(float(total) / world_size() - float(alone_loss.detach()))
        / max(1e-9, abs(float(alone_loss.detach()))),
        "buffers": max(moved, default=0.0),
        "missing": len(missing),
        "norm": largest,
    }


if __name__ == "__main__":
    with open_group(find_geometry({**os.environ, "ASTRO_TRAIN_RANKS": "1"}), "cpu"):
        found = {name: measure(make, n) for name, (make, n) in cases().items()}
        if is_main():
            Path(sys.argv[1], "found.json").write_text(json.dumps(found))
