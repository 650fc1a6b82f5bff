"""The figure of one that sees no image."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from manyone.earth.benching import blind


def samples(targets, train, test):
    return SimpleNamespace(
        targets=np.array(targets), splits=SimpleNamespace(train=np.array(train), test=np.array(test))
    )


def test_of_classes_the_largest_of_the_training_samples():
    assert blind(samples([0, 1, 1, 1, 0, 0, 1], [0, 1, 2], [3, 4, 5, 6])) == 0.5


def test_of_values_their_mean():
    assert blind(samples([1.0, 3.0, 5.0, 2.0], [0, 1], [2, 3])) == pytest.approx(np.sqrt(9 / 2))


def test_of_labels_their_rates():
    targets = np.array([[1, 0], [1, 1], [1, 0], [0, 1]], bool)
    wanted = average_precision_score([1, 0, 0, 1], [1, 0.5, 1, 0.5])
    assert blind(samples(targets, [0, 1], [2, 3])) == pytest.approx(wanted)
