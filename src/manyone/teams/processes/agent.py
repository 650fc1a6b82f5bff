"""The process of one agent, forked by ``nursery`` for ``executor.Decentralised``.

It is told its number, its row of the graph and where the shared weights lie, is handed the ends of its own links, and
then answers one observation after the other: its own. Whatever it knows of others came over a link.
Public: ``SocketLinks``, ``serve``.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from manyone.errors import ManyoneError
from manyone.teams.artefact import build_policy
from manyone.teams.network.commformer import CommFormer
from manyone.teams.processes.node import Node
from manyone.teams.processes.wire import Abandoned, Closed, LinkLost, exchange, receive_frame, send_frame

_Key = tuple[str, int]


class SocketLinks:
    """One agent's links, a socket each, and what crossed them in this step.

    ``messages`` and ``bytes`` int64 [B, n] count what was received from each sender, ``requests`` and ``declines``
    int64 [B, n] what was asked of it. Nothing crosses a link in copies of the task in which one of its ends is absent;
    that, both ends are told, as one notices a broken line.
    """

    def __init__(self, control: socket.socket, agents: int) -> None:
        self.control, self.agents = control, agents
        self.sockets: dict[_Key, socket.socket] = {}

    def add(self, side: str, peer: int, number: int) -> None:
        """The end of a link, ``side`` "from" a sender or "to" a receiver."""
        link = socket.socket(fileno=number)
        link.setblocking(False)
        self.sockets[side, peer] = link

    @property
    def senders(self) -> list[int]:
        """Agents that it receives from."""
        return sorted(peer for side, peer in self.sockets if side == "from")

    @property
    def receivers(self) -> list[int]:
        """Agents that it sends to."""
        return sorted(peer for side, peer in self.sockets if side == "to")

    def begin(self, opened: np.ndarray, live: np.ndarray, *, gated: bool) -> None:
        """See :class:`~manyone.teams.processes.node.Links`; a request or decline is one byte a link and copy."""
        batch = len(opened)
        self.opened = live & opened[:, None]
        self.messages, self.bytes, self.requests, self.declines = np.zeros((4, batch, self.agents), np.int64)
        self.asked = live.copy()
        if not gated:
            return
        questions: dict[_Key, bytes] = {
            ("from", j): opened[live[:, j]].astype(np.uint8).tobytes() for j in self.senders
        }
        heard = self._exchange(questions, {("to", i): int(live[:, i].sum()) for i in self.receivers})
        for (_, receiver), answer in heard.items():
            self.asked[live[:, receiver], receiver] = np.frombuffer(answer, np.uint8)
        self.requests[:, self.senders] += self.opened[:, self.senders]
        self.declines[:, self.senders] += (live & ~opened[:, None])[:, self.senders]

    def wanted(self, receivers: list[int]) -> bool:
        """Whether any of these receives in any copy of the task."""
        return bool(self.asked[:, receivers].any())

    def swap(
        self, message: np.ndarray | None, receivers: list[int], width: int, senders: list[int]
    ) -> dict[int, np.ndarray]:
        """See :class:`~manyone.teams.processes.node.Links`."""
        outgoing: dict[_Key, bytes] = {}
        if message is not None:
            outgoing = {("to", i): message[self.asked[:, i]].tobytes() for i in receivers}
        rows = self.opened.sum(0)
        heard = self._exchange(outgoing, {("from", j): int(rows[j]) * width for j in senders})
        received = {}
        for (_, j), data in heard.items():
            opened = self.opened[:, j]
            whole = np.zeros((len(opened), width), np.uint8)
            whole[opened] = np.frombuffer(data, np.uint8).reshape(rows[j], width)
            self.messages[:, j] += opened
            self.bytes[:, j] += width * opened
            received[j] = whole
        return received

    def close(self) -> None:
        """Hangs up on all links."""
        for link in self.sockets.values():
            link.close()
        self.sockets = {}

    def _exchange(self, outgoing: Mapping[_Key, bytes], incoming: Mapping[_Key, int]) -> dict[_Key, bytes]:
        return exchange(self.sockets, outgoing, incoming, self.control)


class _Agent:
    """What the process keeps between orders."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.links: SocketLinks | None = None

    def deploy(self, order: Mapping[str, Any]) -> None:
        """A team to be part of; its links follow one by one, then ``start``."""
        if self.links is not None:
            self.links.close()
        self.order = order
        self.links = SocketLinks(self.control, len(order["row"]))

    def start(self) -> None:
        """All links are there: loads the weights."""
        torch.set_num_threads(1)
        assert self.links is not None
        policy = build_policy(self.order, self.order["weights"])
        assert isinstance(policy, CommFormer)
        self.node = Node(policy, self.order["agent"], torch.tensor(self.order["row"]), self.links)
        self.gated = self.order["gate"] == "decided"

    def act(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[action, log-probability, value, messages, bytes, requests, declines] of one step."""
        given = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
        choice = self.node.step(
            given["observations"],
            given.get("available"),
            given.get("noise"),
            given.get("gate_noise"),
            given.get("present"),
            gated=self.gated,
        )
        links = self.node.links
        assert isinstance(links, SocketLinks)
        return [
            *(part.contiguous().numpy() for part in choice),
            links.messages,
            links.bytes,
            links.requests,
            links.declines,
        ]


def serve(number: int) -> int:
    """Serves the orders that come over the control socket ``number`` until the coordinator hangs up; the exit code."""
    with socket.socket(fileno=number) as control:
        agent = _Agent(control)
        try:
            while True:
                order, arrays, fd = receive_frame(control)
                what = order["what"]
                if what == "link":
                    assert agent.links is not None
                    assert fd is not None
                    side = "from" if "from" in order else "to"
                    agent.links.add(side, order[side], fd)
                    continue
                try:
                    if what == "deploy":
                        agent.deploy(order)
                        continue
                    if what == "start":
                        agent.start()
                    reply = [] if what == "start" else agent.act(order["parts"], arrays)
                except LinkLost as lost:
                    text = f"it lost its link with agent {lost.link[1]}"
                    send_frame(control, {"what": "lost", "text": text})
                    receive_frame(control)  # until the coordinator hangs up: it asks who ended by itself
                    return 1
                except Abandoned:
                    return 0
                except Exception as error:
                    traceback.print_exc()
                    text = " ".join(str(error).split())
                    text = text if isinstance(error, ManyoneError) else f"{type(error).__name__}: {text}"
                    send_frame(control, {"what": "failed", "text": text})
                    return 1
                send_frame(control, {"what": "done"}, reply)
        except Closed:
            return 0  # the coordinator is gone
