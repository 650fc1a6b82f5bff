"""Who takes part in a real run, and how the others go on when a rank dies or hangs.

A rank is lost when it dies (its peers' connections break at once) or stays silent for longer than ``timeout``. Then
every survivor leaves the broken process group, writes into the store which round it was in, and waits until all ranks
have reported or are known to be dead, or until the timeout. The first to find this proposes the list of those who
reported; a compare-and-set in the store makes one proposal the decision. The survivors form a new process group and
go back to the start of the earliest round that one of them was in. A rank that reports too late finds itself outside
the decision and stops.

This needs a store that does not die with a rank and a launcher that does not stop the others: see ``launch``. Under
torchrun, whose agent stops all ranks when one dies, a loss ends the job; ``--max-restarts`` then starts all ranks
again and they resume from the last checkpoint.
Public: ``Membership``, ``LeftBehind``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import time
import weakref
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from manyone.errors import ManyoneError
from manyone.minimax.ranks.exchange import Channel

SURVIVE = "MANYONE_SURVIVE"
"""Set by ``launch``: the store outlives the ranks and a lost rank does not stop the others."""
_LOOK = 0.02
_MEMBERSHIPS: weakref.WeakSet[Membership] = weakref.WeakSet()
_START = 300.0
"""Seconds in which all ranks must have started."""


class LeftBehind(ManyoneError):
    """The other ranks went on without this one, which had not answered in time."""


class Membership:
    """The ranks of a run, by the numbers they were started with, and the process group of those that are left.

    Attributes: ``rank``; ``ranks``: those that are left, ascending; ``group``; ``survives``: whether ``regroup`` is
    possible; ``timeout``: seconds of silence after which a rank counts as lost, which must be longer than the slowest
    rank's local steps of one round.
    """

    def __init__(
        self, rank: int, ranks: tuple[int, ...], group: dist.ProcessGroup | None, timeout: float = 60.0,
        store: dist.Store | None = None, owned: bool = False,
    ) -> None:  # fmt: skip
        self.owned = owned or store is not None  # then leaving destroys the group
        self.rank, self.ranks, self.group, self.timeout, self.store = rank, ranks, group, timeout, store
        self.generation = 0
        self._channels: list[Channel] = []
        _MEMBERSHIPS.add(self)
        if self.owned:
            atexit.register(self.leave)

    @property
    def survives(self) -> bool:
        """Whether the survivors of a loss go on by themselves."""
        return self.store is not None

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None = None) -> Membership:
        """An existing process group (None: the default one)."""
        group = group or cast(dist.ProcessGroup, dist.group.WORLD)
        return cls(dist.get_rank(group), tuple(range(dist.get_world_size(group))), group)

    @classmethod
    def join(cls, *, device: str | torch.device = "cpu", timeout: float = 60.0) -> Membership:
        """The ranks of the environment (torchrun's or ``launch``'s variables); an initialised group is taken as it is.

        The backend is NCCL for CUDA and gloo else. Where survivors go on it is always gloo, and states travel through
        host memory: NCCL ends the process when a peer is lost.
        """
        if dist.is_initialized():
            return cls.of_group()
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ManyoneError(
                f"this process is not a rank of a distributed run ({missing[0]} is not set): start it with torchrun or "
                "python -m manyone.minimax.launch"
            )
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        survive = os.environ.get(SURVIVE, "0") not in ("", "0")
        device = torch.device(device)
        backend = "nccl" if device.type == "cuda" and not survive else "gloo"
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        if not survive:
            patience = timedelta(seconds=timeout)
            given, _, _ = next(dist.rendezvous("env://", rank, count, timeout=patience))
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            # A restarted job must not find the addresses of the dead: torchrun's store outlives its restarts.
            own = dist.PrefixStore(f"attempt/{attempt}", given)
            dist.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=patience)
            return cls(rank, tuple(range(count)), cast(dist.ProcessGroup, dist.group.WORLD), timeout, owned=True)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=max(timeout, _START)))
        ranks = tuple(range(count))
        store.set(f"started/{rank}", "")
        store.wait([f"started/{r}" for r in ranks])
        return cls(rank, ranks, _make_group(store, 0, rank, ranks, timeout), timeout, store)

    def channel(self, device: torch.device) -> Channel:
        """This rank's end of the present process group, closed when the rank leaves."""
        assert self.group is not None
        self._channels.append(Channel(self.group, self.ranks, device))
        return self._channels[-1]

    def leave(self) -> None:
        """Ends this rank's part in the run: nothing keeps the process group, so that its connections close."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        self.group = None
        if self.owned and dist.is_initialized():
            dist.destroy_process_group()
        gc.collect()

    def regroup(self, round_: int) -> int:
        """Agrees with the other survivors; returns the round from whose start all of them go on.

        ``round_`` is the first round that this rank has not completed. Raises :class:`LeftBehind` when the others
        decided without this rank. Call it outside of an ``except`` block and without references to the broken group:
        what keeps it alive keeps its connections open, and peers that wait for this rank do not notice the loss.
        """
        assert self.store is not None
        self.leave()
        while True:
            self.generation += 1
            survivors, start = self._agree(round_)
            if self.rank not in survivors:
                raise LeftBehind(
                    f"rank {self.rank}: the others went on without this rank, which had not answered for "
                    f"{self.timeout:g} s; if its rounds take longer, raise the timeout (--timeout)"
                )
            self.ranks = survivors
            try:
                self.group = _make_group(self.store, self.generation, self.rank, survivors, self.timeout)
                return start
            except RuntimeError:
                self.leave()  # one more was lost before the new group stood: agree again

    def _agree(self, round_: int) -> tuple[tuple[int, ...], int]:
        """(ranks that go on, their earliest round)."""
        assert self.store is not None
        name = f"agreement/{self.generation}"
        self.store.set(f"{name}/at/{self.rank}", str(round_))
        # A rank that is busy with local steps (shorter than the timeout) finds its connections closed when it is done.
        deadline = time.monotonic() + 1.5 * self.timeout
        while not self.store.check([f"{name}/decision"]):
            here = [r for r in self.ranks if self.store.check([f"{name}/at/{r}"])]
            dead = [r for r in self.ranks if r not in here and self.store.check([f"dead/{r}"])]
            if len(here) + len(dead) == len(self.ranks) or time.monotonic() > deadline:
                self.store.compare_set(f"{name}/decision", "", json.dumps(here))
                break
            time.sleep(_LOOK)
        survivors = tuple(json.loads(self.store.get(f"{name}/decision")))
        for lost in set(self.ranks) - set(survivors):
            self.store.set(f"lost/{lost}", "")  # its launcher stops it, should it only be asleep
        return survivors, min(int(self.store.get(f"{name}/at/{r}")) for r in survivors)


def _leave_all() -> None:
    """At exit: an interpreter that ends with the threads of a process group at work may abort."""
    for membership in list(_MEMBERSHIPS):
        membership.leave()


atexit.register(_leave_all)


def _make_group(
    store: dist.Store, generation: int, rank: int, ranks: tuple[int, ...], timeout: float
) -> dist.ProcessGroup:
    """The default process group of ``ranks``, made through the store's own corner for this generation."""
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(f"generation/{generation}", store),
        rank=ranks.index(rank),
        world_size=len(ranks),
        timeout=timedelta(seconds=timeout),
    )
    return cast(dist.ProcessGroup, dist.group.WORLD)
