"""What ``config.json`` of a Hugging Face folder says about the tensors beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from manyone.engine.documents import read_json
from manyone.errors import ManyoneError

_LARGEST = 16 << 20  # bytes of a config.json
_WITH_HEAD = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
_HEADS = {"gpt_neox": "embed_out.weight", "whisper": "proj_out.weight"}  # the others: lm_head.weight
_INPUT = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|shared)\.weight$")


def hf_config(path: Path) -> dict[str, Any]:
    """A model's ``config.json``, which must be a JSON object."""
    found = read_json(path, "the model's configuration", largest=_LARGEST)
    if not isinstance(found, dict):
        raise ManyoneError(f"{path}: not a model's configuration: it must be a JSON object")
    return found


def config_beside(folder: Path | None) -> dict[str, Any]:
    """The configuration in a model's folder; empty for models without one."""
    return hf_config(folder / "config.json") if folder is not None and (folder / "config.json").is_file() else {}


def architecture(config: Mapping[str, Any]) -> str | None:
    """The first class in ``architectures``."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first if isinstance(first, str) else None


def tied_head(config: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """The output embedding that a file leaves out because it is the input embedding: {its name: the stored name}.

    Files do not say so, and older configurations leave ``tie_word_embeddings`` out where it is the architecture's
    default: a language model whose file has one input embedding and no head is a tied one.
    """
    model_type = config.get("model_type")
    head = _HEADS.get(model_type, "lm_head.weight") if isinstance(model_type, str) else "lm_head.weight"
    inputs = [name for name in names if _INPUT.search(name)]
    has_head = _WITH_HEAD.search(architecture(config) or "") is not None
    if not has_head or head in names or len(inputs) != 1 or config.get("tie_word_embeddings") is False:
        return {}
    return {head: inputs[0]}
