"""The coordinator's hold on the processes of a team: starting them, orders and replies, and their end.

Public: ``Crew``, ``Agent``, ``Failed``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import manyone
from manyone.engine.modules import python
from manyone.teams.processes.wire import Closed, receive_frame, send_frame


class Failed(Exception):
    """Agent ``agent`` could not go on; ``text`` says why where it said so, ``own`` that the cause lies with it."""

    def __init__(self, agent: int, text: str = "it hung up", *, own: bool = False) -> None:
        super().__init__(text)
        self.agent, self.text, self.own = agent, text, own


class Agent:
    """The coordinator's side of one agent's process."""

    def __init__(self, index: int, control: socket.socket, pid: int) -> None:
        self.index, self.control, self.pid, self.waiting = index, control, pid, False

    def send(self, header: Mapping[str, Any], arrays: Sequence[np.ndarray] = (), fd: int | None = None) -> None:
        """One order to the agent."""
        self.waiting = header["what"] != "link"
        try:
            send_frame(self.control, header, arrays, fd)
        except Closed:
            self.receive()  # it may have said why before it ended
            raise Failed(self.index) from None

    def receive(self) -> list[np.ndarray]:
        """The arrays of its reply."""
        try:
            header, arrays, _ = receive_frame(self.control)
        except Closed:
            raise Failed(self.index) from None
        if header["what"] != "done":
            raise Failed(self.index, header["text"], own=header["what"] == "failed")
        self.waiting = False
        return arrays


class Crew:
    """All agents' processes and the nursery that they come from."""

    def __init__(self) -> None:
        self.agents: list[Agent] = []
        self.control, other = socket.socketpair()
        root = str(Path(manyone.__file__).parents[1])
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root,
            "OMP_NUM_THREADS": "1",
        }
        command = python("-m", "manyone.teams.processes.nursery", str(other.fileno()))
        with other:
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL
            )

    def bear(self, index: int, timeout: float) -> None:
        """One more agent; ``TimeoutError`` or :class:`Closed` where none comes."""
        self.control.settimeout(timeout)
        own, other = socket.socketpair()
        try:
            with other:
                send_frame(self.control, {"what": "agent", "agent": index}, fd=other.fileno())
            self.agents.append(Agent(index, own, receive_frame(self.control)[0]["pid"]))
        except BaseException:
            own.close()
            raise

    def death(self, patience: float) -> tuple[int, int] | None:
        """(agent, exit code or minus the signal) of an agent that has ended, waiting for one up to ``patience``."""
        self.control.settimeout(patience)
        try:
            header = receive_frame(self.control)[0]
        except (TimeoutError, Closed):
            return None
        return header["agent"], header["code"]

    def stop(self) -> None:
        """Hangs up; the nursery ends by force what does not end, and nothing stays behind."""
        for agent in self.agents:
            agent.control.close()
        self.control.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            for agent in self.agents:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(agent.pid, signal.SIGKILL)
