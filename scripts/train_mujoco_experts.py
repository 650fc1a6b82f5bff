"""Trains and packs the experts behind ``mujoco-hopper-medium-replay`` and its neighbours: one TD3 run a body.

    python scripts/train_mujoco_experts.py train walker2d --out experts/    # 10-20 CPU-minutes, one thread
    python scripts/train_mujoco_experts.py pack hopper --out experts/       # chooses and writes what is shipped

TD3 (Fujimoto et al. 2018, arXiv 1802.09477) with small networks; both critics are one batched product. Walker2d learns
with normalised observations and layer normalisation in the critics (without them it stays below 1,000). Every 10,000
steps the actor and the critics are written with the mean return of five greedy episodes; the run's log is
``curve.jsonl``. Packing leaves out checkpoints that had collapsed, takes ten that are spread over the returns of the
others, plays fifty episodes of each as it is shipped (rounded to float16), without noise and with that of
training, and writes them beside the code that reads them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import gymnasium
import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.data.trajectories.references import normalised_score
from manyone.envs.single import make
from manyone.envs.single.experts import ladder, play
from manyone.envs.single.experts.ladder import MEDIUM, NOISE
from manyone.envs.single.experts.pack import write
from manyone.randomness import seed_for

GAMMA, TAU, DELAY = 0.99, 0.005, 2
TARGET_NOISE, NOISE_LIMIT = 0.2, 0.5
EVERY = 10_000
SHIPPED, EPISODES = 10, 50
TRIED = 8  # checkpoints near the medium return that are played with noise before one is taken


@dataclass(frozen=True)
class Body:
    """What one body needs: the environment, its steps and the sizes of TD3."""

    environment: str
    steps: int
    lr: float = 1e-3
    batch: int = 128
    width: int = 128
    random_steps: int = 10_000
    normalise: bool = False
    layer_norm: bool = False


BODIES = {
    "hopper": Body("Hopper-v5", 200_000),
    "halfcheetah": Body("HalfCheetah-v5", 200_000),
    "walker2d": Body("Walker2d-v5", 280_000, lr=5e-4, batch=256, normalise=True, layer_norm=True),
}


class Twins(nn.Module):
    """Two critics (d_s + d_a) -> width -> width -> 1 as one stack of matrices [2, in, out]."""

    def __init__(self, inputs: int, width: int, layer_norm: bool) -> None:
        super().__init__()
        sizes = [inputs, width, width, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in itertools.pairwise(sizes):
            bound = a**-0.5
            self.weights.append(nn.Parameter(torch.empty(2, a, b).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(2, 1, b).uniform_(-bound, bound)))
        self.layer_norm = layer_norm

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        x = torch.cat([states, actions], -1).expand(2, -1, -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.baddbmm(bias, x, weight)
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = F.relu(x)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])[..., 0]


def actor(state_dim: int, action_dim: int, width: int) -> nn.Sequential:
    """d_s -> width -> width -> d_a, tanh."""
    return nn.Sequential(
        nn.Linear(state_dim, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, action_dim),
        nn.Tanh(),
    )


class Normaliser:
    """Running mean and deviation of the observations; identity where it is off."""

    def __init__(self, size: int, on: bool) -> None:
        self.on, self.count = on, 1e-4
        self.mean, self.square = np.zeros(size), np.ones(size)

    def see(self, state: np.ndarray) -> None:
        """Takes one observation into the statistics."""
        if self.on:
            self.count += 1
            self.mean += (state - self.mean) / self.count
            self.square += ((state - self.mean) ** 2 - self.square) / self.count

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation [d_s]."""
        return torch.tensor(self.mean, dtype=torch.float32), torch.tensor(
            np.sqrt(self.square) + 1e-3, dtype=torch.float32
        )


def train(name: str, out: Path, seed: int, steps: int | None) -> None:
    """One run of TD3; writes ``out/name``."""
    body = BODIES[name]
    total = steps or body.steps
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    env, test = gymnasium.make(body.environment), gymnasium.make(body.environment)
    state_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    pi, q = actor(state_dim, action_dim, body.width), Twins(state_dim + action_dim, body.width, body.layer_norm)
    pi_target, q_target = copy.deepcopy(pi), copy.deepcopy(q)
    pi_adam = torch.optim.Adam(pi.parameters(), body.lr, fused=True)
    q_adam = torch.optim.Adam(q.parameters(), body.lr, fused=True)
    normaliser = Normaliser(state_dim, body.normalise)

    states, nexts = torch.zeros(total, state_dim), torch.zeros(total, state_dim)
    actions, rewards, continues = torch.zeros(total, action_dim), torch.zeros(total), torch.zeros(total)
    state, _ = env.reset(seed=seed)
    mean, deviation = normaliser.tensors() if body.normalise else (torch.zeros(state_dim), torch.ones(state_dim))

    def act(at: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return pi((torch.as_tensor(at, dtype=torch.float32) - mean) / deviation).numpy()

    def note(step: int, log: TextIO) -> None:
        """Writes the checkpoint after ``step`` steps and a line of the log."""
        returns = [_episode(test, act, 1000 + i) for i in range(5)]
        line = {
            "step": step,
            "return": float(np.mean(returns)),
            "returns": [round(r, 1) for r in returns],
            "cpu_s": round(time.process_time() - started, 1),
        }
        log.write(json.dumps(line) + "\n")
        log.flush()
        print(name, line, flush=True)
        tensors = {f"actor.{k}": v for k, v in pi.state_dict().items()}
        tensors |= {f"critics.{k}": v for k, v in q.state_dict().items()}
        tensors |= {"mean": mean, "deviation": deviation}
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, folder / f"{step:07d}.safetensors")

    started = time.process_time()
    with (folder / "curve.jsonl").open("w") as log:
        for step in range(total):
            normaliser.see(state)
            if step < body.random_steps:
                action = rng.uniform(-1, 1, action_dim).astype(np.float32)
            else:
                action = np.clip(act(state) + NOISE * rng.standard_normal(action_dim), -1, 1).astype(np.float32)
            after, reward, terminated, truncated, _ = env.step(action)
            states[step], nexts[step] = torch.as_tensor(state), torch.as_tensor(after)
            actions[step], rewards[step], continues[step] = (
                torch.as_tensor(action),
                float(reward),
                float(not terminated),
            )
            state = env.reset()[0] if terminated or truncated else after
            if step >= body.random_steps:
                if body.normalise and step % 1000 == 0:
                    mean, deviation = normaliser.tensors()
                rows = torch.as_tensor(rng.integers(0, step + 1, body.batch))
                s, s2 = (states[rows] - mean) / deviation, (nexts[rows] - mean) / deviation
                a = actions[rows]
                with torch.no_grad():
                    jitter = (torch.randn_like(a) * TARGET_NOISE).clamp_(-NOISE_LIMIT, NOISE_LIMIT)
                    a2 = (pi_target(s2) + jitter).clamp_(-1, 1)
                    target = rewards[rows] + GAMMA * continues[rows] * q_target(s2, a2).amin(0)
                loss = (q(s, a) - target).square().mean(1).sum()
                q_adam.zero_grad()
                loss.backward()
                q_adam.step()
                if step % DELAY == 0:
                    q.requires_grad_(False)
                    pi_adam.zero_grad()
                    (-q(s, pi(s))[0].mean()).backward()
                    pi_adam.step()
                    q.requires_grad_(True)
                    with torch.no_grad():
                        for target_net, net in ((pi_target, pi), (q_target, q)):
                            torch._foreach_lerp_(list(target_net.parameters()), list(net.parameters()), TAU)
            if (step + 1) % EVERY == 0:
                note(step + 1, log)


def _episode(env: gymnasium.Env, act: Callable[[np.ndarray], np.ndarray], seed: int) -> float:
    state, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        state, reward, terminated, truncated, _ = env.step(act(state))
        total, over = total + float(reward), terminated or truncated
    return total


def sound(returns: Sequence[float]) -> list[int]:
    """The checkpoints that have not collapsed: their return is at least a quarter of every earlier one's."""
    best = np.maximum.accumulate(np.maximum(returns, 0))
    return [i for i, value in enumerate(returns) if max(value, 0) >= best[i] / 4]


def spread(returns: Sequence[float], medium: int) -> list[int]:
    """At most ``SHIPPED`` sound checkpoints: at evenly spaced ranks, from the worst to the best, and ``medium``."""
    ranked = sorted(sound(returns), key=lambda i: returns[i])
    for count in range(SHIPPED, 0, -1):
        places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
        chosen = {ranked[place] for place in places} | {medium}
        if len(chosen) <= SHIPPED:
            break
    return sorted(chosen)


def pack(name: str, out: Path, seed: int, to: Path | None) -> None:
    """Writes what is shipped of the run ``out/name`` to ``to`` (default: beside the code that reads it)."""
    curve = [json.loads(line) for line in (out / name / "curve.jsonl").read_text().splitlines()]
    steps, returns = [line["step"] for line in curve], [line["return"] for line in curve]
    task = make.BODIES[name]
    horizon = make.spaces(task)[2]

    def saved(i: int) -> dict[str, np.ndarray]:
        return load_file(out / name / f"{steps[i]:07d}.safetensors")

    @functools.cache
    def played(i: int, noise: float) -> float:
        """Mean return of checkpoint ``i`` as it is shipped."""
        seeds = [seed_for(seed, "pack", k) >> 32 for k in range(EPISODES)]
        episodes = play.roll_out(task, ladder.actor(ladder.rounded(saved(i))), seeds, horizon, noise)
        return round(float(np.mean([episode["rewards"].sum() for episode in episodes])), 1)

    best = int(np.argmax(returns))
    wanted = MEDIUM * normalised_score(played(best, NOISE), task)
    near = sorted(sound(returns), key=lambda i: abs(normalised_score(returns[i], task) - wanted))[:TRIED]
    medium = min(near, key=lambda i: abs(normalised_score(played(i, NOISE), task) - wanted))
    chosen = spread(returns, medium)
    settings = asdict(BODIES[name]) | {
        "gamma": GAMMA, "tau": TAU, "delay": DELAY, "target_noise": TARGET_NOISE, "noise_limit": NOISE_LIMIT,
        "exploration": NOISE,
    }  # fmt: skip
    info = {
        "settings": settings,
        "seed": seed,
        "episodes": EPISODES,
        "script": f"scripts/{Path(__file__).name}",
        "made_with": {package: version(package) for package in ("gymnasium", "mujoco", "torch")},
    }
    path = to or ladder.path_of(name)
    greedy, noisy = ([played(i, noise) for i in chosen] for noise in (0.0, NOISE))
    write(path, [saved(i) for i in chosen], [steps[i] for i in chosen], greedy, noisy, info)
    for i in chosen:
        print(f"{steps[i]:>9} steps: return {played(i, 0.0):8.1f}, with noise {played(i, NOISE):8.1f}")
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one, packing = verbs.add_parser("train"), verbs.add_parser("pack")
    for verb in (one, packing):
        verb.add_argument("body", choices=BODIES)
        verb.add_argument("--out", type=Path, default=Path("experts"), help="folder of all runs")
        verb.add_argument("--seed", type=int, default=0, help="seed of the run")
    one.add_argument("--steps", type=int)
    packing.add_argument("--to", type=Path, help="file to write (default: the package's)")
    given = parser.parse_args()
    if given.verb == "train":
        train(given.body, given.out, given.seed, given.steps)
    else:
        pack(given.body, given.out, given.seed, given.to)


if __name__ == "__main__":
    main()
