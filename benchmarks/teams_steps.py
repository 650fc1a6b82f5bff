"""Environment steps a second from end to end, with where the time goes, and MAPPO beside BenchMARL's on the same task.

    python benchmarks/teams_steps.py [--batches 32 256 1024] [--device cpu] [--skip-peer] [--json F]

First part: CommFormer (density 0.4) on Predator-Prey (3 agents) and on VMAS simple_spread, at each number of
environments: whole iterations, roll-out and five passes of PPO over it. Shares: the simulator's steps; acting (policy,
values, advantages, buffer); the update.

Second part: MAPPO on VMAS simple_spread, this library's and BenchMARL 1.5.2's (torchrl 0.11.1, tensordict 0.11.0),
which runs in a virtual environment of its own under the cache folder, made on the first run. Both: same task with
continuous actions, same environments, frames, passes and minibatches, actor and critic with two hidden layers of 64,
weights shared by the agents, no evaluation, no logging, one thread. Processor seconds; the first iteration of each is
left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _peers import peer_python

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
INSTALLS = ["torch==2.13.0", "torchrl==0.11.1", "tensordict==0.11.0", "vmas==1.5.2", "benchmarl==1.5.2"]
TASKS = {"predator-prey": "predator-prey", "simple_spread": "vmas:simple_spread"}
LENGTH, EPOCHS = 10, 5

BENCHMARL = """
import sys, json, time, torch
torch.set_num_threads(1)
from benchmarl.algorithms import MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
envs, length, epochs, minibatches, iterations = map(int, sys.argv[1:6])
frames = envs * length
c = ExperimentConfig.get_from_yaml()
c.sampling_device = c.train_device = c.buffer_device = "cpu"
c.share_policy_params, c.prefer_continuous_actions = True, True
c.max_n_iters, c.max_n_frames = iterations, None
c.on_policy_collected_frames_per_batch = frames
c.on_policy_n_envs_per_worker = envs
c.on_policy_n_minibatch_iters = epochs
c.on_policy_minibatch_size = frames // minibatches
c.evaluation, c.render, c.loggers, c.create_json, c.checkpoint_interval = False, False, [], False, 0
c.checkpoint_at_end, c.save_folder = False, sys.argv[6]
class Clock(Callback):
    times = []
    def on_train_end(self, training_td, group):
        self.times.append(time.process_time())
model = MlpConfig(num_cells=[64, 64], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh)
e = Experiment(task=VmasTask.SIMPLE_SPREAD.get_from_yaml(), algorithm_config=MappoConfig.get_from_yaml(),
               model_config=model, critic_model_config=model, seed=0, config=c, callbacks=[Clock()])
e.run()
t = Clock.times
print("TIMES", json.dumps({"seconds": t[-1] - t[0], "iterations": len(t) - 1, "frames": frames,
                           "task": dict(e.task.config)}))
"""


class Clock:
    """Seconds spent inside wrapped calls: the processor's on a CPU, else the wall's, waiting for the accelerator."""

    def __init__(self, device: str) -> None:
        self.device, self.spent = device, 0.0

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **named: Any) -> Any:
            began = self.now()
            found = call(*words, **named)
            self.spent += self.now() - began
            return found

        return timed


def make(recipe: str, **given: Any) -> Any:
    """The team that the recipe trains."""
    from manyone.recipes.options import with_preset
    from manyone.recipes.table import builder, options_class
    from manyone.teams.recipes.build import team

    return team(with_preset(options_class(recipe), {"workers": 0, "epochs": EPOCHS, **given}), builder(recipe))


def end_to_end(task: str, batch: int, device: str, iterations: int) -> dict[str, Any]:
    """One row: environment steps a second, and shares of simulator, acting and update."""
    team = make(
        "commformer", env=TASKS[task], envs=batch, device=device, iterations=1 + iterations, length=LENGTH,
        minibatches=1, commit=0.0,
    )  # fmt: skip
    team.learner.step()
    whole, collecting, simulating = Clock(device), Clock(device), Clock(device)
    team.env.step = simulating.around(team.env.step)  # type: ignore[method-assign]
    team.learner.collector.collect = collecting.around(team.learner.collector.collect)  # type: ignore[method-assign]
    step = whole.around(team.learner.step)
    for _ in range(iterations):
        step()
    team.env.close()
    total = whole.spent
    shares = {"simulator": simulating.spent, "acting": collecting.spent - simulating.spent}
    shares["update"] = total - collecting.spent
    row = {"part": "end to end", "task": task, "agents": team.env.spec.agents, "environments": batch, "device": device}
    row["env_steps_per_s"] = round(iterations * batch * LENGTH / total, 1)
    return row | {name: round(seconds / total, 3) for name, seconds in shares.items()}


def mappo(batch: int, length: int, minibatches: int, iterations: int) -> dict[str, Any]:
    """This library's MAPPO: frames a processor second."""
    team = make(
        "mappo", env="vmas:simple_spread", envs=batch, device="cpu", iterations=1 + iterations, length=length,
        minibatches=minibatches, lr=5e-4, clip=0.05,
    )  # fmt: skip
    team.learner.step()
    began = time.process_time()
    for _ in range(iterations):
        team.learner.step()
    seconds = time.process_time() - began
    team.env.close()
    return {"part": "MAPPO", "library": "manyone", "environments": batch, "seconds": round(seconds, 2),
            "frames_per_cpu_s": round(iterations * batch * length / seconds, 1)}  # fmt: skip


def benchmarl(python: Path, batch: int, length: int, minibatches: int, iterations: int) -> dict[str, Any]:
    """BenchMARL's MAPPO in a process of its own: frames a processor second."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        numbers = [batch, length, EPOCHS, minibatches, 1 + iterations]
        words = [str(python), "-c", BENCHMARL, *map(str, numbers), folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"BenchMARL ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TIMES"))[6:])
    return {"part": "MAPPO", "library": "BenchMARL 1.5.2", "environments": batch, "seconds": round(found["seconds"], 2),
            "frames_per_cpu_s": round(found["iterations"] * found["frames"] / found["seconds"], 1),
            "task": found["task"]}  # fmt: skip


def main() -> None:
    """Prints both parts."""
    import torch
    from platformdirs import user_cache_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256, 1024])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--iterations", type=int, default=3, help="measured iterations of each row")
    parser.add_argument("--device", default="cpu", help="of the first part")
    parser.add_argument("--peer-batch", type=int, default=256)
    parser.add_argument("--peer-length", type=int, default=100)
    parser.add_argument("--peer-minibatches", type=int, default=4)
    parser.add_argument("--skip-peer", action="store_true")
    cache = Path(os.environ.get("MANYONE_CACHE", user_cache_path("manyone")))
    parser.add_argument("--peers", type=Path, default=cache / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []

    def show(row: dict[str, Any]) -> None:
        rows.append({"benchmark": "teams-steps", **row})
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    for task in options.tasks:
        for batch in options.batches:
            show(end_to_end(task, batch, options.device, options.iterations))
    if not options.skip_peer:
        python = peer_python(options.peers / "benchmarl", INSTALLS)
        sizes = options.peer_batch, options.peer_length, options.peer_minibatches, options.iterations
        ours, theirs = mappo(*sizes), benchmarl(python, *sizes)
        show(ours)
        show(theirs)
        print(
            f"MAPPO: {ours['frames_per_cpu_s'] / theirs['frames_per_cpu_s']:.2f} times BenchMARL's frames a CPU second"
        )
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
