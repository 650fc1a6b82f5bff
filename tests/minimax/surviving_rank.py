"""One rank of the test of losses: rank 2 is killed in round 3, rank 0 falls asleep in round 6."""

import os
import signal
import sys
from pathlib import Path

import torch
from rank_programs import DOUBLE, Doomed, auc_problem

from manyone.minimax.distributed import TorchDistributed
from manyone.minimax.failures import Membership

rank = int(os.environ["RANK"])
fate = {2: Doomed(3 * 3 + 1, signal.SIGKILL), 0: Doomed(6 * 3 + 2 + 1, signal.SIGSTOP)}.get(rank, Doomed(0, 0))
membership = Membership.join(timeout=6)
run = TorchDistributed(
    *auc_problem(), sys.argv[1], steps=3, rounds=10, membership=membership, local_step=fate, time_average=True, **DOUBLE
)
run.run()
result = {"state": run.state(), "clients": run.clients, "losses": run.losses, "consensus": run.consensus()}
torch.save(result, Path(sys.argv[2]) / f"rank-{rank}.pt")
membership.leave()
