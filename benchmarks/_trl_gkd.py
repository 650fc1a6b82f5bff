"""A step of TRL's GKDTrainer, run by ``sql_training.py`` in TRL's own environment: on-policy reverse KL.

Models have the sizes of ours (Llama decoders of 2 x 64 and 3 x 128 with a vocabulary of 800), prompts of 96 tokens,
batches of 16, answers of up to 24 tokens; the trainer's own loop, with its data loading, generation and optimiser.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

BATCH, PROMPT, MOST, VOCABULARY = 16, 96, 24, 800


def decoder(layers: int, width: int) -> LlamaForCausalLM:
    """The decoder that ``manyone.sql.models.new_decoder`` makes."""
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=5 * width // 2, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    ))  # fmt: skip


class Clock(TrainerCallback):
    """CPU seconds of every optimiser step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, *_, **__):
        self.began = time.process_time()

    def on_step_end(self, *_, **__):
        self.times.append(time.process_time() - self.began)


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """What GKDTrainer asks of its collator; the answers are generated anew anyway."""
    prompts = torch.tensor([row["prompt"] for row in rows])
    answers = torch.tensor([[5, 2]] * len(rows))
    whole = torch.cat((prompts, answers), 1)
    labels = torch.cat((torch.full_like(prompts, -100), answers), 1)
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole), "labels": labels, "prompts": prompts,
            "prompt_attention_mask": torch.ones_like(prompts)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=15)
    steps = parser.parse_args().steps
    words = {f"t{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "t3")), pad_token="t0",
                                        bos_token="t1", eos_token="t2")  # fmt: skip
    rows = [{"prompt": torch.randint(3, VOCABULARY, (PROMPT,), generator=torch.Generator().manual_seed(i)).tolist()}
            for i in range(BATCH)]  # fmt: skip
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = GKDConfig(folder, max_steps=steps + 2, per_device_train_batch_size=BATCH, learning_rate=1e-6,
                             lmbda=1.0, beta=1.0, temperature=1.0, max_new_tokens=MOST, report_to=[],
                             save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False,
                             gradient_checkpointing=False)  # fmt: skip
        trainer = GKDTrainer(decoder(2, 64), decoder(3, 128), settings, collate, Dataset.from_list(rows),
                             processing_class=tokenizer, callbacks=[clock])  # fmt: skip
        trainer.train()
    print(json.dumps({"part": "trl", "program": "TRL GKDTrainer", "cpu_s": statistics.median(clock.times[2:])}))


if __name__ == "__main__":
    main()
