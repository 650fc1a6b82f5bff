"""From a method's name and plain values to environment, policy, graph and learner: shared by recipes and study.

``METHODS`` says what each method is made of; everything that is not said there is the same for all of them, so that
only the communication differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from manyone.envs.teams.types import TeamEnv, TeamSpec
    from manyone.teams.network.graph import LearnedGraph
    from manyone.teams.ppo.learner import TeamLearner

GRAPHS = ("learned", "dynamic", "full", "none", "random", "ring", "star", "nearest")
"""Who may hear whom: learned with a budget of links, chosen anew at every step within that budget, everybody, nobody,
or one of the fixed graphs."""


class Method(NamedTuple):
    """``network``: "commformer" (with ``words`` for its constructor), "mappo" or "ippo"; ``graph``: its usual graph."""

    network: str
    graph: str
    words: Mapping[str, Any] = {}


_MAT = {"edge_types": False, "decoder_heads": "shared"}

METHODS: dict[str, Method] = {
    "commformer": Method("commformer", "learned"),
    "commformer-fc": Method("commformer", "full"),
    "mat": Method("commformer", "full", _MAT),
    "mat-dec": Method("commformer", "full", {**_MAT, "autoregressive": False}),
    "no-comm": Method("commformer", "none", {"autoregressive": False}),
    "mappo": Method("mappo", "none"),
    "ippo": Method("ippo", "none"),
}
"""Method to its parts."""


class Team(NamedTuple):
    """What a run trains, put together. ``graph`` is a ``LearnedGraph`` or a fixed float tensor [n, n]."""

    env: TeamEnv
    policy: torch.nn.Module
    graph: LearnedGraph | Tensor
    learner: TeamLearner


def build_policy(
    method: str,
    spec: TeamSpec,
    *,
    seed: int,
    graph: str | None = None,
    density: float = 0.4,
    gate: bool = False,
    send_gate: bool = False,
    device: str = "cpu",
    **network: Any,
) -> torch.nn.Module:
    """The untrained policy of ``method``; its start depends on ``seed`` alone. ``network``: width, layers, heads; what
    ``graph`` "dynamic" needs is part of the policy, other graphs are not."""
    import torch

    from manyone.randomness import seed_for

    if method not in METHODS:
        raise ManyoneError(f"team method {method!r}: use one of {', '.join(METHODS)}")
    found = METHODS[method]
    dynamic = (graph or found.graph) == "dynamic"
    for name, wanted in (("--gate", gate), ("--send-gate", send_gate), ("--graph dynamic", dynamic)):
        if wanted and found.network != "commformer":
            raise ManyoneError(f"{name}: {method} sends no messages; use commformer, commformer-fc, mat or mat-dec")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "team-policy"))
        if found.network == "commformer":
            from manyone.teams.network.commformer import CommFormer
            from manyone.teams.network.graph import links_for

            links = links_for(spec.agents, density) if dynamic else None
            words = {**network, **found.words, "gate": gate, "send_gate": send_gate, "dynamic_links": links}
            return CommFormer(spec, **words).to(device)
        from manyone.teams.network.actor_critic import ActorCritic

        sizes = {k: v for k, v in network.items() if k in ("width", "layers")}
        return ActorCritic(spec, critic="central" if method == "mappo" else "local", **sizes).to(device)


def build_graph(
    method: str,
    spec: TeamSpec,
    *,
    graph: str | None = None,
    density: float = 0.4,
    diagonal: Literal["excluded", "official"] = "excluded",
    seed: int,
    device: str = "cpu",
) -> LearnedGraph | Tensor:
    """The graph called ``graph`` (the method's usual one by default), with max(int(n * density), 1) links an agent.

    ``nearest`` goes by the agents' places in ``spec.details["positions"]``, or by their order where there are none. Of
    ``dynamic``, all links: the policy chooses among them.
    """
    import torch

    from manyone.teams.network.graph import LearnedGraph, fixed_graph, links_for

    kind = graph or METHODS[method].graph
    if kind not in GRAPHS:
        raise ManyoneError(f"--graph {kind!r}: use one of {', '.join(GRAPHS)}")
    links = links_for(spec.agents, density)
    if kind == "dynamic":
        kind = "full"
    if kind == "learned":
        return LearnedGraph(spec.agents, links, diagonal=diagonal, seed=seed).to(device)
    places = torch.tensor(spec.details.get("positions", range(spec.agents)), dtype=torch.float32)
    return fixed_graph(kind, spec.agents, links, seed=seed, positions=places.reshape(spec.agents, -1)).to(device)


def build_team(
    method: str,
    env: str | Callable[[], Any],
    *,
    batch: int,
    seed: int,
    graph: str | None = None,
    density: float = 0.4,
    gate: bool = False,
    send_gate: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    frames: int = 1,
    network: Mapping[str, Any] | None = None,
    **training: Any,
) -> Team:
    """Everything that a run of ``method`` on ``env`` trains.

    ``env``: a name or factory for ``make_team``; ``batch``: copies of it; ``frames``: observations that an agent
    sees side by side; ``network``: what the policy's constructor takes besides the method's own words; ``training``:
    what ``TeamLearner`` takes (iterations, length, epochs, ...).
    """
    from manyone.envs.teams.make import make_team
    from manyone.teams.ppo.learner import TeamLearner
    from manyone.teams.ppo.training import Training

    copies = make_team(env, batch, device=device, workers=workers, frames=frames)
    policy = build_policy(
        method, copies.spec, seed=seed, graph=graph, density=density, gate=gate, send_gate=send_gate, device=device,
        **(network or {}),
    )  # fmt: skip
    diagonal = (network or {}).get("diagonal", "excluded")
    links = build_graph(method, copies.spec, graph=graph, density=density, diagonal=diagonal, seed=seed, device=device)
    evaluate = training.pop("evaluate", None)
    learner = TeamLearner(copies, policy, Training(**training), graph=links, seed=seed, evaluate=evaluate)
    return Team(copies, policy, links, learner)
