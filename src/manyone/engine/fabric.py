"""Devices, precision and ranks, through Lightning Fabric; and the few collective calls that the loop needs.

One process needs nothing from here. Several are started by ``torchrun``; then rank 0 alone writes files.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: str = "auto", precision: str = "32-true") -> Fabric:
    """A launched Fabric for ``device`` ("auto", "cpu", "cuda", "cuda:1", "mps") and ``precision`` (Fabric's names).

    Under ``torchrun`` it joins the ranks that torchrun started, with data-parallel gradients (DDP).
    """
    from lightning_fabric import Fabric

    from manyone.engine.devices import known_device

    started = int(os.environ.get("WORLD_SIZE", "1"))
    kind, index = known_device(device)
    devices: Any = 1 if index is None else [index]
    nodes = 1
    if started > 1:
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", str(started)))
        nodes = started // devices
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if started > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise ManyoneError(f"device '{device}' with precision '{precision}': {error}") from error
    fabric.launch()
    if started > 1:
        atexit.unregister(leave_group)  # once, however many fabrics a process makes
        atexit.register(leave_group)
    return fabric


def leave_group() -> None:
    """Ends this process's group, if there is one.

    Threads of gloo that still run when the interpreter has gone end the process with a signal, now and then.
    """
    distributed = _distributed()
    if distributed is not None:
        distributed.destroy_process_group()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """This process's rank: torch.distributed's once it runs, before that what the launcher says."""
    distributed = _distributed()
    if distributed is not None:
        return distributed.get_rank()
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def is_writer() -> bool:
    """Whether this process is the one that writes files (rank 0)."""
    return rank() == 0


def broadcast(value: Any) -> Any:
    """Rank 0's ``value``, on every rank."""
    distributed = _distributed()
    if distributed is None:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every rank's ``value`` in the order of ranks; the same list on all of them."""
    distributed = _distributed()
    if distributed is None:
        return [value]
    box: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(box, value)
    return box


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` holds on any rank; the answer is the same on all of them."""
    distributed = _distributed()
    if distributed is None:
        return flag
    import torch

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flags = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())


def _distributed() -> Any:
    """``torch.distributed`` when a process group runs; torch is not imported to find that out."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None
