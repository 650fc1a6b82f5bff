"""What routing by the prompt needs to know of a language model, of its prompts and of how it generates.

Public names: :func:`check_routing`, :func:`check_constant`, :func:`check_by_prompt`, :func:`prompts_for`,
:func:`whole_prompts`, :func:`with_decoder_start`, :func:`with_positions`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.moe.routing import Prompts
from manyone.merging.outputs import generates

_NOT_THE_PROMPT = ("inputs_embeds", "past_key_values", "assistant_model", "prompt_lookup_num_tokens", "custom_generate")
"""Options of ``generate`` with which the first pass is not over the prompt's tokens, or another one's code runs."""


def check_routing(encoder: nn.Module, routing: str) -> None:
    """``ManyoneError`` where ``routing`` makes a causal language model's logits depend on later tokens."""
    if routing == "prompt" or not generates(encoder):
        return
    name = type(encoder).__name__
    if not _two_sided(encoder):
        raise ManyoneError(
            f"{name} is a causal language model: with routing={routing!r} later tokens change earlier logits; use "
            "routing='prompt' (or router_layers=0)"
        )
    warnings.warn(
        f"{name}: with routing={routing!r} a later token of the decoder changes its earlier logits where blocks of the "
        "decoder are critical; routing='prompt' keeps generation causal",
        stacklevel=4,
    )


def check_constant(routing: str, router_layers: int) -> None:
    """``ManyoneError`` where weights would change while a sequence is generated."""
    if router_layers > 0:
        raise ManyoneError(
            f"generate() with routing={routing!r} would merge other weights for every token: set model.routing = "
            "'prompt'"
        )


def check_by_prompt(prompts: Prompts | None, inputs: Any) -> None:
    """``ManyoneError`` unless a pass over ``inputs`` begins or continues the sequences of ``prompts``."""
    if prompts is None:
        raise ManyoneError(
            "routing='prompt' must know what the prompt is: use model.generate(inputs), or run the model within "
            "`with model.prompt(inputs):`"
        )
    if not prompts.routing and not torch.equal(_tokens(inputs), _tokens(prompts.inputs)):
        raise ManyoneError("routing='prompt': the first pass within model.prompt(inputs) must be over these inputs")


def prompts_for(encoder: nn.Module, inputs: Any) -> Prompts:
    """A new batch of sequences that begin with ``inputs``: token ids [B, L], or keywords with ``input_ids``."""
    tokens = _tokens(inputs)
    if tokens.ndim < 2 or 0 in tokens.shape[:2]:
        raise ManyoneError(
            f"routing='prompt': prompts are token ids [B, L] with B and L at least 1, got {list(tokens.shape)}"
        )
    if isinstance(inputs, Mapping) and inputs.get("past_key_values") is not None:
        raise ManyoneError("routing='prompt': a sequence begins with its whole prompt, not with past_key_values")
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is not None and bool((mask.sum(-1) == 0).any()):
        raise ManyoneError("routing='prompt': a prompt is nothing but padding")
    return Prompts(inputs, tokens.shape[0], tokens.shape[1], _two_sided(encoder))


def whole_prompts(encoder: nn.Module, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with its padding mask; ``ManyoneError`` where generation would not begin with the whole prompts."""
    for name in _NOT_THE_PROMPT:
        if options.get(name) is not None or given.get(name) is not None:
            raise ManyoneError(
                f"generate() of a mixture does not take {name}: routers must see the prompt's tokens first"
            )
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise ManyoneError("generate() needs input_ids [B, L], as a tokeniser returns them with return_tensors='pt'")
    mask = given.get("attention_mask")
    if mask is None:
        settings: Any = options.get("generation_config") or getattr(encoder, "generation_config", None)
        pad = options.get("pad_token_id", getattr(settings, "pad_token_id", None))
        if pad is not None and bool((ids == pad).any()):
            raise ManyoneError("generate(): input_ids hold the padding token: give attention_mask as well")
        mask = torch.ones_like(ids)
    if not _two_sided(encoder) and bool((mask[:, -1] == 0).any()):
        raise ManyoneError("generate(): prompts must be padded on the left: tokenizer.padding_side = 'left'")
    return {**given, "attention_mask": mask}


def with_decoder_start(encoder: nn.Module, inputs: Any) -> Any:
    """``inputs`` on which one pass can be run: an encoder-decoder also gets the token that its decoder begins with."""
    if not _two_sided(encoder) or any(str(key).startswith("decoder_") for key in inputs):
        return inputs
    config: Any = encoder.config
    start = next((i for i in (config.decoder_start_token_id, config.pad_token_id) if i is not None), 0)
    tokens = _tokens(inputs)
    given = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    return {**given, "decoder_input_ids": torch.full_like(tokens[:, :1], start)}


def with_positions(encoder: nn.Module, inputs: Any) -> Any:
    """``inputs`` with the positions that ``generate`` counts where prompts are padded on the left.

    Without them a network of absolute positions counts the padding.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None or mask.ndim != 2 or bool((mask[:, 0] != 0).all()) or inputs.get("position_ids") is not None:
        return inputs
    if _two_sided(encoder) or "position_ids" not in inspect.signature(encoder.forward).parameters:
        return inputs
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return {**inputs, "position_ids": positions[:, -_tokens(inputs).shape[1] :]}


def _two_sided(encoder: nn.Module) -> bool:
    return bool(getattr(getattr(encoder, "config", None), "is_encoder_decoder", False))


def _tokens(inputs: Any) -> Tensor:
    found = inputs if isinstance(inputs, Tensor) else inputs.get("input_ids")
    if not isinstance(found, Tensor):
        raise ManyoneError("routing='prompt': prompts are token ids [B, L], or keywords with input_ids")
    return found
