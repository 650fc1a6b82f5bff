"""MAPPO and IPPO: what actor and critic see, masks, and actions that agree with their evaluation."""

from __future__ import annotations

import math

import pytest
import torch

from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.ppo.rollout import action_noise

B, N, D, A, S = 5, 3, 4, 6, 7


def spec(discrete=True, state=0):
    kind = {"actions": A} if discrete else {"action_dim": 2, "low": (-1.0, -1.0), "high": (1.0, 1.0)}
    return TeamSpec("made up", N, D, state_dim=state, **kind)


def see(state=0, available=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    held = torch.randn(B, state, generator=g) if state else None
    return Observation(torch.randn(B, N, D, generator=g), torch.ones(B, N, dtype=torch.bool), available, held)


def make(critic="central", **kind):
    torch.manual_seed(0)
    policy = ActorCritic(spec(**kind), critic=critic, width=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


@pytest.mark.parametrize("critic", ["central", "local"])
def test_an_action_depends_on_the_agents_own_observation_alone_and_ippos_value_too(critic):
    policy, obs = make(critic), see()
    leaf = obs.observations.requires_grad_()
    found = policy.evaluate(obs, torch.zeros(B, N, dtype=torch.int64), torch.zeros(N, N))
    for output, local in ((found.log_probs, True), (found.values, critic == "local")):
        (gradient,) = torch.autograd.grad(output[:, 1].sum(), leaf, retain_graph=True)
        assert (gradient[:, 1] != 0).all()
        assert bool((gradient[:, [0, 2]] == 0).all()) == local


def test_the_central_critic_reads_the_state_where_there_is_one():
    policy, obs = make(state=S), see(state=S)
    held, leaf = obs.state.requires_grad_(), obs.observations.requires_grad_()
    values = policy.values(obs, torch.zeros(N, N))
    assert values.shape == (B, N)
    assert (torch.autograd.grad(values.sum(), held, retain_graph=True)[0] != 0).any()
    assert torch.autograd.grad(values.sum(), leaf, allow_unused=True)[0] is None
    assert not torch.equal(values[:, 0], values[:, 1])  # the agent's number is part of the input


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("greedy", [True, False])
def test_acting_agrees_with_evaluating(discrete, greedy):
    policy, graph = make(discrete=discrete), torch.zeros(N, N)
    available = torch.rand(B, N, A, generator=torch.Generator().manual_seed(1)) < 0.5 if discrete else None
    if available is not None:
        available[..., 0] = True
    obs = see(available=available)
    noise = action_noise(policy.spec, B, torch.Generator().manual_seed(2))
    acted = policy.act(obs, graph, noise=noise, greedy=greedy)
    found = policy.evaluate(obs, acted.actions, graph)
    assert torch.equal(acted.log_probs, found.log_probs)
    assert torch.equal(acted.values, found.values)
    assert not acted.links.any()
    assert found.open_probability is None
    if available is not None:
        assert available.gather(-1, acted.actions.unsqueeze(-1)).all()
        assert greedy == torch.equal(acted.actions, policy.act(obs, graph, noise=noise, greedy=True).actions)


def test_gumbel_noise_draws_from_the_softmax():
    policy, obs = make(), see()
    logits = policy.actor(obs.observations)[0, 0].detach()
    one = Observation(obs.observations[:1].expand(20_000, N, D), torch.ones(20_000, N, dtype=torch.bool))
    noise = action_noise(policy.spec, 20_000, torch.Generator().manual_seed(3))
    chosen = policy.act(one, torch.zeros(N, N), noise=noise).actions[:, 0]
    shares, expected = chosen.bincount(minlength=A) / 20_000, logits.softmax(-1)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 20_000).sqrt()).all()


def test_a_single_available_action_is_certain_without_nan_and_without_gradient():
    policy = make()
    available = torch.zeros(B, N, A, dtype=torch.bool)
    available[..., 2] = True
    obs = see(available=available)
    found = policy.evaluate(obs, torch.full((B, N), 2), torch.zeros(N, N))
    assert (found.log_probs == 0).all()
    assert (found.entropy == 0).all()
    gradients = torch.autograd.grad(found.log_probs.sum() + found.entropy.sum(), list(policy.actor.parameters()))
    assert all((gradient == 0).all() for gradient in gradients)


def test_the_density_of_continuous_actions():
    policy, obs = make(discrete=False), see()
    actions = torch.randn(B, N, 2, generator=torch.Generator().manual_seed(4))
    found = policy.evaluate(obs, actions, torch.zeros(N, N))
    normal = torch.distributions.Normal(policy.actor(obs.observations), policy.std())
    assert torch.allclose(found.log_probs, normal.log_prob(actions).sum(-1), atol=1e-5)
    assert torch.allclose(found.entropy, normal.entropy().sum(-1), atol=1e-5)
    assert (policy.std() < 0.5).all()
    assert ActorCritic(spec(discrete=False)).std().tolist() == pytest.approx([0.5 / (1 + math.exp(-1))] * 2)


def test_wrong_options_are_named():
    with pytest.raises(ManyoneError, match="critic 'shared'"):
        ActorCritic(spec(), critic="shared")
    with pytest.raises(ManyoneError, match="width 0"):
        ActorCritic(spec(), width=0)
