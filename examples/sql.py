"""A small model learns SQL from a larger one: KID on a table of singers, without the command line.

Runs in seconds (most of them for importing transformers):  python examples/sql.py
"""

import argparse
import itertools

from manyone.sql import (
    Decoding,
    DistilLearner,
    Divergence,
    Fixed,
    Imperfect,
    Imperfection,
    LanguageModel,
    Objective,
    Optimisation,
    Size,
    answer,
    encode,
    encode_prompt,
    new_decoder,
    rewriting_tokens,
    train_tokenizer,
)

COLUMNS = ("name", "age", "country", "height", "albums", "fans")
ASKED = {"how many different {}": "SELECT count(DISTINCT {}) FROM singer", "largest {}": "SELECT max({}) FROM singer",
         "every {} sorted": "SELECT {} FROM singer ORDER BY {}"}  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    """Questions and the SQL that answers them."""
    return [(question.format(column), sql.format(column, column))
            for (question, sql), column in itertools.product(ASKED.items(), COLUMNS)]  # fmt: skip


def main(steps: int = 200) -> dict[str, float]:
    data = pairs()
    tokenizer = train_tokenizer([text for pair in data for text in pair], 300)
    gold = [encode(tokenizer, f"{question}\n", sql) for question, sql in data]
    tokens, pad = rewriting_tokens(tokenizer), tokenizer.pad_token_id
    teacher, student = (LanguageModel(new_decoder(Size(2, width), len(tokenizer), seed=0, special=tokenizer))
                        for width in (64, 32))  # fmt: skip
    how = Optimisation(steps, lr=1e-2, batch_size=len(gold), clip=1.0)

    # the teacher learns by cross-entropy alone
    taught = DistilLearner(teacher, gold, Fixed(gold, pad, teacher.device), Objective(None), how, pad=pad)
    for _ in range(steps):
        taught.step()

    # the student by reverse KL on gold with its own slips, and by cross-entropy with gold
    source = Imperfect(student, gold, Imperfection(ratio=0.2), tokens, pad, seed=0)
    kid = DistilLearner(student, gold, source, Objective(Divergence("rkl")), how, teacher=teacher, pad=pad)
    errors = [kid.step()["rewrite_error"] for _ in range(steps)]

    def right(model: LanguageModel) -> float:
        prompts = [encode_prompt(tokenizer, f"{question}\n", 1024) for question, _ in data]
        written = answer(model, tokenizer, prompts, Decoding(tokens.end, pad, most=40))
        return sum(own == sql for own, (_, sql) in zip(written, data, strict=True)) / len(data)

    return {"teacher": right(teacher), "student": right(student), "slips at first": errors[0], "at last": errors[-1]}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:16} {value:.2f}")
