"""What the ranks of the distributed tests run, and how they are started: real processes, one import of torch for all."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from manyone.minimax.client_data import ClientData
from manyone.minimax.problems.auc import AUC, positive_rate


def torchrun(function: Callable[..., Any], ranks: int, *arguments: Any, restarts: int = 0) -> dict[int, Any]:
    """``function(*arguments)`` on ``ranks`` processes, by torchrun's own agent; rank -> result."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    multiprocessing.set_forkserver_preload(["rank_programs", "manyone.minimax.distributed"])
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="forkserver", max_restarts=restarts, monitor_interval=0.1, run_id="test",
    )  # fmt: skip
    return elastic_launch(config, function)(*arguments)


def auc_problem(model: str, clients: int, samples: int = 12, width: int = 6) -> tuple[AUC, ClientData]:
    """Linear or MLP AUC on made, heterogeneous shards: client i's features are shifted by i."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(clients, samples, width, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(clients, samples, generator=generator) < 0.4, 1.0, -1.0).double()
    features += 0.3 * labels[..., None] + 0.05 * torch.arange(clients)[:, None, None]
    data = ClientData.of_shards({"features": features, "labels": labels})
    p = positive_rate(labels)
    if model == "linear":
        return AUC(p, dim=width), data
    return AUC(p, score=nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))), data
