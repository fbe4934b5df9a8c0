"""Inputs of heads by name: `<m>.raw`, `<m>.single` (before alignment), `<m>.aligned`, or several joined by `+`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed.collectives import gather_rows, rank, world_size
from ..errors import ConfigError
from .align import AlignSystem, check_grid, embed_samples, load_aligned, token_cache
from .base import Stage

__all__ = ["KINDS", "FeatureBank", "InputPart", "split_input"]

KINDS = ("raw", "single", "aligned")
BLOCK = 512  # samples embedded at once


@dataclass(frozen=True)
class InputPart:
    """One part of a head's input: a modality and how far it was processed."""

    modality: str
    kind: str

    @property
    def name(self) -> str:
        """`<m>.<kind>`."""
        return f"{self.modality}.{self.kind}"


def split_input(name: str) -> list[InputPart]:
    """The parts of an input's name.

    Raises:
        ConfigError: it is not made of `<modality>.<kind>` joined by `+`.
    """
    parts = []
    for piece in name.split("+"):
        modality, _, kind = piece.partition(".")
        if not modality or kind not in KINDS:
            raise ConfigError(
                f"input {name!r} is not known: write <modality>.<kind> with kind one of "
                f"{', '.join(KINDS)}, joined by +."
            )
        parts.append(InputPart(modality, kind))
    return parts


class FeatureBank:
    """Features of every sample for every input part, made on first use.

    Raw parts come with the batch; single ones from the cache of a frozen encoder; aligned ones are kept in memory.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._caches: dict[str, Any] = {}
        self._aligned: dict[str, Tensor] = {}
        self._system: AlignSystem | None = None

    def encoder_node(self, modality: str) -> Any:
        """Where the encoder of a modality comes from.

        Raises:
            ConfigError: the stage names none.
        """
        nodes = self.stage.config.get("encoders") or {}
        if modality not in nodes:
            raise ConfigError(
                f"stages.{self.stage.name}.encoders has no {modality}, which an input asks for: add "
                f"encoders.{modality}.from."
            )
        return nodes[modality]

    def encoder(self, modality: str) -> tuple[Any, dict[str, Any]]:
        """A fresh copy of the pretrained encoder and its architecture."""
        node = self.encoder_node(modality)
        module, architecture, metadata = self.stage.context.encoder(node, modality)
        if metadata.get("modalities"):
            check_grid(metadata, self.stage.source, modality, node["from"])
        return module, architecture

    def lookup(self, part: InputPart) -> Callable[[dict[str, Tensor]], Tensor]:
        """batch -> features of the part."""
        if part.kind == "raw":
            return lambda batch: batch[part.modality]
        if part.kind == "single":
            cache = self._single(part.modality)
            return lambda batch: cache(batch["index"])
        table = self._table(part.modality)
        return lambda batch: table[batch["index"].cpu()].to(batch["index"].device)

    def rows(self, part: InputPart, samples: np.ndarray) -> Tensor:
        """Features of samples, on the CPU."""
        index = torch.as_tensor(samples)
        if part.kind == "raw":
            return torch.as_tensor(self.stage.source.arrays(part.modality, samples)["flux"]).float()
        return self.lookup(part)({"index": index})

    def size(self, part: InputPart) -> dict[str, int]:
        """`n_tokens` and `width` of a single part, `length` of the others."""
        if part.kind == "raw":
            return {"length": self.stage.source.lengths[part.modality]}
        if part.kind == "single":
            _, n, d = self._single(part.modality).shape
            return {"n_tokens": n, "width": d}
        return {"length": self._table(part.modality).shape[1]}

    def _single(self, modality: str) -> Any:
        if modality not in self._caches:
            encoder, _ = self.encoder(modality)
            self._caches[modality] = token_cache(self.stage, modality, encoder, self.encoder_node(modality))
        return self._caches[modality]

    def _table(self, modality: str) -> Tensor:
        if modality not in self._aligned:
            context, source = self.stage.context, self.stage.source
            if self._system is None:
                node = self.stage.config.get("aligned")
                if not node:
                    raise ConfigError(
                        f"stages.{self.stage.name}.aligned is not set, which input {modality}.aligned needs: "
                        f"add stages.{self.stage.name}.aligned.from=align."
                    )
                trained = context.reference(node)["metadata"]
                for m in self.stage.source.modalities:
                    if m in trained.get("modalities", {}):
                        check_grid(trained, self.stage.source, m, node["from"])
                self._system = load_aligned(context, node, context.device)
            wanted = np.sort(np.concatenate([self.stage.split(s) for s in ("train", "validation", "test")]))
            table = torch.zeros(source.total, int(self._system.heads[modality].features))  # type: ignore[arg-type]
            if self._cached(modality):
                self._single(modality)  # every rank, before each embeds its share of the blocks
            blocks = [wanted[i : i + BLOCK] for i in range(0, len(wanted), BLOCK)]
            mine = [self._embed(modality, b) for b in blocks[rank() :: world_size()]]
            order = [b for r in range(world_size()) for b in blocks[r :: world_size()]]
            table[np.concatenate(order)] = gather_rows(torch.cat([table[:0], *mine]))
            self._aligned[modality] = table
        return self._aligned[modality]

    def _cached(self, modality: str) -> bool:
        """Whether alignment used the very encoder whose tokens are cached."""
        nodes = self.stage.config.get("encoders") or {}
        align = self.stage.context.config["stages"].get(str(self.stage.config["aligned"]["from"]), {})
        same = nodes.get(modality) == (align.get("encoders") or {}).get(modality)
        return modality in nodes and same and bool(align.get("frozen", False))

    @torch.no_grad()
    def _embed(self, modality: str, wanted: np.ndarray) -> Tensor:
        """Aligned embeddings, from the token cache where there is one."""
        system, stage = self._system, self.stage
        assert system is not None
        if not self._cached(modality):
            return embed_samples(stage, system, modality, wanted)
        cache, chunks = self._single(modality), []
        for start in range(0, len(wanted), BLOCK):
            tokens = cache(torch.as_tensor(wanted[start : start + BLOCK])).to(stage.context.device)
            chunks.append(system.heads[modality](tokens).float().cpu())
        return torch.cat(chunks)
