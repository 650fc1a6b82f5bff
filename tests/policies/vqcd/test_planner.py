"""Losses and plans of a planner: what is known stays, what is told counts."""

import pytest
import torch
from tests.policies.vqcd.planners import planner

from manyone.errors import ManyoneError
from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.planner import Sampling, another


def batch(rows=6, states=3, actions=2, length=8):
    draw = torch.Generator().manual_seed(0)
    return PlanBatch(
        torch.randn(rows, length, states, generator=draw), torch.randn(rows, length, actions, generator=draw),
        torch.rand(rows, generator=draw), torch.ones(rows, length).bool(), torch.zeros(rows),
    )  # fmt: skip


class Oracle(torch.nn.Module):
    """A denoiser that gives what it is told, and remembers what it saw."""

    def __init__(self, value):
        super().__init__()
        self.value, self.seen = value, []

    def forward(self, x, n, condition=None, present=None):
        self.seen.append(x)
        return self.value(x, n) if callable(self.value) else self.value


@pytest.mark.parametrize("kind", ["states", "state-actions"])
def test_the_first_state_is_given_to_the_network_and_left_out_of_the_loss(kind):
    one = planner(3, 2, plan=kind, inverse=None)
    given, draws = batch(), one.draws(6, 0.25, "draws")
    outputs = torch.randn(6, 8, one.channels)
    one.denoiser = Oracle(outputs)
    first = one(given, draws)
    torch.testing.assert_close(one.denoiser.seen[0][:, 0, :3], given.states[:, 0])
    changed = outputs.clone()
    changed[:, 0, :3] += 7
    one.denoiser = Oracle(changed)
    assert torch.equal(first, one(given, draws))
    changed = outputs.clone()
    changed[:, 1, 0] += 7
    one.denoiser = Oracle(changed)
    assert not torch.equal(first, one(given, draws))
    if kind == "state-actions":  # the first action is not known
        changed = outputs.clone()
        changed[:, 0, 3:] += 7
        one.denoiser = Oracle(changed)
        assert not torch.equal(first, one(given, draws))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_plan_begins_with_the_present_state_at_every_step_and_in_the_end(eta):
    one = planner(3, 2)
    one.denoiser = Oracle(lambda x, n: torch.tanh(x))
    first = batch().states[:, 0]
    draw = torch.Generator().manual_seed(1)
    how = Sampling(steps=5, eta=eta)
    plan = one.plan(first, torch.ones(6), torch.randn(6, 8, 3), how, bound=3.0,
                    draws=lambda k: torch.randn(6, 8, 3, generator=draw))  # fmt: skip
    assert len(one.denoiser.seen) == 5
    for x in one.denoiser.seen:
        assert x.shape[0] == 12  # with and without the condition, in one call
        assert torch.equal(x[:6, 0], first)
        assert torch.equal(x[6:, 0], first)
    assert torch.equal(plan[:, 0], first)
    assert float(plan[:, 1:].abs().max()) <= 3


def test_the_return_counts_where_it_is_told():
    one = planner(3, 2)
    given = batch()
    other = given._replace(returns=given.returns + 1)
    told = one.draws(6, 0.0, "told")
    untold = told._replace(present=torch.zeros(6).bool())
    assert not torch.equal(one(given, told), one(other, told))
    assert torch.equal(one(given, untold), one(other, untold))


def test_a_planner_that_is_told_the_task_hears_it_without_a_return_too():
    one = planner(3, 2, told=2)
    given, draws = batch(), one.draws(6, 0.0, "told")
    untold = draws._replace(present=torch.zeros(6).bool())
    assert not torch.equal(one(given, untold, 0), one(given, untold, 1))
    assert torch.equal(one(given, untold, 0), one(given._replace(returns=given.returns + 1), untold, 0))
    with pytest.raises(ManyoneError, match="task 2"):
        one(given, draws, 2)


def test_outputs_are_what_the_loss_compares():
    one = planner(3, 2)
    given, draws = batch(), one.draws(6, 0.25, "draws")
    assert one.outputs(given, draws).shape == (6, 7 * 3 + 7 * 2)
    outputs = one.outputs(given, draws)
    noise = (outputs[:, :21].reshape(6, 7, 3) - draws.noise[:, 1:]).square().mean()
    actions = (outputs[:, 21:].reshape(6, 7, 2) - given.actions[:, :-1]).square().mean()
    torch.testing.assert_close(one(given, draws), noise + actions)


def test_another_planner_has_its_share_of_the_parameters():
    one = planner(20, 10, denoiser={"kind": "mlp", "width": 96, "layers": 3, "embedding": 32},
                  inverse={"states": 20, "actions": 10, "width": 64, "layers": 2})  # fmt: skip
    size = sum(p.numel() for p in one.parameters())
    for share in (1 / 3, 1.5):
        other = another(one, share, 0, "other")
        assert sum(p.numel() for p in other.parameters()) == pytest.approx(share * size, rel=0.05)
    first, again = another(one, 0.5, 0, "a"), another(one, 0.5, 0, "a")
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), again.parameters()))
    with pytest.raises(ManyoneError, match="share = 0"):
        another(one, 0, 0, "none")


@pytest.mark.parametrize("kind", ["mlp", "unet", "dit"])
def test_every_denoiser_plans_and_learns(kind):
    one = planner(3, 2, denoiser={"kind": kind, "width": 16, "layers": 2, "embedding": 8})
    given, draws = batch(), one.draws(6, 0.25, "draws")
    one(given, draws).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in one.parameters())
    with torch.no_grad():
        plan = one.plan(given.states[:, 0], given.returns, torch.randn(6, 8, 3), Sampling(steps=2), bound=3.0)
    assert plan.shape == (6, 8, 3)
    assert torch.isfinite(plan).all()
    assert another(one, 2.0, 0, "wider").denoiser.config() != one.denoiser.config()


def test_a_plan_without_inverse_dynamics_has_no_actions():
    one = planner(3, 2, inverse=None)
    with pytest.raises(ManyoneError, match="no inverse dynamics"):
        one.planned_actions(torch.zeros(1, 8, 3))
    both = planner(3, 2, plan="state-actions", inverse=None)
    plan = torch.randn(2, 8, 5)
    assert torch.equal(both.planned_actions(plan), plan[:, :-1, 3:])
