"""Which alignment do my bodies need? Trains alignments alone and lets shipped experts act through them.

    python examples/alignments.py [hopper halfcheetah walker2d] [--kinds vq fsq ae vae padding] [--steps 2000]

Before VQ-CD trains a planner, states and actions of every task are brought to one width. What is lost there no planner
can make up for: an expert that sees and does only what the alignments let through shows how much that is.
"""

from __future__ import annotations

import argparse

from manyone.policies.recipes.problem import load_problem
from manyone.policies.recipes.run import Evaluator
from manyone.policies.recipes.run_planner import ordered
from manyone.policies.study.alignments import KINDS, errors, learn_alignments, played
from manyone.recipes.arm import Arm


def main(
    bodies: tuple[str, ...] = ("hopper", "halfcheetah"),
    kinds: tuple[str, ...] = ("vq", "padding"),
    transitions: int = 600,
    episodes: int = 1,
    horizon: int = 40,
    steps: int = 60,
    hidden: int = 32,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    rows = {}
    given = {"suite": "mujoco3", "quality": "expert", "order": bodies, "transitions": transitions, "device": "cpu",
             "align_steps": steps, "align_hidden": hidden}  # fmt: skip
    for kind in kinds:
        arm = Arm(kind, "vq-cd", {**given, **KINDS[kind]})
        chosen = arm.options(seed=seed)
        problem = ordered(load_problem(chosen), chosen.order)
        learner = arm.build(chosen, problem)
        learn_alignments(learner)
        references = problem.references(())
        with Evaluator(problem.tasks, horizon=horizon, episodes=episodes, workers=0) as evaluator:
            scores = played(learner, evaluator.play, references)
        rows[kind] = errors(learner) | {
            f"{way}/{task}": 100 * score for way, each in scores.items() for task, score in each.items()
        }
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bodies", nargs="*", default=["hopper", "halfcheetah"])
    parser.add_argument("--kinds", nargs="+", default=["vq", "fsq", "ae", "vae", "padding"], choices=list(KINDS))
    parser.add_argument("--steps", type=int, default=2000, help="training steps of a task's alignments")
    parser.add_argument("--hidden", type=int, default=256, help="width of their layers")
    parser.add_argument("--transitions", type=int, default=40_000, help="steps of each body's data")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = main(
        tuple(asked.bodies), tuple(asked.kinds), asked.transitions, asked.episodes, 1000, asked.steps, asked.hidden,
        asked.seed,
    )  # fmt: skip
    for kind, row in found.items():
        print(kind)
        for name, value in row.items():
            print(f"  {name:<40} {value:10.4f}")
