"""Cross-modal retrieval: rank of the right object in a gallery, and what an ideal observer would reach."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from torch import Tensor
from torch.nn import functional as F

__all__ = ["chance_recall", "cross_retrieval", "oracle_ranks", "retrieval_metrics"]

Array = NDArray[np.float64]


def _rank_rows(
    score: Tensor, query_object: Tensor, gallery_object: Tensor, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rank and position of the best right answer of each row of scores (b, g), higher score = better.

    Wrong answers that tie with the right one count half, so that a collapsed embedding ranks in the middle
    of the gallery and not first. Scores that are no numbers answer nothing: a query without a right one comes last.
    """
    lost = ~torch.isfinite(score)
    score = score.masked_fill(lost, -torch.inf)
    right = query_object[:, None] == gallery_object[None, :]
    best, target = score.masked_fill(~right, -torch.inf).max(1)
    ahead = ((score > best[:, None]) & ~right).sum(1)
    tied = ((score == best[:, None]) & ~right).sum(1)
    rank = 1 + ahead + (tied + 1) // 2
    rank = torch.where((right & ~lost).any(1), rank, 1 + (~right).sum(1))
    none = ~right.any(1)
    values, order = score.topk(min(top, score.shape[1]), dim=1)
    return rank.masked_fill(none, 0), target.masked_fill(none, -1), order, values, right.sum(1)


def _ids(objects: ArrayLike | Tensor | None, n: int) -> Tensor:
    if objects is None:
        return torch.arange(n)
    if isinstance(objects, Tensor):
        return objects.cpu()
    array = np.asarray(objects)
    return torch.from_numpy(array if array.dtype.kind == "i" else np.unique(array, return_inverse=True)[1])


def cross_retrieval(
    query: Tensor,
    gallery: Tensor,
    query_object: ArrayLike | Tensor | None = None,
    gallery_object: ArrayLike | Tensor | None = None,
    *,
    top: int = 10,
    chunk: int = 1024,
) -> dict[str, NDArray[Any]]:
    """Ranks a gallery of one modality for each query of another by cosine similarity.

    Several gallery entries may show the queried object; the rank is that of the best of them, and the others
    are never counted as wrong answers ahead of it.

    Arguments:
        query, gallery: embeddings, (n, k) and (g, k); need not be normalised.
        query_object, gallery_object: int64 hashes of the objects (both or neither); without them query i
            matches gallery entry i.
        top: answers kept for each query.
        chunk: queries compared at once.

    Returns:
        Arrays for `retrieval/<a>_to_<b>.npz`: `rank` (n,) from 1 (0 where the gallery lacks the object),
        `target` (n,) position of the best right answer (-1 if none), `top` (n, top) positions,
        `similarity_top` (n, top), `n_correct` (n,) right answers in the gallery.
    """
    gallery = F.normalize(gallery.detach().float(), dim=1)
    query = F.normalize(query.detach().float(), dim=1)
    right_of, right_in = _ids(query_object, len(query)), _ids(gallery_object, len(gallery))
    parts = []
    for start in range(0, len(query), chunk):
        score = (query[start : start + chunk] @ gallery.T).cpu()
        parts.append(_rank_rows(score, right_of[start : start + chunk], right_in, top))
    rank, target, order, similarity, correct = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return {"rank": rank, "target": target, "top": order, "similarity_top": similarity, "n_correct": correct}


def chance_recall(k: int, gallery: int, n_correct: ArrayLike = 1) -> float:
    r"""Recall@k of random ranking, 1 - C(g-c, k) / C(g, k), averaged over the c right answers of queries."""
    k = min(k, gallery)
    wrong = gallery - np.asarray(n_correct, np.float64)
    possible = wrong >= k
    w = np.where(possible, wrong, k)
    log_miss = gammaln(w + 1) - gammaln(w - k + 1) - gammaln(gallery + 1) + gammaln(gallery - k + 1)
    return float(np.mean(np.where(possible, -np.expm1(log_miss), 1.0)))


def retrieval_metrics(
    rank: ArrayLike,
    gallery: int,
    oracle_rank: ArrayLike | None = None,
    n_correct: ArrayLike | None = None,
    ks: tuple[int, ...] = (1, 10),
) -> dict[str, float | int | None]:
    """Recall@k with binomial errors, median rank, chance and oracle of one direction.

    Arguments:
        rank: rank of the right answer, from 1, (n,); 0 marks queries without one, which do not count.
        gallery: number of gallery entries.
        oracle_rank: ranks of the ideal observer, (n,).
        n_correct: right answers in the gallery for each query, (n,); 1 each if not given.

    Returns:
        `n, gallery, median_rank` and, for each k, `recall@k, recall@k_err, chance@k, oracle@k`.
    """
    rank = np.asarray(rank)
    counted = rank > 0
    n = int(counted.sum())
    out: dict[str, float | int | None] = {"n": n, "gallery": int(gallery)}
    correct = np.ones(rank.shape) if n_correct is None else np.asarray(n_correct)
    for k in ks:
        recall = float(np.mean(rank[counted] <= k)) if n else None
        out[f"recall@{k}"] = recall
        out[f"recall@{k}_err"] = None if recall is None else math.sqrt(recall * (1 - recall) / n)
        out[f"chance@{k}"] = chance_recall(k, gallery, correct[counted]) if n else None
        oracle = None if oracle_rank is None else np.asarray(oracle_rank)
        oracle = None if oracle is None else oracle[oracle > 0]
        out[f"oracle@{k}"] = float(np.mean(oracle <= k)) if oracle is not None and oracle.size else None
    out["median_rank"] = float(np.median(rank[counted])) if n else None
    return out


def _pair_score(difference: list[Array], covariance: list[list[Array]]) -> Array:
    """Gaussian log density of differences, by an LDL' elimination written over whole arrays of pairs.

    Batched LAPACK calls for millions of tiny matrices take two to three times as long. The arguments are
    consumed: k differences (b, g), and the lower triangle [i][j], j <= i, of covariances (b, g).
    """
    score = np.zeros_like(difference[0])
    for j in range(len(difference)):
        pivot = covariance[j][j]
        score -= 0.5 * (np.square(difference[j]) / pivot + np.log(pivot))
        for i in range(j + 1, len(difference)):
            factor = covariance[i][j] / pivot
            difference[i] -= factor * difference[j]
            for m in range(j + 1, i + 1):
                covariance[i][m] -= factor * covariance[m][j]
    return score


def _pair_scores(x: Array, cov_x: Array, z: Array, cov_z: Array) -> Tensor:
    k = x.shape[1]
    difference = [x[:, None, i] - z[None, :, i] for i in range(k)]
    covariance = [[cov_x[:, None, i, j] + cov_z[None, :, i, j] for j in range(i + 1)] for i in range(k)]
    return torch.from_numpy(_pair_score(difference, covariance))


def oracle_ranks(
    labels: ArrayLike,
    cov_a: ArrayLike,
    cov_b: ArrayLike,
    seed: int = 0,
    objects: ArrayLike | None = None,
    chunk: int = 64,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    r"""Ranks that an observer reaches who measures every label at the Cramér–Rao bound in both surveys.

    Estimates a_i and b_j are drawn around the true labels with covariances A_i and B_j. Candidates are ranked
    by the log density that both show one object (Mahalanobis distance whitened by the bounds, and its norm):

    .. math:: s_{ij} = -\tfrac12 (a_i-b_j)^T (A_i+B_j)^{-1} (a_i-b_j) - \tfrac12 \ln\det(A_i+B_j)

    Arguments:
        labels: true labels, (n, k), any units.
        cov_a, cov_b: covariances of the bound in the same units, (n, k, k).
        seed: of the drawn estimates.
        objects: ids of the objects, (n,); entries of one object are all right answers.
        chunk: queries compared at once.

    Returns:
        Ranks from 1 of the right answer, a to b and b to a, (n,) each; the n objects are also the gallery.
    """
    y, a, b = (np.asarray(x, np.float64) for x in (labels, cov_a, cov_b))
    scale = 1 / np.sqrt(np.diagonal(a + b, axis1=1, axis2=2).mean(0))  # one size for K and dex
    a, b = (c * scale[:, None] * scale[None, :] for c in (a, b))
    noise = np.random.default_rng(seed).standard_normal((2, *y.shape))
    centre = (y - y.mean(0)) * scale
    at_a, at_b = (
        centre + np.einsum("nij,nj->ni", np.linalg.cholesky(c), e) for c, e in zip((a, b), noise, strict=True)
    )
    ids = _ids(objects, len(y))
    ranks = []
    for x, cov_x, z, cov_z in ((at_a, a, at_b, b), (at_b, b, at_a, a)):
        starts = (slice(i, i + chunk) for i in range(0, len(y), chunk))
        part = [_rank_rows(_pair_scores(x[s], cov_x[s], z, cov_z), ids[s], ids, 1)[0] for s in starts]
        ranks.append(torch.cat(part).numpy())
    return ranks[0], ranks[1]
