"""Batched decoding with a key-value cache: greedy, sampled, or by beams.

Prompts are padded on the left and every token has its own position, so a row's continuation is the same whatever else
is in the batch. Rows end at the end token each on its own, and finished rows leave the batch. A sampled token is a
function of (seed, step, example, place): neither the batch nor interruptions change it.

Public names: :func:`generate`, :func:`generate_beams`, :func:`first_that`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.sql.collate import Example, pack
from manyone.sql.imperfect import Draw, sample
from manyone.sql.language_model import LanguageModel

T = TypeVar("T")
_KEEP = 0.75  # rows leave when at least a quarter of the batch is finished: copying the cache costs too


@dataclass(frozen=True)
class Decoding:
    """How outputs are generated."""

    end: int
    pad: int
    most: int = 128
    """Tokens of an output, the end token included."""
    sampled: bool = False
    temperature: float = 1.0
    """Of samples."""
    batch_size: int = 32
    """Prompts side by side."""


def generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], how: Decoding, draw: Draw | None = None, *,
    done: Callable[[int], None] | None = None,
) -> list[tuple[int, ...]]:  # fmt: skip
    """The output of each prompt; it closes with the end token unless it was cut at ``how.most`` tokens.

    ``draw`` is needed for samples and names an example for each prompt. ``done`` is told how many outputs there are.
    """
    if how.sampled and draw is None:
        raise ManyoneError("sampled generation: needs a Draw, which tells what its random numbers depend on")
    found: list[tuple[int, ...]] = [()] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # alike in length: little padding
    with model.evaluating():
        for first in range(0, len(order), how.batch_size):
            rows = order[first : first + how.batch_size]
            part = None if draw is None else Draw(draw.seed, draw.step, tuple(draw.examples[i] for i in rows))
            for row, output in zip(rows, _generate(model, [prompts[i] for i in rows], how, part), strict=True):
                found[row] = output
            if done is not None:
                done(first + len(rows))
    return found


def _generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], how: Decoding, draw: Draw | None
) -> list[tuple[int, ...]]:
    batch = pack([Example(tuple(p), ()) for p in prompts], how.pad, "left").to(model.device)
    cache = need("transformers", "generation", "sql").DynamicCache(config=model.config)
    uniforms = draw.uniforms("generate", how.most).to(model.device) if how.sampled and draw is not None else None
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=model.device)  # which prompt a row of the batch is
    ids, mask, positions = batch.ids, batch.mask, batch.positions
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    for place in range(how.most):
        logits = model.decode(ids, mask, positions, cache).float()
        chosen = logits.argmax(-1) if uniforms is None else sample(logits / how.temperature, uniforms[rows, place])
        for row, token, over in zip(rows.tolist(), chosen.tolist(), ended.tolist(), strict=True):
            if not over:
                outputs[row].append(token)
        ended = ended | (chosen == how.end)
        going = int((~ended).sum())
        if not going:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        if going <= _KEEP * len(ended):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, ids, mask, positions, ended = (v[kept] for v in (rows, ids, mask, positions, ended))
    return [tuple(output) for output in outputs]


def generate_beams(
    model: LanguageModel, prompts: Sequence[Sequence[int]], how: Decoding, beams: int = 4, *,
    done: Callable[[int], None] | None = None,
) -> list[list[tuple[int, ...]]]:  # fmt: skip
    """The ``beams`` likeliest outputs of transformers' beam search for each prompt, the best first.

    ``done`` is told how many prompts have theirs.
    """
    settings = need("transformers", "generation", "sql").GenerationConfig(
        num_beams=beams, num_return_sequences=beams, do_sample=False, max_new_tokens=how.most, eos_token_id=how.end,
        pad_token_id=how.pad,
    )  # fmt: skip
    if model.vocabulary < model.rows:
        settings.suppress_tokens = list(range(model.vocabulary, model.rows))
    found: list[list[tuple[int, ...]]] = []
    for first in range(0, len(prompts), how.batch_size):
        part = prompts[first : first + how.batch_size]
        batch = pack([Example(tuple(p), ()) for p in part], how.pad, "left").to(model.device)
        search: Any = model.model
        with model.evaluating(), model.precision():
            ids: Tensor = search.generate(
                input_ids=batch.ids, attention_mask=batch.mask.long(), generation_config=settings
            )
        outputs = [_until_end(row, how.end) for row in ids[:, batch.ids.shape[1] :].tolist()]
        found += [outputs[at : at + beams] for at in range(0, len(outputs), beams)]
        if done is not None:
            done(len(found))
    return found


def _until_end(row: Sequence[int], end: int) -> tuple[int, ...]:
    """What comes before the padding, the end token included."""
    return tuple(row[: row.index(end) + 1]) if end in row else tuple(row)


def first_that(candidates: Sequence[T], holds: Callable[[T], bool]) -> T:
    """The first candidate for which ``holds`` (that executes, say), else the first of all."""
    return next((one for one in candidates if holds(one)), candidates[0])
