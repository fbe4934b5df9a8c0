"""The systems that stages train: a modality's encoder, the alignment of several, a head on features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..objectives.base import refuse_batch_norm
from ..randomness import uniform
from ..training.cache import rounded
from .module import System

__all__ = ["AlignSystem", "HeadSystem", "PretrainSystem", "layer_decayed"]

Lookup = Callable[[Tensor], Tensor]


def layer_decayed(
    encoder: Any, decay: float, scale: float = 1.0
) -> list[tuple[float, Sequence[nn.Parameter]]]:
    r"""Layer-wise learning rates: layer i of L gets the factor :math:`s\,\gamma^{L-i}` (arXiv:1801.06146, §3.2)."""
    layers = encoder.layer_groups()
    return [(scale * decay ** (len(layers) - 1 - i), layer) for i, layer in enumerate(layers)]


def encoder_inputs(batch: dict[str, Tensor], modality: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(flux, ivar, mask) of one modality as encoders take them."""
    return batch[modality], batch.get(f"{modality}_ivar"), batch.get(f"{modality}_mask")


@contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """For frozen encoders: without gradient and autocast, as features of caches and of evaluation are computed."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        yield


class PretrainSystem(System):
    """One encoder and its self-supervised objective on one modality.

    Arguments:
        encoder: spectra (b, l) -> tokens (b, n, d).
        objective: called as objective(encoder, x, ivar, mask, uniforms) -> (loss, metrics).
        modality: the batch key.
        seed: of the draws, which are a function of (seed, stream, epoch, object).
    """

    def __init__(self, encoder: nn.Module, objective: Any, modality: str, seed: int) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        self.modality, self.seed = modality, seed

    def parts(self) -> dict[str, nn.Module]:
        """The encoder and whatever parameters the objective owns (mask token, decoder)."""
        return {"encoder": self.encoder, "objective": self.objective}

    def loss(
        self, batch: dict[str, Tensor], *, epoch: Tensor | int, stream: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective on the rows where the modality is present."""
        x, ivar, mask = encoder_inputs(batch, self.modality)
        draws = uniform(self.seed, epoch, batch["object"], self.objective.n_uniforms(self.encoder), stream)
        more = {"labels": batch["labels"]} if self.objective.uses_labels else {}
        return self.objective(self.encoder, x, ivar, mask, draws.to(torch.float32), **more)

    def compilable(self) -> Sequence[nn.Module]:
        """The encoder."""
        return [self.encoder]


class AlignSystem(System):
    """Encoders, alignment heads and a pair objective: InfoNCE, decoders, or both.

    Arguments:
        encoders: modality -> encoder.
        heads: modality -> alignment head, tokens (b, n, d) -> embedding (b, k).
        objective: called as objective(embeddings, batch) -> (loss, metrics).
        frozen: encoders are not trained and run in eval mode.
        layer_decay: per-layer factor on the learning rate of unfrozen encoders.
        caches: modality -> lookup of frozen features by sample number, where a cache was built.
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        heads: dict[str, nn.Module],
        objective: Any,
        *,
        frozen: bool = True,
        layer_decay: float | None = None,
        caches: Mapping[str, Lookup] | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(heads)
        self.objective = objective
        self.frozen, self.layer_decay = frozen, layer_decay
        self.caches = _Opaque(dict(caches or {}))
        self.chunk_size: int | None = getattr(objective, "chunk_size", None)
        trained = None if frozen else self.encoders
        refuse_batch_norm(self.chunk_size, objective=objective, heads=self.heads, encoders=trained)
        if frozen:
            self.encoders.requires_grad_(False)

    def parts(self) -> dict[str, nn.Module]:
        """`encoders.<m>`, `heads.<m>` and `objective`."""
        named: dict[str, nn.Module] = {f"encoders.{m}": e for m, e in self.encoders.items()}
        named |= {f"heads.{m}": h for m, h in self.heads.items()}
        return {**named, "objective": self.objective}

    def train(self, mode: bool = True) -> "AlignSystem":
        """Frozen encoders stay in eval mode, as their cached features were made."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def groups(self) -> list[tuple[float, Sequence[nn.Parameter]]]:
        """Heads and objective at the full rate, encoders decayed by layer when they are trained."""
        own: list[tuple[float, Sequence[nn.Parameter]]] = [
            (1.0, [*self.heads.parameters(), *self.objective.parameters()])
        ]
        if self.frozen:
            return own
        for encoder in self.encoders.values():
            own += layer_decayed(encoder, self.layer_decay or 1.0)
        return own

    def tokens(self, modality: str, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (b, n, d): from the cache, or encoded and rounded alike, or with gradient when not frozen."""
        lookup = self.caches.value.get(modality)
        if lookup is not None:
            return lookup(batch["index"])
        inputs = encoder_inputs(batch, modality)
        if not self.frozen:
            return self.encoders[modality](*inputs)
        with full_precision(inputs[0]):
            return rounded(self.encoders[modality](*inputs))

    def embed(self, modality: str, batch: dict[str, Tensor]) -> Tensor:
        """The aligned embedding (b, k) of one modality, not normalised."""
        return self.heads[modality](self.tokens(modality, batch))

    def _embedded(self, modality: str, batch: dict[str, Tensor]) -> Tensor:
        """`embed`, in chunks where the objective asks for them.

        Only embeddings are kept; the backward pass of the loss reaches one chunk after the other and computes its
        activations again, with the dropout masks of the first time.
        """
        size, rows = self.chunk_size, len(batch["index"])
        if size is None or rows <= size or not torch.is_grad_enabled():
            return self.embed(modality, batch)
        own = {k: v for k, v in batch.items() if k in ("index", modality) or k.startswith(f"{modality}_")}
        parts = []
        for start in range(0, rows, size):
            few = {k: v[start : start + size] for k, v in own.items()}
            parts.append(checkpoint(self.embed, modality, few, use_reentrant=False))
        return torch.cat(parts)

    def loss(
        self, batch: dict[str, Tensor], *, epoch: Tensor | int, stream: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pair objective on the embeddings of every modality."""
        return self.objective({m: self._embedded(m, batch) for m in self.heads}, batch)

    def compilable(self) -> Sequence[nn.Module]:
        """The encoders."""
        return list(self.encoders.values())


class HeadSystem(System):
    """A head on features of one or more inputs, with the encoder trained along where one is given.

    Arguments:
        head: features (b, f) -> answer; `head.loss(features, labels)`.
        pools: one per input part, features of the part -> (b, f_i); concatenated.
        lookups: one per input part, batch -> features; used where no encoder is trained.
        encoders: part name -> encoder that is trained along (fine-tuning, or from scratch for a raw baseline).
        modalities: part name -> modality, for the encoders.
        encoder_rate: factor on the learning rate of encoders; `layer_decay` below it.
        frozen: part name -> frozen encoder, run on the changed spectra of training where `augment` is given.
        augment: called as augment(batch, modality, seed, epoch, stream) -> batch, on training batches only.
        seed: of what `augment` draws.
    """

    def __init__(
        self,
        head: Any,
        pools: dict[str, nn.Module],
        lookups: dict[str, Callable[[dict[str, Tensor]], Tensor]],
        *,
        encoders: dict[str, nn.Module] | None = None,
        modalities: dict[str, str] | None = None,
        encoder_rate: float = 1.0,
        layer_decay: float = 1.0,
        frozen: dict[str, nn.Module] | None = None,
        augment: Callable[..., dict[str, Tensor]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.head = head
        self.pools = nn.ModuleDict({_key(k): v for k, v in pools.items()})
        self.encoders = nn.ModuleDict({_key(k): v for k, v in (encoders or {}).items()})
        self.names = list(pools)
        self.lookups = _Opaque(lookups)
        self.modalities = dict(modalities or {})
        self.encoder_rate, self.layer_decay = encoder_rate, layer_decay
        self.frozen = _Opaque({k: v.eval().requires_grad_(False) for k, v in (frozen or {}).items()})
        self.augment, self.seed = augment, seed

    def parts(self) -> dict[str, nn.Module]:
        """`head`, `pools.<part>` and, when trained, `encoders.<part>`."""
        named = {"head": self.head, **{f"pools.{n}": self.pools[_key(n)] for n in self.names}}
        return {
            **named,
            **{f"encoders.{n}": self.encoders[_key(n)] for n in self.names if _key(n) in self.encoders},
        }

    def groups(self) -> list[tuple[float, Sequence[nn.Parameter]]]:
        """Head and pools at the full rate; encoders at theirs, decayed by layer."""
        own: list[tuple[float, Sequence[nn.Parameter]]] = [
            (1.0, [*self.head.parameters(), *self.pools.parameters()])
        ]
        for encoder in self.encoders.values():
            own += layer_decayed(encoder, self.layer_decay, self.encoder_rate)
        return own

    def features(self, batch: dict[str, Tensor], changed: bool = False) -> Tensor:
        """Pooled features of all parts, concatenated: (b, f); `changed` spectra are not those of any cache."""
        parts = []
        for name in self.names:
            key = _key(name)
            if key in self.encoders:
                tokens = self.encoders[key](*encoder_inputs(batch, self.modalities[name]))
            elif changed and name in self.frozen.value:
                with full_precision(batch[self.modalities[name]]):
                    encoder = self.frozen.value[name].to(batch["labels"].device)
                    tokens = rounded(encoder(*encoder_inputs(batch, self.modalities[name])))
            else:
                tokens = self.lookups.value[name](batch)
            parts.append(self.pools[key](tokens))
        return torch.cat(parts, dim=-1)

    def loss(
        self, batch: dict[str, Tensor], *, epoch: Tensor | int, stream: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The head's loss; missing labels are NaN and carry no weight."""
        changed = self.augment is not None and self.training
        if self.augment is not None and changed:
            for modality in dict.fromkeys(self.modalities.values()):
                batch = self.augment(batch, modality, seed=self.seed, epoch=epoch, stream=stream)
        features = self.features(batch, changed)
        if features.dtype in (torch.bfloat16, torch.float16):
            features = features.float()
        # a head costs little, and densities need digits
        with torch.autocast(features.device.type, enabled=False):
            return self.head.loss(features, batch["labels"]), {}

    def compilable(self) -> Sequence[nn.Module]:
        """The encoders that are trained."""
        return list(self.encoders.values())


def _key(name: str) -> str:
    """ModuleDict keys must not contain dots."""
    return name.replace(".", "__")


class _Opaque:
    """Hides lookups from nn.Module and from deepcopy, which would copy whole caches."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> "_Opaque":
        return self
