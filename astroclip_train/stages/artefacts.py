"""Raw test arrays of a run, one file each, from which metrics and report are made."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.mock.labels import LABELS
from ..distributed.heartbeat import beat
from ..evaluation.bounds import crb_of_store
from ..evaluation.calibration import sample_pit, sample_quantiles
from ..evaluation.retrieval import cross_retrieval, oracle_ranks
from ..files import atomic_write
from ..randomness import even_normals, uniform

__all__ = [
    "oracle_pair",
    "write_crb",
    "write_embedding",
    "write_information",
    "write_predictions",
    "write_retrieval",
    "write_spectra",
    "write_translation",
]


def _save(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **{k: v for k, v in arrays.items() if v is not None})  # noise does not compress


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().float().cpu().numpy()


def input_modalities(name: str) -> list[str]:
    """The modalities that an input uses, in order."""
    return list(dict.fromkeys(piece.split(".")[0] for piece in name.split("+")))


def _bounds(source: Any, samples: np.ndarray, modalities: list[str]) -> np.ndarray | None:
    """Cramér–Rao bounds (n, k) of the labels for what the input has seen; None where the data has none."""
    return source.bounds(modalities[0] if len(modalities) == 1 else "joint", samples)


def _snr(source: Any, samples: np.ndarray, modalities: list[str]) -> np.ndarray:
    """The S/N that the cut at 50 uses: that of the first modality which has one, LAMOST before Gaia."""
    for modality in ("lrs", *modalities, *source.modalities):
        if modality in source.modalities and np.isfinite(source.snr(modality, samples)).any():
            return source.snr(modality, samples)
    return np.full(len(samples), np.nan)


def _object_ids(source: Any, samples: np.ndarray) -> np.ndarray:
    return np.array([found.object_id for found in source.lookup(samples)], dtype=str)


@torch.no_grad()
def write_predictions(
    run: Path, source: Any, system: Any, samples: np.ndarray, task: str, name: str, n_samples: int, seed: int
) -> None:
    """Predicts all labels in one pass over the features and writes predictions/<task>__<input>.npz."""
    device = next((p.device for p in system.parameters()), torch.device("cpu"))
    means, stds, quantiles, pits, densities = [], [], [], [], []
    for batch in source.loader(samples, 256, seed=0, shuffle=False):
        beat(f"predictions of {task} on {name}")
        moved = {k: v.to(device) for k, v in batch.items()}
        features, labels = system.features(moved), moved["labels"]
        noise = None
        if system.head.samples:
            noise = _noise(seed, task, name, moved["object"], n_samples or 128, labels.shape[1])
        answer = system.head.predict(features, n_samples, noise)
        means.append(_numpy(answer.mean))
        if answer.std is not None:
            stds.append(_numpy(answer.std))
        if answer.samples is not None:
            drawn = _numpy(answer.samples)
            quantiles.append(sample_quantiles(drawn).astype(np.float32))
            pits.append(sample_pit(drawn, _numpy(labels)).astype(np.float32))
            densities.append(_numpy(system.head.log_prob(features, labels)))
    modalities = input_modalities(name)
    joined = lambda rows: np.concatenate(rows) if rows else None  # noqa: E731
    _save(
        run / "predictions" / f"{task}__{name}.npz",
        labels=np.array(source.label_names), label_units=np.array([source.label_units[n] for n in source.label_names]),
        truth=source.labels(samples), mean=joined(means), std=joined(stds), samples_q=joined(quantiles),
        pit=joined(pits), log_prob=joined(densities), snr=_snr(source, samples, modalities),
        crb=_bounds(source, samples, modalities), object_id=_object_ids(source, samples), sample=samples,
    )  # fmt: skip


def _noise(seed: int, task: str, name: str, objects: Tensor, samples: int, labels: int) -> Tensor:
    """What posterior samples (b, s, k) are made of: a function of the object, whatever batch it comes in."""
    return even_normals(samples, labels, uniform(seed, 0, objects, labels, f"posterior/{task}/{name}"))


def write_crb(run: Path, source: Any, samples: np.ndarray) -> None:
    """Bounds of each modality and of both together: crb/<modality>.npz."""
    for name in (*source.modalities, "joint"):
        sigma = source.bounds(name, samples)
        if sigma is not None:
            snr = _snr(source, samples, [name] if name in source.modalities else [])
            _save(run / "crb" / f"{name}.npz", labels=np.array(source.label_names), sigma=sigma, snr=snr)


def write_information(run: Path, gains: dict[str, list[tuple[float, int]]]) -> None:
    """Gains of decoders in nats per object and numbers of objects, by batch: information/<decoder>.npz."""
    for name, batches in gains.items():
        values, counts = (np.array(column) for column in zip(*batches, strict=True))
        _save(run / "information" / f"{name}.npz", gain=values, n=counts)


def oracle_pair(
    source: Any, samples: np.ndarray, a: str, b: str, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """Ranks of an ideal observer at the bound, both ways; empty where the data has no known model."""
    if len(source.stores) != 1:
        return {}
    covariances = crb_of_store(source.stores[0], samples, (a, b))
    if covariances is None:
        return {}
    labels = np.stack([source.stores[0].labels[name][samples] for name in LABELS], axis=1)
    forth, back = oracle_ranks(labels, covariances[a], covariances[b], seed, source.object_hash[samples])
    return {(a, b): forth, (b, a): back}


def write_retrieval(
    run: Path,
    source: Any,
    samples: np.ndarray,
    pair: tuple[str, str],
    embeddings: dict[str, Tensor],
    oracle: Any,
) -> None:
    """Ranks of the true partner by cosine similarity, with the oracle's where the data knows its bounds."""
    query, gallery = pair
    objects = source.object_hash[samples]
    result = cross_retrieval(embeddings[query], embeddings[gallery], objects, objects)
    _save(
        run / "retrieval" / f"{query}_to_{gallery}.npz",
        query_sample=samples, gallery_sample=samples, oracle_rank=oracle, object_id=_object_ids(source, samples),
        **result,
    )  # fmt: skip


def write_translation(
    run: Path, source: Any, samples: np.ndarray, origin: str, target: str, predicted: Tensor
) -> None:
    """Spectra of `target` predicted from `origin`, beside the observed ones."""
    arrays = source.arrays(target, samples)
    info = source.infos[target]
    _save(
        run / "translation" / f"{origin}_to_{target}.npz",
        wave=info.grid.wave(), wave_unit=info.grid.unit, unit=info.unit,
        truth=arrays["flux"], prediction=_numpy(predicted),
        ivar=arrays.get("ivar"), mask=arrays.get("mask"), sample=samples,
    )  # fmt: skip


def write_spectra(run: Path, source: Any, samples: np.ndarray, modality: str) -> None:
    """The gallery's spectra, for overplotting retrieved ones; float16 is enough for a plot."""
    info = source.infos[modality]
    flux = source.arrays(modality, samples)["flux"].astype(np.float16)
    _save(
        run / "spectra" / f"{modality}.npz",
        wave=info.grid.wave(),
        flux=flux,
        sample=samples,
        wave_unit=info.grid.unit,
    )


def write_embedding(run: Path, source: Any, samples: np.ndarray, name: str, rows: Tensor) -> None:
    """Two dimensions of an embedding: PCA, then t-SNE of the first 30 components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = _numpy(rows)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    parts = min(30, *x.shape)
    x = PCA(parts, random_state=0).fit_transform(x)
    method = "t-SNE of 30 principal components" if len(x) >= 200 else "principal components"
    xy = (
        TSNE(perplexity=30, init="pca", max_iter=500, random_state=0).fit_transform(x)
        if len(x) >= 200
        else x[:, :2]
    )
    truth = source.labels(samples)
    labels = {f"label_{n}": truth[:, i] for i, n in enumerate(source.label_names)}
    _save(
        run / "embedding" / f"{name}.npz", xy=xy.astype(np.float32), method=method, sample=samples, **labels
    )
