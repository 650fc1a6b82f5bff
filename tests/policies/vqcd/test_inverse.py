"""Inverse dynamics find the action between two states."""

import torch

from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.inverse import InverseDynamics, inverse_loss
from manyone.randomness import generator_for


def linear_batch(step, rows=64, length=4):
    """s' = s + B a with an invertible B."""
    draw = generator_for("linear dynamics", step)
    b = torch.tensor([[1.0, 0.5], [-0.5, 1.0]])
    actions = torch.rand(rows, length, 2, generator=draw) * 2 - 1
    moved = (actions @ b.T).cumsum(1)
    first = torch.randn(rows, 1, 2, generator=draw)
    states = torch.cat((first, first + moved[:, :-1]), 1)
    return PlanBatch(states, actions, torch.zeros(rows), torch.ones(rows, length).bool(), torch.zeros(rows))


def test_invertible_linear_dynamics_are_learned():
    inverse = InverseDynamics(2, 2, 64, seed=0)
    adam = torch.optim.Adam(inverse.parameters(), lr=1e-2)
    for step in range(1500):
        for group in adam.param_groups:
            group["lr"] = 1e-2 * (1 - step / 1500)
        loss = inverse_loss(inverse, linear_batch(step))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert inverse_loss(inverse, linear_batch("held out")).item() < 1e-4


def test_pairs_beyond_the_end_of_an_episode_do_not_count():
    inverse = InverseDynamics(2, 2, 8, seed=0)
    batch = linear_batch(0, rows=3)
    valid = batch.valid.clone()
    valid[0, 2:] = False
    other = batch.actions.clone()
    other[0, 1:] = 9.0  # the last action of an episode leads to a state that is not there
    known = batch._replace(valid=valid)
    assert torch.equal(inverse_loss(inverse, known), inverse_loss(inverse, known._replace(actions=other)))


def test_weights_depend_on_the_seed_alone():
    first, again, other = (InverseDynamics(3, 2, 8, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])
