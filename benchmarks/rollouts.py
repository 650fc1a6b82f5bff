"""Roll-outs of one masked decision transformer on many Meta-World tasks: lock-step against one episode at a time.

    python benchmarks/rollouts.py [--episodes 50] [--steps 30] [--workers N] [--device cuda] [--json rows.jsonl]

The same network, masks, episodes and simulators throughout, in one run. ``one at a time`` re-enacts the published
evaluation: batch 1, tensors that grow by concatenation, the whole history normalised at every step, padding to K, all
tokens through all blocks. ``batch of one`` is this project's policy with one running episode. The lock-step rows step
all episodes together, with the environments in this process or in worker processes. Only steps with a full context
count; environments are built beforehand in all rows. Episodes a second are those of full length (500 steps);
``simulating`` is the share of wall time outside the policy. Wall time needs free processors: the columns on the right
count processor time of the policy and of all simulators, which does not.

The limit: with W workers that simulate s steps a second each, lock-step reaches at most W s steps a second. A loop that
spends p seconds on the policy reaches 1 / (1/s + p). So no evaluation can gain more than W (1 + s p) over that loop.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.envs.single import make as build
from manyone.envs.single import metaworld
from manyone.evaluation.rollouts import Arena, Episode, paired_episodes
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.masks import TaskMasks, maskable_shapes
from manyone.policies.tasks import TaskTable

SIZES = {  # layers, width, heads, K, K*
    "small (2 x 64)": (2, 64, 2, 10, 5),
    "published (6 x 256)": (6, 256, 8, 20, 5),
}
FULL = 500


class Watched:
    """A policy and the moments at which it was asked, for steps after the first ``warm`` of an episode."""

    def __init__(self, policy: SequencePolicy, warm: int) -> None:
        self.policy, self.warm = policy, warm
        self.wall = self.inside = self.cpu = 0.0
        self.steps = self.asked = 0

    def start(self, episodes: Sequence[Episode]) -> None:
        self.policy.start(episodes)
        self.age = np.zeros(len(episodes), np.int64)
        self.last = 0.0

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        began, busy = time.perf_counter(), time.process_time()
        if self.age[slots].min() > self.warm:  # the step before this call was a warm one as well
            self.wall += began - self.last
            self.steps += len(slots)
        self.last = began
        actions = self.policy.act(slots, observations)
        if self.age[slots].min() >= self.warm:
            self.inside += time.perf_counter() - began
            self.cpu += time.process_time() - busy
            self.asked += len(slots)
        self.age[slots] += 1
        return actions

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self.policy.reward(slots, rewards)

    def row(self) -> dict[str, float]:
        """Milliseconds a step (wall), of the policy's processor, and the share of the wall time outside the policy."""
        wall, inside = self.wall / self.steps, self.inside / self.asked
        return {"ms": wall * 1e3, "policy_cpu_ms": self.cpu / self.asked * 1e3, "share": 1 - inside / wall}


def one_at_a_time(
    model: DecisionTransformer, table: TaskTable, masks: TaskMasks, episodes: Sequence[Episode], steps: int, warm: int
) -> dict[str, Any]:
    """The published evaluation's loop."""
    own = {name: value.detach() for name, value in model.named_parameters()}
    device, k = next(iter(own.values())).device, model.context
    wall = inside = cpu = 0.0
    counted, returns = 0, []
    for episode in episodes:
        task = table.index(episode.task)
        env = build.make_env(episode.task, episode.goal)
        mask = masks.unpack(task)
        weights = own | {name: own[name] * mask[name] for name in mask}
        prompt = {name: value[task : task + 1] for name, value in (table.prompt or {}).items()}
        observation, _ = env.reset(seed=episode.seed)
        states = torch.from_numpy(observation).to(device, torch.float32)[None]
        actions = torch.zeros(0, model.action_dim, device=device)
        left = table.target[task].reshape(1)
        total = 0.0
        for step in range(steps):
            began, busy = time.perf_counter(), time.process_time()
            actions = torch.cat((actions, torch.zeros(1, model.action_dim, device=device)))
            batch = crop((states - table.mean[task]) / table.deviation[task], actions, left / table.scale[task], k)
            with torch.no_grad():
                actions[-1] = model.run(weights, batch, prompt)[0, -1]
            action = actions[-1].cpu().numpy()
            asked = time.perf_counter()
            observation, reward, *_ = env.step(np.clip(action, -1, 1))
            total += float(reward)
            states = torch.cat((states, torch.from_numpy(observation).to(device, torch.float32)[None]))
            left = torch.cat((left, (left[-1] - float(reward)).reshape(1)))
            if step >= warm:
                inside += asked - began
                wall += time.perf_counter() - began
                cpu += time.process_time() - busy
                counted += 1
        returns.append(total)
        env.close()
    each = {"ms": wall, "policy_ms": inside, "cpu_ms": cpu}
    return {name: value / counted * 1e3 for name, value in each.items()} | {"share": 1 - inside / wall, "is": returns}


def crop(states: Tensor, actions: Tensor, left: Tensor, k: int) -> dict[str, Tensor]:
    """The last K steps, padded on the left, as a batch of one."""
    length = len(states)
    kept = min(length, k)
    first = length - kept

    def pad(x: Tensor) -> Tensor:
        return torch.cat((x.new_zeros(k - kept, *x.shape[1:]), x[-kept:]))[None]

    times = torch.arange(first, length, device=states.device)
    return {
        "observations": pad(states),
        "actions": pad(actions),
        "returns_to_go": pad(left),
        "timesteps": pad(times),
        "valid": pad(torch.ones(length, dtype=torch.bool, device=states.device)),
    }


def problem(size: str, tasks: list[str], device: str) -> tuple[DecisionTransformer, TaskTable, TaskMasks]:
    layers, width, heads, context, prompt = SIZES[size]
    states, actions, _ = build.spaces(tasks[0])
    model = DecisionTransformer(
        states, actions, width=width, layers=layers, heads=heads, context=context, prompt=prompt, dropout=0.0
    )
    count, draw = len(tasks), torch.Generator().manual_seed(0)
    table = TaskTable(
        tuple(tasks),
        mean=torch.zeros(count, states),
        deviation=torch.ones(count, states),
        scale=torch.full((count,), 1000.0),
        target=torch.full((count,), 3000.0),
        prompt={
            "observations": torch.randn(count, prompt, states, generator=draw),
            "actions": torch.rand(count, prompt, actions, generator=draw),
            "returns_to_go": torch.ones(count, prompt),
            "timesteps": torch.arange(prompt).repeat(count, 1),
            "valid": torch.ones(count, prompt, dtype=torch.bool),
        },
    )
    masks = TaskMasks.random(maskable_shapes(model), count, 0.2, seed=0)
    return model.to(device).eval(), table.to(device), masks.to(device)


def measure(size: str, options: argparse.Namespace, tasks: list[str], arenas: dict[str, Arena]) -> list[dict[str, Any]]:
    model, table, masks = problem(size, tasks, options.device)
    warm = model.context
    steps = warm + options.steps
    episodes = paired_episodes(tasks, options.episodes // len(tasks))
    few = episodes[:: max(1, len(episodes) // 4)][:4]
    published = one_at_a_time(model, table, masks, few, steps, warm)
    rows = [{"size": size, "method": "one at a time", **published}]
    compared = dict(zip(few, rows[0].pop("is")))
    for method, arena in arenas.items():
        watched = Watched(SequencePolicy(model, table, masks), warm)
        played = few if arena.rows == 1 else episodes
        arena.rollout(watched, played, horizon=1)  # builds environments, stacks weights
        watched = Watched(watched.policy, warm)
        results = arena.rollout(watched, played, horizon=steps)
        gap = max(abs(r.return_ - compared[r.episode]) for r in results if r.episode in compared)
        cpu = arena.timing.simulator_cpu / arena.timing.steps
        row = {"size": size, "method": method, **watched.row(), "simulated_per_cpu_s": 1 / cpu, "gap": gap}
        row["cpu_ms"] = row["policy_cpu_ms"] + cpu * 1e3
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], workers: int) -> None:
    for size in dict.fromkeys(r["size"] for r in rows):
        chosen = [r for r in rows if r["size"] == size]
        base = chosen[0]
        titles = f"{'ms a step':>12}{'episodes/s':>12}{'simulating':>12}{'speed-up':>10}{'CPU ms':>9}{'less CPU':>10}"
        print(f"\n{size + ':':30}{titles}")
        for row in chosen:
            label = f"  {row['method']}"
            rate = 1e3 / row["ms"] / FULL
            print(
                f"{label:32}{row['ms']:>10.2f}{rate:>12.2f}{row['share']:>12.0%}{base['ms'] / row['ms']:>9.1f}x"
                f"{row['cpu_ms']:>9.2f}{base['cpu_ms'] / row['cpu_ms']:>9.1f}x"
            )
        simulated = float(np.mean([r["simulated_per_cpu_s"] for r in chosen[1:]]))
        bound = workers * (1 + simulated * base["policy_ms"] / 1e3)
        print(
            f"  simulators: {simulated:.0f} steps a processor second; with {workers} of them no evaluation could gain"
        )
        print(
            f"  more than {bound:.1f}x over the first row, however fast its policy (10x needs a policy call of at least"
        )
        print(f"  {max(0.0, (10 / workers - 1) / simulated * 1e3):.1f} ms there; it takes {base['policy_ms']:.1f} ms)")
        print(f"  largest difference of a return to the first row's: {max(r['gap'] for r in chosen[1:]):.1e}")


def published_extras(tasks: list[str]) -> dict[str, float]:
    """What the published code pays for every episode besides its steps: a fresh MT1 and a fresh environment."""
    import metaworld as library

    began = time.process_time()
    library.MT1(tasks[0])
    drawn = time.process_time()
    library.env_dict.ALL_V3_ENVIRONMENTS[tasks[0]]().close()
    return {"mt1_s": drawn - began, "build_s": time.process_time() - drawn}


class Scripted:
    """Meta-World's own policies: how early a good policy succeeds."""

    def start(self, episodes: Sequence[Episode]) -> None:
        self.tasks = [e.task for e in episodes]

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.stack([metaworld.expert_action(self.tasks[s], o) for s, o in zip(slots, observations)])

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=50, help="episodes that run at a time")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each, after the context is full")
    parser.add_argument("--tasks", type=int, default=10, help="the first so many of the pairs10, then of the MT50 list")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--json", type=Path, default=None, help="append one JSON row per figure to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    listed = [*metaworld.suite_tasks("metaworld-pairs10"), *metaworld.TASKS50]
    tasks = list(dict.fromkeys(listed))[: options.tasks]
    rows: list[dict[str, Any]] = []
    extras = published_extras(tasks)
    with (
        Arena(tasks, 1, 0, max_parallel=1) as single,
        Arena(tasks, options.episodes, 0, max_parallel=options.episodes) as here,
        Arena(tasks, options.episodes, options.workers, max_parallel=options.episodes) as there,
    ):
        last = f"lock-step, {options.workers} workers"
        arenas = {"batch of one": single, "lock-step, this process": here, last: there}
        for size in options.sizes:
            rows += measure(size, options, tasks, arenas)
        here.close()
        episodes = paired_episodes(tasks, options.episodes // len(tasks))
        stopped = there.rollout(Scripted(), episodes, stop_at_success=True)
    show(rows, options.workers)
    saved = FULL / float(np.mean([r.length for r in stopped]))
    print(
        f"\nnot in the figures above: the published loop draws a new MT1 ({extras['mt1_s']:.2f} s) and builds an "
        f"environment ({extras['build_s']:.2f} s) for every episode;\nstop_at_success takes {saved:.1f}x fewer steps "
        "for policies as good as Meta-World's scripted ones (measured with those)"
    )
    for size in options.sizes:
        first, *_, best = (r["cpu_ms"] for r in rows if r["size"] == size)
        published = FULL * first / 1e3 + extras["mt1_s"] + extras["build_s"]
        print(
            f"{size}: processor seconds for the success of one episode, from the above: published {published:.2f}, "
            f"here {FULL / saved * best / 1e3:.3f} ({published / (FULL / saved * best / 1e3):.0f}x less)"
        )
    if options.json is not None:
        facts = {"bench": "rollouts", "device": options.device, "workers": options.workers, "threads": options.threads}
        with options.json.open("a") as file:
            for row in [*rows, {"method": "extras", **extras, "stop_at_success": saved}]:
                file.write(json.dumps({**facts, **row}) + "\n")


if __name__ == "__main__":
    main()
