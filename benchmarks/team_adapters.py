"""What the team adapters cost: env-steps per CPU-second against the bare environment stepped in a loop.

    python benchmarks/team_adapters.py [NAME...] [--batch 16] [--pairs 9] [--json rows.jsonl]

Both take the same kind of random actions in this process, on one thread, and restart when episodes end. They run in
turn, ``--pairs`` times, so that a busy machine slows both alike; medians are shown, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from manyone.envs.teams.adapters import make_adapter

NAMES = [
    *("vmas:simple_spread@32", "vmas:simple_spread@256", "mpe:simple_spread_v3"),
    *("lbf:Foraging-8x8-2p-2f-coop-v3", "rware:rware-tiny-2ag-v2"),
]
DRAWS = 50  # different joint actions, drawn beforehand


def adapted(name: str, batch: int) -> Callable[[], Any]:
    """A step of the adapter."""
    env = make_adapter(name, batch, workers=0)
    env.reset(0)
    spec = env.spec
    shape = (DRAWS, batch, spec.agents)
    draws = torch.randint(spec.actions, shape) if spec.discrete else torch.rand(*shape, spec.action_dim) * 2 - 1
    turn = iter(range(10**9))
    return lambda: env.step(draws[next(turn) % DRAWS])


def bare(name: str, batch: int) -> tuple[Callable[[], Any], int]:
    """A step of the environment itself, and how many copies it steps."""
    prefix, _, task = name.partition(":")
    turn = iter(range(1, 10**9))
    if prefix == "vmas":
        import vmas

        world: Any = vmas.make_env(task, num_envs=batch, seed=0)
        world.reset()
        draws = [
            [torch.rand(batch, world.get_agent_action_size(a)) * 2 - 1 for a in world.agents] for _ in range(DRAWS)
        ]

        def step() -> None:
            number = next(turn)
            world.step([action.clone() for action in draws[number % DRAWS]])
            if number % 100 == 0:
                world.reset()

        return step, batch
    if prefix == "mpe":
        parallel: Any = importlib.import_module(f"mpe2.{task}").parallel_env()
        parallel.reset(seed=0)
        counts = {agent: int(parallel.action_space(agent).n) for agent in parallel.possible_agents}
        chosen = [{agent: random.randrange(n) for agent, n in counts.items()} for _ in range(DRAWS)]

        def step() -> None:
            parallel.step(chosen[next(turn) % DRAWS])
            if not parallel.agents:
                parallel.reset()

        return step, 1
    import gymnasium

    importlib.import_module({"lbf": "lbforaging"}.get(prefix, prefix))
    single: Any = gymnasium.make(task, disable_env_checker=True)
    single.reset(seed=0)
    moves = [[random.randrange(int(space.n)) for space in single.action_space] for _ in range(DRAWS)]

    def step() -> None:
        _, _, terminated, truncated, _ = single.step(moves[next(turn) % DRAWS])
        if terminated or truncated:
            single.reset()

    return step, 1


def rate(step: Callable[[], Any], copies: int, seconds: float = 0.4) -> float:
    """Env-steps per CPU-second."""
    began, steps = time.process_time(), 0
    while time.process_time() - began < seconds:
        step()
        steps += copies
    return steps / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="PREFIX:TASK or PREFIX:TASK@BATCH")
    parser.add_argument("--batch", type=int, default=16, help="slots where the name tells none")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'env-steps per CPU-second':40}{'adapter':>10}{'bare':>10}{'more time':>12}")
    for given in options.names:
        name, _, batch = given.partition("@")
        slots = int(batch or options.batch)
        ours, (theirs, copies) = adapted(name, slots), bare(name, slots)
        ours(), theirs()  # warm
        pairs = [(rate(ours, slots), rate(theirs, copies)) for _ in range(options.pairs)]
        adapter, direct = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        more = statistics.median(b / a for a, b in pairs) - 1
        print(f"{f'{name}, batch {slots}':40}{adapter:>10.0f}{direct:>10.0f}{more:>12.0%}", flush=True)
        if options.json:
            row = {"name": name, "batch": slots, "adapter": adapter, "bare": direct, "more": more}
            with options.json.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
