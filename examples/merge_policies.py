"""Decision transformers of different tasks merged into one policy, without data: `python examples/merge_policies.py`.

A point in the plane is to go to one of four goals; a prompt, a few steps of a good episode, tells which. The base has
learned other goals. From it start four experts of one goal each, two experts of two goals each, and one policy of all
goals with as many updates as all experts of a kind together. Experts' folders are merged by three static methods; a
merged folder has the tables (statistics, target returns, prompts) of all goals and acts in each. All are scored on the
same episodes by the mean return, the negative sum of the distances to the goal.

Whoever learns one goal alone need not look at the prompt, and merging such experts gives nothing; experts of two goals
have to, and their merges come near to the policy of all goals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single.point_robot import play
from manyone.evaluation.rollouts import paired_episodes, rollout
from manyone.merging import merge
from manyone.policies import PolicyData, PolicyLearner, build_model, load_policy

GOALS = ("point-robot:1", "point-robot:6", "point-robot:13", "point-robot:18")
OTHERS = ("point-robot:3", "point-robot:9", "point-robot:16")


def recorded(task: str, episodes: int = 30) -> Trajectories:
    """Episodes of the scripted expert and, for contrast, of the one that is half as good."""
    half = range(episodes // 2)
    each = [one for quality in ("expert", "medium") for one in play(task, quality, half, half, 20)]
    return Trajectories.from_episodes(task, each)


def trained(folder: Path, tasks: tuple[str, ...], steps: int, base: Path | None = None) -> Path:
    """A prompted decision transformer of ``tasks``, from the weights of ``base`` or from random ones."""
    data = PolicyData([recorded(task) for task in tasks], context=5, prompt=5)
    model = build_model("prompt-dt", data, seed=0, width=32, layers=2, heads=2, dropout=0.0, max_timestep=20)
    if base is not None:
        model.load_state_dict(load_policy(base).model.state_dict())
    learner = PolicyLearner(model, data, method="prompt-dt", steps=steps, batch_size=32, lr=2e-3, warmup=20,
                            schedule="cosine", tasks_per_step=1)  # fmt: skip
    for _ in range(steps):
        learner.step()
    learner.export(folder)
    return folder


def scored(folder: Path, tasks: tuple[str, ...] = GOALS) -> float:
    """Mean return of the policy in ``folder``: the sum of negative distances to the goal, over 20 steps."""
    results = rollout(load_policy(folder).batched, paired_episodes(tasks, 5), workers=0)
    return float(np.mean([one.return_ for one in results]))


METHODS = {"average": {}, "task-arithmetic": {"scale": 0.7}, "ties": {"density": 0.5, "scale": 1.0}}


def main(steps: int = 150) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        folder, found = Path(place), {}
        base = trained(folder / "base", OTHERS, 2 * steps)
        found["all goals, equal updates"] = scored(trained(folder / "all", GOALS, steps * len(GOALS), base))
        for kind, parts in {
            "one goal": [GOALS[i : i + 1] for i in range(4)],
            "two goals": [GOALS[:2], GOALS[2:]],
        }.items():
            own = [folder / f"{kind}-{number}" for number in range(len(parts))]
            for expert, tasks in zip(own, parts, strict=True):
                trained(expert, tasks, steps * len(tasks), base)
            scores = [scored(expert, tasks) for expert, tasks in zip(own, parts, strict=True)]
            found[f"experts of {kind}, on their own"] = float(np.mean(scores))
            for method, options in METHODS.items():
                merge(method, base, own, out=folder / f"{method} of {kind}", **options)
                found[f"{method} of {kind}"] = scored(folder / f"{method} of {kind}")
        # the base alone, with the tables of all goals: task arithmetic of nothing
        merge("task-arithmetic", base, own, out=folder / "plain", scale=0.0)
        found["base"] = scored(folder / "plain")
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:36}{value:8.2f}")
