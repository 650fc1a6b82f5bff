"""Windows, their returns, and what must not be read."""

import numpy as np
import pytest
import torch
from tests.policies.vqcd.planners import WIDTHS, trajectories

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.vqcd.data import Aligned, PlanData, joined, narrowed, returns_to_go


def episodes(*rewards, states=2):
    """A task of one episode for each list of rewards; the state tells episode and step."""
    each = []
    for number, one in enumerate(rewards):
        seen = np.stack([np.full(len(one), float(number)), np.arange(float(len(one)))], 1)
        each.append({"observations": seen, "actions": np.zeros((len(one), 1)), "rewards": np.array(one, float)})
    return Trajectories.from_episodes("known", each)


def aligned(data, task=0):
    return Aligned(data.states(task), data.actions(task))


def test_returns_to_go_are_discounted_sums_to_the_end_of_the_episode():
    found = returns_to_go(np.array([1.0, 2, 4, 1, 1]), np.array([0, 3, 5]), 0.5)
    np.testing.assert_allclose(found, [1 + 1 + 1, 2 + 2, 4, 1.5, 1])


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_returns_go_from_0_to_1(discount):
    data = PlanData([episodes([1, 1, 1, 1], [0, 0, 1, 0], [3, 0, 0, 0])], 2, discount=discount)
    assert float(data.returns(0).min()) == 0
    assert float(data.returns(0).max()) == 1


def test_the_start_of_the_best_episode_is_1_without_discount():
    data = PlanData([episodes([1, 1, 1, 1], [0, 0, 1, 0])], 2, discount=1.0)
    np.testing.assert_allclose(data.returns(0)[:4], [1, 0.75, 0.5, 0.25])
    assert float(data.table.target) == pytest.approx(1 + 0.95 * 3)


def test_equal_returns_are_0_and_finite():
    data = PlanData([episodes([0.0, 0, 0], [0, 0, 0])], 2)
    assert data.returns(0).tolist() == [0.0] * 6
    assert torch.isfinite(data.table.target).all()
    assert float(data.table.scale) == 1


@pytest.mark.parametrize("ends", ["drop", "pad"])
def test_windows_stay_within_their_episode(ends):
    data = PlanData([episodes([1] * 5, [1] * 3)], 4, ends=ends)
    own = data.table.mean[0] + data.states(0) * data.table.deviation[0]
    batch = data.batch(0, Aligned(own, data.actions(0)), 0, size=200, seed=1)
    assert bool((batch.states[:, :, 0] == batch.states[:, :1, 0]).all())
    steps = batch.states[:, :, 1].round().long()
    inside = batch.valid
    assert bool((steps.diff(dim=1)[inside[:, 1:]] == 1).all())
    starts = {(int(e), int(t)) for e, t in zip(batch.states[:, 0, 0].round(), steps[:, 0])}
    if ends == "drop":
        assert bool(inside.all())
        assert starts == {(0, 0), (0, 1)}
    else:
        assert starts == {(0, t) for t in range(5)} | {(1, t) for t in range(3)}
        assert bool((steps.diff(dim=1)[~inside[:, 1:]] == 0).all())
        assert not bool(inside.all())


def test_a_draw_depends_on_seed_purpose_task_and_step_alone():
    data = PlanData(trajectories(WIDTHS[:2]), 8)
    first = data.batch(1, aligned(data, 1), 3, size=16, seed=0)
    data.batch(0, aligned(data, 0), 3, size=16, seed=0)
    again = data.batch(1, aligned(data, 1), 3, size=16, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for other in ({"seed": 1}, {"purpose": "probe"}):
        words = {"size": 16, "seed": 0, **other}
        assert not torch.equal(first.states, data.batch(1, aligned(data, 1), 3, **words).states)


def test_the_newest_windows_are_the_last_ones():
    data = PlanData([episodes([1] * 300)], 3)
    batch = data.batch(0, aligned(data), 0, size=64, seed=0, newest=0.01)
    assert float(batch.times.min()) > 0.98
    assert float(data.batch(0, aligned(data), 0, size=64, seed=0).times.min()) < 0.2


def test_states_have_unit_variance_and_their_own_width():
    data = PlanData(trajectories(), 8)
    for task, (states, actions) in enumerate(WIDTHS):
        own = data.states(task)
        assert own.shape[1] == states
        assert data.actions(task).shape[1] == actions
        torch.testing.assert_close(own.mean(0), torch.zeros(states), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.std(0, unbiased=False), torch.ones(states), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"horizon": 1}, "horizon = 1"),
        ({"horizon": 9}, "no episode has 9 steps"),
        ({"discount": 0.0}, "discount = 0"),
        ({"ends": "cut"}, "ends 'cut'"),
    ],
)
def test_wrong_arguments_are_named(words, message):
    with pytest.raises(ManyoneError, match=message):
        PlanData([episodes([1] * 5)], **{"horizon": 4, **words})


def test_joined_tables_pad_what_is_narrower():
    first, second = (PlanData(trajectories(WIDTHS)[a:b], 8).table for a, b in ((0, 1), (1, 3)))
    table = joined(first, second)
    assert table.names == ("t0", "t1", "t2")
    assert table.widths.tolist() == [list(w) for w in WIDTHS]
    assert table.mean.shape == (3, 17)
    torch.testing.assert_close(table.mean[0, :4], first.mean[0])
    assert bool((table.deviation[0, 4:] == 1).all())
    torch.testing.assert_close(table.own_actions(torch.ones(1, 6), 0), table.bounds[0, 1:])
    assert narrowed(table, [0, 1]).mean.shape == (2, 11)
    assert narrowed(table, [0]).bounds.shape == (1, 2, 1)
    with pytest.raises(ManyoneError, match="'t0' is known"):
        joined(table, first)
