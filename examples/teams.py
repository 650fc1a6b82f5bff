"""Train a team in your own environment, save it, load it and act: three agents must name each other's secrets.

Runs in seconds:  python examples/teams.py     (needs: pip install 'manyone[teams]')
The same from the command line:  manyone run commformer --env pettingzoo:examples.teams --length 1
"""

import argparse
import tempfile

import numpy as np

try:
    from gymnasium.spaces import Box, Discrete
    from pettingzoo import ParallelEnv
except ModuleNotFoundError as missing:
    raise SystemExit(f"this program needs {missing.name}: pip install 'manyone[teams]'") from None

from manyone.envs.teams.make import make_team
from manyone.teams import CommFormer, LearnedGraph, TeamLearner, Training, load_team, save_team


class Whisper(ParallelEnv):
    """Each agent sees a number of three and is paid for naming the next agent's: somebody must tell it."""

    possible_agents = ("ann", "bob", "cat")

    def observation_space(self, agent):
        return Box(0, 1, (3,))

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.secrets = np.random.default_rng(seed).integers(3, size=3)
        return dict(zip(self.agents, np.eye(3, dtype=np.float32)[self.secrets])), {a: {} for a in self.agents}

    def step(self, actions):
        names, self.agents = self.agents, []  # one step, then everybody has left
        seen = dict(zip(names, np.eye(3, dtype=np.float32)[self.secrets]))
        rewards = {a: float(actions[a] == wanted) for a, wanted in zip(names, np.roll(self.secrets, -1))}
        return seen, rewards, dict.fromkeys(names, True), dict.fromkeys(names, False), {a: {} for a in names}


parallel_env = Whisper  # what `--env pettingzoo:MODULE` looks for


def main() -> dict[str, float]:
    env = make_team(Whisper, batch=64, workers=0)
    policy = CommFormer(env.spec, width=32)
    graph = LearnedGraph(agents=3, links=1)  # every agent may hear one other
    training = Training(iterations=36, length=1, epochs=5, lr=5e-3, edge_lr=0.1, clip=0.2)
    learner = TeamLearner(env, policy, training, graph=graph)
    for _ in range(training.iterations):
        reward = learner.step()["return"]

    with tempfile.TemporaryDirectory() as folder:
        save_team(folder, policy, graph, env.spec, program=False)
        team = load_team(folder)  # safetensors + JSON; in any process

    game, right = Whisper(), []
    for seed in range(100):
        seen, _ = game.reset(seed=10_000 + seed)
        actions = team.act(np.stack([seen[a] for a in game.agents]))
        _, rewards, *_ = game.step(dict(zip(game.agents, actions)))
        right.append(np.mean(list(rewards.values())))
    return {"reward in training": reward, "right when loaded": float(np.mean(right)), "links": float(team.graph.sum())}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:20s} {value:.2f}")
