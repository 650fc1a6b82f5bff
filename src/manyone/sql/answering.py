"""Questions in, SQL out: what a language model writes after prompts, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from manyone.sql.generation import Decoding, first_that, generate, generate_beams
from manyone.sql.language_model import LanguageModel


def as_text(tokenizer: Any, output: Sequence[int]) -> str:
    """The SQL of output ids, on one line, without special tokens."""
    return " ".join(tokenizer.decode(list(output), skip_special_tokens=True).split())


def answer(
    model: LanguageModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    *,
    beams: int = 1,
    executes: Callable[[int, str], bool] | None = None,
    done: Callable[[int], None] | None = None,
) -> list[str]:
    """SQL for each prompt: greedy, or of ``beams`` the first for which ``executes(number of the prompt, sql)`` holds.

    Without ``executes`` the likeliest beam is taken. ``done`` is told how many prompts have been answered.
    """
    if beams == 1:
        return [as_text(tokenizer, output) for output in generate(model, prompts, how, done=done)]
    found = []
    for number, outputs in enumerate(generate_beams(model, prompts, how, beams, done=done)):
        texts = [as_text(tokenizer, output) for output in outputs]
        found.append(texts[0] if executes is None else first_that(texts, lambda sql: executes(number, sql)))  # noqa: B023
    return found
