"""Executes a team with every agent in a process of its own, so that nothing is known that no link has carried.

    from manyone.teams import Decentralised
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
attention reads of it). Actions equal the centralised policy's, and the messages are those that the metric ``links``
counts. Of a task with ``absences`` an agent that is not there sends and hears nothing; its process goes on.
Public: ``Decentralised``, ``Decided``, ``Traffic``. Playing episodes so: ``measure.py``.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from manyone.errors import ManyoneError
from manyone.teams.artefact import Remembering, Team, check_observations, load_team
from manyone.teams.processes.crew import Crew, Failed
from manyone.teams.processes.wire import Closed


class Decided(NamedTuple):
    """One step: ``actions`` int64 [B, n] or [B, n, k], or float32 [B, n, a]; ``log_probs`` and ``values`` float32
    [B, n]; ``links`` bool [B, n, n] (receiver, sender) that carried messages; ``messages`` and ``bytes`` int64 [B, n,
    n] on them; ``requests`` int64 [B, n, n]: what receivers asked with a gate, declines included."""

    actions: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    links: np.ndarray
    messages: np.ndarray
    bytes: np.ndarray
    requests: np.ndarray


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
        self._crew = Crew()
        self._agents = self._crew.agents
        self._finalizer = weakref.finalize(self, self._crew.stop)
        with self._guarded("starting", start_timeout):
            for i in range(team.spec.agents):
                self._crew.bear(i, start_timeout)
        self.deploy(team)

    @property
    def pids(self) -> list[int]:
        """Process numbers of the agents, in their order."""
        return [agent.pid for agent in self._agents]

    def deploy(self, team: Team | Path | str) -> None:
        """Gives the running processes another team of as many agents; its traffic starts at nothing."""
        team = team if isinstance(team, Team) else load_team(team)
        _check_deployable(team)
        if team.spec.agents != len(self._agents):
            raise ManyoneError(f"a team of {team.spec.agents} agents cannot take the place of {len(self._agents)}")
        self._alive()
        self.team, self._remembering = team, Remembering(team.spec)
        rows = team.graph.numpy() > 0.5
        self._linked = rows | rows.T | np.eye(len(rows), dtype=bool)
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
        """Greedy actions, as ``Team.act`` gives them, for ``observations`` [n, d] (with a leading [B]: for B copies).

        What a team that acts on several frames was shown is remembered until ``forget``.
        """
        stacked, mask, living = self._remembering.see(observations, available, alive)
        decided = self.decide(stacked, mask, living)
        return decided.actions if np.ndim(observations) == 3 else decided.actions[0]

    def forget(self, rows: Any = None) -> None:
        """Begins a new episode in some copies of the task (numbers, or bool [B]), or in all: see ``Team.forget``."""
        self._remembering.forget(rows)

    def decide(
        self,
        observations: Any,
        available: Any = None,
        alive: Any = None,
        *,
        noise: Any = None,
        gate_noise: Any = None,
    ) -> Decided:
        """One step with all that was decided, always with the leading [B]; ``observations`` as the policy takes them,
        the frames of a team that acts on several side by side.

        ``noise`` (Gumbel [B, n, A] or normal [B, n, a]) samples the actions and ``gate_noise`` (logistic [B, n]) the
        gates, each agent with its own part; without them the actions and gates are the most likely ones.
        """
        spec = self.team.spec
        seen, mask, living = check_observations(spec, observations, available, alive)
        self._alive()
        batch = len(seen)
        parts: list[tuple[str, np.ndarray]] = [("observations", seen)]
        for name, value in (("available", mask), ("noise", noise), ("gate_noise", gate_noise)):
            if value is not None:
                parts.append((name, np.asarray(value, bool if name == "available" else np.float32)))
        for name, value in parts:
            if value.shape[:2] != (batch, spec.agents):
                raise ManyoneError(f"{name} {list(value.shape)}: must begin with [{batch}, {spec.agents}]")
        names, here = [name for name, _ in parts], living | seen.any(-1)
        with self._guarded("acting", self.timeout):
            for agent in self._agents:
                arrays = [value[:, agent.index] for _, value in parts]
                if spec.absences:  # of the ends of its own links alone
                    arrays.append(here & self._linked[agent.index])
                agent.send({"what": "act", "parts": names + ["present"] * spec.absences}, arrays)
            replies = self._collect(self.timeout)
        actions, log_probs, values, messages, sizes, asked, declined = (
            np.stack([reply[k] for reply in replies], 1) for k in range(7)
        )
        actions = self.team.spec.to_bounds(torch.from_numpy(actions)).numpy()
        self.traffic.per_link += messages.sum(0)
        self.traffic.bytes_per_link += sizes.sum(0)
        self.traffic.requests += int(asked.sum())
        self.traffic.declines += int(declined.sum())
        self.traffic.steps += batch
        return Decided(actions, log_probs, values, messages > 0, messages, sizes, asked + declined)

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
        for agent in self._agents:
            agent.control.settimeout(timeout)
        try:
            yield
        except Failed as failed:
            message = self._blame(failed, doing)
            self.close()
            raise ManyoneError(message) from None
        except Closed:
            self.close()
            raise ManyoneError(f"{doing}: no process for the agents: see the error above") from None
        except TimeoutError:
            silent = ", ".join(str(agent.index) for agent in self._agents if agent.waiting) or "any"
            self.close()
            raise ManyoneError(
                f"{doing}: no answer from agent {silent} within {timeout:g} s, so the team was ended: start it again, "
                "with a longer timeout if the machine is slow"
            ) from None
        except BaseException:
            self.close()  # an interrupt in the middle of a step leaves replies behind
            raise

    def _blame(self, failed: Failed, doing: str) -> str:
        """Who is at fault: an agent that ended or failed by itself rather than one that lost its link to it."""
        end = "so the team was ended: start it again"
        dead = None if failed.own else self._crew.death(2.0)
        if dead is None:
            return f"{doing}: agent {failed.agent} failed ({failed.text}), {end}"
        agent, code = dead
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{doing}: the process of agent {agent} ended with {how}, {end}"


def _check_deployable(team: Team) -> None:
    """``ManyoneError`` for a team whose parts cannot be told apart by links."""
    if os.name != "posix":
        raise ManyoneError("Decentralised passes sockets between processes, which needs Linux or macOS")
    if reason := team.inseparable():
        raise ManyoneError(reason)
