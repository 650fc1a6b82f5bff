"""Intervals over samples and blocks, ranks (properties 10 and 16)."""

import numpy as np
import pytest
from scipy import stats
from tests.reference.earth_probes import block_bootstrap_accuracy

from manyone.earth import statistics
from manyone.earth.metrics import confusion, mean_iou
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import bootstrap_interval, bootstrap_totals
from manyone.randomness import seed_for


def predictions(n=300, classes=4, seed=0):
    r = np.random.default_rng(seed)
    truth = r.integers(classes, size=n)
    return truth, np.where(r.random(n) < 0.7, truth, r.integers(classes, size=n)), r.integers(20, size=n)


def test_one_block_a_sample_is_the_bootstrap_of_samples():
    truth, predicted, _ = predictions()
    right = (truth == predicted).astype(float)
    plain = bootstrap_interval(right.tolist(), resamples=500, seed=7)
    ours = statistics.mean_interval(right, resamples=500, seed=7)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=1e-12)
    each = statistics.metric_interval("accuracy", truth, predicted, 4, np.arange(300), resamples=500, seed=7)
    assert each == statistics.metric_interval("accuracy", truth, predicted, 4, resamples=500, seed=7)
    assert (each.low, each.high) == pytest.approx((plain.low, plain.high), abs=1e-12)


def test_resamples_in_several_goes_are_those_of_one(monkeypatch):
    values = np.random.default_rng(0).normal(size=5000)  # 2^23 / 5000 < 2000: several goes
    plain = bootstrap_interval(values.tolist(), resamples=2000, seed=1)
    ours = statistics.mean_interval(values, resamples=2000, seed=1)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=1e-12)


def test_blocks_equal_the_plain_loop():
    truth, predicted, blocks = predictions()
    count = len(set(blocks))
    draws = np.random.default_rng(seed_for(3, "bootstrap")).integers(count, size=(400, count))
    plain = block_bootstrap_accuracy(truth == predicted, blocks, draws)
    ours = statistics.metric_interval("accuracy", truth, predicted, 4, blocks, resamples=400, seed=3)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    again = statistics.mean_interval(truth == predicted, blocks, resamples=400, seed=3)
    assert (again.low, again.high) == pytest.approx((ours.low, ours.high))
    assert again.n == count


@pytest.mark.parametrize("seed", range(8))
def test_an_interval_holds_its_estimate(seed):
    truth, predicted, blocks = predictions(40, classes=12, seed=seed)  # classes that drop out of resamples: biased
    for metric in statistics.OF_CONFUSION:
        found = statistics.metric_interval(metric, truth, predicted, 12, blocks, resamples=200)
        assert found.low <= found.value <= found.high
    value = statistics.metric_interval("miou", truth, predicted, 12).value
    assert value == pytest.approx(float(mean_iou(confusion(truth, predicted, 12))))


def test_blocks_of_alike_samples_are_wider():
    r = np.random.default_rng(0)
    blocks = np.repeat(np.arange(30), 40)
    right = (r.random(30) < 0.7)[blocks]
    narrow, wide = statistics.mean_interval(right), statistics.mean_interval(right, blocks)
    assert wide.half_width > 4 * narrow.half_width
    assert np.isnan(statistics.mean_interval(right, np.zeros(len(right))).low)  # one block tells nothing


def test_regression_intervals():
    r = np.random.default_rng(0)
    truth = r.normal(size=400) + 1000
    predicted = truth + 0.5 * r.normal(size=400)
    for metric, expected in [("rmse", 0.5), ("mae", 0.4), ("r2", 0.75)]:
        found = statistics.regression_interval(metric, truth, predicted, np.arange(400) // 4)
        assert found.low < expected < found.high
        assert found.low < found.value < found.high
    with pytest.raises(ManyoneError, match="rmse, mae, r2"):
        statistics.regression_interval("mse", truth, predicted)
    with pytest.raises(ValueError, match="one row"):
        bootstrap_totals(np.zeros((0, 2)), lambda t: t[..., 0])


TABLE = np.array([[0.9, 0.8, 0.7, 0.95, 0.6], [0.8, 0.85, 0.6, 0.9, 0.5], [0.7, 0.75, 0.8, 0.85, 0.4]])
MODELS, SETS = ("a", "b", "c"), ("u", "v", "w", "x", "y")


def test_ranks_friedman_and_critical_difference():
    ranking = statistics.rank(TABLE, MODELS, SETS)
    assert [r.value for r in ranking.ranks] == pytest.approx([1.4, 2.0, 2.6])
    assert ranking.friedman_p == pytest.approx(stats.friedmanchisquare(*TABLE).pvalue)
    # Demsar's table: q_0.05 = 2.343 for three models, 2.569 for four
    assert ranking.critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / 30), abs=1e-3)
    assert statistics.critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert ranking.normalised[0].value == pytest.approx(np.mean([1, 0.5, 0.5, 1, 1]))
    for interval in (*ranking.ranks, *ranking.normalised):
        assert interval.low <= interval.value <= interval.high


def test_a_dominated_model_changes_no_order():
    more = statistics.rank(np.vstack([TABLE, TABLE.min(0) - 0.1]), (*MODELS, "d"), SETS)
    plain = statistics.rank(TABLE, MODELS, SETS)
    assert [r.value for r in more.ranks[:3]] == [r.value for r in plain.ranks]
    assert more.ranks[3].value == 4
    assert more.normalised[3].value == 0


def test_errors_are_negated():
    table = TABLE.copy()
    table[:, 2] = 10 - table[:, 2]
    lower = [False, False, True, False, False]
    assert (
        statistics.rank(table, MODELS, SETS, lower_is_better=lower).ranks == statistics.rank(TABLE, MODELS, SETS).ranks
    )


def test_missing_cells_leave_the_common_subset():
    table = TABLE.copy()
    table[1, 3] = np.nan
    ranking = statistics.rank(table, MODELS, SETS)
    assert ranking.data_sets == ("u", "v", "w", "y")
    assert ranking.ranks == statistics.rank(TABLE[:, [0, 1, 2, 4]], MODELS, ("u", "v", "w", "y")).ranks
    assert "4 of 5 data sets that every model has; without x" in ranking.notes[0]
    assert ranking.friedman_p is None
    assert ranking.critical_difference is None
    assert "need 5" in ranking.notes[1]
    table[0] = np.nan
    assert "no data set has scores of every model" in statistics.rank(table, MODELS, SETS).notes[-1]


def test_ties():
    ranking = statistics.rank(np.ones((3, 5)), MODELS, SETS)
    assert [r.value for r in ranking.ranks] == [2, 2, 2]
    assert [n.value for n in ranking.normalised] == [0.5, 0.5, 0.5]
    assert ranking.friedman_p == 1
