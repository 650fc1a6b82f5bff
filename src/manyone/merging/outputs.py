"""From whatever a network returns to the feature that a task's head reads.

Networks return a tensor, or an object of the ``transformers`` library. Of such an object the first of :data:`FIELDS`
that it has is meant. A language model's logits [n, L, V] stand for the next token after each input: [n, V], at its last
position that is no padding.
Public names: :func:`features_of`, :func:`generates`, :func:`values_of`, :func:`last_positions`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets import call

FIELDS = ("logits", "image_embeds", "text_embeds", "last_hidden_state")


def features_of(model: Any, inputs: Any, run: Callable[[Any, Any], Any] = call) -> Tensor:
    """What heads read of ``model`` on a batch: features [n, d], or a model's own logits [n, classes].

    A mixture that routes by the prompt takes the inputs as prompts, each the whole of its sequence.
    """
    by_prompt = getattr(model, "routing", None) == "prompt"
    network = getattr(model, "encoder", model)
    language = by_prompt or generates(network)
    given, places = inputs, last_positions(inputs) if language else None
    if places is not None and isinstance(inputs, Mapping) and generates(network) and _keeps(network):
        # logits of other positions would fill the memory for nothing
        kept, places = places.unique(return_inverse=True)
        given = {**inputs, "logits_to_keep": kept}
    with model.prompt(inputs) if by_prompt else nullcontext():
        values = values_of(output := run(model, given))
    if values is None:
        raise ManyoneError(
            f"the model returns a {type(output).__name__} without {', '.join(FIELDS[:-1])} or {FIELDS[-1]}: wrap it in "
            "a module whose forward returns features [n, d]"
        )
    if values.ndim != 3 or places is None:
        return values
    rows = torch.arange(len(values), device=values.device)
    return values[rows, places.to(values.device)]


def _keeps(network: Any) -> bool:
    return "logits_to_keep" in inspect.signature(network.forward).parameters


def generates(network: Any) -> bool:
    """Whether ``network`` is a language model of the ``transformers`` library, which has ``generate``."""
    known = getattr(network, "can_generate", None)
    return known is not None and bool(known())


def values_of(output: Any) -> Tensor | None:
    """The tensor that ``output`` is or means."""
    if isinstance(output, Tensor):
        return output
    found = [getattr(output, name, None) for name in FIELDS]
    return next((value for value in found if isinstance(value, Tensor)), None)


def last_positions(inputs: Any) -> Tensor:
    """The last position of every sample that is no padding, int64 [n]; padding may be on either side."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None:
        ids = inputs["input_ids"] if isinstance(inputs, Mapping) else inputs
        return torch.full((ids.shape[0],), ids.shape[1] - 1)
    ordinals = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return ((mask != 0) * ordinals).argmax(1)
