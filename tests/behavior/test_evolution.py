"""Evolution strategies on true returns: its gradient, its draws, its resume, and that it finds what is paid."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.behavior.conftest import trajectories

from manyone.behavior.artefact import Frame, load_distilled
from manyone.behavior.coresets import initial_pairs
from manyone.behavior.data import behavior_data
from manyone.behavior.evolution import EvolutionLearner, Returns, centred_ranks, evolve
from manyone.behavior.inner import InnerLoop, meta_gradient
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.students.policies import StudentPolicies
from manyone.errors import ManyoneError

SPEC = StudentSpec(layers=2, width=8, gaussian=False)
INNER = InnerLoop(steps=5, lr=0.5)


class Paid:
    """Pays a student for what it does in some states, and remembers what it was asked."""

    def __init__(self, data, rows=1):
        self.seen, self.asked = data.observations(data.states[:rows]), []

    def __call__(self, policies, step):
        self.asked.append((len(policies), step))
        return self.of(policies.unit_actions(self.seen)).numpy()

    @staticmethod
    def of(actions):
        return actions[:, :, 0].double().mean(1)


def learner_of(data, fitness=None, **options):
    given = {"spec": SPEC, "inner": INNER, "population": 16, "seed": 3, "lr": 0.05} | options
    start = given.pop("start", None) or initial_pairs("random", data, None, 6, 0)
    return EvolutionLearner(data, fitness or Paid(data), start=start, **given)


def steps_of(learner, count):
    return [learner.step() for _ in range(count)]


def test_it_climbs_on_what_is_paid(data):
    learner = learner_of(data, population=32, students=2, inner=InnerLoop(steps=20, lr=0.5))
    returns = [metrics["return"] for metrics in steps_of(learner, 40)]
    assert np.mean(returns[-10:]) > np.mean(returns[:10]) + 0.3
    assert learner.fitness.asked == [(64, step) for step in range(40)]


def test_the_gradient_is_the_ranks_of_the_members_times_their_noise(data):
    """One generation, member by member."""
    learner = learner_of(data, students=2, population=8)
    states, actions, noise = learner.states.clone(), learner.actions.clone(), learner.noise()
    returns = []
    for member in range(8):
        own = [value + learner.sigma * e[member : member + 1] for value, e in zip((states, actions), noise)]
        weights = learner.trained(own)
        returns.append(float(np.mean(learner.fitness(StudentPolicies(Frame.of(data), SPEC, weights), 0))))
    learner.step()
    ranks = np.argsort(np.argsort(returns)) / 7 - 0.5
    for value, e in zip((learner.states, learner.actions), noise):
        expected = -sum(u * one for u, one in zip(ranks.tolist(), e)) / (8 * learner.sigma)
        torch.testing.assert_close(value.grad, expected, atol=1e-6, rtol=1e-5)


def test_it_points_where_the_exact_gradient_points(data):
    """With many members and little noise, for a fitness whose gradient through training is known."""
    start = initial_pairs("random", data, None, 3, 0)
    fitness = Paid(data, rows=20)
    learner = learner_of(data, fitness, population=4000, sigma=0.02, start=start)
    untrained = learner_of(data, start=start, inner=InnerLoop(steps=0))
    first = untrained.trained([value.unsqueeze(0) for value in start])

    def loss(weights):
        return -Paid.of(learner.student.forward(weights, data.states[:20])).mean()

    exact = meta_gradient(learner.student, first, *start, loss, INNER)
    learner.step()
    found = torch.cat([learner.states.grad.flatten(), learner.actions.grad.flatten()])
    wanted = torch.cat([exact.states.flatten(), exact.actions.flatten()])
    assert torch.cosine_similarity(found, wanted, 0) > 0.9


def test_noise_comes_with_its_negative_and_depends_on_seed_and_step_alone(data):
    one, other = learner_of(data), learner_of(data)
    noise = one.noise()
    assert [list(value.shape) for value in noise] == [[16, 6, 5], [16, 6, 2]]
    assert all(torch.equal(value[:8], -value[8:]) for value in noise)
    other.step()
    assert not torch.equal(noise[0], other.noise()[0])
    one.step()
    assert torch.equal(one.noise()[0], other.noise()[0])
    assert not torch.equal(noise[0], learner_of(data, seed=4).noise()[0])


def test_members_share_their_students_first_weights(data):
    learner = learner_of(data, students=3, population=4, inner=InnerLoop(steps=0))
    weights = learner.trained([value.expand(4, *value.shape) for value in (learner.states, learner.actions)])
    value = weights["layers.0.weight"].view(4, 3, 8, 5)
    assert torch.equal(value[0], value[3])
    assert not torch.equal(value[0, 0], value[0, 1])
    learner.step()
    later = learner.trained([value.unsqueeze(0) for value in (learner.states, learner.actions)])
    assert not torch.equal(later["layers.0.weight"][0], value[0, 0]), "fresh students in every generation"


def test_a_resumed_run_goes_on_exactly(data):
    whole, cut = learner_of(data), learner_of(data)
    last = steps_of(whole, 5)[-1]
    steps_of(cut, 2)
    state = cut.state_dict()
    resumed = learner_of(data, start=initial_pairs("gaussian", data, None, 6, 9))
    resumed.load_state_dict(state)
    assert steps_of(resumed, 3)[-1] == last
    assert torch.equal(resumed.states, whole.states)
    assert torch.equal(resumed.actions, whole.actions)


def test_equal_returns_move_nothing():
    assert centred_ranks(torch.tensor([3.0, 1.0, 2.0])).tolist() == [0.5, -0.5, 0.0]
    assert centred_ranks(torch.tensor([1.0, 1.0, 0.0, 2.0])).tolist() == pytest.approx([0, 0, -0.5, 0.5])
    assert centred_ranks(torch.full((4,), 7.0)).tolist() == [0, 0, 0, 0]
    assert centred_ranks(torch.tensor([-torch.inf, 0.0, -torch.inf])).tolist() == [-0.25, 0.5, -0.25]


def test_students_whose_training_diverges_are_the_worst_and_do_not_act(data):
    class Finite(Paid):
        def __call__(self, policies, step):
            assert all(value.isfinite().all() for value in policies.weights.values())
            return super().__call__(policies, step) * 0 - 5.0

    class Half(EvolutionLearner):
        def trained(self, sets):
            weights = super().trained(sets)
            weights["layers.1.bias"][::2] = torch.nan
            return weights

    learner = Half(
        data, Finite(data), start=initial_pairs("random", data, None, 6, 0), spec=SPEC, inner=INNER, population=4
    )
    noise = learner.noise()[1]
    metrics = learner.step()
    assert metrics["diverged"] == 0.5
    assert metrics["return"] == -5
    shares = torch.tensor([-1 / 3, 1 / 3, -1 / 3, 1 / 3])
    torch.testing.assert_close(learner.actions.grad, -torch.tensordot(shares, noise, 1) / (4 * learner.sigma))


def test_the_artefact_holds_the_pairs(data, tmp_path):
    learner = learner_of(data, info={"init": "random"})
    steps_of(learner, 2)
    learner.export(tmp_path)
    found = load_distilled(tmp_path)
    assert torch.equal(found.states, learner.states)
    assert found.info["objective"] == "true returns, by evolution strategies"
    assert (found.info["outer_steps"], found.info["init"]) == (2, "random")


def test_discrete_actions_are_evolved_too(discrete):
    spec = dataclasses.replace(SPEC, output="softmax")
    learner = learner_of(discrete, spec=spec, population=32, lr=0.2)
    returns = [metrics["return"] for metrics in steps_of(learner, 20)]
    assert np.mean(returns[-3:]) > np.mean(returns[:3]) + 0.2


def hopper(episodes=4):
    """A few recorded steps with the shapes of Hopper."""
    one = trajectories(episodes=episodes, steps=20, states=11, actions=3)
    return behavior_data(one, environment="gym:Hopper-v5", horizon=60)


def test_returns_are_those_of_the_environment_and_alike_for_equal_students():
    pytest.importorskip("mujoco")
    data = hopper()
    learner = learner_of(data, spec=dataclasses.replace(SPEC, width=16))
    first = learner.student.init([1, 2, 1])
    policies = StudentPolicies(Frame.of(data), learner.spec, first)
    with Returns(Frame.of(data), students=3, episodes=2, seed=5) as returns:
        found = returns(policies, 0)
        assert found[0] == found[2]
        assert found[0] != found[1]
        assert np.array_equal(found, returns(policies, 0))
        assert not np.array_equal(found, returns(policies, 1)), "other episodes in another generation"
        assert returns.arena.timing.steps > 0
    with Returns(Frame.of(data), students=3, horizon=5, seed=5) as returns:
        returns(policies, 0)
        assert returns.arena.timing.steps == 15


def test_a_whole_evolution_in_an_environment():
    pytest.importorskip("mujoco")
    words = {"size": 4, "steps": 2, "population": 4, "spec": SPEC, "inner": INNER, "seed": 1, "progress": False}
    one, again = (evolve(hopper(), **words) for _ in range(2))
    assert torch.equal(one.states, again.states)
    assert len(one) == 4
    assert one.info["outer_steps"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 3}, "population 3: must be an even number from 2"),
        ({"population": 0}, "population 0"),
        ({"sigma": 0.0}, "sigma 0.0"),
        ({"students": 0}, "students 0"),
    ],
)
def test_wrong_options_are_named(data, options, message):
    with pytest.raises(ManyoneError, match=message):
        learner_of(data, **options)


def test_without_an_environment_there_are_no_returns(data):
    with pytest.raises(ManyoneError, match="walks: no environment to act in"):
        Returns(Frame.of(data), students=2)
