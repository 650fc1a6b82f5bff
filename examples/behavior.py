"""A mountain of recordings becomes eight (state, action) pairs: CartPole's balancing act, distilled and learned again.

Runs in seconds:  python examples/behavior.py
"""

import argparse

try:
    import gymnasium
except ModuleNotFoundError as missing:
    raise SystemExit(f"this program needs {missing.name}: pip install 'manyone[behavior]'") from None
import numpy as np
import torch

from manyone.behavior import Objective, behavior_data, distil, evaluate_students, from_functions, students
from manyone.data.trajectories.trajectories import Trajectories


def push(observations):
    """How much rather to the right than to the left: against where the pole falls to."""
    position, speed, angle, turning = observations.T
    return 0.1 * position + 0.4 * speed + 8 * angle + 2 * turning


def record(episodes: int = 20) -> Trajectories:
    """A clumsy controller: half of its pushes are random."""
    env, draws, found = gymnasium.make("CartPole-v1"), np.random.default_rng(0), []
    for number in range(episodes):
        observation, _ = env.reset(seed=number)
        seen, acted, rewards, over, terminated = [], [], [], False, False
        while not over:
            choice = int(push(observation) > 0) if draws.random() < 0.5 else int(draws.integers(2))
            seen.append(observation)
            acted.append(choice)
            observation, reward, terminated, truncated, _ = env.step(choice)
            rewards.append(reward)
            over = terminated or truncated
        found.append({"observations": seen, "actions": acted, "rewards": rewards, "terminated": terminated})
    return Trajectories.from_episodes("cartpole", found, choices=2)


def main(pairs: int = 8, steps: int = 100) -> dict[str, float]:
    data = behavior_data(record(), environment="gym:CartPole-v1", horizon=500)

    # your teacher: observations [n, 4] -> probabilities [n, 2]; values [n, 2] would be the second function
    def policy(observations):
        right = torch.sigmoid(5 * push(observations))
        return torch.stack([1 - right, right], 1)

    teacher = from_functions(policy, None, data)
    distilled = distil(data, teacher, Objective("pbc"), size=pairs, steps=steps)
    unlearned = distil(data, teacher, Objective("pbc"), size=pairs, steps=0)

    policies = students.train(distilled, seeds=5)  # five fresh networks, a fraction of a second
    scores = evaluate_students(policies, episodes=3, workers=0)
    return {
        "recorded": float(data.returns[data.first].mean()),
        f"{pairs} random pairs": evaluate_students(unlearned, episodes=3, students=5, workers=0).students.mean,
        f"{pairs} distilled pairs": scores.students.mean,
        "all five students together": scores.ensemble.mean,
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:28s} {value:6.1f}")
