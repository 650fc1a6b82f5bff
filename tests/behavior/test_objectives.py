import pytest
import torch

from manyone.behavior.objectives import Objective, objective_loss, state_weights, targets
from manyone.behavior.teachers.teacher import Labels
from manyone.errors import ManyoneError

KINDS = ("q", "clamped", "mean-one", "advantage")


def labels(data, seed=0, values=None):
    rng = torch.Generator().manual_seed(seed)
    shape = data.actions.shape if data.choices else data.actions.shape[:1]
    actions = torch.randn(data.actions.shape, generator=rng).tanh()
    found = torch.randn(shape, generator=rng) if values is None else values
    return Labels(actions.softmax(1) if data.choices else actions, found, torch.randn(len(data), generator=rng))


def students(data, seed=1):
    return torch.randn(3, *data.actions.shape, generator=torch.Generator().manual_seed(seed)).tanh()


def loss(objective, data, found, density=None):
    weights = state_weights(objective, data, found, density)
    return objective_loss(students(data), targets(objective, data, found), weights)


def test_pbc_with_the_recorded_actions_is_dbc(data):
    same = labels(data)._replace(actions=data.actions)
    assert torch.equal(loss(Objective("pbc"), data, same), loss(Objective("dbc"), data, None))


@pytest.mark.parametrize("set_", ["data", "discrete"])
def test_equal_values_scale_pbc(set_, request):
    data = request.getfixturevalue(set_)
    shape = data.actions.shape if data.choices else data.actions.shape[:1]
    equal = labels(data, values=torch.full(shape, 3.0))
    pbc = loss(Objective("pbc"), data, equal)
    for kind in ("q", "clamped"):
        torch.testing.assert_close(loss(Objective("av-pbc", kind, 0.1), data, equal), 0.3 * pbc)
    torch.testing.assert_close(loss(Objective("av-pbc", "mean-one"), data, equal), pbc)


def test_weights_are_as_written(data):
    found = labels(data)
    q = found.values
    torch.testing.assert_close(state_weights(Objective("av-pbc", "q", 0.5), data, found), 0.5 * q)
    torch.testing.assert_close(state_weights(Objective("av-pbc", "clamped", 0.5), data, found), 0.5 * q.clamp(min=0))
    gain = (q - found.recorded).clamp(min=0)
    torch.testing.assert_close(state_weights(Objective("av-pbc", "advantage"), data, found), gain / gain.mean())
    mean_one = state_weights(Objective("av-pbc", "mean-one"), data, found)
    torch.testing.assert_close(mean_one, q.clamp(min=0) / q.clamp(min=0).mean())


def test_the_loss_is_the_mean_over_members_rows_and_entries(data):
    found = labels(data)
    wanted = 0.0
    weights = 0.02 * found.values.clamp(min=0)
    acted = students(data)
    for k in range(3):
        for i in range(len(data)):
            wanted += float(weights[i] * ((acted[k, i] - found.actions[i]) ** 2).mean())
    assert float(loss(Objective(), data, found)) == pytest.approx(wanted / (3 * len(data)), rel=1e-4)


def test_each_choice_has_its_own_weight(discrete):
    found = labels(discrete)
    weights = state_weights(Objective("av-pbc", "clamped", 1.0), discrete, found)
    assert weights.shape == discrete.actions.shape
    wanted = (found.values.clamp(min=0) * (students(discrete) - found.actions) ** 2).mean()
    torch.testing.assert_close(loss(Objective("av-pbc", "clamped", 1.0), discrete, found), wanted)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "q"])
def test_the_teacher_s_action_at_a_state_of_weight_zero_is_not_seen(data, kind):
    found = labels(data)
    low = found.values.clone()
    low[4] = -2.0
    found = found._replace(values=low, recorded=torch.full_like(low, -1.0))
    other = found.actions.clone()
    other[4] = 0.123
    first = loss(Objective("av-pbc", kind), data, found)
    assert torch.equal(loss(Objective("av-pbc", kind), data, found._replace(actions=other)), first)
    assert not torch.equal(
        loss(Objective("pbc"), data, found), loss(Objective("pbc"), data, found._replace(actions=other))
    )


def test_negative_values_push_away_as_published(data):
    found = labels(data, values=torch.full((len(data),), -1.0))
    assert loss(Objective("av-pbc", "q"), data, found) < 0
    found.values[0] = 1.0
    assert loss(Objective("av-pbc", "q"), data, found) < 0
    assert loss(Objective("av-pbc", "clamped"), data, found) >= 0


def test_density_multiplies(data):
    density = torch.linspace(0.5, 1.5, len(data))
    found = labels(data)
    plain = state_weights(Objective(), data, found)
    torch.testing.assert_close(state_weights(Objective(), data, found, density), plain * density)
    assert state_weights(Objective("pbc"), data, found, density) is density


def test_what_is_missing_is_said(data):
    with pytest.raises(ManyoneError, match="pbc asks for a teacher's actions"):
        targets(Objective("pbc"), data, None)
    with pytest.raises(ManyoneError, match="give a teacher with a critic"):
        state_weights(Objective(), data, Labels(data.actions))
    worst = labels(data, values=-torch.ones(len(data)))._replace(recorded=torch.zeros(len(data)))
    for weights, advice in (("mean-one", "or the weights advantage"), ("advantage", "take the objective pbc$")):
        with pytest.raises(ManyoneError, match=rf"no state has a positive weight \({weights}\): .*{advice}"):
            state_weights(Objective("av-pbc", weights), data, worst)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("sac",), "objective kind 'sac': must be one of dbc, pbc, av-pbc"),
        (("pbc", "many"), "objective weights 'many': must be one of q, clamped, mean-one, advantage"),
        (("av-pbc", "q", 0), "beta 0: must be a number above 0"),
        (("av-pbc", "q", float("nan")), "beta nan: must be"),
    ],
)
def test_objectives_that_there_are_not_are_refused(given, words):
    with pytest.raises(ManyoneError, match=words):
        Objective(*given)


@pytest.mark.parametrize("weights", ["clamped", "mean-one"])
def test_values_of_which_none_is_positive_teach_nothing_and_that_is_said(data, weights):
    values = -torch.ones(len(data))
    with pytest.raises(ManyoneError, match=f"no state has a positive weight .{weights}.*take the objective pbc"):
        state_weights(Objective("av-pbc", weights), data, Labels(data.actions, values, values))
