"""Adapting a frozen policy to new tasks: stacked against one after the other, and the methods side by side.

    python benchmarks/prompt_adaptation.py [--tasks 8] [--steps 20] [--state 20] [--action 6] [--width 64] [--json F]

Made data at the shapes of Cheetah-vel: five episodes of 200 steps a task, a policy of 2 blocks, K = 10, K* = 5.
``plain loop``: Prompt Diffuser's second stage as one would write it for one task: modules, a loss each with its own
backward pass, torch.optim.Adam over a list of parameters, task after task. ``one by one``: ours, a task at a time.
``stacked``: ours, all tasks in one program. Each does the same updates: their parameters are checked to agree. Below,
the methods at the same data and their default number of steps. Figures are medians of seconds of one thread for
``steps`` steps of all tasks, repeats interleaved.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from windows import median_times

from manyone.data.trajectories.trajectories import Trajectories
from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.harmodt.layout import Layout
from manyone.policies.prompt_diffuser.model import Limits, PromptDiffuser, chain_noise
from manyone.policies.prompt_diffuser.prompts import FewShots, imitation_losses
from manyone.policies.prompt_diffuser.training import DiffuserTraining, Recipe
from manyone.policies.prompt_tuning.learner import TuningLearner
from manyone.policies.prompt_tuning.methods import METHODS
from manyone.policies.tasks import PolicyData
from manyone.randomness import generator_for


def few_shots(tasks: int, state: int, action: int, width: int) -> FewShots:
    """A random policy and five made-up episodes of each task."""
    made = []
    for task in range(tasks):
        draw = np.random.Generator(np.random.Philox(task))
        episodes = [{"observations": draw.normal(size=(200, state)), "actions": draw.uniform(-1, 1, (200, action)),
                     "rewards": draw.normal(size=200)} for _ in range(5)]  # fmt: skip
        made.append(Trajectories.from_episodes(f"task{task}", episodes))
    data = PolicyData(made, 10, 5, normalisation="pooled", scale="pooled", hold_out=False)
    model = DecisionTransformer(state, action, width=width, layers=2, heads=4, context=10, prompt=5, max_timestep=200)
    return FewShots(SavedPolicy(model, data.table, None, [], {}, {}), made)


def plain_updates(diffuser: PromptDiffuser, shots: FewShots, task: int, recipe: Recipe, limits: Limits, steps: int,
                  start: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """phi [P] of one task after ``steps`` updates, plainly: two losses, two backward passes, Adam over a list."""
    layout, pool = Layout(diffuser, ()), shots.pool
    assert pool is not None
    named = {name: value.clone().requires_grad_() for name, value in layout.views(start).items()}
    optimiser = torch.optim.Adam(named.values(), recipe.lr)
    for step in range(steps):
        names: list[tuple[str | int, ...]] = [(0, "stage 2 noise", task, step)]
        drawn = pool.draw([task], step, 0, batch_size=recipe.batch_size, purpose="stage 2 prompts")
        prompts = {key: value[0] for key, value in drawn.items()}
        x0 = diffuser.variables(prompts)
        noise = chain_noise((1, recipe.batch_size, *x0.shape[1:]), names, x0)[0]
        n = torch.randint(1, diffuser.schedule.steps + 1, (recipe.batch_size,), generator=generator_for(*names[0], "n"))
        losses, _, _ = diffuser.denoising_losses(named, x0, noise, n, diffuser.condition(prompts), 1)
        optimiser.zero_grad()
        losses.sum().backward()
        d = [value.grad.clone() for value in named.values() if value.grad is not None]
        given = {key: value[: recipe.guidance_batch] for key, value in prompts.items()}
        shape = (diffuser.schedule.steps, recipe.guidance_batch, diffuser.length, diffuser.channels)
        chain = chain_noise(shape, [(0, "stage 2 chain", task, step)], diffuser.mean)
        x = diffuser.chain(named, diffuser.condition(given), chain, limits)
        made = {key: value.unsqueeze(0) for key, value in diffuser.prompts(x, given).items()}
        windows = shots.data.batch([task], step, 0, batch_size=recipe.guidance_batch, purpose="stage 2 windows")
        optimiser.zero_grad()
        # theta as a plain program leaves it: parameters of a module that requires gradients
        theta = {name: value.detach().requires_grad_() for name, value in shots.model.named_parameters()}
        imitation_losses(shots.model, theta, windows, made).sum().backward()
        v = [value.grad.clone() for value in named.values() if value.grad is not None]
        along = sum((a * b).sum() for a, b in zip(v, d))
        share = along / (sum(b.square().sum() for b in d) + 1e-12)
        for value, a, b in zip(named.values(), v, d):
            value.grad = b + a - share * b
        optimiser.step()
    return layout.pack(named)


def main() -> None:
    """Prints the tables; with ``--json`` also writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 8), ("steps", 10), ("state", 20), ("action", 6), ("width", 64), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--guidance-batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shots = few_shots(options.tasks, options.state, options.action, options.width)
    assert shots.pool is not None
    diffuser = PromptDiffuser(options.state, options.action, 5, 200)
    diffuser.fit(shots.pool)
    start = Layout(diffuser, ()).pack(dict(diffuser.named_parameters())).unsqueeze(0)
    limits = diffuser.limits([shots.pool.task(task) for task in range(options.tasks)])
    recipe = Recipe(batch_size=options.batch, guidance_batch=options.guidance_batch)

    def limit(task: int) -> Limits:
        return Limits(limits.low[task : task + 1], limits.high[task : task + 1])

    def plain(steps: int) -> torch.Tensor:
        each = [plain_updates(diffuser, shots, t, recipe, limit(t), steps, start) for t in range(options.tasks)]
        return torch.stack(each)

    def one_by_one(steps: int) -> torch.Tensor:
        points = []
        for task in range(options.tasks):
            training = DiffuserTraining(diffuser, shots, recipe, start, limit(task))
            for _ in range(steps):
                training.step([task])
            points.append(training.point.detach()[0])
        return torch.stack(points)

    def stacked(steps: int) -> torch.Tensor:
        training = DiffuserTraining(diffuser, shots, recipe, start.repeat(options.tasks, 1), limits)
        for _ in range(steps):
            training.step()
        return training.point.detach()

    reference = plain(1)
    for one in (one_by_one(1), stacked(1)):  # later steps magnify the rounding of Adam's first
        share = float(((one - reference).abs() < 1e-5).float().mean())
        assert share > 0.99, f"only {share:.1%} of the parameters agree"
    ways: dict[str, Callable[[int], torch.Tensor]] = {"plain loop": plain, "one by one": one_by_one, "stacked": stacked}
    medians = median_times({name: lambda f=call: f(options.steps) for name, call in ways.items()}, options.repeats)
    rows = [{"way": name, "seconds": s, "faster_than_plain": medians["plain loop"] / s,
             "faster_than_one_by_one": medians["one by one"] / s} for name, s in medians.items()]  # fmt: skip

    def tuned(method: str) -> Callable[[], object]:
        def run() -> None:
            learner = TuningLearner(shots, method, steps=options.steps, lr=float(METHODS[method].defaults["lr"]))
            for _ in range(options.steps):
                learner.step()

        return run

    methods = [name for name in METHODS if name not in ("none", "ranking-online")]
    candidates = {name: tuned(name) for name in methods} | {"prompt-diffuser": lambda: stacked(options.steps)}
    seconds = median_times(candidates, options.repeats)
    total = {name: METHODS[name].defaults["steps"] if name in METHODS else 150 for name in candidates}
    each = {name: s / options.steps for name, s in seconds.items()}
    more = [{"method": n, "ms_per_step": 1e3 * s, "seconds_to_adapt": s * total[n]} for n, s in each.items()]
    for table in (rows, more):
        columns = list(table[0])
        print(" | ".join(columns))
        for row in table:
            print(" | ".join(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))
        print()
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))


if __name__ == "__main__":
    main()
