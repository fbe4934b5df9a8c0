"""Ranks against a direct count, collapse in the middle, several right answers, and the oracle's reach."""

import numpy as np
import pytest
import torch

from astroclip_train.evaluation.retrieval import (
    chance_recall,
    cross_retrieval,
    oracle_ranks,
    retrieval_metrics,
)


def test_ranks_against_numpy_and_chunks():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(200, 8, generator=generator)
    query = gallery + 0.8 * torch.randn(200, 8, generator=generator)
    found = cross_retrieval(query, 7 * gallery, chunk=33)
    q, g = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (query, gallery))
    score = q @ g.T
    expected = 1 + (score > np.diag(score)[:, None]).sum(1)
    assert np.abs(found["rank"] - expected).max() <= 1  # float32 against float32 of another order
    assert (found["rank"] == expected).mean() > 0.98
    assert found["top"].shape == found["similarity_top"].shape == (200, 10)
    assert (found["target"] == np.arange(200)).all()
    assert (np.diff(found["similarity_top"], axis=1) <= 0).all()
    assert cross_retrieval(gallery, gallery)["rank"].max() == 1


def test_collapsed_embedding_ranks_in_the_middle():
    same = torch.ones(100, 4)
    rank = cross_retrieval(same, same)["rank"]
    assert (rank == 51).all()


def test_several_right_answers_take_the_best():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]])
    query = torch.tensor([[1.0, 0.05]])
    found = cross_retrieval(query, gallery, np.array([7]), np.array([1, 7, 7, 7]))
    assert found["n_correct"] == [3]
    assert found["target"] == [1]
    assert found["rank"] == [2]
    near = cross_retrieval(query, gallery, np.array([7]), np.array([7, 7, 2, 3]))
    assert near["rank"] == [1]  # the second right answer does not push the first
    text = cross_retrieval(query, gallery, np.array([7]), np.array([5, 5, 5, 5]))
    assert text["rank"] == [0]
    assert text["target"] == [-1]


def test_chance():
    assert chance_recall(10, 2000) == pytest.approx(0.005)
    assert chance_recall(10, 5) == pytest.approx(1.0)
    assert chance_recall(1, 10, [1, 3]) == pytest.approx(0.2)
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(20), (20_000, 1)), axis=1)
    assert chance_recall(4, 20, 3) == pytest.approx((draws[:, :4] < 3).any(1).mean(), abs=0.01)


def test_metrics_of_ranks():
    found = retrieval_metrics([1, 2, 11, 0, 500], 1000, oracle_rank=[1, 1, 12, 3, 4])
    assert found["n"] == 4
    assert found["gallery"] == 1000
    assert found["recall@1"] == 0.25
    assert found["recall@10"] == 0.5
    assert found["recall@10_err"] == pytest.approx(0.25)
    assert found["median_rank"] == 6.5
    assert found["oracle@10"] == pytest.approx(0.8)
    assert found["chance@10"] == pytest.approx(0.01)
    empty = retrieval_metrics([0, 0], 5)
    assert empty["n"] == 0
    assert empty["recall@10"] is None
    assert empty["oracle@10"] is None


@pytest.fixture(scope="module")
def stars() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n, k = 300, 4
    labels = rng.normal(size=(n, k)) * [700, 0.8, 0.5, 30] + [5500, 4, -0.3, 0]
    units = np.diag([700, 0.8, 0.5, 30]).astype(float)

    def covariance(size: float) -> np.ndarray:
        factor = rng.normal(size=(n, k, k + 2)) * size
        return units @ (factor @ factor.transpose(0, 2, 1)) @ units

    return labels, covariance(0.02), covariance(0.1)


def test_oracle_against_direct_solution(stars):
    labels, a, b = stars
    found, back = oracle_ranks(labels, a, b, seed=5, chunk=37)
    noise = np.random.default_rng(5).standard_normal((2, *labels.shape))
    x = labels + np.einsum("nij,nj->ni", np.linalg.cholesky(a), noise[0])
    z = labels + np.einsum("nij,nj->ni", np.linalg.cholesky(b), noise[1])
    both = a[:, None] + b[None]
    d = x[:, None] - z[None]
    score = -0.5 * np.einsum("abi,abi->ab", d, np.linalg.solve(both, d[..., None])[..., 0])
    score -= 0.5 * np.linalg.slogdet(both)[1]
    own = np.diag(score)
    assert (found == 1 + (score > own[:, None]).sum(1)).all()
    assert (back == 1 + (score > own[None, :]).sum(0)).all()


def test_oracle_improves_with_the_bound_and_knows_duplicates(stars):
    labels, a, b = stars
    poor = (oracle_ranks(labels, a, 25 * b)[0] <= 10).mean()
    good = (oracle_ranks(labels, a, b)[0] <= 10).mean()
    assert good > poor > 10 / 300
    twice = np.arange(300) // 2
    pairs = (oracle_ranks(np.repeat(labels[::2], 2, axis=0), a, b, objects=twice)[0] <= 10).mean()
    assert pairs >= good - 0.05


def test_scores_that_are_no_numbers_are_no_hits():
    z = torch.eye(6)
    lost = z.clone()
    lost[2] = torch.nan
    assert cross_retrieval(lost, z)["rank"].tolist() == [1, 1, 6, 1, 1, 1]
    assert cross_retrieval(z, lost)["rank"].tolist() == [1, 1, 6, 1, 1, 1]
    assert (cross_retrieval(z * torch.nan, z)["rank"] == 6).all()
