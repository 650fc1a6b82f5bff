"""Steps of text-to-SQL distillation: what each method costs, what logits take in memory, and TRL's trainers beside it.

    python benchmarks/sql_training.py [--part steps,memory,trl] [--steps 15] [--json F]

``steps``: CPU seconds of a step of every recipe at the sizes of ``--preset laptop`` (a student of 2 layers x 64, a
teacher of 3 x 128, batches of 32 on the pairs of schemas3), medians after two steps of warm-up, and the same in units
of a step of fine-tuning; the share that generating or rewriting took.
``memory``: the loss alone at a vocabulary of 49,152 (1,536 tokens of which 192 are output, as 8 sequences have them):
logits of all positions, of the output, of the output in chunks that are computed again, and Liger's fused loss where it
is installed; growth of the largest resident memory of a process of its own each, CPU seconds, and the loss.
``trl``: a step of TRL's GKDTrainer (lambda 1, beta 1: on-policy reverse KL) against ours (gkd), same models, prompts,
batch and length of answers, in a virtual environment of its own under ``--peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from _peers import peer_python

from manyone.assets.cache import cache_folder
from manyone.recipes.arm import Arm
from manyone.sql.collate import Example
from manyone.sql.divergences import Divergence
from manyone.sql.generation import Decoding, generate
from manyone.sql.imperfect import Draw
from manyone.sql.language_model import LanguageModel
from manyone.sql.learner import DistilLearner, Objective, Optimisation
from manyone.sql.loss import Terms, output_loss
from manyone.sql.models import Size, new_decoder
from manyone.sql.recipes.build import Models
from manyone.sql.recipes.problem import load_problem
from manyone.sql.sources import StudentOutputs
from manyone.sql.tokens import train_tokenizer

RECIPES = ("sft", "fkd", "rkd", "kid", "kid, hard labels apart", "gkd", "f-distill", "imitkd")
VOCABULARY, POSITIONS, OUTPUT, STUDENT, TEACHER = 49_152, 1_536, 192, 192, 576
TRL = ["torch", "transformers==5.23.0", "datasets", "trl==1.16.0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="steps,memory,trl")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--peers", type=Path, default=cache_folder("peers"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help="measure this row alone, in this process (used by the script itself)")
    asked = parser.parse_args()
    if asked.one:
        kind, _, name = asked.one.partition(":")
        found = memory_row(name) if kind == "memory" else own_gkd(asked.steps)
        print(json.dumps(found))
        return
    parts = {"steps": lambda: list(step_rows(asked.steps)), "memory": lambda: list(memory_rows()),
             "trl": lambda: list(trl_rows(asked.peers, asked.steps))}  # fmt: skip
    rows = [row for part in asked.part.split(",") for row in parts[part]()]
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


def step_rows(steps: int) -> Iterator[dict[str, Any]]:
    """CPU seconds of a step of every recipe, from fresh models."""
    unit = None
    print(f"{'recipe':26} {'CPU s/step':>10} {'x sft':>6} {'preparing':>10}")
    problem = tokenizer = None
    for name in RECIPES:
        recipe, _, apart = name.partition(", ")
        options = Arm(recipe, recipe, {"mle_on": "clean"} if apart else {}).options(device="cpu")
        problem = problem or load_problem(options)
        tokenizer = tokenizer or train_tokenizer(problem.texts(), options.vocabulary)
        models = fresh_models(tokenizer, options.seed)
        if recipe in ("seqkd", "f-distill"):
            models.outputs = problem.examples(tokenizer, problem.train)
        learner = Arm(recipe, recipe).build(options, problem, models)
        prepare, spent = learner.source.prepare, []
        learner.source.prepare = timed(prepare, spent)
        for _ in range(2):
            learner.step()
        spent.clear()
        times = [seconds(learner.step) for _ in range(steps)]
        median = statistics.median(times)
        unit = unit or median
        row = {"part": "steps", "recipe": name, "cpu_s": median, "times_sft": median / unit,
               "preparing": sum(spent) / sum(times)}  # fmt: skip
        print(f"{name:26} {median:10.3f} {row['times_sft']:6.2f} {100 * row['preparing']:9.0f}%", flush=True)
        yield row


def fresh_models(tokenizer: Any, seed: int) -> Models:
    """A student and a teacher of the laptop's sizes with random weights."""
    student, teacher = (LanguageModel(new_decoder(size, len(tokenizer), seed=seed, special=tokenizer))
                        for size in (Size(2, 64), Size(3, 128)))  # fmt: skip
    return Models(tokenizer, student, teacher.freeze())


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds that ``work`` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def timed(work: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """``work``, which adds its CPU seconds to ``spent``."""

    def measured(*words: Any) -> Any:
        began = time.process_time()
        found = work(*words)
        spent.append(time.process_time() - began)
        return found

    return measured


def memory_rows() -> Iterator[dict[str, Any]]:
    """Every way to form the loss, each in a process of its own."""
    print(f"{'logits':40} {'MiB':>8} {'CPU s':>8} {'loss':>10}")
    for name in ("all positions", "output", "output, chunks of 64 rows", "liger"):
        done = subprocess.run([sys.executable, __file__, "--one", f"memory:{name}"], capture_output=True, text=True,
                              check=False)  # fmt: skip
        if done.returncode:
            print(f"{name:40} {done.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:40} {row['mib']:8.0f} {row['cpu_s']:8.2f} {row['loss']:10.6f}", flush=True)
        yield row


def memory_row(name: str) -> dict[str, Any]:
    """Growth of the largest resident memory by one loss with its gradient."""
    make = torch.Generator().manual_seed(0)
    heads = []
    for width in (STUDENT, TEACHER):
        head = new_decoder(Size(1, width, 3), VOCABULARY, seed=0)
        heads.append(LanguageModel(head))
    student, teacher = heads[0], heads[1].freeze()
    count = POSITIONS if name == "all positions" else OUTPUT
    states = (torch.randn(POSITIONS, STUDENT, generator=make) * 0.5)[:count].requires_grad_()
    other = (torch.randn(POSITIONS, TEACHER, generator=make) * 0.5)[:count]
    labels = torch.randint(VOCABULARY, (POSITIONS,), generator=make)[:count]
    weights = torch.zeros(count)
    weights[:OUTPUT] = 1 / OUTPUT
    budget = 4 * VOCABULARY * 64 if "chunks" in name else 1 << 40
    kernel = "liger" if name == "liger" else "own"
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    kd, ce = output_loss(student, states, Terms(labels, weights, weights), Divergence("rkl"), teacher, other,
                         budget=budget, kernel=kernel)  # fmt: skip
    (kd + ce).backward()
    spent = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"part": "memory", "logits": name, "mib": grown, "cpu_s": spent, "loss": float((kd + ce).detach())}


def peer_setting() -> tuple[LanguageModel, LanguageModel, list[list[int]], Decoding]:
    """Models, prompts and lengths that the on-policy steps share."""
    student, teacher = (LanguageModel(new_decoder(Size(layers, width), 800, seed=1))
                        for layers, width in ((2, 64), (3, 128)))  # fmt: skip
    prompts = [torch.randint(3, 800, (96,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(16)]
    return student, teacher.freeze(), prompts, Decoding(2, 0, 24, True)


def own_gkd(steps: int) -> dict[str, Any]:
    """Our on-policy step."""
    student, teacher, prompts, how = peer_setting()
    rows = [Example(tuple(p), (5, 2)) for p in prompts]
    source = StudentOutputs(student, rows, how, 0)
    learner = DistilLearner(student, rows, source, Objective(Divergence("rkl"), mle=0.0),
                            Optimisation(1000, lr=1e-6, batch_size=16), teacher=teacher, pad=0)  # fmt: skip
    learner.step()
    times = [seconds(learner.step) for _ in range(steps)]
    generating = [seconds(lambda k=k: generate(student, prompts, how, Draw(0, k, tuple(range(16))))) for k in range(3)]
    return {"part": "trl", "program": "manyone gkd", "cpu_s": statistics.median(times),
            "generating_cpu_s": statistics.median(generating)}  # fmt: skip


def trl_rows(home: Path, steps: int) -> Iterator[dict[str, Any]]:
    """Our step, then TRL's in its own environment."""
    print(f"{'on-policy step':26} {'CPU s/step':>10}")
    python = peer_python(home / "trl", TRL)
    own = [sys.executable, __file__, "--one", "trl:own", "--steps", str(steps)]
    peer = [str(python), str(Path(__file__).with_name("_trl_gkd.py")), "--steps", str(steps)]
    for command in (own, peer):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{row['program']:26} {row['cpu_s']:10.3f}", flush=True)
        yield row


if __name__ == "__main__":
    main()
