"""Own data of an own controller, as a folder of per-episode .npz files: Pendulum-v1, whose torque goes from -2 to 2.

    python examples/own_data.py pendulum
    manyone run mtbc --data gym:Pendulum-v1=pendulum --steps 2000 --batch-size 128 --lr 3e-3 --out runs/pendulum

The policy that is learned swings the pendulum up as the controller does.
"""

import sys
from pathlib import Path

import gymnasium
import numpy as np


def control(observation: np.ndarray) -> np.ndarray:
    """Swings up by the energy that is missing, and balances by the angle and its speed."""
    cosine, sine, speed = observation
    angle, energy = np.arctan2(sine, cosine), speed**2 / 6 + 5 * (cosine - 1)  # both 0 at rest above
    near = np.exp(-((angle / 0.5) ** 2) - (speed / 3) ** 2)
    torque = -near * (12 * angle + 3 * speed) - (1 - near) * 0.7 * energy * speed
    return np.clip([torque], -2, 2).astype(np.float32)


def main(folder: str, episodes: int = 60, noise: float = 0.5) -> float:
    """Records the controller with some noise, which shows the way back; the mean return."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    env, draws, returns = gymnasium.make("Pendulum-v1"), np.random.default_rng(0), []
    for number in range(episodes):
        observation, _ = env.reset(seed=number)
        observations, actions, rewards, over = [], [], [], False
        while not over:
            action = np.clip(control(observation) + noise * draws.normal(size=1), -2, 2)
            observations.append(observation)
            actions.append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            over = terminated or truncated
        np.savez(Path(folder) / f"{number}.npz", observations=observations, actions=actions, rewards=rewards)
        returns.append(sum(rewards))
    return float(np.mean(returns))


if __name__ == "__main__":
    print(f"mean return {main(*sys.argv[1:2]):.1f}")
