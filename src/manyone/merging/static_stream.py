"""The one pass that all static methods share: chunk by chunk, all experts inside the chunk, straight into the output.

A method says what happens to one chunk (or, for methods that factor matrices, to one linear layer); this file reads,
spreads the chunks over threads, guards against NaN and Inf, rounds to the base's dtype and writes to a file or into a
dict. Memory: a few chunks per thread, whatever the size and number of the models.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static_plan import CHUNK, Plan
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.safetensors_file import SafetensorsWriter

_PER_TASK = 16  # chunks that one thread takes at a time, so that files are read and written in long runs
Progress = Callable[[int, int], None]


class Buffers:
    """Re-used float buffers of one thread, by name; they hold one chunk each."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def get(self, name: str, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A buffer with undefined content."""
        key = (name, dtype)
        if key not in self._kept:
            self._kept[key] = torch.empty(CHUNK, dtype=dtype)
        return self._kept[key][:length]

    def read(self, model: Checkpoint, name: str, start: int, stop: int, dtype: torch.dtype, key: str) -> Tensor:
        """A slice of a model as ``dtype`` (a view of the file where it is stored so; not to be written to)."""
        values = model.read_flat(name, start, stop)
        return values if values.dtype == dtype else self.get(key, stop - start, dtype).copy_(values)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is computed in: float32, and float64 where the base is stored so."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Method(Protocol):
    """A static merging method. ``passes`` counts how often everything is read, for the plan."""

    passes: int

    def prepare(self, plan: Plan, threads: int) -> None:
        """Gathers what must be known before the first chunk (thresholds, norms)."""
        ...

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> Tensor:
        """The merged elements in the working dtype, in a buffer that the caller may overwrite."""
        ...

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        """Chunks that have to be computed again with what is known after the pass."""
        ...


@runtime_checkable
class WholeTensors(Protocol):
    """What a method has besides when it merges some tensors at once."""

    def whole(self, plan: Plan, name: str) -> bool:
        """Whether this tensor is merged at once by :meth:`tensor`."""
        ...

    def tensor(self, plan: Plan, name: str) -> Tensor:
        """The merged tensor in the working dtype, in its shape."""
        ...


class Elementwise:
    """Defaults for methods that need no matrix and one pass."""

    passes = 1

    def prepare(self, plan: Plan, threads: int) -> None:
        pass

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        return ()


class MemorySink:
    """Collects the output as a state dict."""

    def __init__(self, plan: Plan) -> None:
        names = [*plan.merged, *plan.copied]
        self.tensors = {n: torch.empty(plan.info(n).shape, dtype=plan.info(n).dtype) for n in plan.base if n in names}

    def write(self, name: str, start: int, values: Tensor) -> None:
        self.tensors[name].view(-1)[start : start + values.numel()] = values


def default_threads() -> int:
    """The number of threads that torch may use (OMP_NUM_THREADS), at most the cores of this process."""
    return max(
        1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 64)
    )


def run_merge(
    plan: Plan,
    method: Method,
    sink: MemorySink | SafetensorsWriter,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Merges everything in ``plan`` into ``sink``. Raises ``ManyoneError`` at the first NaN, Inf or overflow."""
    threads = threads or default_threads()
    sizes = {name: plan.info(name).numel for name in [*plan.merged, *plan.copied]}
    total, done, lock = sum(sizes.values()), [0], threading.Lock()

    def advance(count: int) -> None:
        with lock:
            done[0] += count
            if progress is not None:
                progress(done[0], total)

    def merge_chunk(name: str, start: int, stop: int, buffers: Buffers) -> None:
        _emit(plan, sink, name, start, method.chunk(plan, name, start, stop, buffers), buffers)
        advance(stop - start)

    method.prepare(plan, threads)
    at_once = method if isinstance(method, WholeTensors) else None
    whole = [name for name in plan.merged if at_once is not None and at_once.whole(plan, name)]
    rest = [name for name in plan.merged if name not in set(whole)]
    over_chunks(plan.chunks(rest), merge_chunk, threads)
    over_chunks(
        method.revisit(plan), lambda n, a, b, w: _emit(plan, sink, n, a, method.chunk(plan, n, a, b, w), w), threads
    )
    buffers = Buffers()
    for name in whole:
        assert at_once is not None
        merged = at_once.tensor(plan, name).reshape(-1)
        for _, start, stop in plan.chunks([name]):
            _emit(plan, sink, name, start, merged[start:stop], buffers)
        advance(sizes[name])
    for name in plan.copied:
        for _, start, stop in plan.chunks([name]):
            sink.write(name, start, plan.base.read_flat(name, start, stop).to(plan.info(name).dtype))
        advance(sizes[name])


def over_chunks(
    chunks: Iterable[tuple[str, int, int]], work: Callable[[str, int, int, Buffers], None], threads: int
) -> None:
    """Calls ``work(name, start, stop, buffers)`` for all chunks, in runs of neighbours, on ``threads`` threads."""
    local = threading.local()

    def batch(items: list[tuple[str, int, int]]) -> None:
        if not hasattr(local, "buffers"):
            local.buffers = Buffers()
        for name, start, stop in items:
            work(name, start, stop, local.buffers)

    with _one_thread_inside():
        if threads == 1:
            for items in _runs(chunks):
                batch(items)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting: set[Future[None]] = set()
            try:
                for items in _runs(chunks):
                    waiting.add(pool.submit(batch, items))
                    if len(waiting) >= 2 * threads:
                        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                for future in waiting:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def _runs(chunks: Iterable[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    items: list[tuple[str, int, int]] = []
    size = 0
    for item in chunks:
        items.append(item)
        size += item[2] - item[1]
        if size >= _PER_TASK * CHUNK:
            yield items
            items, size = [], 0
    if items:
        yield items


@contextlib.contextmanager
def _one_thread_inside() -> Iterator[None]:
    """Chunks are too small to be split again: the threads are ours, torch's own are switched off meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _emit(
    plan: Plan, sink: MemorySink | SafetensorsWriter, name: str, start: int, merged: Tensor, buffers: Buffers
) -> None:
    dtype = plan.info(name).dtype
    low, high = torch.aminmax(merged)
    largest = torch.finfo(dtype).max
    if not (-largest <= float(low) and float(high) <= largest):
        blame(plan, name, start, start + merged.numel())
        raise ManyoneError(f"tensor {name!r}: the merged values overflow {dtype}; use a smaller --scale")
    sink.write(
        name, start, merged if merged.dtype == dtype else buffers.get("out", merged.numel(), dtype).copy_(merged)
    )


def blame(plan: Plan, name: str, start: int, stop: int) -> None:
    """Raises ``ManyoneError`` naming the model whose slice holds NaN or Inf, if one does."""
    for model in [plan.base, *plan.experts]:
        if not torch.isfinite(model.read_flat(name, start, stop).float()).all():
            raise ManyoneError(f"{model.label}: NaN or Inf in tensor {name!r}")


def finite(value: float | Tensor) -> bool:
    """Whether a scalar is finite."""
    return math.isfinite(float(value))
