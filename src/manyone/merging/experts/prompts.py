"""Text tasks for causal language models: the text is a prompt, the label is the word that should follow it.

A model is right when the token that it finds most probable after a prompt, of its whole vocabulary, is the first one of
the label. So a task is a classification of prompts into the vocabulary, and adaptation needs no head: it lowers the
entropy of the next token. That is what WEMoE's and AdaMerging's objective becomes without task heads (as published
runs on text-to-text models do with the first token that they generate); for causal models it is our extension.
Public names: :func:`load_prompts`, :func:`next_tokens`, :func:`tokenizer_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from manyone.data.folders import load_task
from manyone.data.tasks import Split, Task
from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.weights.open import StrPath

MOST_TOKENS = 512
"""Tokens of a prompt; of a longer one the end is kept, where the question is."""


def tokenizer_of(model: StrPath) -> Any:
    """The tokeniser of a model folder or hub id."""
    transformers = need("transformers", "text data", "text")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{model}: no tokeniser found there ({str(error).splitlines()[0]})") from error


def load_prompts(place: StrPath, tokenizer: Any, *, name: str, most: int = MOST_TOKENS) -> Task:
    """A text table as prompts; labels are token ids. ``place`` is what :func:`manyone.data.folders.load_task` takes."""

    def tokens(texts: list[str]) -> Mapping[str, Sequence[Sequence[int]]]:
        rows = [_without_end(tokenizer, tokenizer(text.rstrip())["input_ids"])[-most:] for text in texts]
        if not all(rows):
            raise ManyoneError(f"{place}: task {name!r}: text {[bool(r) for r in rows].index(False) + 1} has no token")
        return {"input_ids": rows}

    task = load_task(str(place), name=name, tokenizer=tokens, max_length=most)
    if isinstance(task.train.inputs, torch.Tensor):
        raise ManyoneError(f"{place}: task {name!r} is of images; a language model takes text")
    ids = torch.tensor(next_tokens(tokenizer, task.classes))
    train, val, test = (Split(part.inputs, ids[part.labels]) for part in (task.train, task.val, task.test))
    return replace(task, train=train, val=val, test=test)


def next_tokens(tokenizer: Any, labels: Sequence[str]) -> list[int]:
    """The first token of every label after a space; ``ManyoneError`` where two labels begin alike."""
    before = tokenizer("x", add_special_tokens=False)["input_ids"]
    found: dict[int, str] = {}
    for label in labels:
        whole = tokenizer(f"x {label}", add_special_tokens=False)["input_ids"]
        first = whole[len(before)] if whole[: len(before)] == before and len(whole) > len(before) else None
        if first is None or first == tokenizer.unk_token_id:
            raise ManyoneError(f"label {label!r} is no word of the model's vocabulary: use others as labels")
        if first in found:
            raise ManyoneError(f"labels {found[first]!r} and {label!r} begin with the same token: use others as labels")
        found[first] = label
    return list(found)


def _without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """Without the end that some tokenisers put after every text: a prompt goes on."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
