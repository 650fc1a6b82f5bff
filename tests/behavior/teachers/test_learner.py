"""Every method against its plain formulation, on small problems whose answer is known, and resumed exactly."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests.reference import offline_rl as plain

from manyone.behavior.teachers.bc import CloningTeacher
from manyone.behavior.teachers.calql import CalQLTeacher
from manyone.behavior.teachers.iql import IQLTeacher
from manyone.behavior.teachers.learner import returns_to_go
from manyone.behavior.teachers.td3bc import TD3BCTeacher
from manyone.errors import ManyoneError

TEACHERS = {"bc": CloningTeacher, "td3bc": TD3BCTeacher, "iql": IQLTeacher, "calql": CalQLTeacher}
KINDS = [(name, choices) for name in TEACHERS for choices in (0, 3) if (name, choices) != ("td3bc", 3)]


def make(name, data, **options):
    return TEACHERS[name](data, **{"width": 8, "steps": 20, "batch_size": 6, "seed": 3, **options})


def layers(stack, member=0):
    """One perceptron of a stack as the plain formulation has it; views, so that gradients reach the stack."""
    return [(w[member], b[member, 0]) for w, b in zip(stack.weights, stack.biases)]


def twins(stack):
    return [layers(stack, 0), layers(stack, 1)]


def gradients(learner, losses):
    parameters = list(learner.networks.parameters())
    return torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters, allow_unused=True)


def plain_losses(name, learner, batch):
    """What the reference says about the rows of ``batch``."""
    data, nets = learner.data, learner.networks
    g = batch.noise  # the draws of the step go on from here, in the method's order
    rows = list(zip(batch.states, batch.actions, batch.rewards, batch.next_states, batch.goes_on))
    policy = layers(nets["policy"].net)
    n, width = batch.actions.shape
    if name == "bc":
        return (plain.bc_discrete_losses if data.choices else plain.bc_losses)(policy, rows)
    critics, targets = twins(nets["critics"]), twins(learner.targets["critics"])
    if name == "td3bc":
        noise = torch.randn((n, width), generator=g)
        target_policy = layers(learner.targets["policy"].net)
        moves = learner.iteration % 2 == 1
        return plain.td3bc_losses(policy, critics, target_policy, targets, rows, noise, 0.9, 2.0, moves)
    if name == "iql":
        value = layers(nets["state_values"])
        return plain.iql_losses(policy, critics, value, targets, rows, 0.9, 0.8, 0.7, choices=data.choices)
    floors = torch.tensor(plain.returns_to_go(data.rewards.tolist(), data.episode.tolist(), 0.9))[batch.rows]
    log_t = nets["temperature"].log
    if data.choices:
        return plain.calql_discrete_losses(policy, critics, targets, log_t, rows, floors, 0.9, 5.0)
    noise, more = torch.randn((2, n, width), generator=g), torch.randn((2, n, 4, width), generator=g)
    random = torch.rand((n, 4, width), generator=g) * 2 - 1
    scalars = (nets["policy"].multiplier, nets["policy"].offset)
    return plain.calql_losses(
        policy, scalars, critics, targets, log_t, rows, floors, *noise, list(zip(random, *more)), 0.9, 5.0
    )


OWN = {
    "bc": {},
    "td3bc": {"discount": 0.9, "alpha": 2.0},
    "iql": {"discount": 0.9, "expectile": 0.8, "temperature": 0.7},
    "calql": {"discount": 0.9, "alpha": 5.0, "samples": 4},
}


@pytest.mark.parametrize(("name", "choices"), KINDS)
def test_losses_and_gradients_are_those_of_the_plain_formulation(tiny, name, choices):
    learner = make(name, tiny["random"](choices=choices), lr=1e-2, tau=0.3, **OWN[name])
    for _ in range(3):  # later on targets and networks differ, and TD3's policy has moved
        learner.step()
    expected = plain_losses(name, learner, learner.batch())
    found = learner.losses(learner.batch())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert float(found[key].detach()) == pytest.approx(float(value.detach()), rel=2e-4, abs=2e-6), key
    for mine, theirs in zip(gradients(learner, found), gradients(learner, expected)):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_td3_moves_policy_and_targets_every_second_step(tiny):
    learner = make("td3bc", tiny["random"]())
    policy, target = copy.deepcopy(learner.policy.state_dict()), copy.deepcopy(learner.targets.state_dict())
    learner.step()
    assert all(torch.equal(v, policy[k]) for k, v in learner.policy.state_dict().items())
    assert all(torch.equal(v, target[k]) for k, v in learner.targets.state_dict().items())
    learner.step()
    assert not all(torch.equal(v, policy[k]) for k, v in learner.policy.state_dict().items())
    assert not all(torch.equal(v, target[k]) for k, v in learner.targets.state_dict().items())


@pytest.mark.parametrize("name", ["td3bc", "iql", "calql"])
def test_targets_follow_by_tau(tiny, name):
    learner = make(name, tiny["random"](), tau=0.25)
    before = copy.deepcopy(learner.targets["critics"].state_dict())
    learner.step()
    learner.step()
    old = before["weights.0"]
    new = learner.networks["critics"].weights[0].detach()
    if name == "td3bc":  # one move after two steps
        torch.testing.assert_close(learner.targets["critics"].weights[0].detach(), 0.75 * old + 0.25 * new)
    else:
        assert not torch.equal(learner.targets["critics"].weights[0], old)


def test_fewer_penalised_states_are_the_first_of_the_batch(tiny):
    data = tiny["random"]()
    whole, part = (make("calql", data, samples=3, penalised=p) for p in (None, 2))
    a, b = whole.losses(whole.batch()), part.losses(part.batch())
    assert float(a["critics"].detach()) == float(b["critics"].detach())
    assert float(a["conservative"].detach()) != float(b["conservative"].detach())
    with_all = make("calql", data, samples=3, penalised=100)
    c = with_all.losses(with_all.batch())
    assert float(c["conservative"].detach()) == float(a["conservative"].detach())


def test_the_calibrated_term_does_not_push_values_below_the_returns(tiny):
    """Where every value of the policy's actions is far below the returns these alone are in the sum: no gradient."""
    data = tiny["random"](choices=3)
    data = dataclasses.replace(data, rewards=data.rewards + 100)
    learner = make("calql", data, alpha=1.0, scale=1.0)
    batch = learner.batch()
    values = learner.networks["critics"](batch.states)
    conservative = learner.losses(batch)["conservative"]
    (mine,) = torch.autograd.grad(conservative, learner.networks["critics"].biases[-1])
    share = batch.actions.mean(0)  # only - Q(s, a) of the recorded actions is left
    torch.testing.assert_close(mine, -share.expand_as(mine[:, 0])[:, None])
    assert bool((values < learner.returns[batch.rows].max()).all())


@pytest.mark.parametrize(("name", "choices"), KINDS)
def test_a_resumed_training_goes_on_bit_by_bit(tiny, name, choices):
    data = tiny["random"](choices=choices)
    options = {"schedule": "all", "average": 0.9}
    straight, first, second = (make(name, data, **options) for _ in range(3))
    expected = [straight.step() for _ in range(7)]
    for _ in range(4):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    assert [second.step() for _ in range(3)] == expected[4:]
    for (key, a), b in zip(straight.state_dict()["networks"].items(), second.state_dict()["networks"].values()):
        assert torch.equal(a, b), key
    for (key, a), b in zip(straight.acting.state_dict().items(), second.acting.state_dict().values()):
        assert torch.equal(a, b), key


def greedy(learner, states):
    return learner.teacher().actions(torch.as_tensor(states, dtype=torch.float32))


@pytest.mark.parametrize("name", ["td3bc", "iql", "calql"])
def test_the_best_action_of_a_bandit_is_learned(tiny, name):
    """Recorded actions average 0; the best ones are one half with the sign of the state."""
    own = {"td3bc": {"alpha": 10.0}, "iql": {"expectile": 0.7, "temperature": 10.0}, "calql": {"alpha": 0.1}}[name]
    steps = 600 if name == "td3bc" else 300  # its policy moves every second step
    learner = make(name, tiny["bandit"](), width=16, batch_size=64, lr=1e-2, policy_lr=1e-2, steps=steps, **own)
    for _ in range(steps):
        learner.step()
    found = greedy(learner, [[-1.0], [1.0]])[:, 0]
    assert found[0] < -0.3, found
    assert found[1] > 0.3, found
    teacher, s = learner.teacher(), torch.tensor([[1.0], [1.0]])
    good, bad = teacher.values(s, torch.tensor([[0.5], [-0.5]]))
    assert good > bad + 0.5  # 1 against 0


def test_cloning_learns_what_was_done_and_not_what_was_best(tiny):
    learner = make("bc", tiny["bandit"](), width=16, batch_size=64, lr=1e-2, steps=150)
    for _ in range(150):
        learner.step()
    assert greedy(learner, [[-1.0], [1.0]]).abs().max() < 0.3


@pytest.mark.parametrize("name", ["iql", "calql"])
def test_the_best_choice_of_a_bandit_is_learned(tiny, name):
    learner = make(name, tiny["bandit"](choices=2), width=16, batch_size=64, lr=5e-3, policy_lr=5e-3, steps=300,
                   **({"alpha": 0.1} if name == "calql" else {}))  # fmt: skip
    for _ in range(300):
        learner.step()
    found = greedy(learner, [[-1.0], [1.0]])
    assert found.sum(1) == pytest.approx(torch.ones(2))
    assert found.diagonal().min() > 0.8, found
    values = learner.teacher().values(torch.tensor([[1.0]]), found[:1])
    assert values.shape == (1, 2)
    assert values[0, 1] > values[0, 0]


@pytest.mark.parametrize(("name", "choices"), [("iql", 0), ("iql", 2), ("calql", 2), ("td3bc", 0)])
def test_a_large_reward_far_away_is_worth_the_way(tiny, name, choices):
    """From the second place 1 is two steps to the left, 10 four to the right; recorded at random."""
    own = {"td3bc": {"alpha": 10.0}, "iql": {"expectile": 0.9, "temperature": 3.0}, "calql": {"alpha": 0.1}}[name]
    learner = make(name, tiny["chain"](choices=choices), width=16, batch_size=64, lr=1e-2, policy_lr=1e-2,
                   steps=400, tau=0.1, schedule="all", **own)  # fmt: skip
    for _ in range(400):
        learner.step()
    found = greedy(learner, torch.eye(5))
    right = found[:, 1] > 0.5 if choices else found[:, 0] > 0
    assert bool(right.all()), found
    value = learner.teacher().values(torch.eye(5)[3:], found[3:])
    value = value[:, 1] if choices else value
    assert float(value[1]) == pytest.approx(10, abs=1.5)  # one step before the end
    assert float(value[0]) == pytest.approx(9.9, abs=4)  # two steps; it would be 0 without looking ahead


def test_terminal_steps_have_no_future_and_unknown_ones_are_not_drawn(tiny):
    data = tiny["random"]()
    has_next = torch.ones(len(data), dtype=torch.bool)
    has_next[9::10] = False  # the last rows of episodes that were cut off
    learner = make("iql", dataclasses.replace(data, has_next=has_next), batch_size=500)
    batch = learner.batch()
    assert not bool(torch.isin(batch.rows, torch.arange(9, len(data), 10)).any())
    assert set(batch.rows.tolist()) == set(range(len(data))) - set(range(9, len(data), 10))
    assert torch.equal(batch.goes_on == 0, data.terminals[batch.rows])
    cloning = make("bc", dataclasses.replace(data, has_next=has_next), batch_size=500)
    assert set(cloning.batch().rows.tolist()) == set(range(len(data)))


def test_returns_to_go_are_sums_within_episodes(tiny):
    data = tiny["chain"](200)
    expected = plain.returns_to_go(data.rewards.tolist(), data.episode.tolist(), 0.9)
    torch.testing.assert_close(returns_to_go(data, 0.9), torch.tensor(expected))


def test_values_are_those_of_the_rewards_themselves(tiny):
    learner = make("td3bc", tiny["bandit"](), width=16, batch_size=64, lr=5e-3, steps=200, scale=100.0)
    for _ in range(200):
        learner.step()
    s = torch.tensor([[1.0]])
    assert float(learner.teacher().values(s, torch.tensor([[0.5]]))) == pytest.approx(1, abs=0.3)


def test_the_scale_can_come_from_the_returns(tiny):
    data = tiny["random"]()
    span = float(data.returns.max() - data.returns.min())
    assert make("iql", data, scale=None).scale == pytest.approx(1000 / span)
    constant = dataclasses.replace(data, returns=torch.full((len(data),), -8.0))
    assert make("iql", constant, scale=None).scale == 125, "a perfect controller's episodes are all alike"


def test_steps_without_a_known_successor_teach_no_values(tiny):
    data = tiny["random"]()
    never = torch.zeros(len(data), dtype=torch.bool)
    with pytest.raises(ManyoneError, match="tiny: no step's next state is known, and iql learns from these"):
        make("iql", dataclasses.replace(data, has_next=never, terminals=never))


def test_the_acting_policy_is_the_average_of_the_trained_one(tiny):
    learner = make("bc", tiny["random"](), average=0.5, lr=1e-2)
    seen = []
    for _ in range(3):
        learner.step()
        seen.append(learner.policy.net.weights[0].detach().clone())
    expected = 0.5 * (0.5 * seen[0] + 0.5 * seen[1]) + 0.5 * seen[2]
    torch.testing.assert_close(learner.acting.net.weights[0].detach(), expected)
    assert torch.equal(learner.teacher().policy.net.weights[0], learner.acting.net.weights[0])


def test_the_schedule_lowers_the_rates_that_it_names(tiny):
    data = tiny["random"]()
    for schedule, expected in (("constant", [1e-3, 2e-3]), ("policy", [5e-4, 2e-3]), ("all", [5e-4, 1e-3])):
        learner = make("td3bc", data, policy_lr=1e-3, lr=2e-3, schedule=schedule)
        for _ in range(11):
            learner.step()
        assert [group["lr"] for group in learner.adam.param_groups] == pytest.approx(expected), schedule


@pytest.mark.parametrize("name", ["td3bc", "iql", "calql"])
def test_without_rewards_only_cloning_learns(tiny, name):
    data = dataclasses.replace(tiny["random"](), rewards=torch.zeros(40))
    with pytest.raises(ManyoneError, match=f"tiny: all rewards are 0, and {name} learns from rewards"):
        make(name, data)
    make("bc", data).step()


def test_td3bc_refuses_choices(tiny):
    with pytest.raises(ManyoneError, match="tiny: td3bc is for continuous actions, these are 3 choices: take iql"):
        make("td3bc", tiny["random"](choices=3))


def test_cloning_has_no_values(tiny):
    teacher = make("bc", tiny["random"]()).teacher()
    with pytest.raises(ManyoneError, match=r"teacher bc has no critic.*calql, iql and td3bc have one"):
        teacher.values(torch.zeros(1, 3), torch.zeros(1, 2))
