"""Agents in processes of their own: the centralised policy's actions, and nothing on the wire but graph and gate."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.artefact import Team, save_team
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import Acted, CommFormer
from manyone.teams.network.graph import fixed_graph
from manyone.teams.play import play
from manyone.teams.processes.crew import Agent, Failed
from manyone.teams.processes.executor import Decentralised
from manyone.teams.processes.measure import measure
from manyone.teams.processes.node import message_sizes
from manyone.teams.processes.wire import Abandoned, LinkLost, exchange, send_frame

N, BATCH = 3, 24
DISCRETE = TeamSpec("drawn", N, 5, actions=4)
LEAVING = replace(DISCRETE, name="leaving", absences=True)
CONTINUOUS = TeamSpec("driven", N, 5, action_dim=2, low=(-1.0, -1.0), high=(1.0, 1.0))
DIGITS = TeamSpec("set", N, 5, actions=6, digits=(3, 1, 2))
CHAIN = torch.tensor([[0.0, 0, 1], [1, 0, 0], [1, 1, 0]])  # links against and along the agents' order


def team_of(spec: TeamSpec = DISCRETE, graph: torch.Tensor = CHAIN, *, gate: bool = False, **options: Any) -> Team:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        policy = CommFormer(spec, width=8, gate=gate, **options)
        with torch.no_grad():
            for value in policy.parameters():
                value.add_(0.4 * torch.randn(value.shape))
            if policy.receive_gate is not None:
                policy.receive_gate.out.bias.zero_()
    return Team(policy, graph, spec, gate="decided" if gate else "open")


def drawn(spec: TeamSpec, batch: int = BATCH) -> tuple[Observation, torch.Tensor, torch.Tensor]:
    """Observations with masks, dead agents among them, and noise for actions and gates."""
    generator = torch.Generator().manual_seed(3)
    observations = torch.randn(batch, N, spec.observation_dim, generator=generator)
    alive = torch.rand(batch, N, generator=generator) > 0.2
    observations[~alive] = 0
    available = None
    if spec.discrete:
        available = torch.rand(batch, N, spec.actions, generator=generator) < 0.6
        available[~alive] = False
        for digit in available.split(spec.digits or (spec.actions,), -1):
            digit[..., 0] |= ~digit.any(-1)
    noise = torch.randn(batch, N, spec.actions or spec.action_dim, generator=generator)
    gates = 2 * torch.randn(batch, N, generator=generator)
    return Observation(observations, alive, available), noise, gates


@pytest.fixture(scope="module")
def started() -> Iterator[list[Decentralised]]:
    running: list[Decentralised] = []
    yield running
    for team in running:
        team.close()


@pytest.fixture
def crew(started: list[Decentralised]) -> Decentralised:
    """The module's processes, new ones after a test that has ended them."""
    if not started or all(ended(pid) for pid in started[-1].pids):
        started.append(Decentralised(team_of(), timeout=120, start_timeout=300))
    return started[-1]


def centralised(team: Team, obs: Observation, noise: torch.Tensor, gates: torch.Tensor, greedy: bool) -> Acted:
    gate = "open" if team.gate == "open" else "decided" if greedy else "sampled"
    return team.policy.act(obs, team.graph, noise=noise, gate_noise=gates, gate=gate, greedy=greedy)  # type: ignore[operator]


CASES: dict[str, dict[str, Any]] = {
    "one block": {},
    "one block, gate": {"gate": True},
    "two heads": {"heads": 2},
    "two blocks": {"layers": 2},
    "two blocks and heads, gate": {"layers": 2, "heads": 2, "gate": True},
    "continuous": {"spec": CONTINUOUS},
    "actions of three digits": {"spec": DIGITS},
    "actions of three digits, two blocks, gate": {"spec": DIGITS, "layers": 2, "gate": True},
    "continuous, two blocks, gate, one head for all": {
        "spec": CONTINUOUS, "layers": 2, "gate": True, "decoder_heads": "shared",
    },
    "relations read transposed, gate": {"relation": "transposed", "gate": True, "layers": 2},
    "full graph without relations": {"graph": fixed_graph("full", N), "edge_types": False, "heads": 2},
    "no passing of actions, gate": {"autoregressive": False, "gate": True},
    "agents that are not there": {"spec": LEAVING, "layers": 2},
    "agents that are not there, gate": {"spec": LEAVING, "graph": fixed_graph("full", N), "gate": True},
    "agents that are not there, no passing of actions": {"spec": LEAVING, "autoregressive": False},
    "self-links of the published code": {"graph": CHAIN + torch.eye(N), "diagonal": "official"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_actions_are_the_centralised_policys_and_traffic_is_that_of_graph_and_gate(
    crew: Decentralised, case: str
) -> None:
    team = team_of(**CASES[case])
    crew.deploy(team)
    obs, noise, gates = drawn(team.spec)
    state, action = message_sizes(team.policy)  # type: ignore[arg-type]
    layers = len(team.policy.encoder.blocks)  # type: ignore[union-attr, arg-type]
    earlier = torch.ones(N, N, dtype=torch.bool).tril(-1)
    messages, sizes, opened = (torch.zeros(N, N, dtype=torch.long) for _ in range(3))
    for greedy in (True, False):
        expected = centralised(team, obs, noise, gates, greedy)
        drawn_noise = {} if greedy else {"noise": noise, "gate_noise": gates if team.gate == "decided" else None}
        found = crew.decide(obs.observations, obs.available, obs.alive, **drawn_noise)
        actions = torch.from_numpy(found.actions)
        if team.spec.discrete:
            assert torch.equal(actions, expected.actions)
        else:
            torch.testing.assert_close(actions, expected.actions, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.from_numpy(found.log_probs), expected.log_probs, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.from_numpy(found.values), expected.values, atol=1e-5, rtol=1e-5)
        assert torch.equal(torch.from_numpy(found.links), expected.links)
        assert torch.equal(torch.from_numpy(found.messages), expected.messages.long())  # type: ignore[union-attr]
        links = expected.links.sum(0)
        with_action = links * earlier if action else 0 * links
        messages += layers * links + with_action
        sizes += layers * state * links + action * with_action
        opened += links
    assert opened.sum() > 0
    assert np.array_equal(crew.traffic.per_link, messages)
    assert np.array_equal(crew.traffic.bytes_per_link, sizes)
    assert (crew.traffic.messages, crew.traffic.bytes) == (messages.sum(), sizes.sum())
    here = obs.present() if team.spec.absences else torch.ones(BATCH, N, dtype=torch.bool)
    asked = 2 * int((here[:, :, None] & here[:, None] & (team.graph.clone().fill_diagonal_(0) > 0)).sum())
    if team.gate == "decided":
        assert crew.traffic.requests == opened.sum()
        assert crew.traffic.requests + crew.traffic.declines == asked
        assert opened.sum() < asked, "the gate must matter in this test"
    else:
        assert (crew.traffic.requests, crew.traffic.declines) == (0, 0)
        assert opened.sum() == asked


@pytest.mark.parametrize("layers", [1, 2])
def test_no_observation_or_action_reaches_an_agent_past_the_links(layers: int) -> None:
    team = team_of(graph=CHAIN, layers=layers)
    reached = torch.eye(N, dtype=torch.bool)
    for _ in range(3 * layers):  # one link for each block of the encoder, two for each of the decoder
        reached = ((CHAIN + torch.eye(N)) @ reached.float()) > 0
    for graph, allowed in ((CHAIN, reached), (torch.zeros(N, N), torch.eye(N, dtype=torch.bool))):
        obs, _, _ = drawn(team.spec)
        observations = obs.observations.requires_grad_()
        encoded = team.policy.encode(obs._replace(observations=observations), graph)  # type: ignore[operator]
        actions = torch.zeros(BATCH, N, dtype=torch.long)
        outputs = team.policy.outputs(encoded, actions)  # type: ignore[operator]
        for i in range(N):
            (slope,) = torch.autograd.grad(outputs[:, i].sum(), observations, retain_graph=True)
            assert not slope.abs().sum((0, 2))[~allowed[i]].any()
            if not graph.any():
                other = actions.clone()
                other[:, [j for j in range(N) if j != i]] = 3
                assert torch.equal(team.policy.outputs(encoded, other)[:, i], outputs[:, i])  # type: ignore[operator]


def test_without_links_nothing_is_sent(crew: Decentralised) -> None:
    team = team_of(graph=torch.zeros(N, N), gate=True)
    crew.deploy(team)
    obs, noise, gates = drawn(team.spec)
    found = crew.decide(obs.observations, obs.available)
    assert np.array_equal(found.actions, centralised(team, obs, noise, gates, True).actions)
    traffic = crew.traffic
    assert (traffic.messages, traffic.bytes, traffic.requests, traffic.declines) == (0, 0, 0, 0)
    assert traffic.steps == BATCH


def test_closed_gates_cost_a_byte_a_link_and_nothing_else(crew: Decentralised) -> None:
    team = team_of(gate=True)
    with torch.no_grad():
        team.policy.receive_gate.out.bias.fill_(-1e6)  # type: ignore[union-attr, operator]
    crew.deploy(team)
    obs, _, _ = drawn(team.spec)
    found = crew.decide(obs.observations, obs.available)
    assert not found.links.any()
    assert (crew.traffic.messages, crew.traffic.requests, crew.traffic.declines) == (0, 0, 4 * BATCH)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to look at open sockets")
def test_a_link_is_a_socket_between_its_two_ends_and_nobody_elses(crew: Decentralised) -> None:
    def sockets(pid: int | str) -> set[str]:
        held = (entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
        return {str(target) for target in held if str(target).startswith("socket:")}

    before = sockets("self")
    for graph in (CHAIN, torch.zeros(N, N), fixed_graph("full", N)):
        crew.deploy(team_of(graph=graph))
        ends = graph.sum(1) + graph.sum(0)  # links in and out
        held = [sockets(pid) for pid in crew.pids]
        assert [len(one) for one in held] == [1 + int(k) for k in ends], "control, and the own links"
        assert sockets("self") == before, "the coordinator keeps no end of a link"
        assert not any(one & other for i, one in enumerate(held) for other in held[:i])


def test_one_copy_of_the_task_without_a_batch(crew: Decentralised) -> None:
    team = team_of()
    crew.deploy(team)
    obs, _, _ = drawn(team.spec, 1)
    assert obs.available is not None
    actions = crew.act(obs.observations[0], obs.available[0], obs.alive[0])
    assert actions.shape == (N,)
    assert np.array_equal(actions, team.act(obs.observations[0], obs.available[0]))


def test_measured_episodes_are_those_of_play(crew: Decentralised) -> None:
    env = make_team("predator-prey:size=3,limit=6", 4)
    team = team_of(env.spec, gate=True)
    crew.deploy(team)
    found = measure(env, crew, episodes=6, seed=2)
    played = play(env, team.policy, team.graph, episodes=6, seed=2)
    assert np.array_equal(found.lengths, played.lengths.numpy())
    np.testing.assert_allclose(found.returns, played.returns.numpy(), rtol=1e-5)
    assert played.success is not None
    assert found.success is not None
    assert np.array_equal(found.success, played.success.numpy())
    assert np.array_equal(found.requests, 4 * found.lengths), "one byte a link and step"
    assert np.array_equal(found.messages, (played.links_per_step * played.lengths).round().numpy())
    assert found.figures()["messages"] == pytest.approx(found.messages.mean())


@pytest.mark.parametrize("gate", [False, True])
def test_cars_that_are_not_on_the_road_send_nothing_in_processes_and_in_the_metric(
    crew: Decentralised, gate: bool
) -> None:
    env = make_team("traffic-junction-easy:cars=3,limit=12", 4)
    team = team_of(env.spec, graph=fixed_graph("full", N), gate=gate, layers=2)
    crew.deploy(team)
    found = measure(env, crew, episodes=4, seed=2)
    played = play(env, team.policy, team.graph, episodes=4, seed=2)
    counted = (played.links_per_step * played.lengths).round().numpy()
    assert np.array_equal(found.messages, counted)
    assert crew.traffic.messages == counted.sum()
    everyone = 6 * (2 + 0.5) * 12  # links, with a message a block and every second one with an action; steps
    assert counted.min() > 0
    assert counted.max() < everyone
    np.testing.assert_allclose(found.returns, played.returns.numpy(), rtol=1e-5)


def test_what_does_not_fit_is_refused_and_the_team_goes_on(crew: Decentralised, tmp_path: Path) -> None:
    team = team_of()
    crew.deploy(team)
    obs, noise, _ = drawn(team.spec)
    with pytest.raises(ManyoneError, match=r"this team takes \[3, 5\]"):
        crew.act(obs.observations[..., :4])
    with pytest.raises(ManyoneError, match=r"noise \[3, 4\]: must begin with \[24, 3\]"):
        crew.decide(obs.observations, noise=noise[0])
    with pytest.raises(ManyoneError, match="past the graph"):
        crew.deploy(team_of(decoder_mask="official"))
    two = TeamSpec("two", 2, 5, actions=4)
    with pytest.raises(ManyoneError, match="a team of 2 agents cannot take the place of 3"):
        crew.deploy(Team(CommFormer(two, width=8), torch.zeros(2, 2), two))
    save_team(tmp_path, ActorCritic(DISCRETE, width=8), torch.zeros(N, N), DISCRETE, program=False)
    with pytest.raises(ManyoneError, match="each agent acts alone"):
        Decentralised(tmp_path)
    assert np.array_equal(crew.act(obs.observations, obs.available), team.act(obs.observations, obs.available))


def ended(pid: int) -> bool:
    """Whether no such process is left, not even one that waits to be asked for its exit code."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("how", ["killed", "asleep"])
def test_a_lost_agent_ends_the_team_with_one_clear_error(crew: Decentralised, how: str) -> None:
    crew.deploy(team_of(graph=fixed_graph("full", N)))
    observations = np.ones((N, 5), np.float32)
    crew.act(observations)
    pids = crew.pids
    if how == "killed":
        os.kill(pids[1], signal.SIGKILL)
        words = "acting: the process of agent 1 ended with signal SIGKILL"
    else:
        os.kill(pids[0], signal.SIGSTOP)
        crew.timeout = 0.5
        words = r"acting: no answer from agent 0, 1, 2 within 0\.5 s"
    with pytest.raises(ManyoneError, match=words) as caught:
        crew.act(observations)
    assert "\n" not in str(caught.value)
    assert all(ended(pid) for pid in pids)
    with pytest.raises(ManyoneError, match="processes have ended"):
        crew.act(observations)


def test_an_agents_own_failure_is_reported_in_its_words(crew: Decentralised, monkeypatch: pytest.MonkeyPatch) -> None:
    team = team_of()
    other = TeamSpec("other", N, 5, actions=3)  # the weights that are sent are not those that are described
    monkeypatch.setattr(team, "spec", other)
    with pytest.raises(ManyoneError, match=r"deploying: agent \d failed \(.*model.safetensors: actions.input.weight"):
        crew.deploy(team)


def test_what_an_agent_said_before_it_ended_is_heard_by_who_sends_to_it() -> None:
    control, other = socket.socketpair()
    send_frame(other, {"what": "failed", "text": "its weights do not fit"})
    other.close()
    with control, pytest.raises(Failed, match="its weights do not fit") as caught:
        Agent(0, control, pid=0).send({"what": "link"})
    assert caught.value.own


def test_two_agents_that_send_more_than_the_system_buffers_do_not_block_each_other() -> None:
    one, other = socket.socketpair()
    for end in (one, other):
        end.setblocking(False)
    size = 8_000_000
    received: dict[str, dict[str, bytes]] = {}

    def talk(name: str, end: socket.socket, byte: bytes) -> None:
        received[name] = exchange({"link": end}, {"link": byte * size}, {"link": size})

    threads = [
        threading.Thread(target=talk, args=(n, e, b)) for n, e, b in (("one", one, b"1"), ("other", other, b"2"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert received == {"one": {"link": b"2" * size}, "other": {"link": b"1" * size}}
    one.close()
    with pytest.raises(LinkLost):
        exchange({"link": other}, {}, {"link": 1})
    other.close()


def test_an_agent_that_waits_for_a_message_notices_that_the_coordinator_is_gone() -> None:
    link, _peer = socket.socketpair()
    control, coordinator = socket.socketpair()
    link.setblocking(False)
    threading.Timer(0.1, coordinator.close).start()
    start = time.monotonic()
    with pytest.raises(Abandoned):
        exchange({"link": link}, {}, {"link": 1}, control)
    assert time.monotonic() - start < 60
    for end in (link, _peer, control):
        end.close()
