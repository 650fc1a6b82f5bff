"""Nearest neighbours against scikit-learn and the plain loops (property 8, pitfall 12)."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from tests.reference.earth_probes import knn5_l2, knn_cosine_scores

from manyone.earth.protocols import knn
from manyone.earth.protocols.knn import knn_probe, neighbours
from manyone.earth.splits import Splits


def task(n=300, d=12, classes=4, seed=0):
    r = np.random.default_rng(seed)
    y = r.integers(classes, size=n)
    x = r.normal(size=(n, d)) + np.eye(classes)[y] @ r.normal(size=(classes, d))
    return x.astype(np.float32), y, Splits(np.arange(0, n - 100), np.arange(0), np.arange(n - 100, n), "given")


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_equals_scikit_learn(metric, block, monkeypatch):
    monkeypatch.setattr(knn, "_BLOCK", block)
    x, _, splits = task()
    bank, queries = x[splits.train], x[splits.test]
    d, at = neighbours(torch.from_numpy(queries), torch.from_numpy(bank), 9, metric)
    judge = NearestNeighbors(n_neighbors=9, metric="euclidean" if metric == "l2" else "cosine").fit(bank.astype(float))
    distance, place = judge.kneighbors(queries.astype(float))
    assert (at.numpy() == place).all()
    assert np.abs(d.numpy() - distance).max() < 1e-6


def test_votes_equal_scikit_learn_without_ties():
    x, y, splits = task(classes=2)  # five votes on two classes never tie
    judge = KNeighborsClassifier(5).fit(x[splits.train], y[splits.train])
    assert (knn_probe(x, y, splits).predictions == judge.predict(x[splits.test])).all()


def test_ties_go_to_the_smallest_sum_of_distances():
    x, y, splits = task(classes=6, d=3)
    assert (knn_probe(x, y, splits).predictions == knn5_l2(x[splits.train], y[splits.train], x[splits.test])).all()
    x = np.array([[1.0], [1.2], [-0.9], [-1.2], [9.0], [0.0]], dtype=np.float32)
    splits = Splits(np.arange(5), np.arange(0), np.arange(5, 6), "given")
    assert knn_probe(x, np.array([0, 0, 1, 1, 2, 0]), splits).predictions.tolist() == [1]


def test_close_neighbours_of_long_vectors_are_told_apart():
    """What |a|^2 + |b|^2 - 2ab loses in float32: distances of 0.01 between vectors of length 800."""
    r = np.random.default_rng(0)
    centres = r.normal(size=(2, 64)) * 100
    bank = torch.from_numpy(np.concatenate([c + 1e-2 * r.normal(size=(500, 64)) for c in centres]).astype(np.float32))
    queries = bank[::50] + 1e-3
    plain = ((queries.double()[:, None] - bank.double()) ** 2).sum(2).sqrt().sort(1)
    d, at = neighbours(queries, bank, 5)
    assert torch.equal(at, plain.indices[:, :5])
    assert torch.allclose(d, plain.values[:, :5], rtol=1e-9)
    assert (d > 0).all()


def test_a_training_point_finds_itself_and_k_is_clamped():
    x, y, _ = task(40)
    same = Splits(np.arange(40), np.arange(0), np.arange(40), "given")
    assert (knn_probe(x, y, same, k=1).predictions == y).all()
    assert knn_probe(x, y, same, k=200, metric="cosine").chosen["k"] == 40
    assert neighbours(torch.from_numpy(x), torch.from_numpy(x), 99)[1].shape == (40, 40)


def test_cosine_votes_equal_the_plain_ones_and_ignore_scale_and_rotation():
    x, y, splits = task()
    expected = knn_cosine_scores(x[splits.train], np.eye(4)[y[splits.train]], x[splits.test])
    options = {"k": 200, "metric": "cosine", "name": "knn200-cos"}
    scores = knn_probe(x, y, splits, **options)
    assert np.abs(scores.probabilities - expected).max() < 1e-5
    r = np.random.default_rng(1)
    rotation = np.linalg.qr(r.normal(size=(12, 12)))[0]
    moved = (x * r.uniform(0.1, 10, size=(len(x), 1))) @ rotation
    assert np.abs(knn_probe(moved, y, splits, **options).probabilities - expected).max() < 1e-5


def test_labels_and_numbers_are_means_over_neighbours():
    x, y, splits = task()
    several = np.stack([y == 0, y > 1, x[:, 0] > 0], 1)
    scores = knn_probe(x, several, splits, k=200, metric="cosine")
    expected = knn_cosine_scores(x[splits.train], several[splits.train].astype(float), x[splits.test])
    assert np.abs(scores.probabilities - expected).max() < 1e-5
    assert (scores.predictions == (expected >= 0.5)).mean() > 0.999
    _, at = neighbours(torch.from_numpy(x[splits.test]), torch.from_numpy(x[splits.train]), 5)
    values = x[:, 3].astype(np.float64)
    assert knn_probe(x, values, splits).predictions == pytest.approx(values[splits.train][at.numpy()].mean(1))
