"""Probes of an embedding: how well ridge regression and nearest neighbours read labels from it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .metrics import biweight_scale

__all__ = ["knn_probe", "ridge_probe"]

_PENALTIES = tuple(10.0**e for e in range(-4, 5))


def _standardise(train: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    train, val = train.detach().to(torch.float64), val.detach().to(torch.float64)
    mean, std = train.mean(0), train.std(0)
    std = torch.where(std > 1e-12 * mean.abs(), std, torch.ones_like(std))  # constant features stay zero
    return (train - mean) / std, (val - mean) / std


def _scores(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """R squared and biweight scatter of each label, (b, k) -> (k,); NaN where fewer than 3 are known and predicted."""
    residual = prediction - truth
    usable = torch.isfinite(residual)
    residual, truth = (torch.where(usable, values, torch.nan) for values in (residual, truth))
    known = usable.sum(0)
    centred = truth - torch.nanmean(truth, 0)
    r2 = 1 - residual.square().nansum(0) / centred.square().nansum(0)
    sigma = torch.from_numpy(biweight_scale(residual.cpu().numpy(), axis=0))
    few = (known < 3).cpu()
    return {"r2": torch.where(few, torch.nan, r2.cpu()), "sigma": torch.where(few, torch.nan, sigma)}


def _ridge_solve(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge weights (d, k) and intercepts (k,), each label with the penalty of least generalised CV error.

    One eigendecomposition serves all labels and penalties: with X'X = V S V', GCV = RSS / (n - tr H)^2.
    """
    n = x.shape[0]
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred, target = x - x_mean, y - y_mean
    s, v = torch.linalg.eigh(centred.T @ centred)
    s = s.clamp_min(0)
    projected = v.T @ (centred.T @ target)  # (d, k)
    penalties = torch.tensor(_PENALTIES, dtype=x.dtype, device=x.device) * n
    shrunk = projected[None] / (s[None, :, None] + penalties[:, None, None])  # (p, d, k)
    explained = (2 * projected[None] * shrunk - s[None, :, None] * shrunk.square()).sum(1)  # (p, k)
    freedom = (s[None] / (s[None] + penalties[:, None])).sum(1)
    error = (target.square().sum(0)[None] - explained).clamp_min(0) / (n - 1 - freedom).clamp_min(1e-3)[
        :, None
    ] ** 2
    best = error.argmin(0)  # (k,)
    chosen = shrunk[best, :, torch.arange(y.shape[1], device=x.device)].T  # (d, k)
    weight = v @ chosen
    return weight, y_mean - x_mean @ weight


def ridge_probe(train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor) -> dict[str, Tensor]:
    """R squared and biweight scatter of ridge regression from embeddings to labels.

    The penalty of each label minimises the generalised cross-validation error on the training part, so the
    validation part is used once, for scoring.

    Arguments:
        train_x, val_x: embeddings, (n, d) and (b, d).
        train_y, val_y: labels in their own units, (n, k) and (b, k); NaN is missing.

    Returns:
        `r2` and `sigma`, each (k,), NaN where too few labels are known; sigma in the unit of the label.
    """
    x, x_val = _standardise(train_x, val_x)
    y, y_val = train_y.detach().to(x), val_y.detach().to(x)
    prediction = torch.full_like(y_val, torch.nan)
    known = y.isfinite()
    patterns: dict[bytes, list[int]] = {}  # labels missing on the same objects share one solution
    for j in range(y.shape[1]):
        patterns.setdefault(known[:, j].cpu().numpy().tobytes(), []).append(j)
    for columns in patterns.values():
        rows = known[:, columns[0]]
        if rows.sum() < 3:
            continue
        weight, intercept = _ridge_solve(x[rows], y[rows][:, columns])
        prediction[:, columns] = x_val @ weight + intercept
    return _scores(prediction, y_val)


def knn_probe(
    train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor, k: int = 16, chunk: int = 2048
) -> dict[str, Tensor]:
    """R squared and biweight scatter of the mean label of the k nearest embeddings by cosine similarity.

    Arguments:
        train_x, val_x: embeddings, (n, d) and (b, d); features are standardised on the training part.
        train_y, val_y: labels, (n, k) and (b, k); neighbours without any label are passed over, and of those
            without this one the mean leaves them out.
        k: neighbours.
        chunk: validation objects compared at once.

    Returns:
        `r2` and `sigma`, each (k,), as `ridge_probe`.
    """
    x, x_val = (F.normalize(z.float(), dim=1) for z in _standardise(train_x, val_x))
    y = train_y.detach().to(torch.float64).to(x.device)
    labelled = y.isfinite().any(1)
    x, y = x[labelled], y[labelled]
    k = min(k, x.shape[0])
    parts = []
    for block in x_val.split(chunk):
        near = (block @ x.T).topk(k, dim=1).indices
        parts.append(torch.nanmean(y[near], dim=1))
    return _scores(torch.cat(parts), val_y.detach().to(y))
