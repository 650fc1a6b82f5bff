"""Prompts and outputs as token ids, and batches of them.

Prompt and SQL are tokenised apart and then joined, so that the boundary is the same in training and at inference. A
batch says by lengths which tokens are real (``mask``) and which are the output (``out``: SQL and its end), never by
comparing ids: a padding token that is also the end token is then no trap.

Public names: :class:`Example`, :class:`Batch`, :func:`encode`, :func:`encode_prompt`, :func:`pack`,
:class:`OutputCollator`, :func:`from_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from manyone.errors import ManyoneError

IGNORE = -100
"""Label of positions without one, as torch and transformers have it."""


class Example(NamedTuple):
    """Token ids of a prompt and of its output; the output of a complete one closes with the end token."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]


def encode_prompt(tokenizer: Any, prompt: str, max_input: int) -> tuple[int, ...]:
    """BOS (where the tokenizer has one) and the ids of ``prompt``, cut from the left to ``max_input`` ids."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    room = max_input - len(bos)
    if room < 1:
        raise ManyoneError(f"max_input = {max_input}: no room for a prompt: give at least {len(bos) + 1}")
    return (*bos, *ids[-room:])


def encode(tokenizer: Any, prompt: str, sql: str, *, max_input: int = 1024, max_output: int = 128) -> Example:
    """The ids of a prompt and of its SQL with the end token.

    An output longer than ``max_output`` is cut and then has no end token: the model must not learn to stop there.
    """
    if tokenizer.eos_token_id is None:
        raise ManyoneError("the tokenizer has no end-of-text token: a model could not learn where SQL ends; set one")
    output = (*tokenizer(sql, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    return Example(encode_prompt(tokenizer, prompt, max_input), output[:max_output])


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences [B, T], prompts followed by outputs, padded on one side."""

    ids: Tensor
    """int64 [B, T]"""
    mask: Tensor
    """bool [B, T]: what is no padding."""
    out: Tensor
    """bool [B, T]: tokens of the output; logits at the position before each predict it."""

    def __len__(self) -> int:
        """Number of sequences B."""
        return len(self.ids)

    def with_ids(self, ids: Tensor) -> Batch:
        """The same places with other tokens."""
        return replace(self, ids=ids)

    def rows(self, chosen: slice | Tensor) -> Batch:
        """Some of the sequences."""
        return Batch(self.ids[chosen], self.mask[chosen], self.out[chosen])

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(self.ids.to(device), self.mask.to(device), self.out.to(device))

    @property
    def targets(self) -> Tensor:
        """The output tokens row by row, [N]."""
        return self.ids[self.out]

    @property
    def predicting(self) -> Tensor:
        """bool [B, T]: the positions whose logits predict the output, each one before its token."""
        return shift_left(self.out)

    @property
    def positions(self) -> Tensor:
        """int64 [B, T]: every token's number in its own sequence, whatever the side of the padding."""
        return (self.mask.long().cumsum(1) - 1).clamp_min(0)

    @property
    def lengths(self) -> Tensor:
        """int64 [B]: output tokens of each row."""
        return self.out.sum(1)


def shift_left(values: Tensor) -> Tensor:
    """``values`` [B, T] moved one position to the left; the last is False or 0."""
    moved = torch.zeros_like(values)
    moved[:, :-1] = values[:, 1:]
    return moved


def pack(examples: Sequence[Example], pad: int, side: Literal["right", "left"] = "right") -> Batch:
    """A batch of ``examples``, padded with ``pad`` to the longest."""
    longest = max(len(e.prompt) + len(e.output) for e in examples)
    ids = torch.full((len(examples), longest), pad, dtype=torch.int64)
    mask, out = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(examples):
        if not example.prompt:
            raise ManyoneError("an example without a prompt: nothing would predict its first output token")
        length = len(example.prompt) + len(example.output)
        first = 0 if side == "right" else longest - length
        ids[row, first : first + length] = torch.tensor((*example.prompt, *example.output))
        mask[row, first : first + length] = True
        out[row, first + len(example.prompt) : first + length] = True
    return Batch(ids, mask, out)


class OutputCollator:
    """Collates ``{"prompt": ids, "output": ids}`` rows for ``transformers.Trainer`` and TRL's trainers.

    Gives ``input_ids``, ``attention_mask`` and ``labels`` (``IGNORE`` outside the output), padded on the right; with
    ``prompts`` also ``prompts`` and ``prompt_attention_mask``, padded on the left, as TRL's GKDTrainer reads them.
    """

    def __init__(self, pad: int, *, prompts: bool = False) -> None:
        self.pad, self.prompts = pad, prompts

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        batch = pack([Example(tuple(r["prompt"]), tuple(r["output"])) for r in rows], self.pad)
        labels = batch.ids.masked_fill(~batch.out, IGNORE)
        found = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "labels": labels}
        if self.prompts:
            asked = pack([Example(tuple(r["prompt"]), ()) for r in rows], self.pad, "left")
            found |= {"prompts": asked.ids, "prompt_attention_mask": asked.mask.long()}
        return found


def from_labels(inputs: Mapping[str, Tensor]) -> Batch:
    """The batch that a collated mapping with ``labels`` stands for."""
    return Batch(inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"] != IGNORE)
