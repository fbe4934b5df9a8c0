"""Everything that is registered, wrapped so that it takes the batch of the gradient tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from astroclip_train.distributed.collectives import row_counts, share
from astroclip_train.encoders import ENCODERS
from astroclip_train.heads import ALIGNMENT_HEADS, HEADS
from astroclip_train.objectives import ENCODER_OBJECTIVES, PAIR_OBJECTIVES
from astroclip_train.stages.systems import PretrainSystem

ROWS = 13


def still(module: nn.Module) -> nn.Module:
    """Without dropout, whose masks are another's on every rank."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def cut(rows: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """The lrs spectra at another number of pixels."""
    pixels = torch.arange(length) % rows["lrs"].shape[1]
    keys = ("lrs", "lrs_ivar", "lrs_mask")
    return {**rows, **{k: rows[k][:, pixels] for k in keys}}


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def loss(self, rows: dict[str, Tensor], *, epoch: int, stream: str) -> tuple[Tensor, dict]:
        rows = cut(rows, self.encoder.length)
        tokens = self.encoder(rows["lrs"], rows["lrs_ivar"], rows["lrs_mask"]).flatten(1)
        weights = torch.linspace(-1, 1, tokens.shape[1]).to(tokens)
        return share((tokens * weights).sum(1).tanh(), sum(row_counts(len(tokens)))), {}


class _Pretrained(PretrainSystem):
    def loss(self, batch: dict[str, Tensor], *, epoch: int, stream: str) -> tuple[Tensor, dict]:
        return super().loss(cut(batch, self.encoder.length), epoch=epoch, stream=stream)


class _Pair(nn.Module):
    """Linear embeddings of 6 for the objective's example: lrs (11 pixels) and xp (7 pixels)."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self.embed = nn.ModuleDict({"lrs": nn.Linear(11, 6), "xp": nn.Linear(7, 6)})

    def loss(self, rows: dict[str, Tensor], *, epoch: int, stream: str) -> tuple[Tensor, dict]:
        spectra = {"lrs": rows["lrs"][:, :11], "xp": rows["xp"][:, :7]}
        maps = {
            f"{m}_{k}": rows[f"{m}_{k}"][:, : x.shape[1]]
            for m, x in spectra.items()
            for k in ("ivar", "mask")
        }
        batch = {**rows, **maps, **spectra}
        return self.objective({m: layer(spectra[m]) for m, layer in self.embed.items()}, batch)


class _Head(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        g = torch.Generator().manual_seed(1)
        features, labels = (torch.randn(200, k, generator=g, dtype=torch.float64) for k in (8, 3))
        head.double().prepare(features, labels)

    def loss(self, rows: dict[str, Tensor], *, epoch: int, stream: str) -> tuple[Tensor, dict]:
        return self.head.loss(rows["lrs"][:, :8], rows["labels"]), {}


class _AlignmentHead(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def loss(self, rows: dict[str, Tensor], *, epoch: int, stream: str) -> tuple[Tensor, dict]:
        embedding = self.head(cut(rows, 5 * 8)["lrs"].reshape(-1, 5, 8))
        weights = torch.linspace(-1, 1, embedding.shape[1]).to(embedding)
        return share((embedding * weights).sum(1).tanh(), sum(row_counts(len(embedding)))), {}


def registered() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """Name -> (maker, objects in the batch)."""
    made: dict[str, Callable[[], nn.Module]] = {}
    for name, kind in ENCODERS.items():
        made[f"encoder_{name}"] = lambda kind=kind: _Encoder(still(kind.example()))
    for name, kind in ENCODER_OBJECTIVES.items():
        made[f"objective_{name}"] = lambda kind=kind: _Pretrained(
            *(still(m) for m in reversed(kind.example())), "lrs", 0
        )
    for name, kind in PAIR_OBJECTIVES.items():
        made[f"objective_{name}"] = lambda kind=kind: _Pair(still(kind.example()))
    for name, kind in HEADS.items():
        if not kind.closed_form:
            made[f"head_{name}"] = lambda kind=kind: _Head(still(kind.example()))
    for name, kind in ALIGNMENT_HEADS.items():
        made[f"head_{name}"] = lambda kind=kind: _AlignmentHead(still(kind.example()))
    return {name: (make, ROWS) for name, make in made.items()}
