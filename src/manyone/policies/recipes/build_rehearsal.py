"""What the cloning-with-rehearsal recipe trains: the learner that its options describe, on the data of a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyone.data.trajectories.files import pairs_from_npz
from manyone.engine.devices import device_of
from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.rehearsal import Pairs, RehearsalLearner, given_pairs
from manyone.policies.recipes.options_rehearsal import RehearsalOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.tasks import PolicyData

Evaluate = Callable[[Any], Mapping[str, Any]] | None


def cloning(o: RehearsalOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> RehearsalLearner:
    """Cloning with rehearsal, on the data that planners have: nothing is held out."""
    data = PolicyData(problem.data, 1, hold_out=False, bounds=problem.bounds if o.action_range == "bounds" else "unit",
                      device=device_of(o.device))  # fmt: skip
    network = CloningNetwork(data.state_dim, data.action_dim, len(data), width=o.width, layers=o.layers,
                             widths=data.widths, seed=o.seed).to(data.device)  # fmt: skip
    return RehearsalLearner(
        network, data, steps=o.steps, memory=o.memory_size, given=distilled(o, data), share=o.memory_share,
        seed=o.seed, batch_size=o.batch_size, lr=o.lr, schedule=o.schedule, evaluate=evaluate,
    )  # fmt: skip


def distilled(o: RehearsalOptions, data: PolicyData) -> dict[int, Pairs]:
    """Task -> the distilled pairs that ``o`` gives it as its memory."""
    found = {}
    for word in o.memory:
        task, _, place = word.rpartition("=")
        name = make.BODIES.get(task, task)
        if name not in data.names:
            raise ManyoneError(f"--memory {word}: must be of one of {', '.join(data.names)}")
        observations, actions = pairs_from_npz(place, name)
        number = data.names.index(name)
        found[number] = given_pairs(data, number, observations, actions, f"--memory {word}")
    return found
