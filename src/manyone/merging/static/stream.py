"""The one pass that all static methods share: chunk by chunk, all experts inside the chunk, straight into the output.

A method says what happens to one chunk (or, for methods that factor matrices, to one linear layer); this file reads,
spreads the chunks over threads, guards against NaN and Inf, rounds to the base's dtype and writes to a file or into a
dict. Memory: a few chunks per thread, whatever the size and number of the models. PyTorch, whose import takes longer
than many merges, is not needed where models and result are float32 or float64.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from manyone.engine.fabric import processors
from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.plan import CHUNK, Plan
from manyone.weights.safetensors_file import SafetensorsWriter
from manyone.weights.tensor_info import DType, narrow, stored_form

if TYPE_CHECKING:
    from torch import Tensor

    from manyone.merging.static.movement import Measure

_PER_TASK = 16  # chunks that one thread takes at a time, so that files are read and written in long runs
Progress = Callable[[int, int], None]


def working_dtype(dtype: DType) -> np.dtype[Any]:
    """What is computed in: float32, and float64 where the base is stored so."""
    return np.dtype(np.float64 if dtype.code == "F64" else np.float32)


class Method(Protocol):
    """A static merging method.

    For the plan: ``passes`` counts how often everything is read, ``multiplies`` says whether matrices are multiplied or
    factored, which takes memory of its own.
    """

    passes: int
    multiplies: bool

    def prepare(self, plan: Plan, threads: int) -> None:
        """Gathers what must be known before the first chunk (thresholds, norms)."""
        ...

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        """The merged elements in the working dtype, in a buffer that the caller may overwrite."""
        ...

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        """Chunks that have to be computed again with what is known after the pass."""
        ...


@runtime_checkable
class WholeTensors(Protocol):
    """What a method has besides when it merges some tensors at once."""

    factors: bool
    """Whether it factors them, so that its time grows with the third power of a tensor's width."""

    def whole(self, plan: Plan, name: str) -> bool:
        """Whether this tensor is merged at once by :meth:`tensor`."""
        ...

    def tensor(self, plan: Plan, name: str) -> Tensor:
        """The merged tensor in the working dtype, in its shape."""
        ...


class Elementwise:
    """Defaults for methods that need no matrix and one pass."""

    passes = 1
    multiplies = False

    def prepare(self, plan: Plan, threads: int) -> None:
        pass

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        return ()


class MemorySink:
    """Collects the output as a state dict."""

    def __init__(self, plan: Plan) -> None:
        import torch

        kept = {*plan.merged, *plan.copied}
        infos = {name: plan.info(name) for name in plan.base if name in kept}
        self.tensors = {name: torch.empty(info.shape, dtype=info.dtype.torch) for name, info in infos.items()}
        self._arrays = {name: stored_form(tensor.view(-1)) for name, tensor in self.tensors.items()}

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        self._arrays[name][start : start + values.size] = values


def default_threads() -> int:
    """The number of threads that PyTorch may use (or would: OMP_NUM_THREADS), at most the cores of this process."""
    cores = processors()
    if (torch := sys.modules.get("torch")) is not None:
        return max(1, min(torch.get_num_threads(), cores))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(int(asked), cores)) if asked.isdecimal() else cores


def run_merge(
    plan: Plan,
    method: Method,
    sink: MemorySink | SafetensorsWriter,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> None:
    """Merges everything in ``plan`` into ``sink``; ``measure`` sees what comes out.

    Raises ``ManyoneError`` at the first NaN, Inf or overflow.
    """
    threads = threads or default_threads()
    sizes = {name: plan.info(name).numel for name in [*plan.merged, *plan.copied]}
    total, done, lock = sum(sizes.values()), [0], threading.Lock()

    def advance(count: int) -> None:
        with lock:
            done[0] += count
            if progress is not None:
                progress(done[0], total)

    def merge_chunk(name: str, start: int, stop: int, buffers: Buffers) -> None:
        merged = method.chunk(plan, name, start, stop, buffers)
        _emit(plan, sink, name, start, merged, buffers)
        if measure is not None:
            measure.add(plan, name, start, merged, buffers)
        advance(stop - start)

    _load_converter(plan)
    if measure is not None:
        measure.begin(plan)
    method.prepare(plan, threads)
    at_once = method if isinstance(method, WholeTensors) else None
    whole = [name for name in plan.merged if at_once is not None and at_once.whole(plan, name)]
    rest = [name for name in plan.merged if name not in set(whole)]
    over_chunks(plan.chunks(rest), merge_chunk, threads)
    # not measured again: where entries cancel, the other sign gives a change of the same length
    over_chunks(
        method.revisit(plan), lambda n, a, b, w: _emit(plan, sink, n, a, method.chunk(plan, n, a, b, w), w), threads
    )
    buffers = Buffers()
    for name in whole:
        assert at_once is not None
        merged = at_once.tensor(plan, name).reshape(-1).numpy()
        for _, start, stop in plan.chunks([name]):
            _emit(plan, sink, name, start, merged[start:stop], buffers)
            if measure is not None:
                measure.add(plan, name, start, merged[start:stop], buffers)
        advance(sizes[name])
    for name in plan.copied:
        for _, start, stop in plan.chunks([name]):
            sink.write(name, start, _copied(plan, name, start, stop, buffers))
        advance(sizes[name])


def converts(plan: Plan) -> bool:
    """Whether there are narrow floats, which PyTorch converts."""
    floats = {model.info(name).dtype for model in [plan.base, *plan.experts] for name in plan.merged}
    return any(dtype.itemsize < 4 for dtype in floats | {plan.info(name).dtype for name in plan.merged})


def _load_converter(plan: Plan) -> None:
    """Imports PyTorch before :func:`over_chunks` looks whether its threads are there."""
    if converts(plan):
        import torch  # noqa: F401


def over_chunks(
    chunks: Iterable[tuple[str, int, int]], work: Callable[[str, int, int, Buffers], None], threads: int
) -> None:
    """Calls ``work(name, start, stop, buffers)`` for all chunks, in runs of neighbours, on ``threads`` threads."""
    local = threading.local()

    def batch(items: list[tuple[str, int, int]]) -> None:
        if not hasattr(local, "buffers"):
            local.buffers = Buffers()
        with np.errstate(all="ignore"):  # NaN, Inf and overflow are looked for in the result
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
    """Chunks are too small to be split again: the threads are ours, PyTorch's own are switched off meanwhile."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copied(plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
    """What an output tensor takes over from the base, in its stored form."""
    have, want = plan.base.info(name).dtype, plan.info(name).dtype
    values = plan.base.entries[name].array(start, stop)
    if have == want and values.dtype == want.stored:
        return values
    values = buffers.read(plan.base, name, start, stop, working_dtype(have), "base")
    return narrow(values, want, buffers.get("out", stop - start, want.stored))


def _emit(
    plan: Plan, sink: MemorySink | SafetensorsWriter, name: str, start: int, merged: np.ndarray, buffers: Buffers
) -> None:
    dtype = plan.info(name).dtype
    if not (-dtype.largest <= float(merged.min()) and float(merged.max()) <= dtype.largest):
        blame(plan, name, start, start + merged.size)
        raise ManyoneError(f"tensor {name!r}: the merged values overflow {dtype}; use a smaller --scale")
    if merged.dtype != dtype.stored:
        merged = narrow(merged, dtype, buffers.get("out", merged.size, dtype.stored))
    sink.write(name, start, merged)


def blame(plan: Plan, name: str, start: int, stop: int) -> None:
    """Raises ``ManyoneError`` naming the model whose slice holds NaN or Inf, if one does."""
    for model in [plan.base, *plan.experts]:
        values = model.floats(name, start, stop, np.empty(stop - start, working_dtype(model.info(name).dtype)))
        if not np.isfinite(values).all():
            raise ManyoneError(f"{model.label}: NaN or Inf in tensor {name!r}")


def finite(value: float | Tensor) -> bool:
    """Whether a scalar is finite."""
    return math.isfinite(float(value))
