"""One rank of the test of losses: rank 2 is killed in round 3, rank 0 falls asleep in round 6."""

import os
import signal
import sys
import weakref
from pathlib import Path

import torch
from rank_programs import DOUBLE, Doomed, auc_problem

from manyone.minimax.method import DistributedSGDA
from manyone.minimax.ranks.distributed import TorchDistributed
from manyone.minimax.ranks.failures import Membership


class Watched(Membership):
    """Notes whether the broken process group is really gone, so that its connections are closed, before it agrees."""

    def _agree(self, round_):
        self.released = [*getattr(self, "released", []), self.last() is None]
        return super()._agree(round_)


rank = int(os.environ["RANK"])
fate = {2: Doomed(3 * 3 + 1, signal.SIGKILL), 0: Doomed(6 * 3 + 2 + 1, signal.SIGSTOP)}.get(rank, Doomed(0, 0))
membership = Watched.join(timeout=5)
membership.last = weakref.ref(membership.group)
run = TorchDistributed(
    *auc_problem(),
    DistributedSGDA(topology=sys.argv[1], steps=3, rounds=10, local_step=fate),
    membership=membership,
    time_average=True,
    **DOUBLE,
)
run.run(callback=lambda *_: setattr(membership, "last", weakref.ref(membership.group)))
result = {"state": run.state(), "clients": run.clients, "losses": run.losses, "consensus": run.consensus()}
result["released"] = membership.released
torch.save(result, Path(sys.argv[2]) / f"rank-{rank}.pt")
membership.leave()
