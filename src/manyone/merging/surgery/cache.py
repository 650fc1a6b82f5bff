"""What SurgeryV2's training need not compute again: everything up to and including the first block.

No correction comes before the first block's output, so that output is the same at every step. It is stored once for
every input; while a step runs, the first block returns the stored rows and the modules before it return blanks of the
right shape. Nothing is assumed about the architecture: the short cut is compared with the full forward pass on real
inputs and dropped where the two differ (a block that hands more than its hidden states to later blocks, an embedding
that later blocks read again), and where the store would outgrow its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from manyone.data.tasks import Inputs, count, take
from manyone.merging.measures import batches, device_of, frozen, to_device
from manyone.merging.surgery.model import SurgeryV2
from manyone.nets import call


class FirstBlockCache:
    """Stored outputs of the first block; :meth:`build` makes one where that is possible and right."""

    def __init__(self, model: SurgeryV2, stem: Mapping[str, torch.Size], in_tuple: bool) -> None:
        self.model, self.stem, self.in_tuple = model, stem, in_tuple
        self.rows: dict[str, Tensor] = {}
        self.row_size = 0

    @staticmethod
    def build(model: SurgeryV2, inputs: Mapping[str, Inputs], limit: int) -> FirstBlockCache | None:
        """The cache of all ``inputs`` of at most ``limit`` bytes, or None where the short cut does not hold."""
        with torch.no_grad(), frozen(model):
            task = model.tasks[0]
            probe = take(inputs[task], slice(0, min(4, count(inputs[task]))))
            cache = _probe(model, to_device(probe, device_of(model)))
            if cache is None:
                return None
            per_token = cache.row_size // _length(probe)
            cache.row_size = max(per_token * _length(inputs[t]) for t in model.tasks)
            if sum(4 * per_token * _length(inputs[t]) * count(inputs[t]) for t in model.tasks) > limit:
                return None
            for name in model.tasks:
                cache.rows[name] = cache._collect(inputs[name])
            return cache if cache._agrees(inputs) else None

    def _collect(self, inputs: Inputs) -> Tensor:
        model, result = self.model, None
        for index, batch in batches(inputs, 64):
            hidden = _first_output(model, to_device(batch, device_of(model)))[0]
            if result is None:
                shape = hidden.shape[1:] if isinstance(inputs, Tensor) else (_length(inputs), *hidden.shape[2:])
                result = hidden.new_zeros(count(inputs), *shape)
            if isinstance(inputs, Tensor):
                result[index] = hidden
            else:
                result[index, : hidden.shape[1]] = hidden
        assert result is not None
        return result

    def _agrees(self, inputs: Mapping[str, Inputs]) -> bool:
        """Whether stored and full forward passes give the same representations, under corrections that do something."""
        model = self.model
        ups = [up for c in model.places() for up in c.up]
        kept = [up.detach().clone() for up in ups]
        try:
            for up in ups:
                up.fill_(0.01)
            for task in model.tasks:
                index = torch.arange(min(4, count(inputs[task])))
                batch = to_device(take(inputs[task], index), device_of(model))
                full = model.represent(batch, task)
                with self.use([(task, index)]):
                    short = model.represent(batch, task)
                pairs = zip((*full[0], full[1]), (*short[0], short[1]))
                if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
                    return False
            return True
        finally:
            for up, value in zip(ups, kept):
                up.copy_(value)

    @contextmanager
    def use(self, parts: Sequence[tuple[str, Tensor]]) -> Iterator[None]:
        """Inside, the merged model skips its first block: ``parts`` are the (task, rows) of the batch to come."""
        rows = [self.rows[task][index] for task, index in parts]
        merged = self.model.merged

        def first(*args: Any, **kwargs: Any) -> Any:
            reached = args[0] if args else next(iter(kwargs.values()))
            text = rows[0].ndim == 3 and isinstance(reached, Tensor) and reached.ndim == 3
            hidden = torch.cat([_of_length(r, reached.shape[1]) for r in rows] if text else rows)
            return (hidden,) if self.in_tuple else hidden

        total = sum(len(index) for _, index in parts)
        with ExitStack() as stack:
            for name, shape in self.stem.items():
                blank = torch.zeros((), device=rows[0].device).expand(total, *shape)
                stack.enter_context(_forward_replaced(merged.get_submodule(name), lambda *a, _b=blank, **k: _b))
            stack.enter_context(_forward_replaced(merged.get_submodule(self.model.blocks[0]), first))
            yield


def _of_length(hidden: Tensor, length: int) -> Tensor:
    """Hidden states [B, L, h] cut or padded with zeros to ``length`` tokens."""
    return torch.nn.functional.pad(hidden, (0, 0, 0, length - hidden.shape[1]))


def _length(inputs: Inputs) -> int:
    """Tokens per text as stored; 1 for images, whose hidden states always have the same size."""
    return 1 if isinstance(inputs, Tensor) else next(iter(inputs.values())).shape[1]


def _first_output(model: SurgeryV2, inputs: Inputs) -> tuple[Tensor, bool]:
    """The first block's raw hidden states and whether they came in a tuple; raises LookupError for other outputs."""
    seen: list[Any] = []
    handle = model.merged.get_submodule(model.blocks[0]).register_forward_hook(lambda _m, _a, out: seen.append(out))
    try:
        call(model.merged, inputs)
    finally:
        handle.remove()
    output = seen[0] if len(seen) == 1 else None
    if isinstance(output, Tensor):
        return output, False
    if isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], True
    raise LookupError


def _probe(model: SurgeryV2, inputs: Inputs) -> FirstBlockCache | None:
    """An empty cache that knows which modules run before the first block, and what they return."""
    merged, names = model.merged, {id(m): n for n, m in model.merged.named_modules()}
    first = merged.get_submodule(model.blocks[0])
    finished: dict[str, Any] = {}
    started: list[str] = []
    entered = False

    def before(module: nn.Module, *_: Any) -> None:
        nonlocal entered
        entered = entered or module is first
        if not entered:
            started.append(names[id(module)])

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if not entered:
            finished[names[id(module)]] = output

    handles = [m.register_forward_pre_hook(before) for m in merged.modules()]
    handles += [m.register_forward_hook(after) for m in merged.modules()]
    try:
        hidden, in_tuple = _first_output(model, inputs)
    except LookupError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    stem: dict[str, torch.Size] = {}
    if isinstance(inputs, Tensor):
        n = len(inputs)
        for name, output in finished.items():
            once = started.count(name) == 1 and isinstance(output, Tensor) and output.is_floating_point()
            outermost = not any(name.startswith(f"{other}.") for other in finished if other != name)
            if once and outermost and len(output) == n and output.dtype == hidden.dtype:
                stem[name] = output.shape[1:]
    cache = FirstBlockCache(model, stem, in_tuple)
    cache.row_size = hidden[0].numel()
    return cache


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    kept = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if kept is None:
            del module.forward
        else:
            module.forward = kept  # type: ignore[method-assign]
