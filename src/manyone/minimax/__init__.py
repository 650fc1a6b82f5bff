"""Minimax: many clients, one saddle point (local and decentralised gradient descent ascent), and its stability.

from manyone.minimax import AUC, ClientData, DistributedSGDA, Simulated, positive_rate

data = ClientData.of_parts({"features": x, "labels": y}, parts)   # parts: one array of row numbers a client
method = DistributedSGDA(topology="ring", steps=5, rounds=100)
zbar = Simulated(AUC(positive_rate(y), dim=x.shape[1]), data, method).run()
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AUC": "problems.auc",
    "AgnosticLearning": "problems.agnostic",
    "ClientData": "client_data",
    "Constrained": "problems.constrained",
    "DistributedSGDA": "method",
    "FailureTrace": "mixing.participation",
    "GAN": "problems.gan",
    "GroupDRO": "problems.agnostic",
    "Laboratory": "stability.laboratory",
    "Membership": "ranks.failures",
    "ModuleProblem": "problems.module",
    "OuterStep": "steps",
    "Participation": "mixing.participation",
    "Problem": "problems.problem",
    "QuadraticGame": "problems.quadratic",
    "RandomFailures": "mixing.participation",
    "RandomStepCounts": "mixing.participation",
    "Scaling": "predict",
    "Simulated": "simulated",
    "Topology": "mixing.topology",
    "TorchDistributed": "ranks.distributed",
    "bilinear": "problems.quadratic",
    "decaying": "schedules",
    "local_step": "steps",
    "positive_rate": "problems.auc",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
