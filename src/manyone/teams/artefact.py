"""The standard artefact of a team: one folder that a fresh process loads and acts with.

    from manyone.teams import load_team
    team = load_team("runs/first/model")
    team.reset()
    actions = team.act(observations)                    # numpy [n, d] in, int64 [n] out; [B, n, d] for B copies

``model.safetensors`` holds the weights, ``config.json`` everything else that the policy is made of: its kind and
options, the task, the graph (rows receive), whether the gate decides. ``policy.pt2`` is the greedy policy with its
graph as one program that needs torch alone (see ``exported``); it is written and never read. Nothing is pickled.

A team that was trained on several frames keeps them by itself: ``act`` takes what is seen now, ``reset`` (and
``forget``, for some copies of the task) begins an episode. The program takes the frames side by side.
Public: ``save`` and ``load`` (also ``save_team``, ``load_team``), ``Team``, ``Remembering``, ``check_observations``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manyone
from manyone.engine.artefact import (
    CONFIG,
    WEIGHTS,
    buffers_of,
    load_weights,
    made_of,
    read_model,
    read_tensors,
    write_model,
)
from manyone.engine.documents import read_json, read_text
from manyone.engine.mergeable import Mergeable
from manyone.envs.teams.frames import FrameMemory, frames_of
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.exported import export_policy, program_inputs
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer

PROGRAM = "policy.pt2"
_RETIRED = ("gate_tau", "value_width", "decode")  # options in artefacts of before, which nothing could set
_BOUNDS = ("low", "high", "agent_low", "agent_high")
KINDS: dict[str, Any] = {"commformer": CommFormer, "actor-critic": ActorCritic}


def check_observations(
    spec: TeamSpec, observations: Any, available: Any = None, alive: Any = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(observations float32 [B, n, d], available bool [B, n, A] or None, alive bool [B, n]) of what a user gave.

    ``ManyoneError`` for a wrong shape, a number that is not finite, an agent without an available action, or none told
    where the task forbids some.
    """
    seen = np.asarray(observations, np.float32)
    single = seen.ndim == 2
    seen = seen[None] if single else seen
    if seen.ndim != 3 or seen.shape[1:] != (spec.agents, spec.observation_dim):
        raise ManyoneError(
            f"observations {list(np.shape(observations))}: this team takes [{spec.agents}, {spec.observation_dim}] or "
            f"[B, {spec.agents}, {spec.observation_dim}] (agents, width of an observation)"
        )
    if not np.isfinite(seen).all():
        agent = int(np.argwhere(~np.isfinite(seen))[0][1])
        raise ManyoneError(f"observations: agent {agent}'s holds NaN or infinity; a policy takes finite numbers")

    def batched(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(value).astype(bool)
        array = array[None] if single else array
        if array.shape != shape:
            raise ManyoneError(f"{name} {list(np.shape(value))}: must be {list(shape[1:] if single else shape)}")
        return array

    mask = None
    if available is not None:
        if not spec.discrete:
            raise ManyoneError("available: continuous actions are always all allowed; leave it out")
        mask = batched("available", available, (len(seen), spec.agents, spec.actions))
        starts = np.cumsum([0, *spec.digits[:-1]])
        some = np.logical_or.reduceat(mask, starts, -1).all(-1)
        if not some.all():
            agent = int(np.argwhere(~some)[0][1])
            raise ManyoneError(f"available: agent {agent} has no action at all; dead agents keep at least one")
    elif spec.masked:
        raise ManyoneError(
            f"available: {spec.name} does not always allow every action; give what it allows now, bool "
            f"[{spec.agents}, {spec.actions}]"
        )
    living = np.ones(seen.shape[:2], bool) if alive is None else batched("alive", alive, seen.shape[:2])
    return seen, mask, living


class Remembering:
    """What a team's agents have seen in the running episode, for those that act on several frames.

    ``spec``: the task as the policy sees it; ``seen_now``: as it is without a stack of frames.
    """

    def __init__(self, spec: TeamSpec) -> None:
        self.spec, self.frames = spec, frames_of(spec)
        self.seen_now = replace(spec, observation_dim=spec.observation_dim // self.frames)
        self._memory: FrameMemory | None = None

    def see(
        self, observations: Any, available: Any = None, alive: Any = None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """As :func:`check_observations`, of what is seen now; the observations with those before, [B, n, frames d]."""
        seen, mask, living = check_observations(self.seen_now, observations, available, alive)
        if self.frames == 1:
            return seen, mask, living
        if self._memory is None:
            self._memory = FrameMemory(self.frames, len(seen), self.spec.agents, seen.shape[-1])
        if self._memory.batch != len(seen):
            raise ManyoneError(
                f"observations of {len(seen)} copies: this team remembers what {self._memory.batch} have seen; call "
                "reset() before others begin"
            )
        return self._memory.see(torch.from_numpy(seen), torch.from_numpy(living)).numpy(), mask, living

    def forget(self, rows: Any = None) -> None:
        """Begins a new episode in some copies of the task (numbers, or bool [B]), or in all, of any number."""
        if rows is None:
            self._memory = None
        elif self._memory is not None:
            self._memory.forget(torch.as_tensor(rows))


class Team:
    """A team ready to act, with numpy in and out.

    ``policy``, ``graph`` float32 [n, n] on the CPU (row = receiver), ``spec``, ``gate`` ("decided", or "open" where no
    gate acts), ``extra`` (what else was saved); ``links_last`` bool [B, n, n]: the messages of the last step;
    ``frames``: how many observations of an agent the policy acts on, which are remembered here.
    """

    def __init__(
        self,
        policy: nn.Module,
        graph: Tensor,
        spec: TeamSpec,
        *,
        gate: str = "open",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.policy, self.spec, self.gate, self.extra = policy.eval(), spec, gate, dict(extra or {})
        self.graph = _checked_graph(graph, spec.agents)
        self.links_last: np.ndarray | None = None
        self._remembering = Remembering(spec)
        self.frames = self._remembering.frames
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Begins anew, with nothing remembered: draws of ``act(..., greedy=False)`` depend on ``seed`` and the number
        of steps since."""
        self._seed, self._step, self.links_last = seed, 0, None
        self.forget()

    def forget(self, rows: Any = None) -> None:
        """Clears what was seen where a new episode begins: some copies of the task (numbers, or bool [B]), or all.

        A team that acts on what it sees now has nothing to clear.
        """
        self._remembering.forget(rows)

    def act(self, observations: Any, available: Any = None, alive: Any = None, greedy: bool = True) -> np.ndarray:
        """Actions of all agents for their ``observations``: int64 [n], or [n, k] where an action is k digits, or
        float32 [n, a] where they are continuous.

        ``observations`` [n, d], or [B, n, d] for B copies of the task, and then the actions have the leading B too.
        ``available`` bool [n, A], needed where the task forbids actions (``spec.masked``); ``alive`` bool [n].
        ``ManyoneError`` names what does not fit. Each call is a step of
        the episodes: where the team acts on several frames (d is the width of one) it remembers what it was shown.
        """
        seen, mask, living = self._remembering.see(observations, available, alive)
        device = next(self.policy.parameters()).device
        batch, n = seen.shape[:2]
        # the critic's state has no part in acting
        state = torch.zeros(batch, self.spec.state_dim, device=device) if self.spec.state_dim else None
        obs = Observation(
            torch.from_numpy(seen).to(device),
            torch.from_numpy(living).to(device),
            None if mask is None else torch.from_numpy(mask).to(device),
            state,
        )
        stream = generator_for(self._seed, "act", self._step)
        shape = (batch, n, self.spec.actions or self.spec.action_dim)
        noise = torch.zeros(shape)
        if not greedy and self.spec.discrete:
            noise = -torch.empty(shape).exponential_(generator=stream).clamp_min(1e-30).log()  # Gumbel
        elif not greedy:
            noise = torch.randn(shape, generator=stream)
        acted = self.policy.act(  # type: ignore[operator]
            obs, self.graph.to(device), noise=noise.to(device), gate=self.gate, greedy=greedy
        )
        self._step += 1
        self.links_last = acted.links.cpu().numpy()
        actions = self.spec.to_bounds(acted.actions).cpu().numpy()
        return actions if np.ndim(observations) == 3 else actions[0]

    def inseparable(self) -> str | None:
        """Why its agents cannot act each in a process of its own, with what the links carry; None where they can."""
        policy = self.policy
        if not isinstance(policy, CommFormer):
            return f"a {type(policy).__name__} has no links: each agent acts alone; use load_team(...).act"
        if policy.link_scorer is not None:
            return "a dynamic graph is chosen by one who sees all embeddings: use load_team(...).act"
        if policy.send_gate is not None:
            return "a send gate decides at the sender, and links here are asked by the receiver: use load_team(...).act"
        if policy.autoregressive and policy.decoder_mask != "aligned":
            return (
                f"decoder_mask {policy.decoder_mask!r}: agents read actions past the graph, so links cannot carry "
                "them; train with decoder_mask aligned"
            )
        return None

    def description(self) -> dict[str, Any]:
        """What the policy is made of, without weights and graph: JSON data for :func:`build_policy`."""
        kind, options = _kind_of(self.policy)
        spec = asdict(self.spec)
        for name in _BOUNDS:
            spec[name] = _words_for_infinity(spec[name])
        return {"kind": kind, "options": options, "spec": spec, "gate": self.gate}


def save(
    folder: str | PathLike[str],
    policy: nn.Module,
    graph: Tensor | nn.Module,
    spec: TeamSpec,
    extra: Mapping[str, Any] | None = None,
    *,
    gate: str | None = None,
    program: bool = True,
) -> None:
    """Writes the artefact of ``policy`` acting along ``graph`` [n, n] (of a ``LearnedGraph`` the exact one).

    ``extra``: free JSON data. ``gate``: "decided" or "open"; None decides where the policy has a gate. ``program``:
    whether ``policy.pt2`` is written too (some seconds).
    """
    links: Any = graph.exact() if isinstance(graph, nn.Module) else graph  # type: ignore[operator]
    if gate is None:
        gate = "decided" if getattr(policy, "gated", False) else "open"
    if gate == "decided" and not getattr(policy, "gated", False):
        raise ManyoneError("gate decided: this policy has no gate; build it with gate=True or save it with gate='open'")
    was_training = policy.training
    team = Team(policy, links, spec, gate=gate, extra=extra)
    tensors = policy.state_dict()
    if broken := [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]:
        raise ManyoneError(f"{folder}: not written: the weights {broken[0]} hold NaN or infinity; save a sound state")
    inputs = program_inputs(policy)
    config = {
        "versions": {"manyone": manyone.__version__, "torch": torch.__version__},
        **team.description(),
        "graph": team.graph.int().tolist(),
        "program": {"file": PROGRAM, "inputs": inputs, "outputs": ["actions", "values"]} if program else None,
        "extra": team.extra,
    }
    card = _card(config, apart=team.inseparable() is None)
    export = partial(export_policy, policy=policy, graph=team.graph, gate=gate)
    # the program has the weights in it; what a merge writes has none until it is loaded and saved
    merge = Mergeable(weights=("*",), fixed=buffers_of(policy), described=("versions", "extra"), renewed=("program",))
    try:
        write_model(folder, tensors, config, card, {PROGRAM: export if program else None}, merge=merge)
    finally:
        policy.train(was_training)


def load(folder: str | PathLike[str], device: str | torch.device = "cpu") -> Team:
    """The team that :func:`save` wrote; ``ManyoneError`` names the file that is missing or damaged."""
    config, tensors = read_model(folder, "a team", ("graph",))
    with made_of(Path(folder) / CONFIG, tensors):
        policy = _policy(config, tensors, Path(folder) / WEIGHTS).to(device)
        graph = torch.tensor(config["graph"], dtype=torch.float32)
        return Team(policy, graph, policy.spec, gate=config["gate"], extra=config["extra"])  # type: ignore[arg-type]


def read_graph(place: str | PathLike[str], agents: int) -> Tensor:
    """Who hears whom [n, n] (row = receiver): of a saved team, its folder or its run's, or of a .json or .csv file."""
    path = Path(place)
    if path.is_dir():
        path = path / "model" if (path / "model").is_dir() else path
        found = read_model(path, "a team", ("graph",))[0]["graph"]
    elif path.suffix == ".json":
        found = read_json(path, "the graph")
    elif path.suffix == ".csv":
        found = [line.split(",") for line in read_text(path, "the graph").splitlines() if line.strip()]
    else:
        raise ManyoneError(f"{path}: neither a trained team's folder nor a .json or .csv file")
    try:
        graph = torch.tensor([[float(entry) for entry in row] for row in found], dtype=torch.float32)
    except (TypeError, ValueError, OverflowError):  # a JSON integer may be beyond any float
        raise ManyoneError(f"{path}: no graph: it must have {agents} rows of {agents} numbers 0 and 1") from None
    try:
        graph = _checked_graph(graph, agents)
    except ManyoneError as error:
        raise ManyoneError(f"{path}: {error}") from None
    if bool(graph.diagonal().any()):
        raise ManyoneError(f"{path}: an agent hears itself: the diagonal must be 0")
    return graph


save_team = save  # the names in the READMEs of artefacts
load_team = load


def build_policy(config: Mapping[str, Any], weights: str | PathLike[str]) -> nn.Module:
    """The policy that ``config`` (kind, options, spec) describes, with a safetensors file's weights, for acting."""
    return _policy(config, read_tensors(weights), weights)


def _policy(config: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: str | PathLike[str]) -> nn.Module:
    if config["kind"] not in KINDS:
        raise ManyoneError(f"policy of kind {config['kind']!r}: this version knows {', '.join(KINDS)}")
    options = {name: value for name, value in config["options"].items() if name not in _RETIRED}
    spec = _spec_from(config["spec"])
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise ManyoneError(f"{weights}: {name} holds NaN or infinity: save the team again from a sound state")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and thrown away: no caller's stream moves
        policy = KINDS[config["kind"]](spec, **options)
    load_weights(policy, tensors, weights, assign=True)
    return policy.eval().requires_grad_(False)


def _kind_of(policy: nn.Module) -> tuple[str, dict[str, Any]]:
    for kind, made in KINDS.items():
        if type(policy) is made:
            names = [name for name in signature(made.__init__).parameters if name not in ("self", "spec")]
            options = getattr(policy, "options", None) or {name: getattr(policy, name) for name in names}
            return kind, dict(options)
    raise ManyoneError(f"cannot save a {type(policy).__name__}: it must be one of CommFormer, ActorCritic")


def _spec_from(data: Mapping[str, Any]) -> TeamSpec:
    known = {f.name for f in fields(TeamSpec)}
    if unknown := sorted(set(data) - known):
        raise ManyoneError(
            f"{CONFIG}: spec holds {unknown[0]!r}, which this version does not know: use a newer manyone"
        )
    tuples = {name: tuple(data[name]) for name in ("agent_names", "digits") if name in data}
    return TeamSpec(**{**data, **tuples, **{name: _numbers(data[name]) for name in _BOUNDS if name in data}})


def _words_for_infinity(bounds: Any) -> Any:
    """Bounds as JSON, which has no infinite numbers."""
    if isinstance(bounds, (tuple, list)):
        return [_words_for_infinity(bound) for bound in bounds]
    return bounds if math.isfinite(bounds) else str(bounds)


def _numbers(bounds: Any) -> Any:
    """The way back."""
    return tuple(_numbers(bound) for bound in bounds) if isinstance(bounds, (tuple, list)) else float(bounds)


def _checked_graph(graph: Tensor, agents: int) -> Tensor:
    graph = graph.detach().float().cpu()
    if graph.shape != (agents, agents):
        raise ManyoneError(f"graph {list(graph.shape)}: must be [{agents}, {agents}], a row for each receiver")
    if not bool(((graph == 0) | (graph == 1)).all()):
        raise ManyoneError("graph: an entry is neither 0 nor 1; give the exact graph, not its logits")
    return graph


def _card(config: Mapping[str, Any], *, apart: bool) -> str:
    spec = config["spec"]
    frames = spec["details"].get("frames", 1)
    n, d = spec["agents"], spec["observation_dim"] // frames
    links = sum(sum(row) for row in config["graph"])
    seen = "observations, available" if spec["masked"] else "observations"
    memory = f": it acts on the last {frames} observations" if frames > 1 else ""
    chosen = config["options"].get("dynamic_links")
    dynamic = "" if chosen is None else f"; at every step each agent hears {chosen} of those that it may hear"
    given = config["program"] and ", ".join(config["program"]["inputs"])
    program = (
        ""
        if config["program"] is None
        else f"""
Without manyone, with torch alone (greedy actions and values; any batch B). Trusted only: `torch.export.load` can run
code that somebody put into the file, so open it so only where you know who made it; `load_team` above never reads it.

```python
import torch
policy = torch.export.load("{PROGRAM}").module()
actions, values = policy({given})
```
"""
        + f"""
It remembers nothing: `observations` are [B, {n}, {frames * d}], the last {frames} of every agent side by side, the
newest first, zeros for what was before the episode's start.
"""
        * (frames > 1)
    )
    processes = f"""
With every agent in a process of its own:

```python
from manyone.teams import Decentralised

with Decentralised(".") as team:
    actions = team.act({seen})
    print(team.traffic.messages, team.traffic.bytes)
```
"""
    digits = spec["digits"]
    numbers = (
        f"an action is {len(digits)} numbers, below {', '.join(map(str, digits))}: [{n}, {len(digits)}]"
        if digits
        else ""
    )
    allowed = (
        f"{seen.partition(', ')[2]}: what the task allows now, bool [{n}, {spec['actions']}]" if spec["masked"] else ""
    )
    there = f"alive=, bool [{n}]: who is there now; nobody hears the others" if spec["absences"] else ""
    notes = "".join(f"\n# {note}" for note in (numbers, allowed, there) if note)
    return f"""# A team for {spec["name"]}

{n} agents, {links} links of {n * (n - 1)}; the graph is in `{CONFIG}` (row = receiver, column = sender){dynamic}.

```python
from manyone.teams import load_team

team = load_team(".")                   # this folder
team.reset()                            # at every start of an episode{memory}
actions = team.act({seen})        # numpy [{n}, {d}], or [B, {n}, {d}]{notes}
```
{processes * apart}{program}"""
