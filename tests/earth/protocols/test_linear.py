"""The linear probe against scikit-learn, and what its objective must obey (property 9)."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from tests.reference.earth_probes import softmax_regression

from manyone.earth.protocols.linear import STRENGTHS, fit_path, linear_probe, temperature
from manyone.earth.protocols.newton import logistic_path
from manyone.earth.splits import Splits, random_split
from manyone.errors import ManyoneError


def windows(n=600, seed=0, classes=4):
    """Nearly collinear features, as the pixels of a window are, and a rare class."""
    r = np.random.default_rng(seed)
    latent = r.normal(size=(n, 6))
    x = latent @ r.normal(size=(6, 30)) + 0.1 * r.normal(size=(n, 30))
    y = np.digitize(latent[:, 0] + r.normal(size=n), [-1.0, 0.3, 2.3])[:n] % classes
    return x, y


def one_hot(y):
    return torch.nn.functional.one_hot(torch.as_tensor(y)).double()


def judged(z, y, c):
    return LogisticRegression(C=c, tol=1e-9, max_iter=50_000).fit(z, y)


def test_equals_scikit_learn_for_every_strength():
    x, y = windows()
    models = fit_path(torch.from_numpy(x), one_hot(y), STRENGTHS)
    z = (x - x.mean(0)) / x.std(0)
    for c, model in list(zip(STRENGTHS, models))[::3]:
        judge = judged(z, y, c)
        assert np.abs(model.weight.numpy() - judge.coef_).max() < 1e-3
        assert np.abs(model.bias.numpy() - judge.intercept_ + judge.intercept_.mean()).max() < 1e-3
        assert np.abs(torch.softmax(model.logits(torch.from_numpy(x)), 1).numpy() - judge.predict_proba(z)).max() < 1e-4


def test_equals_the_plain_minimiser():
    x, y = windows(200)
    z = (x - x.mean(0)) / x.std(0)
    w, b = softmax_regression(z, y, 0.5)
    found = logistic_path(torch.from_numpy(z), one_hot(y), [0.5])[0]
    assert np.abs(found[0].numpy() - w).max() < 1e-4
    assert np.abs(found[1].numpy() - b).max() < 1e-4


def test_labels_are_a_regression_each():
    x, y = windows()
    several = np.stack([y == 0, y >= 2, x[:, 0] > 1], 1)
    z = (x - x.mean(0)) / x.std(0)
    judge = OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-9, max_iter=50_000)).fit(z, several.astype(int))
    w, b = logistic_path(torch.from_numpy(z), torch.from_numpy(several), [0.3], exclusive=False)[0]
    for k, one in enumerate(judge.estimators_):
        assert np.abs(w[k].numpy() - one.coef_[0]).max() < 1e-3
        assert abs(float(b[k]) - one.intercept_[0]) < 1e-3


def test_two_classes_are_scikit_learn_s_with_twice_the_strength():
    x, y = windows()
    z = (x - x.mean(0)) / x.std(0)
    w, _ = logistic_path(torch.from_numpy(z), one_hot((y > 1).astype(int)), [0.5])[0]
    assert np.abs((w[1] - w[0]).numpy() - judged(z, y > 1, 1.0).coef_[0]).max() < 1e-3


@pytest.mark.parametrize("exclusive", [True, False])
def test_fewer_samples_than_features_and_separable(exclusive):
    r = np.random.default_rng(1)
    y = np.arange(24) % 3
    z = r.normal(size=(24, 200)) + np.eye(3)[y] @ r.normal(size=(3, 200))
    z = (z - z.mean(0)) / z.std(0)
    w, _ = logistic_path(torch.from_numpy(z), one_hot(y), [1e-3, 1.0, 1e4], exclusive=exclusive)[-1]
    judge = judged(z, y, 1e4).coef_ if exclusive else judged(z, y == 0, 1e4).coef_
    assert np.abs(w.numpy()[: len(judge)] - judge).max() < 1e-3


def test_no_strength_gives_the_priors():
    x, y = windows()
    model = fit_path(torch.from_numpy(x), one_hot(y), [1e-9])[0]
    p = torch.softmax(model.logits(torch.from_numpy(x)), 1).numpy()
    assert np.abs(p - np.bincount(y) / len(y)).max() < 1e-5


def test_samples_twice_with_half_the_strength_change_nothing():
    x, y = windows()
    once = fit_path(torch.from_numpy(x), one_hot(y), [0.2])[0]
    twice = fit_path(torch.from_numpy(np.tile(x, (2, 1))), one_hot(np.tile(y, 2)), [0.1])[0]
    assert torch.allclose(once.weight, twice.weight, atol=1e-6)


def test_the_order_of_strengths_does_not_matter():
    x, y = windows(200)
    up, down = (fit_path(torch.from_numpy(x), one_hot(y), c) for c in ([0.01, 1, 100], [100, 0.01, 1]))
    assert torch.equal(up[2].weight, down[0].weight)


def test_probe_chooses_on_val_and_refits():
    x, y = windows(900)
    names = np.array(["crop", "water", "urban", "forest"])[y]
    splits = random_split(len(y), labels=y)
    scores = linear_probe(x.astype(np.float16), names, splits)
    z = lambda at: (x[at] - x[splits.train].mean(0)) / x[splits.train].std(0)  # noqa: E731
    fits = {c: judged(z(splits.train), y[splits.train], c) for c in (1e-4, 1, 100)}
    on_val = [(fit.predict(z(splits.val)) == y[splits.val]).mean() for fit in fits.values()]
    assert scores.chosen["val"] >= max(on_val) - 0.02
    both = np.concatenate([splits.train, splits.val])
    judge = judged(z(both), y[both], scores.chosen["C"])
    expected = (judge.predict(z(splits.test)) == y[splits.test]).mean()
    assert scores.values["accuracy"] == pytest.approx(expected, abs=0.01)
    assert set(scores.predictions) <= set(names)
    assert scores.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    assert (scores.classes[scores.probabilities.argmax(1)] == scores.predictions).all()


def test_gaps_and_unused_numbers_of_classes_are_fine():
    x, y = windows(300)
    splits = random_split(300)
    plain, gaps = linear_probe(x, y, splits), linear_probe(x, y * 100 - 7, splits)
    assert (gaps.predictions == plain.predictions * 100 - 7).all()


def test_temperature_undoes_a_scale():
    x, y = windows(2000)
    logits = fit_path(torch.from_numpy(x), one_hot(y), [1.0])[0].logits(torch.from_numpy(x))
    assert temperature(5 * logits, one_hot(y)) / temperature(logits, one_hot(y)) == pytest.approx(5, rel=1e-2)


def test_a_feature_that_is_constant_or_not_a_number():
    x, y = windows(300)
    x[:, 3] = 0.1
    splits = random_split(300)
    assert np.isfinite(linear_probe(x, y, splits).probabilities).all()
    x[splits.val[0], 5] = np.nan
    with pytest.raises(ManyoneError, match=f"sample {splits.val[0]} has a NaN"):
        linear_probe(x, y, splits)


def test_small_strengths_that_predict_alike_do_not_end_the_path():
    draws = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], (60, 40, 40))
    x = draws.normal(size=(140, 20)).astype(np.float32) * 2 + y[:, None]
    at = draws.permutation(140)
    splits = Splits(np.sort(at[:30]), np.sort(at[30:80]), np.sort(at[80:]), "random")
    strengths = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 1.0)  # the first all predict the largest class
    short, whole = (linear_probe(x, y, splits, strengths=strengths, patience=p) for p in (3, None))
    assert short.chosen["C"] == whole.chosen["C"] >= 1e-4
    assert short.values["accuracy"] == whole.values["accuracy"] > 0.7
