"""Where a network keeps its samples: found by running it, so that routing by the sample never mixes samples.

Two samples are run alone and together, with constant routing weights. What a critical layer sees together must be what
it sees alone, put together along one axis. For most networks that is the first axis; [L, B, h] (``batch_first=False``
inside the network) has the second, and some put all tokens of all samples into one axis [B L, h]. A layer for which no
axis is right mixes samples, and that is an error.
Public names: :class:`Layout`, :func:`find_layouts`, :func:`samples_of`, :func:`rows_of`, :func:`is_causal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.moe.routing import PassState, alike
from manyone.merging.outputs import last_positions, values_of

_OF_A_PASS = ("past_key_values", "cache_params", "cache_position", "labels", "logits_to_keep", "encoder_outputs")
"""Keyword inputs that belong to one pass, not to the samples."""

_SAME = 1e-6
"""Relative difference of values that are computed from the same numbers; attention of tiny networks is weak."""


@dataclass(frozen=True)
class Layout:
    """The axis that counts samples, and whether several of its rows belong to each sample."""

    batch_dim: int
    flat: bool


def samples_of(inputs: Any) -> int:
    """The number of samples in a tensor or in keyword inputs."""
    if isinstance(inputs, Tensor):
        return inputs.shape[0]
    first = inputs.get("input_ids")
    found = [v for v in ([first] if first is not None else inputs.values()) if isinstance(v, Tensor) and v.ndim]
    if not found:
        raise ManyoneError(f"the inputs {', '.join(map(str, inputs)) or '{}'} hold no tensor of samples")
    return found[0].shape[0]


def rows_of(inputs: Any, index: Sequence[int]) -> Any:
    """The samples ``index`` of a tensor or of keyword inputs; what is no tensor of samples stays as it is."""
    if isinstance(inputs, Tensor):
        return inputs[list(index)]
    count = samples_of(inputs)
    kept = {k: v for k, v in inputs.items() if k not in _OF_A_PASS}
    return {
        k: v[list(index)] if isinstance(v, Tensor) and v.ndim and v.shape[0] == count else v for k, v in kept.items()
    }


def find_layouts(run: Callable[[Any], Any], state: PassState, inputs: Any) -> dict[str, Layout]:
    """The layout of every critical layer that runs on ``inputs``; ``run`` runs the network without gradients."""
    second = min(1, samples_of(inputs) - 1)
    with state.recording() as alone:
        run(rows_of(inputs, [0]))
        run(rows_of(inputs, [second]))
    with state.recording() as together:
        run(rows_of(inputs, [0, second]))
    layouts = {}
    for name, seen in together.items():
        times = len(seen)
        found = None
        if len(alone.get(name, [])) == 2 * times:
            parts = zip(alone[name][:times], alone[name][times:], seen)
            each = {_layout(*part) for part in parts}
            found = each.pop() if len(each) == 1 else None
        if found is None:
            raise ManyoneError(
                f"layer {name!r} sees something else of a sample when it comes with others: it cannot be routed. "
                "Inputs must have the samples first: where they are [positions, samples, ...], wrap the encoder in a "
                "module that transposes them; else leave the layer out of critical"
            )
        layouts[name] = found
    return layouts


def _layout(first: Tensor, second: Tensor, both: Tensor) -> Layout | None:
    for axis in range(both.ndim - 1):
        shape = list(first.shape)
        shape[axis] += second.shape[axis]
        if list(both.shape) == shape and alike(torch.cat([first, second], axis), both):
            return Layout(axis, first.shape[axis] != 1)
    return None


def is_causal(run: Callable[[Any], Any], inputs: Any) -> bool:
    """Whether a network of token ids gives every position a value that later tokens do not change.

    Found by exchanging the last token of the first sample; False where that cannot be told.
    """
    ids = inputs if isinstance(inputs, Tensor) else inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
        return False
    one = rows_of(inputs, [0])
    last = int(last_positions(one)[0])
    others = ids[ids != ids[0, last]]
    if last < 1 or not len(others):
        return False
    changed = ids[:1].clone()
    changed[0, last] = others[0]
    before = values_of(run(one))
    if not isinstance(before, Tensor) or before.ndim != 3 or before.shape[:2] != changed.shape:
        return False
    after = values_of(run(changed if isinstance(one, Tensor) else {**one, "input_ids": changed}))
    assert isinstance(after, Tensor)
    start = _first_position(one)
    same = alike(after[:, start:last], before[:, start:last], _SAME)
    return same and not alike(after[:, last], before[:, last], _SAME)


def _first_position(inputs: Any) -> int:
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return 0 if mask is None else int(mask[0].to(torch.uint8).argmax())
