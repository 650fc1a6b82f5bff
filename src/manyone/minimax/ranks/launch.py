"""Starts the ranks of a distributed run and lets the survivors go on when one of them dies.

    python -m manyone.minimax.launch --ranks 4 train.py --rounds 100
    python -m manyone.minimax.launch --ranks 4 -m manyone run local-dsgda --topology ring --clients 16

The launcher hosts the store, starts one process per rank with torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), and writes into the store which ranks have died, so that the others need not wait for a
timeout. Unlike torchrun it stops nobody when a rank dies; only a hanging rank that the others have left is ended. It
ends when all have ended, with code 0 if at least ``--quorum`` ranks ended well. On several machines: the same command
on each, with ``--nodes``, ``--node`` (0, 1, ...) and ``--store HOST:PORT`` of node 0, whose launcher must live: it
hosts the store until the others have ended, or have given no sign of life for half a minute.

The store is torch's own rendezvous: whoever reaches its port can read, write and join. It listens on the HOST of
``--store`` alone (or on ``--host``, where others reach this machine under another address), without ``--store`` on the
loopback interface: name an address only in a network where you trust everybody.
Public: ``launch``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch.distributed as dist

from manyone.engine.modules import python
from manyone.errors import ManyoneError
from manyone.minimax.ranks.failures import SURVIVE

_LOOK = 0.02
_SILENCE = 30.0


def launch(
    command: Sequence[str],
    ranks: int,
    *,
    quorum: int = 1,
    nodes: int = 1,
    node: int = 0,
    address: str | None = None,
    host: str | None = None,
    on_start: Callable[[list[int]], None] | None = None,
) -> dict[int, int]:
    """Runs ``command`` (program and arguments) as ``ranks`` processes on this machine; rank -> exit code.

    A code below 0 is the signal that ended the rank. ``address`` (HOST:PORT of node 0) is needed with several
    ``nodes``; node 0 listens there, or on the address ``host`` of its own. ``on_start`` gets the process ids in the
    order of the ranks. All processes are stopped when the launcher is interrupted. Raises :class:`ManyoneError` when
    fewer than ``quorum`` of them ended well.
    """
    if ranks < 1 or not 1 <= quorum <= ranks or not 0 <= node < nodes:
        raise ManyoneError(f"ranks = {ranks}, quorum = {quorum}, node {node} of {nodes}: need 1 <= quorum <= ranks")
    name, port = _address(address, nodes)
    store = _store(name, port, (host or name) if node == 0 else None)
    common = os.environ | {
        "MASTER_ADDR": name,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(ranks * nodes),
        "LOCAL_WORLD_SIZE": str(ranks),
        SURVIVE: "1",
    }
    common.setdefault("OMP_NUM_THREADS", "1")
    if address is None:  # nobody else has to reach the ranks
        common.setdefault("GLOO_SOCKET_IFNAME", next(n for _, n in socket.if_nameindex() if n.startswith("lo")))
    running: dict[int, subprocess.Popen[bytes]] = {}
    codes: dict[int, int] = {}
    looks = 0
    try:
        for local in range(ranks):
            own = {"RANK": str(node * ranks + local), "LOCAL_RANK": str(local)}
            running[node * ranks + local] = subprocess.Popen(list(command), env=common | own)
        if on_start is not None:
            on_start([process.pid for process in running.values()])
        while running:
            for rank, process in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                codes[rank] = code
                del running[rank]
                if code:
                    store.set(f"dead/{rank}", str(code))
                    print(f"rank {rank} ended with {_words(code)}", file=sys.stderr, flush=True)
            looks += 1
            if looks % 50 == 1:
                store.add(f"alive/{node}", 1)
            for rank in [r for r in running if looks % 20 == 0 and store.check([f"lost/{r}"])]:
                running[rank].kill()  # it hangs, and the others have gone on without it
            time.sleep(_LOOK)
        store.set(f"ended/{node}", "")
        if node == 0:
            _wait_for(store, set(range(1, nodes)))
    except dist.DistError:
        raise ManyoneError(
            f"the store at {name}:{store.port} does not answer: node 0's launcher is gone; start all again, the run "
            "goes on from its checkpoints"
        ) from None
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.wait()
    well = sum(code == 0 for code in codes.values())
    if well < quorum:
        raise ManyoneError(f"{well} of {ranks} ranks ended well, at least {quorum} must: see their errors above")
    return dict(sorted(codes.items()))


def _wait_for(store: dist.Store, nodes: set[int]) -> None:
    """Returns when the launchers of ``nodes`` have ended or are silent: their ranks may need the store until then."""
    beats: dict[int, tuple[int, float]] = {}
    while nodes := {n for n in nodes if not store.check([f"ended/{n}"])}:
        for n in list(nodes):
            beat, now = store.add(f"alive/{n}", 0), time.monotonic()
            seen = beats.setdefault(n, (beat, now))
            if beat != seen[0]:
                beats[n] = beat, now
            elif now - seen[1] > _SILENCE:
                nodes.discard(n)
        time.sleep(_LOOK)


def _store(name: str, port: int, listen: str | None) -> dist.TCPStore:
    """The store at ``name``, which is hosted here where there is an address to ``listen`` on."""
    patience = timedelta(seconds=60)
    if listen is None:
        return dist.TCPStore(name, port, is_master=False, timeout=patience)
    try:
        family, _, _, _, place = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
        server = socket.create_server(place, family=family)  # torch itself would listen on every address
    except OSError as problem:
        raise ManyoneError(
            f"--store: cannot listen on {listen}:{port} ({problem.strerror}); choose another port, or name an address "
            "of this machine with --host"
        ) from None
    port = server.getsockname()[1]
    return dist.TCPStore(
        name, port, is_master=True, wait_for_workers=False, timeout=patience, master_listen_fd=server.detach()
    )


def _address(address: str | None, nodes: int) -> tuple[str, int]:
    if address is None:
        if nodes > 1:
            raise ManyoneError(f"{nodes} nodes need --store HOST:PORT, where node 0 can be reached")
        return "127.0.0.1", 0
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ManyoneError(f"--store {address!r}: expected HOST:PORT")
    return host, int(port)


def _words(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m manyone.minimax.launch",
        description="Starts the ranks of a distributed run; survivors go on when one dies.",
    )
    parser.add_argument("--ranks", type=int, required=True, help="processes on this machine")
    parser.add_argument(
        "--quorum", type=int, default=1, help="ranks here that must end well for exit code 0 (default 1)"
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--node", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--store", metavar="HOST:PORT", help="where node 0 listens (needed with several machines)")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="address of node 0 on which the store listens (default: the HOST of --store)"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the next word is a module, as in python -m")
    parser.add_argument("script", help="script or module")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its arguments")
    given = parser.parse_args(arguments)
    program = ["-m", given.script] if given.module else [given.script]
    own = given.module and given.script.partition(".")[0] == "manyone"
    command = [*(python() if own else [sys.executable]), *program, *given.rest]
    try:
        launch(
            command,
            given.ranks,
            quorum=given.quorum,
            nodes=given.nodes,
            node=given.node,
            address=given.store,
            host=given.host,
        )
    except ManyoneError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
