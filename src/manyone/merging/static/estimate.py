"""What a merge will read, write, need and take, measured on a small piece of it before anything is written."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from manyone.merging.static.plan import CHUNK, Plan
from manyone.merging.static.stream import Method, WholeTensors, converts, default_threads

_PROBE = 64 << 20  # bytes read to measure the speed of the storage (or of the page cache, if the files are in it)
_PYTHON, _TORCH = 30 << 20, 120 << 20  # private memory of the interpreter with NumPy, and what PyTorch adds
_BUFFERS = 10  # chunks that a method keeps for each thread, in double precision at most
_MATRICES = 8  # of the largest layer: base, task vector, factors and LAPACK's work
_LIBRARIES = 60 << 20  # what BLAS, LAPACK and the allocator keep once matrices have been multiplied


def describe(plan: Plan, method: Method, out: Path) -> str:
    """The plan as text: tensors, bytes, memory and an estimate of the time."""
    at_once = method if isinstance(method, WholeTensors) else None
    whole = [name for name in plan.merged if at_once is not None and at_once.whole(plan, name)]
    factors = at_once is not None and at_once.factors
    lines = [
        f"base      {plan.base.label}",
        *[f"expert    {expert.label}" for expert in plan.experts],
        f"tensors   {len(plan.merged)} merged ({plan.elements:,} elements"
        + (f", {len(whole)} {'linear layers factored' if factors else 'at once'}), " if whole else "), ")
        + f"{len(plan.copied)} copied from the base, {len(plan.dropped)} of the experts left out",
        f"read      {_size(plan.read_bytes * method.passes)}" + (f" in {method.passes} passes" * (method.passes > 1)),
        f"write     {_size(plan.written_bytes)} to {out}",
        *_disk(plan, out),
        f"memory    about {_size(private_memory(plan, method, whole))} in all, besides the mapped files",
        f"time      about {_seconds(estimate_seconds(plan, method, whole if factors else []))} on this machine",
        *[f"note      {note}" for note in plan.notes],
    ]
    return "\n".join(lines)


def private_memory(plan: Plan, method: Method, whole: list[str]) -> float:
    """Bytes of the merging process that no file backs, at its peak."""
    factors = isinstance(method, WholeTensors) and method.factors
    later = converts(plan) and "torch" not in sys.modules
    largest = max((plan.info(name).numel * 4 for name in whole), default=0)
    return (
        _private_now()
        + later * _TORCH
        + default_threads() * _BUFFERS * CHUNK * 8
        + (_MATRICES if factors else _MATRICES + len(plan.experts)) * largest
        + method.multiplies * _LIBRARIES
    )


def _private_now() -> int:
    """Bytes of this process that no file backs."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) << 10 if found else _PYTHON + ("torch" in sys.modules) * _TORCH


def _disk(plan: Plan, out: Path) -> list[str]:
    """A line if there is not enough room for the output."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free >= plan.written_bytes:
        return []
    return [f"disk      TOO SMALL: {_size(free)} are free in {there}; free some space or choose another --out"]


def estimate_seconds(plan: Plan, method: Method, whole: list[str]) -> float:
    """Reading at the measured bandwidth, arithmetic by a sample's time per element, factorisations by a small one's."""
    rate = _read_rate(plan)
    threads = default_threads()
    arithmetic = plan.elements * len(plan.experts) * method.passes * _seconds_per_element() / threads
    factoring = 0.0
    if whole:
        unit = _factorisation_seconds(256)
        for name in whole:
            rows, columns = plan.info(name).shape
            factoring += unit * min(rows, columns) ** 2 * max(rows, columns) / 256**3 * (len(plan.experts) + 1)
    return plan.read_bytes * method.passes / rate + arithmetic + plan.written_bytes / rate + factoring


def _read_rate(plan: Plan) -> float:
    """Bytes per second of reading a sample of one expert."""
    expert, left = plan.experts[-1], _PROBE
    began = time.perf_counter()
    for name, start, stop in plan.chunks():
        values = expert.entries[name].array(start, stop)
        values.view(np.uint8)[::4096].sum()  # one byte of every page makes the system fetch it
        left -= values.nbytes
        if left <= 0:
            break
    return max(_PROBE - left, 1) / max(time.perf_counter() - began, 1e-6)


def _seconds_per_element() -> float:
    """Time of the handful of vector operations that a method spends on one element of one expert."""
    a, b, out = (np.zeros(CHUNK, np.float32) for _ in range(3))
    began = time.perf_counter()
    for _ in range(50):
        np.subtract(a, b, out=out)
        np.abs(out, out=out)
        np.add(out, a, out=out)
        np.maximum(out, 0, out=out)
    return (time.perf_counter() - began) / 50 / CHUNK


def _factorisation_seconds(size: int) -> float:
    import torch

    matrix = torch.eye(size) + torch.arange(size * size, dtype=torch.float32).sin().view(size, size)
    torch.linalg.svd(matrix)
    began = time.perf_counter()
    torch.linalg.svd(matrix)
    return time.perf_counter() - began


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
