"""Protocols by name, ridge against scikit-learn, few labels."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from manyone.earth.protocols.few_shot import few, few_shot
from manyone.earth.protocols.probe import PROTOCOLS, probe
from manyone.earth.protocols.regression import ridge_path
from manyone.earth.splits import random_split
from manyone.errors import ManyoneError


def task(n=400, d=8, seed=0):
    r = np.random.default_rng(seed)
    y = r.choice(3, size=n, p=[0.6, 0.3, 0.1])
    return (r.normal(size=(n, d)) + 2 * np.eye(3)[y] @ r.normal(size=(3, d))).astype(np.float32), y


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_on_every_kind_it_takes_and_any_array(name, tmp_path):
    x, y = task()
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    splits = random_split(len(y), labels=y)
    kinds = {"class": y, "labels": np.stack([y == 0, y == 1], 1), "value": x[:, 0] * 2.0 + 1}
    for kind, targets in kinds.items():
        if kind not in PROTOCOLS[name].takes:
            with pytest.raises(ManyoneError, match="takes .* not " + kind):
                probe(x, targets, splits, name)
            continue
        arrays = x.astype(np.float16), torch.from_numpy(x).half(), np.load(tmp_path / "x.npy", mmap_mode="r")
        results = [probe(features, targets, splits, name) for features in arrays]
        main = {"class": "accuracy", "labels": "micro_map", "value": "r2"}[kind]
        assert results[0].values[main] > 0.5
        for other in results[1:]:
            assert other.values == results[0].values
            assert (other.predictions == results[0].predictions).all()
        assert len(results[0].predictions) == len(splits.test) == len(results[0].truth)
        assert (results[0].truth == targets[splits.test]).all()
        assert results[0].seconds > 0


def test_unknown_names_and_lengths():
    x, y = task()
    splits = random_split(len(y))
    with pytest.raises(ManyoneError, match="'svm' is unknown; there are knn5-l2"):
        probe(x, y, splits, "svm")
    with pytest.raises(ManyoneError, match="399 rows for 400 targets"):
        probe(x[1:], y, splits)
    with pytest.raises(ManyoneError, match="give integers"):
        probe(x, np.zeros((400, 2, 2)), splits)


@pytest.mark.parametrize(("n", "d"), [(200, 10), (30, 80)])
def test_ridge_equals_scikit_learn(n, d):
    r = np.random.default_rng(0)
    x = r.normal(size=(n, d)) @ r.normal(size=(d, d)) + 3
    y = x[:, 0] - x[:, 1] + r.normal(size=n) + 7
    z = (x - x.mean(0)) / x.std(0)
    for c, model in zip((1e-3, 1.0, 1e3), ridge_path(torch.from_numpy(x), torch.from_numpy(y), (1e-3, 1.0, 1e3))):
        judge = Ridge(alpha=1 / c).fit(z, y)
        assert np.abs(model.weight[0].numpy() - judge.coef_).max() < 1e-6
        assert np.abs(model.logits(torch.from_numpy(x))[:, 0].numpy() - judge.predict(z)).max() < 1e-6


def test_few_samples_a_class():
    _, y = task()
    train = np.arange(50, 350)
    counts = {n: few(y, train, n, seed=1) for n in (1, 5, 50)}
    assert np.bincount(y[counts[5]]).tolist() == [5, 5, 5]
    assert set(counts[1]) < set(counts[5]) < set(counts[50]) <= set(train)
    rare = (y[train] == 2).sum()
    assert np.bincount(y[counts[50]]).tolist() == [50, 50, min(50, rare)]
    tenth = few(y, train, 0.1, seed=1)
    assert np.bincount(y[tenth]).tolist() == [max(1, round(0.1 * c)) for c in np.bincount(y[train])]
    assert len(few(y, train, 1.0)) == len(train)
    assert set(few(y, train, 5, seed=2)) != set(counts[5])
    # classes as elements of any array are the same strata
    assert (few(np.asarray(torch.from_numpy(y)), train, 5, seed=1) == counts[5]).all()
    for size in (0, 1.5, 0.0):
        with pytest.raises(ManyoneError, match="size:"):
            few(y, train, size)
    with pytest.raises(ManyoneError, match="give a share"):
        few(y.astype(float), train, 5)


def test_more_labels_are_better_and_val_is_never_trained_on():
    x, y = task()
    splits = random_split(len(y), labels=y)
    curve = few_shot(x, y, splits, sizes=(1, 20), seeds=3, strengths=(0.01, 1.0))
    means = curve.mean_std("accuracy")
    assert means[20][0] > means[1][0]
    assert all(len(s) == 3 for s in curve.scores.values())
    alone = probe(x, y, random_split(len(y)), refit=False, strengths=(1.0,))
    assert alone.values["accuracy"] > 0.5
