"""Offline Behavior Distillation: an outer step against the published loop spelt out.

    python benchmarks/behavior_outer_step.py [--rounds 7] [--workers 0] [--rows 100000] [--small] [--json F]

The published loop (arXiv 2410.22728 and its program), one student at a time: a fresh student; T full-batch steps of
behaviour cloning, before each of which the student is copied (deepcopy) to a list; a data loader made anew, which
shuffles all rows (``--workers`` processes; the program has 8, whose start costs far more than they save here, so the
default is none); 10 batches of 256 states, the teacher and its critic called on each; then every step again from its
copy, with a double backward, to the gradients of the synthetic states and actions; their joint norm clipped at 2;
momentum SGD. Actions are greedy on both sides, which is less work for the published loop than the drawn ones that its
program has. Ours is the step of ``manyone run obd`` with the same sizes, batch, objective, and optimiser.

Columns: CPU seconds of one thread (children included), medians of ``--rounds`` interleaved rounds; ``per student``
divides by K; ``products`` is the time of the bare matrix products of our step, each called once with its shapes.
Below the table: the peak memory of the modes at T = 100, each in a process of its own, and the CPU seconds until the
published loop's final loss (students and states that no step saw).
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from manyone.behavior.data import BehaviorData
from manyone.behavior.distillation import DistilLearner
from manyone.behavior.inner import InnerLoop, meta_gradient, train_students
from manyone.behavior.objectives import Objective, objective_loss
from manyone.behavior.students.network import StudentSpec, make_student
from manyone.behavior.teachers.teacher import Labels

BETA, CLIP, BATCHES, BATCH = 0.02, 2.0, 10, 256


class Actor(nn.Module):
    """The published student and teacher: four maps, mean and log-deviation, greedy action tanh(mean)."""

    def __init__(self, states: int, actions: int, width: int) -> None:
        super().__init__()
        maps = [
            nn.Linear(states, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, 2 * actions),
        ]
        for one in maps:
            nn.init.orthogonal_(one.weight, gain=2**0.5)
            nn.init.zeros_(one.bias)
        self.body = nn.Sequential(maps[0], nn.ReLU(), maps[1], nn.ReLU(), maps[2], nn.ReLU(), maps[3])
        self.scale, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, states: Tensor) -> Tensor:
        """[N, S] -> [N, A]."""
        mean, _log = self.body(states).chunk(2, -1)
        return torch.tanh(mean)


class Critic(nn.Module):
    """The published critic, lifted so that its values look like returns: positive, of unequal size."""

    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(states + actions, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N]."""
        return 200 + 400 * self.body(torch.cat([states, actions], 1)).squeeze(1)


class World:
    """A recorded data set with a teacher, and the synthetic set that both sides start from."""

    def __init__(self, rows: int, states: int, actions: int, size: int) -> None:
        torch.manual_seed(0)
        self.teacher, self.critic = Actor(states, actions, 256), Critic(states, actions)
        self.states = torch.randn(rows, states)
        with torch.no_grad():
            self.actions = (self.teacher(self.states) + 0.3 * torch.randn(rows, actions)).clamp(-1, 1)
            self.labels = Labels(
                a := self.teacher(self.states), self.critic(self.states, a), self.critic(self.states, self.actions)
            )
        chosen = torch.randperm(rows)[:size]
        self.start = (self.states[chosen].clone(), self.actions[chosen].clone())
        ones = torch.ones(rows)
        self.data = BehaviorData(
            name="made", environment=None, states=self.states, actions=self.actions, rewards=ones,
            next_states=self.states, has_next=ones.bool(), terminals=torch.zeros(rows, dtype=torch.bool),
            episode=torch.zeros(rows, dtype=torch.int64), returns=ones, mean=torch.zeros(states),
            deviation=torch.ones(states), low=-torch.ones(actions), high=torch.ones(actions), choices=0, horizon=1,
            digest="",
        )  # fmt: skip


class Published:
    """The published loop, an outer step a call."""

    def __init__(self, world: World, width: int, steps: int, rate: float, workers: int) -> None:
        self.world, self.width, self.steps, self.rate, self.workers = world, width, steps, rate, workers
        self.states, self.actions = (value.clone().requires_grad_() for value in world.start)
        self.optimiser = torch.optim.SGD([self.states, self.actions], 0.1, momentum=0.9)
        self.set = TensorDataset(world.states, world.actions)

    def step(self) -> float:
        """The outer loss before the step."""
        model = Actor(self.states.shape[1], self.actions.shape[1], self.width)
        kept = []
        for _ in range(self.steps):
            loss = F.mse_loss(model(self.states.detach()), self.actions.detach())
            kept.append(copy.deepcopy(model))
            parameters = list(model.parameters())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter -= self.rate * gradient

        loader = iter(DataLoader(self.set, batch_size=BATCH, shuffle=True, num_workers=self.workers, drop_last=True))
        outer = torch.zeros(())
        for _ in range(BATCHES):
            states, _actions = next(loader)
            with torch.no_grad():
                wanted = self.world.teacher(states)
                value = self.world.critic(states, wanted)
            outer = outer + (BETA * value.unsqueeze(1) * (model(states) - wanted) ** 2).mean() / BATCHES
        del loader
        found = torch.autograd.grad(outer, list(model.parameters()), allow_unused=True, materialize_grads=True)
        adjoint = list(found)
        self.optimiser.zero_grad()
        by_set = [torch.zeros_like(self.states), torch.zeros_like(self.actions)]
        for model in reversed(kept):
            parameters = list(model.parameters())
            loss = F.mse_loss(model(self.states), self.actions)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            used = [(g, -self.rate * a) for g, a in zip(gradients, adjoint, strict=True) if g is not None]
            back = torch.autograd.grad(
                [g for g, _ in used], [self.states, self.actions, *parameters], [nu for _, nu in used],
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            by_set = [total + one for total, one in zip(by_set, back)]
            adjoint = [a + g for a, g in zip(adjoint, back[2:], strict=True)]
        self.states.grad, self.actions.grad = by_set
        nn.utils.clip_grad_norm_([self.states, self.actions], CLIP)
        self.optimiser.step()
        return outer.item()


def ours(world: World, width: int, steps: int, rate: float, members: int, **words: Any) -> DistilLearner:
    """The learner of ``manyone run obd`` in the published setting."""
    options = {"batch_size": BATCHES * BATCH, "outer": "sgd", "lr": 0.1, "clip": CLIP, "seed": 1, **words}
    return DistilLearner(
        world.data, world.labels, Objective("av-pbc", "q", BETA), start=world.start, spec=StudentSpec(width=width),
        inner=InnerLoop(steps, rate), at_once=members, **options,
    )  # fmt: skip


def products(states: int, actions: int, width: int, size: int, steps: int, members: int) -> Callable[[], None]:
    """The matrix products of our outer step and nothing else: with records kept, and the outer batch there and back."""
    k, w = members, width

    def calls(rows: int, first: tuple[int, int, int], others: tuple[int, int, int]) -> list[tuple[Tensor, ...]]:
        """(left, right, out) of products up, down and by weights: so many of the first map, and of each other map."""
        x, flat, map_1 = torch.randn(states + 1, rows), torch.randn(k * w, rows), torch.randn(k * w, states + 1)
        kinds = [(map_1, x, flat), (map_1.T, flat, torch.empty_like(x)), (flat, x.T, torch.empty_like(map_1))]
        found: list[tuple[Tensor, ...]] = [kind for kind, count in zip(kinds, first, strict=True) for _ in range(count)]
        for outputs in (w, w, actions):
            maps, below, above = torch.randn(k, w, outputs), torch.randn(k, w, rows), torch.randn(k, outputs, rows)
            out = (torch.empty_like(above), torch.empty_like(below), torch.empty_like(maps))
            kinds = [(maps.mT, below, out[0]), (maps, above, out[1]), (below, above.mT, out[2])]
            found += [kind for kind, count in zip(kinds, others, strict=True) for _ in range(count)]
        return found

    there = calls(size, (1, 0, 1), (1, 1, 1))
    back = calls(size, (1, 2, 1), (2, 2, 2))  # of V alone in the first map; W and V for the states
    outer = calls(BATCHES * BATCH, (1, 0, 1), (1, 1, 1))

    def run() -> None:
        for times, part in ((steps, there), (steps, back), (1, outer)):
            for _ in range(times):
                for left, right, out in part:
                    (torch.mm if left.ndim == 2 else torch.bmm)(left, right, out=out)

    return run


def cpu() -> float:
    """CPU seconds of this process and of children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(competitors: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of a call of each, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in competitors}
    for counted in [False, *[True] * rounds]:
        for name, call in competitors.items():
            start = cpu()
            call()
            if counted:
                spent[name].append(cpu() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def steps_table(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the main table."""
    small = (64, 64, 20, 0.5, 11, 3, (1, 4, 8))
    paper = (256, 256, 100, 0.1, 17, 6, (1,))
    for width, size, steps, rate, states, actions, members in (small,) if options.small else (small, paper):
        world = World(options.rows, states, actions, size)
        competitors: dict[str, Callable[[], Any]] = {
            "published": Published(world, width, steps, rate, options.workers).step
        }
        for k in members:
            competitors[f"ours {k}"] = ours(world, width, steps, rate, k).step
            competitors[f"products {k}"] = products(states, actions, width, size, steps, k)
        found = interleaved(competitors, options.rounds if width == 64 else max(options.rounds // 2, 2))
        for k in members:
            step = found[f"ours {k}"]
            yield {
                "width": width, "N": size, "T": steps, "K": k, "published_s": found["published"], "ours_s": step,
                "per_student_s": step / k, "faster_per_student": found["published"] / (step / k),
                "products_s": found[f"products {k}"], "times_products": step / found[f"products {k}"],
                "steps_per_cpu_s": 1 / step,
            }  # fmt: skip


def memory_of(mode: str) -> None:
    """Prints the MiB that a gradient through T = 100 steps at (256, 256) adds to the process."""
    torch.manual_seed(0)
    student = make_student(StudentSpec(width=256), 17, 6)
    states, actions, batch = torch.randn(256, 17), torch.rand(256, 6), torch.randn(256, 17)

    def once(steps: int, mode: Any) -> None:
        loop = InnerLoop(steps, 0.1, mode=mode)
        meta_gradient(
            student, student.init([0]), states, actions, lambda w: student.forward(w, batch).square().mean(), loop
        )

    for warm in ("unrolled", "recompute"):
        once(1, warm)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here; getrusage's would be the parent's
    before = status("VmRSS")
    once(100, mode)
    print((status("VmHWM") - before) / 1024)


def status(field: str) -> int:
    """A size in KiB from what Linux says about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_table() -> Iterator[dict[str, Any]]:
    """Peak memory of every mode, each in a fresh process."""
    if not Path("/proc/self/clear_refs").exists():
        print("(only Linux tells)")
        return
    found = {}
    for mode in ("unrolled", "stored", "recompute", "segments"):
        words = [sys.executable, __file__, "--memory-of", mode]
        found[mode] = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    for mode, size in found.items():
        yield {"mode": mode, "T": 100, "peak_MiB": size, "of_unrolled": size / found["unrolled"]}


def race(steps: int, workers: int) -> Iterator[dict[str, Any]]:
    """CPU seconds to the loss that the published loop has after ``steps`` outer steps at (64, 64, 20)."""
    world = World(100_000, 11, 3, 64)
    student, loop = make_student(StudentSpec(width=64), 11, 3), InnerLoop(20, 0.5)
    first = student.init(range(1000, 1016))  # students that no step sees
    assert world.labels.values is not None
    weights = BETA * world.labels.values[:2000]

    def loss(states: Tensor, actions: Tensor) -> float:
        trained = train_students(student, first, states, actions, loop)
        with torch.no_grad():
            found = student.forward(trained, world.states[:2000])
            return objective_loss(found, world.labels.actions[:2000], weights).item()

    def train(step: Callable[[], Any], where: Any, ended: Callable[[int, float], bool]) -> tuple[int, float, float]:
        """(steps, CPU seconds, loss) when ``ended``; the loss is the mean of five measurements, five steps apart."""
        taken, spent, seen = 0, 0.0, [loss(*world.start)] * 5
        while not ended(taken, sum(seen[-5:]) / 5):
            start = cpu()
            for _ in range(5):
                step()
            taken, spent = taken + 5, spent + cpu() - start
            seen.append(loss(where.states.detach(), where.actions.detach()))
        return taken, spent, sum(seen[-5:]) / 5

    first_loss, published = loss(*world.start), Published(world, 64, 20, 0.5, workers)
    taken, spent, goal = train(published.step, published, lambda taken, _: taken >= steps)
    yield {"who": "published", "outer_steps": taken, "cpu_s": spent, "from": first_loss, "to": goal, "sooner": 1.0}
    for name, learner in (
        ("ours, K=1, SGD 0.1", ours(world, 64, 20, 0.5, 1)),
        ("ours, K=4, SGD 0.1", ours(world, 64, 20, 0.5, 4)),
        ("ours, K=4, Adam 0.02, batch 512", ours(world, 64, 20, 0.5, 4, batch_size=512, outer="adam", lr=0.02)),
    ):
        found = train(learner.step, learner, lambda taken, reached: reached <= goal or taken >= 5 * steps)
        yield {"who": name, "outer_steps": found[0], "cpu_s": found[1], "from": first_loss, "to": found[2],
               "sooner": spent / found[1]}  # fmt: skip


def show(title: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints rows as they come, under their columns."""
    print(f"\n{title}")
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print(" | ".join(row))
        print(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
        kept.append(row)
    return kept


def main() -> None:
    """Prints the tables; with ``--json`` also writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 7), ("workers", 0), ("rows", 100_000), ("race", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--small", action="store_true", help="leave the paper's size out")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        memory_of(options.memory_of)
        return
    rows = show(f"an outer step, CPU seconds (loader with {options.workers} workers)", steps_table(options))
    rows += show("peak memory of a gradient at (256, 256, 100)", memory_table())
    rows += show("CPU seconds to the published loop's final loss at (64, 64, 20)", race(options.race, options.workers))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
