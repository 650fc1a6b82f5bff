"""Where agents' processes come from: ``python -m manyone.teams.processes.nursery CONTROL``, started by ``crew.Crew``.

Importing torch takes seconds and hundreds of megabytes, so one process does it and forks an agent for every order,
before any weights, observations or threads exist: what agents share is the library. It tells the coordinator who ends,
and ends all that are left when the coordinator hangs up, so that no process stays behind.
Public: ``main``.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from manyone.teams.processes.wire import Closed, receive_frame, send_frame

_GRACE = 2.0
"""Seconds that agents have to end by themselves once the coordinator is gone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Forks agents until the coordinator hangs up; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides what an interrupt means
    from manyone.teams.processes.agent import serve  # takes seconds: all agents share what is imported here

    control = socket.socket(fileno=int((sys.argv[1:] if arguments is None else arguments)[0]))
    read, write = os.pipe()
    os.set_blocking(write, False)
    os.set_blocking(read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    agents: dict[int, int] = {}  # process -> number of the agent
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(read, selectors.EVENT_READ)
        with contextlib.suppress(Closed):
            while True:
                for key, _ in selector.select():
                    if key.fileobj is control:
                        order, _, fd = receive_frame(control)
                        assert fd is not None
                        pid = os.fork()
                        if pid == 0:
                            for number in (control.detach(), read, write):
                                os.close(number)
                            _become_agent(fd, serve)
                        os.close(fd)
                        agents[pid] = order["agent"]
                        send_frame(control, {"what": "born", "pid": pid})
                    else:
                        os.read(read, 4096)
                        for pid, code in _ended():
                            send_frame(control, {"what": "ended", "agent": agents.pop(pid), "code": code})
    deadline = time.monotonic() + _GRACE
    while agents:
        for pid, _ in _ended():
            agents.pop(pid, None)
        if time.monotonic() > deadline:
            for pid in agents:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return 0


def _become_agent(control: int, serve: Callable[[int], int]) -> None:
    """Serves as an agent and ends; never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        code = serve(control)
    finally:
        sys.stderr.flush()
        os._exit(code)  # nothing of the nursery's is to be cleaned up here


def _ended() -> list[tuple[int, int]]:
    """(process, exit code or minus the signal) of every child that has ended."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


if __name__ == "__main__":
    sys.exit(main())
