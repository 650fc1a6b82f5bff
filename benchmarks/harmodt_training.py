"""Training of HarmoDT: the learner against the published step spelt out, and what masks, stacking and updates cost.

    python benchmarks/harmodt_training.py [--tasks 50] [--width 256] [--layers 6] [--rounds 3] [--json F]

At the published size (6 layers, width 256, 50 tasks, batch 8, 75 tokens), CPU milliseconds of one thread a step:
``published`` (see ``_published_harmodt.py``; its masks are shared out among the tasks, since fifty of them as floats
would take a gigabyte), ``masked`` (HarmoDT) and ``dense`` (Prompt-DT). ``around`` is what a step takes besides forward
and backward: sampling, masks, optimiser, copies. On a CPU the network itself is nearly all of a step of this size, on a
GPU what is around it: ``--device cuda`` measures that. Repeats take turns; figures are medians.

Then, at small widths: tasks stacked in one step and seeds trained side by side, per task and seed. Then the bytes of
all masks, the peak memory of a process against the number of tasks, and the share of the time that mask updates take
when they come every 500 steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _published_harmodt import PlainNetwork, PublishedStep, Sampler, made_up_episodes, random_masks

from manyone.data.trajectories.trajectories import Trajectories
from manyone.nets.decision import DecisionTransformer
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.mask_updates import exchange_masks
from manyone.policies.harmodt.variants import build_model
from manyone.policies.tasks import PolicyData

CONTEXT, PROMPT, BATCH, STEPS = 20, 5, 8, 1_000_000
DEVICE = torch.device("cpu")


def clock() -> float:
    """CPU seconds of this process; with a GPU wall seconds after all its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def median_ms(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each candidate: ``rounds`` calls in turn, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            start = clock()
            call()
            if number:
                taken[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def policy_data(tasks: int, context: int, prompt: int, episodes: int = 4, length: int = 500) -> PolicyData:
    """Noise of the published shapes."""
    made = [
        Trajectories.from_episodes(f"task{t}", made_up_episodes(episodes, length, seed=t), meta={})
        for t in range(tasks)
    ]
    return PolicyData(made, context, prompt, device=DEVICE)


def learner(method: str, data: PolicyData, shape: dict[str, Any], seeds: int = 1, **options: Any) -> PolicyLearner:
    """An untrained learner with the published hyper-parameters."""
    models = [build_model(method, data, seed=s, **shape) for s in range(seeds)]
    return PolicyLearner(models, data, method=method, seed=list(range(seeds)), steps=STEPS, **options)


def at_published_size(options: argparse.Namespace) -> dict[str, float]:
    """The first table."""
    shape = {"width": options.width, "layers": options.layers, "heads": 8, "dropout": 0.1}
    data = policy_data(options.tasks, CONTEXT, PROMPT)
    masked = learner("harmodt", data, shape, batch_size=BATCH, mask_every=10**9, eta_max=100)
    dense = learner("prompt-dt", data, shape, batch_size=BATCH)
    plain = PlainNetwork(39, 4, options.width, options.layers, 8, 1000, 0.1).to(DEVICE)
    samplers = [Sampler(made_up_episodes(4, 500, seed=t), CONTEXT, PROMPT, 1000.0) for t in range(options.tasks)]
    published = PublishedStep(plain, samplers, random_masks(plain, 2, 0.8), BATCH)
    agree(plain, samplers[0])

    batch, prompt = published.sample(0)

    def network_alone() -> None:
        loss = (plain(batch, prompt) - batch["actions"]).square().mean()
        plain.zero_grad()
        loss.backward()

    drawn = masked.data.batch([0], 0, 0, batch_size=BATCH)

    def own_network_alone() -> None:
        weights = {n: v.detach().requires_grad_() for n, v in masked.model.named_parameters()}
        noise = masked.losses.dropout([0], 0)
        found = masked.model.run(weights, drawn.steps, drawn.prompt, None, noise=noise)
        torch.autograd.grad((found - drawn.steps["actions"]).square().mean(), list(weights.values()), allow_unused=True)

    found = median_ms(
        {"published": published.step, "masked": masked.step, "dense": dense.step, "network, published": network_alone,
         "network, own": own_network_alone},
        options.rounds,
    )  # fmt: skip
    update = median_ms({"update": lambda: update_of(masked, min(options.tasks, 5))}, max(1, options.rounds // 2))
    tasks = min(options.tasks, 5)
    per_update = update["update"] / tasks * options.tasks
    return {
        **{f"{name} ms": value for name, value in found.items()},
        "faster than published": found["published"] / found["masked"],
        "masked / dense": found["masked"] / found["dense"],
        "around, published ms": found["published"] - found["network, published"],
        "around, own ms": found["masked"] - found["network, own"],
        "mask update ms": per_update,
        "share of updates at 500": per_update / (per_update + 500 * found["masked"]),
        "bytes of all masks": float(masked.masks[0].nbytes),
    }


def update_of(masked: PolicyLearner, tasks: int) -> None:
    """The mask update of the first ``tasks`` tasks alone: gradients, scores, exchange."""
    point = copy.copy(masked.point)
    point.assignment = point.assignment[:tasks]
    losses = replace(masked.losses, data=masked.data.subset(range(tasks)))
    exchange_masks(point, losses, masked.update, STEPS // 2, masked.clip)  # where the most weights are exchanged


def agree(plain: PlainNetwork, sampler: Sampler) -> None:
    """Both networks give the same actions with the same weights."""
    shape = {"width": plain.norm.weight.numel(), "layers": len(plain.blocks), "heads": plain.blocks[0].heads}
    own = DecisionTransformer(39, 4, context=CONTEXT, prompt=PROMPT, **shape).to(DEVICE)
    own.load_state_dict({n: v for n, v in plain.state_dict().items() if not n.startswith("head_")})
    batch, prompt = ({k: v.to(DEVICE) for k, v in part.items()} for part in sampler.batch(4))
    plain.eval()
    with torch.no_grad():
        valid = batch["valid"]
        torch.testing.assert_close(own(batch, prompt)[valid], plain(batch, prompt)[valid], atol=2e-4, rtol=1e-3)
    plain.train()


def stacked(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds a task and seed, one at a time and stacked, at small widths."""
    rows = []
    for width, batch, context, prompt in ((32, 8, 5, 3), (64, 4, 10, 5), (64, 8, 10, 5), (64, 16, 10, 5)):
        data = policy_data(10, context, prompt, length=200)
        shape = {"width": width, "layers": 2, "heads": 4, "dropout": 0.0}
        made = {
            (tasks, seeds): learner(
                "harmodt", data, shape, seeds, batch_size=batch, tasks_per_step=tasks, mask_every=10**9
            )
            for tasks, seeds in ((1, 1), (10, 1), (1, 5))
        }
        found = median_ms({f"{t}x{s}": one.step for (t, s), one in made.items()}, 4 * options.rounds)
        rows.append(
            {
                "width": width,
                "batch": batch,
                "tokens": 3 * (context + prompt),
                "one ms": found["1x1"],
                "10 tasks ms each": found["10x1"] / 10,
                "5 seeds ms each": found["1x5"] / 5,
                "tasks stacked faster": 10 * found["1x1"] / found["10x1"],
                "seeds stacked faster": 5 * found["1x5"] ** -1 * found["1x1"],
            }
        )
    return rows


def memory(tasks: int, width: int, layers: int) -> float:
    """Peak resident megabytes of a fresh process that takes two steps with ``tasks`` masks."""
    words = [
        sys.executable,
        __file__,
        "--memory",
        "--tasks",
        str(tasks),
        "--width",
        str(width),
        "--layers",
        str(layers),
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_memory(options: argparse.Namespace) -> None:
    """What :func:`memory` runs."""
    shape = {"width": options.width, "layers": options.layers, "heads": 8}
    one = learner("harmodt", policy_data(options.tasks, CONTEXT, PROMPT, 2, 50), shape, batch_size=BATCH)
    one.step()
    one.step()
    # not ru_maxrss: it counts the parent's memory, which a forked child has for a moment
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")))


def show(rows: list[dict[str, Any]]) -> None:
    """A plain table."""
    columns = list(rows[0])
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))


def main() -> None:
    """Prints the tables; with ``--json`` also writes their rows."""
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 50), ("width", 256), ("layers", 6), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        measure_memory(options)
        return
    DEVICE = torch.device(options.device)
    torch.manual_seed(0)
    large = at_published_size(options)
    for name, value in large.items():
        print(f"{name:28s} {value:.4g}")
    print()
    small = stacked(options)
    show(small)
    print()
    peaks = [{"tasks": n, "peak MB": memory(n, options.width, options.layers)} for n in sorted({1, 10, options.tasks})]
    show(peaks)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in [large, *small, *peaks]))


if __name__ == "__main__":
    main()
