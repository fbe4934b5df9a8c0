r"""Decoders as bounds on what an embedding knows about a spectrum.

For any conditional density q (Barber and Agakov 2003)

.. math:: I(X; Z) = H(X) + E[\log p(x|z)] \ge H(X) + E[\log q(x|z)].

Training a decoder maximises the bound. H(X) of spectra is unknown, so what is reported is the *gain* over a
stated reference, :math:`E[\log q(x|z)] - E[\log q_0(x)]`, which differs from the bound by the excess
:math:`E[-\log q_0] - H(X) \ge 0` and does not depend on the unit of x as long as both terms use one.

Axes: b batch, l pixels, k code.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..bottlenecks.base import Bottleneck
from ..distributed.collectives import global_mean
from ..encoders.tokenizer import standardise
from ..errors import ConfigError
from ..registry import choose
from .base import Metrics, PairObjective, present
from .decoders import MLPDecoder, SplitDecoder
from .likelihoods import FAMILIES, Family, GaussianReference

__all__ = ["DecoderMI", "Target"]


class Target(NamedTuple):
    """What a decoder is asked for.

    Attributes:
        value: t = (x - m) / c, shape (b, l).
        good: 1 at good pixels of objects that have the modality, else 0, shape (b, l).
        ivar: inverse variance of t, shape (b, l), or None.
        log_scale: log c, broadcastable to (b, l); log q(x) = log q(t) - sum of it over good pixels.
    """

    value: Tensor
    good: Tensor
    ivar: Tensor | None
    log_scale: Tensor


class DecoderMI(PairObjective):
    """Decoders that reconstruct the own spectrum and predict the others', and the information they prove.

    The common unit of all log densities is the store's flux unit (continuum-normalised flux for LRS, flux
    over that at 550 nm for XP): whatever a decoder's target, the Jacobian of its normalisation is added. For
    a target in `zscore` that treats the spectrum's own μ and s as known.

    Metrics: `<decoder>` (mean loss), and, in eval mode with a reference, `gain_<decoder>` in nats per
    object, where `<decoder>` is `own_<m>` or `cross_<a>_to_<b>`.

    References:
        The IM algorithm, Barber and Agakov 2003, https://proceedings.neurips.cc/paper/2003/hash/a6ea8471c120fe8cc35a2954c9b9c595-Abstract.html
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939

    Arguments:
        own: weight of the reconstruction of the own spectrum; 0 makes no such decoders.
        cross: weight of the prediction of the others.
        family: `"laplace"` (published: mean absolute error) or `"gaussian"` (see `likelihoods`).
        widths: modality -> hidden widths of decoders from the whole embedding; otherwise twice its length,
            twice.
        cross_widths: the same for cross decoders behind a bottleneck, which see the shared part; None is
            `widths`.
        norm, dropout: of `MLPDecoder`.
        zscore: modalities whose own-spectrum target is the spectrum standardised by itself; published: lrs.
        standardise: decode (x - mean) / std of each pixel over training objects, as given to `set_reference`.
        chunk_size: objects decoded at once, the others being recomputed in the backward pass, see `Contrastive`.

    Raises:
        ConfigError: neither own nor cross, or an unknown choice.
    """

    def __init__(
        self,
        own: float = 1.0,
        cross: float = 1.0,
        family: str = "laplace",
        widths: Mapping[str, Sequence[int]] | None = None,
        cross_widths: Mapping[str, Sequence[int]] | None = None,
        norm: str = "layer",
        dropout: float = 0.0,
        zscore: Sequence[str] = (),
        standardise: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        if own < 0 or cross < 0 or own + cross == 0:
            raise ConfigError(f"DecoderMI: own={own} and cross={cross} must be weights >= 0, not both zero.")
        self.own, self.cross = float(own), float(cross)
        self.family = choose("family", family, tuple(FAMILIES))
        self.widths, self.cross_widths = dict(widths or {}), dict(cross_widths or widths or {})
        self.norm, self.dropout = choose("norm", norm, ("layer", "batch")), dropout
        self.zscore, self.standardise = tuple(zscore), standardise
        self.decoders, self.families = nn.ModuleDict(), nn.ModuleDict()
        self.references: dict[str, GaussianReference] = {}

    def bind(
        self, pixels: Mapping[str, int], features: Mapping[str, int], bottleneck: Bottleneck | None = None
    ) -> "DecoderMI":
        super().bind(pixels, features, bottleneck)
        for name, a, b in self._routes(tuple(pixels)):
            k = features[a]
            shared, private = self.bottleneck.shared_features(k), self.bottleneck.private_features(k)
            if a == b and private:
                self.decoders[name] = SplitDecoder(shared, private, pixels[b])
            else:
                table = self.cross_widths if private else self.widths
                widths = table.get(b, (2 * shared, 2 * shared))
                self.decoders[name] = MLPDecoder(shared, pixels[b], widths, self.norm, self.dropout)
            self.families[name] = FAMILIES[self.family](pixels[b])
        for m, l in pixels.items():
            self.register_buffer(f"{m}_centre", torch.zeros(l))
            self.register_buffer(f"{m}_scale", torch.ones(l))
        return self

    def _routes(self, modalities: Sequence[str]) -> list[tuple[str, str, str]]:
        """(name, from, to) of every decoder."""
        own = [(f"own_{m}", m, m) for m in modalities if self.own]
        pairs = [(a, b) for a in modalities for b in modalities if a != b and self.cross]
        return own + [(f"cross_{a}_to_{b}", a, b) for a, b in pairs]

    def set_reference(self, modality: str, mean: Tensor, cov: Tensor, floor: float = 1e-2) -> None:
        """Gives the Gaussian fitted to training spectra of a modality.

        The gain is stated over it; with `standardise` it also sets the unit that decoders work in, so it
        must be called before training and again, with the same numbers, before evaluation.

        Arguments:
            modality: its name.
            mean, cov: shape (l,) and (l, l), in the store's unit.
            floor: see `GaussianReference`.
        """
        buffer = self.get_buffer(f"{modality}_centre")
        self.references[modality] = GaussianReference(mean, cov, floor)
        if self.standardise:
            std = cov.diagonal().sqrt()
            buffer.copy_(mean)
            self.get_buffer(f"{modality}_scale").copy_(std.clamp_min(1e-3 * float(std.mean())))

    def target(self, name: str, modality: str, batch: Mapping[str, Tensor]) -> Target:
        """The target of a decoder."""
        x, ivar, mask = batch[modality], batch.get(f"{modality}_ivar"), batch.get(f"{modality}_mask")
        good = torch.isfinite(x)
        good = good if mask is None else good & mask
        good = good if ivar is None else good & (ivar > 0)
        there = present(batch, modality)
        if there is not None:
            good = good & there[:, None]
        if name.startswith("own_") and modality in self.zscore:
            value, _, _, std = standardise(x, ivar, mask)
            scale = std[:, None]
        else:
            scale = self.get_buffer(f"{modality}_scale").to(x.dtype)[None]
            value = torch.where(good, x - self.get_buffer(f"{modality}_centre").to(x.dtype), 0.0) / scale
        ivar = None if ivar is None else ivar * scale.square()
        return Target(value, good.to(x.dtype), ivar, scale.log())

    def decode(self, name: str, a: str, b: str, z: Tensor) -> Tensor:
        """What a decoder makes of embeddings (b, k), in its target's unit, shape (b, l)."""
        return self.decoders[name](z if a == b else self.bottleneck.shared(z))

    def forward(
        self, embeddings: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Metrics]:
        total: Tensor | float = 0.0
        metrics: Metrics = {}
        for name, a, b in self._routes(tuple(embeddings)):
            target, family = self.target(name, b, batch), self.families[name]
            there = present(batch, a)
            if there is not None:
                target = target._replace(good=target.good * there[:, None])
            assert isinstance(family, Family)
            parts = list(self._parts(name, a, b, embeddings[a], target, family, batch[b]))
            sums = [sum(column[1:], start=column[0]) for column in zip(*parts, strict=True)]
            loss = global_mean(sums[0], target.good.sum())
            if self.training:
                family.follow(sums[1], sums[2])
            total = total + (self.own if a == b else self.cross) * loss
            metrics[name] = loss.detach()
            if not self.training and b in self.references:
                metrics[f"gain_{name}"] = global_mean(sums[3], target.good.any(dim=1).sum())
        assert isinstance(total, Tensor)
        return total, {"loss": total.detach(), **metrics}

    def _parts(
        self, name: str, a: str, b: str, z: Tensor, target: Target, family: Family, x: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Sums over objects (loss, sizes, good pixels, gain), some objects at a time where `chunk_size` is set."""

        def part(z: Tensor, x: Tensor, few: Target) -> tuple[Tensor, ...]:
            residual = (self.decode(name, a, b, z) - few.value) * few.good
            gain = torch.zeros((), device=z.device)
            if not self.training and b in self.references:
                gain = self._gain(family, residual, few, x, b)
            return family.total(residual, few.good, few.ivar), *family.followed(residual, few.good), gain

        size = self.chunk_size
        if size is None or len(z) <= size:
            yield part(z, x, target)
            return
        for start in range(0, len(z), size):
            rows = slice(start, start + size)
            ivar = None if target.ivar is None else target.ivar[rows]
            unit = target.log_scale if len(target.log_scale) == 1 else target.log_scale[rows]
            few = Target(target.value[rows], target.good[rows], ivar, unit)
            yield checkpoint(part, z[rows], x[rows], few, use_reentrant=False)

    @torch.no_grad()
    def _gain(self, family: Family, residual: Tensor, target: Target, x: Tensor, modality: str) -> Tensor:
        """Sum of log q(x|z) - log q0(x) over the objects of a batch, in nats."""
        log_q = family.log_prob(residual, target.good, target.ivar)
        log_q = log_q - (target.good * target.log_scale).sum(dim=1)
        there = target.good.any(dim=1)
        gain = (log_q - self.references[modality].log_prob(x, target.good).to(log_q))[there]
        return gain.sum()

    def can_translate(self, a: str, b: str) -> bool:
        return (f"cross_{a}_to_{b}" if a != b else f"own_{a}") in self.decoders and (
            a != b or b not in self.zscore
        )

    def translate(self, embedding: Tensor, a: str, b: str) -> Tensor:
        """Flux (b, l) of modality `b` in the store's unit from embeddings (b, k) of modality `a`.

        Raises:
            ConfigError: no such decoder, or its target is standardised by a μ and s that only the truth has.
        """
        name = f"own_{a}" if a == b else f"cross_{a}_to_{b}"
        if name not in self.decoders:
            raise ConfigError(
                f"there is no decoder from {a} to {b}: this objective has {', '.join(self.decoders)}."
            )
        if a == b and b in self.zscore:
            raise ConfigError(
                f"{b} is reconstructed in units of its own scatter: translate from another modality."
            )
        centre, scale = self.get_buffer(f"{b}_centre"), self.get_buffer(f"{b}_scale")
        return self.decode(name, a, b, embedding) * scale + centre

    @classmethod
    def example(cls) -> "DecoderMI":
        widths = {"lrs": (8,), "xp": (8, 9)}
        return cls(family="gaussian", widths=widths).bind({"lrs": 11, "xp": 7}, {"lrs": 6, "xp": 6})
