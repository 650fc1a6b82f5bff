"""Executes a team with every agent in a process of its own, so that nothing is known that no link has carried.

    from manyone.teams.executor import Decentralised
    with Decentralised("runs/first/model") as team:
        actions = team.act(observations)            # [n, d], or [B, n, d] for B copies of the task
        print(team.traffic.messages, team.traffic.bytes)

An agent's process holds the shared weights, its own row of the graph and its own observation. A link of the graph is a
socket between exactly its two ends; what the coordinator (the caller's process) exchanges with an agent is that agent's
observation and its action. Receiving is pull: where the policy has a gate, the receiver decides from its own
observation and writes one byte, "send" or "do not", on each of its links; a closed gate therefore costs one byte a link
and nothing else. Without a gate the links are always used and nothing needs asking.

In one step a message crosses link i <- j for every encoder block (the sender's representation, 4 d bytes) and one more
where j comes before i and the decoder is auto-regressive (the sender's action and, for every block, what the decoder's
attention reads of it). Actions equal the centralised policy's.
Public: ``Decentralised``, ``Decided``, ``Traffic``, ``measure``, ``Measured``.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

import manyone
from manyone.envs.team_types import TeamEnv
from manyone.errors import ManyoneError
from manyone.teams.artefact import Team, check_observations, load_team
from manyone.teams.commformer import CommFormer
from manyone.teams.wire import Closed, receive_frame, send_frame


class Decided(NamedTuple):
    """One step: ``actions`` int64 [B, n] or float32 [B, n, a]; ``log_probs`` and ``values`` float32 [B, n]; ``links``
    bool [B, n, n] (receiver, sender) that carried messages; ``messages`` and ``bytes`` int64 [B, n, n] on them."""

    actions: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    links: np.ndarray
    messages: np.ndarray
    bytes: np.ndarray


@dataclass
class Traffic:
    """What crossed the links since the start: ``messages`` and their ``bytes`` (without requests), ``requests`` and
    ``declines`` (one byte each, only where there is a gate), ``steps`` (copies of the task times steps), and the
    messages and bytes of every link, int64 [n, n] (receiver, sender)."""

    per_link: np.ndarray
    bytes_per_link: np.ndarray
    requests: int = 0
    declines: int = 0
    steps: int = 0

    @property
    def messages(self) -> int:
        """Messages on all links."""
        return int(self.per_link.sum())

    @property
    def bytes(self) -> int:
        """Bytes of these messages."""
        return int(self.bytes_per_link.sum())

    @classmethod
    def none(cls, agents: int) -> Traffic:
        """Nothing yet."""
        return cls(np.zeros((agents, agents), np.int64), np.zeros((agents, agents), np.int64))


class _Failed(Exception):
    """Agent ``agent`` could not go on; ``text`` says why where it said so."""

    def __init__(self, agent: int, text: str = "") -> None:
        super().__init__(text)
        self.agent, self.text = agent, text


class Decentralised:
    """A team whose agents run in processes of their own; a context manager.

    ``team``: an artefact's folder or a :class:`~manyone.teams.artefact.Team`. ``timeout``: seconds that a step may
    take, ``start_timeout``: that starting may take. An agent that dies or stays silent ends the whole team with one
    ``ManyoneError`` that names it.
    """

    def __init__(self, team: Team | Path | str, *, timeout: float = 60.0, start_timeout: float = 180.0) -> None:
        team = team if isinstance(team, Team) else load_team(team)
        _check_deployable(team)
        self.timeout, self.start_timeout = timeout, start_timeout
        self._agents: list[_Agent] = []
        self._finalizer = weakref.finalize(self, _stop, self._agents)
        try:
            for i in range(team.spec.agents):
                self._agents.append(_Agent(i))
        except BaseException:
            self.close()
            raise
        self.deploy(team)

    @property
    def pids(self) -> list[int]:
        """Process numbers of the agents, in their order."""
        return [agent.process.pid for agent in self._agents]

    def deploy(self, team: Team | Path | str) -> None:
        """Gives the running processes another team of as many agents; its traffic starts at nothing."""
        team = team if isinstance(team, Team) else load_team(team)
        _check_deployable(team)
        if team.spec.agents != len(self._agents):
            raise ManyoneError(f"a team of {team.spec.agents} agents cannot take the place of {len(self._agents)}")
        self._alive()
        self.team = team
        rows = team.graph.numpy() > 0.5
        with tempfile.TemporaryDirectory(prefix="manyone-team-") as folder:
            weights = Path(folder) / "model.safetensors"
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in team.policy.state_dict().items()}, weights)
            with self._guarded("deploying", self.start_timeout):
                for agent in self._agents:
                    order = team.description() | {
                        "what": "deploy",
                        "agent": agent.index,
                        "row": rows[agent.index].tolist(),
                        "weights": str(weights),
                    }
                    agent.send(order)
                for receiver, sender in np.argwhere(rows).tolist():
                    if receiver != sender:
                        self._link(receiver, sender)
                for agent in self._agents:
                    agent.send({"what": "start"})
                self._collect(self.start_timeout)
        self.reset_traffic()

    def reset_traffic(self) -> None:
        """Starts counting at nothing."""
        self.traffic = Traffic.none(len(self._agents))

    def act(self, observations: Any, available: Any = None, alive: Any = None) -> np.ndarray:
        """Greedy actions int64 [n] or float32 [n, a] for ``observations`` [n, d] (with a leading [B]: for B copies)."""
        decided = self.decide(observations, available, alive)
        return decided.actions if np.ndim(observations) == 3 else decided.actions[0]

    def decide(
        self,
        observations: Any,
        available: Any = None,
        alive: Any = None,
        *,
        noise: Any = None,
        gate_noise: Any = None,
    ) -> Decided:
        """One step with all that was decided, always with the leading [B].

        ``noise`` (Gumbel [B, n, A] or normal [B, n, a]) samples the actions and ``gate_noise`` (logistic [B, n]) the
        gates, each agent with its own part; without them the actions and gates are the most likely ones.
        """
        spec = self.team.spec
        seen, mask, living = check_observations(spec, observations, available, alive)
        self._alive()
        batch = len(seen)
        parts: list[tuple[str, np.ndarray]] = [("observations", seen), ("alive", living)]
        for name, value in (("available", mask), ("noise", noise), ("gate_noise", gate_noise)):
            if value is not None:
                parts.append((name, np.asarray(value, bool if name == "available" else np.float32)))
        for name, value in parts:
            if value.shape[:2] != (batch, spec.agents):
                raise ManyoneError(f"{name} {list(value.shape)}: must begin with [{batch}, {spec.agents}]")
        with self._guarded("acting", self.timeout):
            for agent in self._agents:
                order = {"what": "act", "parts": [name for name, _ in parts]}
                agent.send(order, [value[:, agent.index] for _, value in parts])
            replies = self._collect(self.timeout)
        actions, log_probs, values, messages, sizes, asked, declined = (
            np.stack([reply[k] for reply in replies], 1) for k in range(7)
        )
        self.traffic.per_link += messages.sum(0)
        self.traffic.bytes_per_link += sizes.sum(0)
        self.traffic.requests += int(asked.sum())
        self.traffic.declines += int(declined.sum())
        self.traffic.steps += batch
        return Decided(actions, log_probs, values, messages > 0, messages, sizes)

    def close(self) -> None:
        """Ends all agents' processes."""
        self._finalizer()

    def __enter__(self) -> Decentralised:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _link(self, receiver: int, sender: int) -> None:
        """A socket between two agents; this process keeps neither end."""
        one, other = socket.socketpair()
        with one, other:
            self._agents[receiver].send({"what": "link", "from": sender}, fd=one.fileno())
            self._agents[sender].send({"what": "link", "to": receiver}, fd=other.fileno())

    def _collect(self, timeout: float) -> list[list[np.ndarray]]:
        """The arrays of every agent's next reply."""
        deadline = time.monotonic() + timeout
        replies: dict[int, list[np.ndarray]] = {}
        with selectors.DefaultSelector() as selector:
            for agent in self._agents:
                selector.register(agent.control, selectors.EVENT_READ, agent)
            while len(replies) < len(self._agents):
                ready = selector.select(max(deadline - time.monotonic(), 0))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    agent = key.data
                    replies[agent.index] = agent.receive()
                    selector.unregister(agent.control)
        return [replies[i] for i in range(len(self._agents))]

    def _alive(self) -> None:
        if not self._finalizer.alive:
            raise ManyoneError("this team's processes have ended: make a new Decentralised")

    @contextlib.contextmanager
    def _guarded(self, doing: str, timeout: float) -> Iterator[None]:
        """Turns whatever goes wrong between the processes into one error, after ending them all."""
        try:
            yield
        except _Failed as failed:
            message = self._blame(failed, doing)
            self.close()
            raise ManyoneError(message) from None
        except TimeoutError:
            silent = [str(agent.index) for agent in self._agents if agent.waiting]
            self.close()
            raise ManyoneError(
                f"{doing}: no answer from agent {', '.join(silent)} within {timeout:g} s, so the team was ended: start "
                "it again, with a longer timeout if the machine is slow"
            ) from None
        except BaseException:
            self.close()  # an interrupt in the middle of a step leaves replies behind
            raise

    def _blame(self, failed: _Failed, doing: str) -> str:
        """Who died first: a process that ended by itself rather than one that lost its link to it."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and all(a.process.poll() is None for a in self._agents):
            time.sleep(0.01)
        for agent in self._agents:
            if (code := agent.process.poll()) is not None:
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                return f"{doing}: the process of agent {agent.index} ended with {how}, so the team was ended: start again"
        return f"{doing}: agent {failed.agent} failed ({failed.text or 'it hung up'}), so the team was ended: start again"


class _Agent:
    """The coordinator's side of one agent's process."""

    def __init__(self, index: int) -> None:
        self.index, self.waiting = index, False
        self.control, other = socket.socketpair()
        root = str(Path(manyone.__file__).parents[1])
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "manyone.teams.agent_process", str(other.fileno())]
        with other:
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL
            )

    def send(self, header: Mapping[str, Any], arrays: Sequence[np.ndarray] = (), fd: int | None = None) -> None:
        """One order to the agent."""
        self.waiting = header["what"] != "link"
        try:
            send_frame(self.control, header, arrays, fd)
        except Closed:
            raise _Failed(self.index) from None

    def receive(self) -> list[np.ndarray]:
        """The arrays of its reply."""
        try:
            header, arrays, _ = receive_frame(self.control)
        except Closed:
            raise _Failed(self.index) from None
        if header["what"] != "done":
            raise _Failed(self.index, header["text"])
        self.waiting = False
        return arrays


def _stop(agents: Sequence[_Agent]) -> None:
    """Hangs up, then ends by force what does not end; leaves no process behind."""
    for agent in agents:
        agent.control.close()
    deadline = time.monotonic() + 2.0
    for agent in agents:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.process.wait(max(deadline - time.monotonic(), 0.01))
    for agent in agents:
        if agent.process.poll() is None:
            agent.process.kill()
        agent.process.wait()


def _check_deployable(team: Team) -> None:
    """``ManyoneError`` for a team whose parts cannot be told apart by links."""
    policy = team.policy
    if os.name != "posix":
        raise ManyoneError("Decentralised passes sockets between processes, which needs Linux or macOS")
    if not isinstance(policy, CommFormer):
        raise ManyoneError(f"a {type(policy).__name__} has no links: each agent acts alone; use load_team(...).act")
    if policy.autoregressive and policy.decoder_mask != "aligned":
        raise ManyoneError(
            f"decoder_mask {policy.decoder_mask!r}: agents read actions past the graph, so links cannot carry them; train "
            "with decoder_mask aligned"
        )


@dataclass(frozen=True)
class Measured:
    """E episodes: ``returns`` (sum over steps of the agents' mean reward), ``lengths``, ``success`` (None where the task
    has none), ``messages`` and ``bytes`` on the links and the ``requests`` (declines included), all [E]."""

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None
    messages: np.ndarray
    bytes: np.ndarray
    requests: np.ndarray

    def figures(self) -> dict[str, float]:
        """Means over episodes."""
        parts = {
            "return": self.returns, "episode_length": self.lengths, "success": self.success,
            "messages": self.messages, "bytes": self.bytes, "requests": self.requests,
        }  # fmt: skip
        return {name: float(np.mean(values)) for name, values in parts.items() if values is not None}


def measure(env: TeamEnv, team: Decentralised, *, episodes: int, seed: int = 0) -> Measured:
    """Plays ``episodes`` greedy episodes of ``env``, which starts anew, with the agents' processes.

    Slot b plays its first ceil(E / B) episodes, so that which episodes count does not depend on their lengths.
    """
    if episodes < 1:
        raise ManyoneError(f"episodes = {episodes}: must be at least 1")
    rounds = -(-episodes // env.batch)
    gated = team.team.gate == "decided"
    asked = int((team.team.graph > 0.5).fill_diagonal_(False).sum()) if gated else 0
    counts = np.zeros((5, env.batch))  # return, length, messages, bytes, requests of the running episodes
    finished = np.zeros(env.batch, int)
    results = np.zeros((6, rounds, env.batch))
    seen = env.reset(seed)
    while (finished < rounds).any():
        decided = team.decide(
            seen.observations.cpu().numpy(),
            None if seen.available is None else seen.available.cpu().numpy(),
            seen.alive.cpu().numpy(),
        )
        step = env.step(torch.from_numpy(decided.actions).to(env.device))
        counts[0] += step.rewards.mean(-1).cpu().numpy()
        counts[1] += 1
        counts[2] += decided.messages.sum((1, 2))
        counts[3] += decided.bytes.sum((1, 2))
        counts[4] += asked
        for b in np.flatnonzero(step.done.cpu().numpy()):
            if finished[b] < rounds:
                results[:5, finished[b], b] = counts[:, b]
                results[5, finished[b], b] = float(step.success[b])
            finished[b] += 1
            counts[:, b] = 0
        seen = step.observation
    returns, lengths, messages, sizes, requests, success = results.reshape(6, -1)[:, :episodes]
    return Measured(
        returns,
        lengths.astype(int),
        success > 0 if env.spec.reports_success else None,
        messages.astype(int),
        sizes.astype(int),
        requests.astype(int),
    )
