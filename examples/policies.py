"""Act with a trained policy in Gymnasium: ten lines, no engine.

Train one first, e.g. `manyone run harmodt --suite metaworld-pairs4 --out runs/first`; then
    python examples/policies.py runs/first/model drawer-open-v3
"""

import argparse

from manyone.envs.single.make import goals, make_env
from manyone.policies import load_policy


def main(folder: str, task: str, horizon: int = 200) -> float:
    policy = load_policy(folder)
    env = make_env(task, goal=goals(task)[0], horizon=horizon)
    policy.reset(task)  # g-harmodt and mt-dt --no-id need no task: policy.reset()
    observation, _ = env.reset(seed=0)
    reward, total, over = 0.0, 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation, reward))
        total, over = total + reward, terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the model folder of a run")
    parser.add_argument("task", help="one of its tasks")
    parser.add_argument("--horizon", type=int, default=200)
    asked = parser.parse_args()
    print(f"return {main(asked.folder, asked.task, asked.horizon):.1f}")
