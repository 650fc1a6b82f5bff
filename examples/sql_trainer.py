"""Our divergences, imperfect data and collator inside ``transformers.Trainer``: KID as its ``compute_loss``.

Runs in seconds:  python examples/sql_trainer.py
"""

import tempfile

from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from manyone.sql import (
    Divergence,
    Draw,
    Imperfection,
    LanguageModel,
    OutputCollator,
    Size,
    encode,
    from_labels,
    new_decoder,
    rewrite,
    rewriting_tokens,
    train_tokenizer,
)

PAIRS = [(f"the {word} {column}", f"SELECT {sql}({column}) FROM singer")
         for word, sql in (("largest", "max"), ("smallest", "min"), ("mean", "avg"))
         for column in ("age", "height", "albums", "fans")]  # fmt: skip


class KIDTrainer(Trainer):
    """``Trainer`` with the loss of KID against ``teacher``."""

    def __init__(self, *words, teacher, tokens, **named):
        super().__init__(*words, **named)
        self.teacher, self.tokens = LanguageModel(teacher).freeze(), tokens
        self.divergence, self.how = Divergence("rkl"), Imperfection(ratio=0.2)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch, student = from_labels(inputs), LanguageModel(model)
        draw = Draw(self.args.seed, self.state.global_step, tuple(range(len(batch))))
        imperfect = rewrite(self.how, batch, self.tokens, draw, student).batch
        own = student.predictions(imperfect, batch.out)
        with self.teacher.evaluating():
            other = self.teacher.predictions(imperfect, batch.out)
        count = len(own) if num_items_in_batch is None else num_items_in_batch
        return (self.divergence(own, other).sum() + cross_entropy(own.float(), batch.targets, reduction="sum")) / count


def main(steps: int = 20) -> dict[str, float]:
    tokenizer = train_tokenizer([text for pair in PAIRS for text in pair], 300)
    rows = [encode(tokenizer, f"{question}\n", sql) for question, sql in PAIRS]
    student, teacher = (new_decoder(Size(1, 32), len(tokenizer), seed=seed, special=tokenizer) for seed in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, max_steps=steps, per_device_train_batch_size=6, learning_rate=1e-2,
                                      gradient_accumulation_steps=2, remove_unused_columns=False, report_to=[],
                                      logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True)  # fmt: skip
        trainer = KIDTrainer(
            student, arguments, OutputCollator(tokenizer.pad_token_id),
            [{"prompt": row.prompt, "output": row.output} for row in rows],
            teacher=teacher, tokens=rewriting_tokens(tokenizer),
        )  # fmt: skip
        trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {"loss at first": losses[0], "at last": losses[-1]}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:16} {value:.3f}")
