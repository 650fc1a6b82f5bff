"""Devices by name: "auto", "cpu", "cuda", "cuda:N" or "mps"."""

from __future__ import annotations

import os

import torch

from manyone.errors import ManyoneError


def device_of(name: str = "auto", *, double: bool = False) -> torch.device:
    """The device called ``name``; "auto" is this rank's GPU where there is one, else the CPU.

    ``double``: numbers have 64 bits, which Apple's GPU does not know, so that "auto" passes over it.
    """
    kind, index = known_device(name)
    if kind == "mps" and double:
        raise ManyoneError("device 'mps': this computes in double precision, which Apple's GPU lacks: use cpu")
    if kind == "auto":
        apple = torch.backends.mps.is_available() and not double
        kind = "cuda" if torch.cuda.is_available() else "mps" if apple else "cpu"
    if kind != "cuda":
        return torch.device(kind)
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)  # for libraries that use the current one
    return device


def known_device(name: str) -> tuple[str, int | None]:
    """Kind and number (None: any) of a device that is there; ``ManyoneError`` says what is allowed."""
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise ManyoneError(f"device '{name}' is unknown: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ManyoneError(f"device '{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ManyoneError("device 'mps' is not there: torch finds no Apple GPU")
    return kind, int(index) if index else None


def one_thread_below(enough: int, width: int) -> None:
    """This process computes with one thread where its networks' ``width`` is below ``enough``.

    Handing out products of so small matrices costs more than they take, most of all where other processes compute too.
    ``OMP_NUM_THREADS``, where it is set, decides instead.
    """
    if width < enough and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
