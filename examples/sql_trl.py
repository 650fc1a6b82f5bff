"""Our divergences and collator inside TRL's GKDTrainer: on-policy distillation by any divergence, skew KL here.

Needs TRL (pip install trl):  python examples/sql_trl.py
"""

import tempfile

from datasets import Dataset
from trl.experimental.gkd import GKDConfig, GKDTrainer

from manyone.sql import Divergence, OutputCollator, Size, encode, new_decoder, train_tokenizer

PAIRS = [(f"the {word} {column}", f"SELECT {sql}({column}) FROM singer")
         for word, sql in (("largest", "max"), ("smallest", "min"))
         for column in ("age", "height", "albums", "fans")]  # fmt: skip
DIVERGENCE = Divergence("skew-rkl", skew=0.1)


class DivergenceTrainer(GKDTrainer):
    """GKDTrainer that descends on ``DIVERGENCE``."""

    @staticmethod
    def generalized_jsd_loss(student_logits, teacher_logits, labels=None, num_items_in_batch=None, **_):
        kept = labels != -100
        found = DIVERGENCE(student_logits[kept], teacher_logits[kept]).sum()
        return found / (kept.sum() if num_items_in_batch is None else num_items_in_batch)


def main(steps: int = 4) -> dict[str, float]:
    tokenizer = train_tokenizer([text for pair in PAIRS for text in pair], 300)
    rows = [encode(tokenizer, f"{question}\n", sql) for question, sql in PAIRS]
    student, teacher = (new_decoder(Size(1, 32), len(tokenizer), seed=seed, special=tokenizer) for seed in (0, 1))
    data = Dataset.from_list([{"prompt": row.prompt, "output": row.output} for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        settings = GKDConfig(folder, max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, lmbda=0.5,
                             max_new_tokens=12, report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True,
                             use_cpu=True, bf16=False)  # fmt: skip
        trainer = DivergenceTrainer(student, teacher, settings, OutputCollator(tokenizer.pad_token_id, prompts=True),
                                    data, processing_class=tokenizer)  # fmt: skip
        trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {"steps": len(losses), "loss at first": losses[0], "at last": losses[-1]}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:16} {value:.3f}")
