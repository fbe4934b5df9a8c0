"""A trained model in plain PyTorch: embed, predict, translate and search spectra on its own grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.modality import ModalityInfo
from ..data.quality import clean
from ..errors import ConfigError, DataError, RunError
from ..randomness import even_normals
from .routes import ROUND, predictor_routes

__all__ = ["AstroModel", "LabelPrediction", "Spectra"]

PREFERRED_HEADS = ("flow", "finetune", "mlp", "knn", "linear")  # those with a posterior first


@dataclass
class Spectra:
    """Spectra of one modality on the model's grid: flux, ivar, mask (True = good), each (b, l) or None."""

    flux: Any
    ivar: Any = None
    mask: Any = None


@dataclass
class LabelPrediction:
    """Answer for one label: mean (b,), std (b,) or None where the head gives none, and the unit of both."""

    mean: Tensor
    std: Tensor | None
    unit: str


class AstroModel(nn.Module):
    """The parts of a trained model and the routes through them.

    Arguments:
        parts: name -> module, named as in `hub.parts`.
        metadata: modalities, labels and units, predictors.
        routes: input name -> parts applied in turn.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], metadata: dict[str, Any], routes: dict[str, list[str]]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({_key(name): module for name, module in parts.items()})
        self.names = list(parts)
        self.metadata = metadata
        self.routes = routes
        self.eval()

    def part(self, name: str) -> nn.Module:
        """A part by its name, such as `encoders.lrs`.

        Raises:
            RunError: the model has no such part.
        """
        key = _key(name)
        if key not in self.parts:
            have = ", ".join(self.names)
            raise RunError(
                f"this model has no part {name}: it has {have}; train or export the stage that makes it."
            )
        return self.parts[key]

    @property
    def modalities(self) -> list[str]:
        """Modalities this model reads."""
        return sorted({name.split(".", 1)[0] for name in self.routes})

    @property
    def objective(self) -> nn.Module | None:
        """The pair objective with decoders and bottleneck, where the model has one."""
        return self.part("objective") if "objective" in self.names else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def length(self, modality: str) -> int:
        """Pixels l of a modality's grid.

        Raises:
            ConfigError: the model does not read this modality.
        """
        if modality not in self.modalities:
            raise ConfigError(
                f"this model reads {' and '.join(self.modalities)}, not {modality}: name one of these."
            )
        return int(self.part(f"encoders.{modality}").length)  # type: ignore[arg-type]

    def inputs(self, kinds: tuple[str, ...] = ("aligned", "single", "raw")) -> list[str]:
        """Names of the inputs this model can make."""
        return [name for name in self.routes if name.split(".", 1)[1] in kinds]

    def _prepare(self, modality: str, spectra: Spectra) -> list[Tensor | None]:
        """Flux, ivar, mask as float32 and bool tensors (b, l), bad pixels filled as the loader fills them."""
        n = self.length(modality)
        flux, ivar, mask = (
            None if v is None else _array(v) for v in (spectra.flux, spectra.ivar, spectra.mask)
        )
        if flux is None or flux.shape[-1:] != (n,):
            shape = None if flux is None else flux.shape
            raise DataError(
                f"{modality} spectra have shape {shape}, and this model reads (b, {n}) on "
                f"{self.grid_text(modality)}: resample them, for example with astro-data convert."
            )
        for name, value in (("ivar", ivar), ("mask", mask)):
            if value is not None and value.shape != flux.shape:
                raise DataError(
                    f"{modality} {name} has shape {value.shape} and flux {flux.shape}: make them equal."
                )
        flux = np.array(flux, dtype=np.float32).reshape(-1, n)
        ivar = None if ivar is None else np.array(ivar, dtype=np.float32).reshape(-1, n)
        flux, ivar, good = clean(
            flux, ivar, None if mask is None else mask.reshape(-1, n), self.info(modality)
        )
        return [None if v is None else torch.from_numpy(v).to(self.device) for v in (flux, ivar, good)]

    def info(self, modality: str) -> ModalityInfo:
        """Survey, grid, unit, medium, frame and normalisation of a modality, as the model was trained on.

        Raises:
            ConfigError: the model does not read this modality.
        """
        self.length(modality)
        attributes = self.metadata.get("modalities", {}).get(modality)
        if attributes is None:
            raise RunError(
                f"this model does not state the grid and normalisation of {modality}: export it again."
            )
        return ModalityInfo.from_attributes(attributes, f"the model's {modality}")

    def grid_text(self, modality: str) -> str:
        """The grid of a modality in words, for messages."""
        return f"its grid of {self.info(modality).grid}"

    def features(
        self,
        name: str,
        spectra: Mapping[str, Spectra],
        routes: Mapping[str, list[str]] | None = None,
        seen: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The input `name`, shape (b, k); `+` joins inputs along k; `seen` keeps what several inputs share.

        Raises:
            ConfigError: the model has no such input or a modality was not given.
        """
        routes = self.routes if routes is None else routes
        seen = {} if seen is None else seen
        pieces = []
        for piece in name.split("+"):
            if piece not in routes:
                raise ConfigError(f"this model has no input {piece}: it has {', '.join(sorted(routes))}.")
            modality = piece.split(".", 1)[0]
            if modality not in spectra:
                raise ConfigError(
                    f"{name} needs {modality} spectra, and only {', '.join(spectra)} were given."
                )
            pieces.append(self._follow(routes[piece], modality, spectra[modality], seen))
        return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]

    def _follow(self, route: list[str], modality: str, spectra: Spectra, seen: dict[str, Tensor]) -> Tensor:
        flux, ivar, mask = self._prepare(modality, spectra)
        assert flux is not None
        x, encoded, done = flux, False, modality
        for name in route:
            done = f"{done}>{name}"
            if done in seen:
                x, encoded = seen[done], True
            elif name == ROUND:
                x = x.to(torch.bfloat16).to(torch.float32)
            elif not encoded and name.split(".", 1)[0] in ("encoders", "single", "tuned"):
                x, encoded = self.part(name)(x, ivar, mask), True
            else:
                x = self.part(name)(x)
            seen[done] = x
        return x.mean(1) if x.ndim == 3 else x  # tokens that nothing pools: their mean

    @torch.inference_mode()
    def embed(
        self, modality: str, flux: Any, ivar: Any = None, mask: Any = None, kind: str = "aligned"
    ) -> Tensor:
        """Embeddings (b, k); kind is "aligned", "single" (before alignment) or "shared" (what is compared).

        Raises:
            ConfigError: unknown modality or kind; DataError: wrong shape.
        """
        self.length(modality)
        spectra = {modality: Spectra(flux, ivar, mask)}
        if kind == "shared":
            return self.shared(self.features(f"{modality}.aligned", spectra))
        return self.features(f"{modality}.{kind}", spectra)

    def shared(self, embedding: Tensor) -> Tensor:
        """What both instruments share of an aligned embedding; all of it where there is no bottleneck."""
        part = None if self.objective is None else find(self.objective, "bottleneck")
        return embedding if part is None else part.bottleneck.shared(embedding)

    @property
    def predictors(self) -> dict[str, dict[str, Any]]:
        """Fit name -> {head, input, labels, routes} of the predictors whose whole route is in the model."""
        found = {}
        for name in self.names:
            kind, _, fit = name.partition(".")
            if kind != "predictors":
                continue
            head, _, source = fit.partition("__")
            entry = {"head": head, "input": source, "labels": self.metadata.get("labels", [])}
            entry |= self.metadata.get("predictors", {}).get(fit, {})
            routes = predictor_routes(fit, entry["input"], self.names, self.routes)
            if routes is not None:
                found[fit] = {"routes": routes} | entry
        return found

    def choose_predictor(
        self, modalities: list[str], head: str | None = None, source: str | None = None
    ) -> str:
        """The predictor for these modalities: the one that metadata prefer, else by kind of head and input.

        Raises:
            ConfigError: none fits.
        """
        fitting = []
        for name, entry in self.predictors.items():
            needs = {piece.split(".", 1)[0] for piece in entry["input"].split("+")}
            if (
                needs <= set(modalities)
                and head in (None, entry["head"])
                and source in (None, entry["input"])
            ):
                kind = entry["input"].split("+")[0].split(".", 1)[1]
                rank = PREFERRED_HEADS.index(entry["head"]) if entry["head"] in PREFERRED_HEADS else 9
                order = ("aligned", "single", "raw")
                preferred = name == self.metadata.get("preferred", {}).get("+".join(sorted(needs)))
                fitting.append(
                    (-len(needs), not preferred, rank, order.index(kind) if kind in order else 9, name)
                )
        if not fitting:
            have = ", ".join(self.predictors) or "none"
            asked = f"head {head or 'any'} on {source or ' and '.join(modalities)}"
            raise ConfigError(
                f"this model has no predictor for {asked}: it has {have}; train the heads stage for it."
            )
        return min(fitting)[-1]

    @torch.inference_mode()
    def predict(
        self,
        modality: str | Mapping[str, Spectra],
        flux: Any = None,
        ivar: Any = None,
        mask: Any = None,
        *,
        head: str | None = None,
        source: str | None = None,
        n_samples: int = 256,
        seen: dict[str, Tensor] | None = None,
    ) -> dict[str, LabelPrediction]:
        """All labels from one pass over the spectra: label -> mean, standard deviation, unit.

        Several modalities at once are given as `{"lrs": Spectra(...), "xp": Spectra(...)}`. Posterior samples of
        every spectrum are made of the same low-discrepancy numbers: an answer depends on its spectrum alone.

        Raises:
            ConfigError: no such modality or predictor; DataError: wrong shape.
        """
        spectra = {modality: Spectra(flux, ivar, mask)} if isinstance(modality, str) else modality
        for name in spectra:
            self.length(name)
        chosen = self.choose_predictor(list(spectra), head, source)
        entry = self.predictors[chosen]
        features = self.features(entry["input"], spectra, entry["routes"], seen)
        noise = even_normals(n_samples or 128, len(entry["labels"])).to(features)
        answer = self.part(f"predictors.{chosen}").predict(features, n_samples=n_samples, noise=noise)  # type: ignore[operator]
        units = self.metadata.get("label_units", {})
        return {
            label: LabelPrediction(
                answer.mean[:, j], None if answer.std is None else answer.std[:, j], units.get(label, "")
            )
            for j, label in enumerate(entry["labels"])
        }

    @torch.inference_mode()
    def translate(self, a: str, b: str, flux: Any, ivar: Any = None, mask: Any = None) -> Tensor:
        """Spectra of modality b (b, l) predicted from spectra of modality a, in b's normalised flux.

        Raises:
            ConfigError: the model has no decoder from a to b.
        """
        for name in (a, b):
            self.length(name)
        part = None if self.objective is None else find(self.objective, "decode")
        if part is None:
            raise ConfigError(
                "this model has no decoders: train a variant with them, such as variant=clip_pr."
            )
        return part.translate(self.embed(a, flux, ivar, mask), a, b)

    def can_translate(self, a: str, b: str) -> bool:
        """Whether there is a decoder from a to b."""
        part = None if self.objective is None else find(self.objective, "decode")
        return part is not None and f"cross_{a}_to_{b}" in part.decoders

    @torch.inference_mode()
    def in_domain(self, name: str, features: Tensor) -> Tensor | None:
        """True where objects (b,) lie among the training set; None where the model does not know."""
        return self.part(f"domain.{name}")(features) if f"domain.{name}" in self.names else None

    @torch.inference_mode()
    def search(self, query: Tensor, gallery: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
        """Indices and cosine similarities (b, k) of the gallery embeddings nearest to each query."""
        similarity = functional.normalize(query, dim=-1) @ functional.normalize(gallery, dim=-1).T
        top = similarity.topk(min(k, len(gallery)), dim=-1)
        return top.indices, top.values


def find(module: nn.Module, attribute: str) -> Any:
    """The first module inside `module`, itself included, with this attribute; None where there is none."""
    return next((m for m in module.modules() if hasattr(m, attribute)), None)


def _key(name: str) -> str:
    """ModuleDict keys must not contain dots."""
    return name.replace(".", ":")


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
