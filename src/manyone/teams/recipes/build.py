"""What each method is made of: its network and who may hear whom; and the learner, which is the same for all of them,
so that only the communication differs.

A builder takes a recipe's options and the task, and gives the untrained ``Parts``; their start depends on the seed
alone. :func:`team` puts them into an environment, for recipes, studies and anybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyone.engine.devices import device_of
from manyone.envs.teams.types import TeamEnv, TeamSpec
from manyone.randomness import seed_for
from manyone.teams.artefact import read_graph
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import LearnedGraph, fixed_graph, links_for
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.ppo.training import Training
from manyone.teams.recipes.options import AttentionOptions, CommFormerOptions, EdgeOptions, SilentOptions, TeamOptions
from manyone.teams.recipes.problem import open_env


class Parts(NamedTuple):
    """A method's own; ``graph``: learned, or fixed [n, n] (of a dynamic one all links: the policy chooses)."""

    policy: nn.Module
    graph: LearnedGraph | Tensor


class Team(NamedTuple):
    """What a run trains, put together."""

    env: TeamEnv
    policy: nn.Module
    graph: LearnedGraph | Tensor
    learner: TeamLearner


Builder = Callable[[Any, TeamSpec], Parts]


def team(
    options: TeamOptions,
    build: Builder,
    evaluate: Callable[[TeamLearner], Mapping[str, Any]] | None = None,
) -> Team:
    """Everything that a run trains: the environment, the recipe's parts and their learner."""
    device = device_of(options.device)
    env = open_env(options, options.envs)
    parts = build(options, env.spec)
    policy, graph = parts.policy.to(device), parts.graph.to(device)
    named = {f.name for f in dataclasses.fields(options)}
    training = {f.name: getattr(options, f.name) for f in dataclasses.fields(Training) if f.name in named}
    learner = TeamLearner(env, policy, Training(**training), graph=graph, seed=options.seed, evaluate=evaluate)
    return Team(env, policy, graph, learner)


def commformer(o: CommFormerOptions, spec: TeamSpec) -> Parts:
    """CommFormer, with a learned, a dynamic or a fixed graph."""
    links = links_for(spec.agents, o.density)
    dynamic = o.graph == "dynamic"
    policy = _on_edges(o, spec, dynamic_links=links if dynamic else None)
    if o.graph_from is not None:
        return Parts(policy, read_graph(o.graph_from, spec.agents))
    if o.learns_graph:
        return Parts(policy, LearnedGraph(spec.agents, links, diagonal=o.diagonal, seed=o.seed))
    # "nearest" goes by the agents' places, or by their order where they have none
    places = torch.tensor(spec.details.get("positions", range(spec.agents)), dtype=torch.float32)
    kind = "full" if dynamic else o.graph
    return Parts(policy, fixed_graph(kind, spec.agents, links, seed=o.seed, positions=places.reshape(spec.agents, -1)))


def commformer_fc(o: EdgeOptions, spec: TeamSpec) -> Parts:
    """CommFormer's network, everybody hears everybody."""
    return Parts(_on_edges(o, spec), fixed_graph("full", spec.agents))


def mat(o: AttentionOptions, spec: TeamSpec) -> Parts:
    """MAT: no relation types, one head for all agents."""
    policy = _transformer(o, spec, edge_types=False, decoder_heads="shared")
    return Parts(policy, fixed_graph("full", spec.agents))


def mat_dec(o: AttentionOptions, spec: TeamSpec) -> Parts:
    """MAT without its decoder."""
    policy = _transformer(o, spec, edge_types=False, decoder_heads="shared", autoregressive=False)
    return Parts(policy, fixed_graph("full", spec.agents))


def no_comm(o: SilentOptions, spec: TeamSpec) -> Parts:
    """CommFormer's encoder, everybody alone."""
    policy = _transformer(o, spec, edge_types=o.edge_types, decoder_heads=o.decoder_heads, autoregressive=False)
    return Parts(policy, fixed_graph("none", spec.agents))


def mappo(o: TeamOptions, spec: TeamSpec) -> Parts:
    """Local actors, one central critic."""
    return Parts(_drawn(o, ActorCritic, spec, critic="central"), fixed_graph("none", spec.agents))


def ippo(o: TeamOptions, spec: TeamSpec) -> Parts:
    """Local actors and critics."""
    return Parts(_drawn(o, ActorCritic, spec, critic="local"), fixed_graph("none", spec.agents))


def _on_edges(o: EdgeOptions, spec: TeamSpec, dynamic_links: int | None = None) -> nn.Module:
    return _transformer(
        o, spec, edge_types=o.edge_types, decoder_heads=o.decoder_heads, scale=o.scale, relation=o.relation,
        decoder_mask=o.decoder_mask, diagonal=o.diagonal, gate=o.gate, send_gate=o.send_gate,
        dynamic_links=dynamic_links,
    )  # fmt: skip


def _transformer(o: AttentionOptions, spec: TeamSpec, **network: Any) -> nn.Module:
    return _drawn(o, CommFormer, spec, heads=o.heads, dropout=o.dropout, **network)


def _drawn(o: TeamOptions, make: Callable[..., nn.Module], spec: TeamSpec, **network: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(o.seed, "team-policy"))
        return make(spec, width=o.width, layers=o.layers, **network)
