"""Metrics against scikit-learn, and their edges (property 11)."""

import numpy as np
import pytest
from sklearn import metrics as judge

from manyone.earth import metrics
from manyone.errors import ManyoneError


def labels(n=500, classes=5, seed=0):
    r = np.random.default_rng(seed)
    truth = r.integers(classes - 1, size=n)  # the last class is never true
    return truth, np.where(r.random(n) < 0.6, truth, r.integers(classes, size=n))


def test_equal_scikit_learn():
    truth, predicted = labels()
    c = metrics.confusion(truth, predicted, 5)
    assert (c == judge.confusion_matrix(truth, predicted)).all()
    assert metrics.overall_accuracy(c) == pytest.approx(judge.accuracy_score(truth, predicted))
    assert metrics.macro_f1(c) == pytest.approx(judge.f1_score(truth, predicted, average="macro"))
    assert metrics.kappa(c) == pytest.approx(judge.cohen_kappa_score(truth, predicted))
    assert metrics.class_iou(c) == pytest.approx(judge.jaccard_score(truth, predicted, average=None))
    recalls = judge.recall_score(truth, predicted, average=None, zero_division=0)
    assert metrics.balanced_accuracy(c) == pytest.approx(recalls[:4].mean())


def test_a_stack_of_matrices_is_each_alone():
    stack = np.stack([metrics.confusion(*labels(seed=s), 5) for s in range(3)])
    for metric in metrics.OF_CONFUSION.values():
        assert metric(stack) == pytest.approx([float(metric(c)) for c in stack])


def test_perfect_and_permuted():
    truth, predicted = labels()
    for metric in metrics.OF_CONFUSION.values():
        perfect = metric(metrics.confusion(truth, truth, 4))
        assert perfect == pytest.approx(1)
        order = np.array([3, 1, 4, 0, 2])
        plain = metric(metrics.confusion(truth, predicted, 5))
        assert metric(metrics.confusion(order[truth], order[predicted], 5)) == pytest.approx(plain)
    order = np.array([3, 1, 4, 0, 2])
    moved = metrics.class_iou(metrics.confusion(order[truth], order[predicted], 5))
    assert moved[order] == pytest.approx(metrics.class_iou(metrics.confusion(truth, predicted, 5)))


def test_ignored_pixels_never_count():
    truth, predicted = labels()
    wide = np.concatenate([truth, np.full(50, 255)]), np.concatenate([predicted, np.arange(50) % 5])
    assert (metrics.confusion(*wide, 5) == metrics.confusion(truth, predicted, 5)).all()


def test_a_constant_predictor():
    truth, _ = labels()
    c = metrics.confusion(truth, np.full(len(truth), 2), 5)
    assert metrics.overall_accuracy(c) == pytest.approx((truth == 2).mean())
    assert metrics.balanced_accuracy(c) == pytest.approx(1 / 4)  # of the classes that are there
    assert metrics.kappa(c) == pytest.approx(0)


def test_absent_classes():
    c = metrics.confusion(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 4)
    assert metrics.mean_iou(c) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics.mean_iou_absent_zero(c) == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert np.isnan(metrics.class_iou(c)[2:]).all()


def test_labels_outside_are_refused():
    with pytest.raises(ManyoneError, match="label 5 is none of the 5 classes"):
        metrics.confusion(np.array([0, 1]), np.array([0, 5]), 5)
    with pytest.raises(ManyoneError, match="label -1"):
        metrics.confusion(np.array([0, -1]), np.array([0, 4]), 5)
    with pytest.raises(ManyoneError, match="1 labels for 2"):
        metrics.confusion(np.array([0, 1]), np.array([0]), 5)


def test_average_precision_and_f1_of_labels():
    r = np.random.default_rng(0)
    truth = r.random((200, 4)) < (0.5, 0.3, 0.1, 0)
    scores = 0.4 * truth + 0.6 * r.random((200, 4))
    found = metrics.multilabel_scores(truth, scores >= 0.5, scores)
    assert found["micro_map"] == pytest.approx(judge.average_precision_score(truth, scores, average="micro"))
    assert found["macro_map"] == pytest.approx(judge.average_precision_score(truth[:, :3], scores[:, :3]))
    assert found["micro_f1"] == pytest.approx(judge.f1_score(truth, scores >= 0.5, average="micro"))
    assert found["macro_f1"] == pytest.approx(judge.f1_score(truth, scores >= 0.5, average="macro", zero_division=0))


def test_calibration_error():
    p = np.array([[0.95, 0.05], [0.93, 0.07], [0.35, 0.65], [0.0, 1.0]])
    truth = np.array([0, 1, 1, 1])
    assert np.ceil(np.array([0.95, 0.93, 0.65, 1.0]) * 15).tolist() == [15, 14, 10, 15]
    by_hand = (abs(2 - 1.95) + 0.93 + 0.35) / 4
    assert metrics.calibration_error(truth, p) == pytest.approx(by_hand)
    r = np.random.default_rng(0)
    p = r.dirichlet(np.ones(4), size=20_000)
    drawn = (p.cumsum(1) > r.random((len(p), 1))).argmax(1)
    assert metrics.calibration_error(drawn, p) < 0.02


def test_regression():
    r = np.random.default_rng(0)
    truth = r.normal(size=100) + 5
    predicted = truth + r.normal(size=100)
    found = metrics.regression_scores(truth, predicted)
    assert found["rmse"] == pytest.approx(judge.root_mean_squared_error(truth, predicted))
    assert found["mae"] == pytest.approx(judge.mean_absolute_error(truth, predicted))
    assert found["r2"] == pytest.approx(judge.r2_score(truth, predicted))
    assert np.isnan(metrics.regression_scores(np.ones(3), np.zeros(3))["r2"])
