"""What a policy is adapted with: tasks it was trained on, new tasks with a few episodes each, and the policy itself.

A policy that does not exist yet is trained by recipe prompt-dt, with pooled statistics, as the stage ``policy`` of the
run: an interrupted run goes on with it where it stopped, and its model folder serves later runs as ``--policy``.
Public names: :class:`AdaptationProblem`, :func:`load_adaptation`, :func:`with_policy`, :func:`new_shots`,
:func:`training_shots`, :func:`plan_of_adaptation`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manyone.data.trajectories.offline import OfflineName, parse_offline
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.devices import device_of
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single import own_data
from manyone.envs.single.collect import set_tasks
from manyone.errors import ManyoneError
from manyone.policies.artefact import SavedPolicy, read_policy
from manyone.policies.held_out import split
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.recipes.needs import offline_name, state_of
from manyone.policies.recipes.options_prompt import AdaptationOptions
from manyone.policies.recipes.problem import PolicyProblem, from_places, from_suite, load_problem
from manyone.policies.tasks import PROMPT_FRACTION, Bounds, label
from manyone.recipes.arm import Arm

STAGE = "policy"
"""The stage of a run in which its policy is trained."""
_WINDOWS = 16  # a task and step of that training, as published


@dataclass(frozen=True)
class AdaptationProblem:
    """A policy, the tasks that it was trained on where their data are there, and new tasks."""

    new: PolicyProblem
    """The new tasks: their few episodes as data, and where they are evaluated."""
    training: PolicyProblem | None = None
    prompts: tuple[Trajectories, ...] = ()
    """The episodes whose tails are the new tasks' prompts, in their order; none: the few episodes."""
    policy: SavedPolicy | None = None
    """None: it has to be trained first (:func:`with_policy`)."""

    @property
    def horizon(self) -> int:
        """Steps of the longest episode; what conditions' timesteps are divided by."""
        longest = max((int(one.lengths.max()) for one in self.prompts), default=0)
        return max(longest, self.new.longest, 0 if self.training is None else self.training.longest)

    @property
    def frozen(self) -> SavedPolicy:
        """The policy, which must be there."""
        if self.policy is None:
            raise ManyoneError("the policy of this run is not trained yet: manyone resume goes on with it")
        return self.policy

    def digests(self, options: AdaptationOptions) -> dict[str, str]:
        """What the user's own data held, by content; made data are kept by their recipe."""
        found: dict[str, str] = {}
        if options.data and self.training is not None:
            found |= self.training.digests()
        if options.shots:
            parts = {"--shots": self.new.data, "left out of --shots": self.new.held_out, "--prompts": self.prompts}
            for name, data in parts.items():
                found |= {f"{name}, {key}": value for key, value in own_data.digests(data).items()}
        return found


def load_adaptation(options: AdaptationOptions) -> AdaptationProblem:
    """The data that ``options`` name, made if need be, and the policy where one is given."""
    policy = None if options.policy is None else _given_policy(options.policy, str(device_of(options.device)))
    training = None if options.suite is None and not options.data else load_problem(options)
    prompts: Sequence[Trajectories] = ()
    if options.shots:
        new = _own(options, options.shots, "--shots")
        prompts = _ordered(_own(options, options.prompts, "--prompts").data, new) if options.prompts else ()
    else:
        new = _made(options, options.shot_quality)
        asked = options.prompt_quality not in (None, options.shot_quality)
        prompts = _made(options, str(options.prompt_quality)).data if asked else ()
    if not options.simulator:
        parts = [split(one, options.data_seed) for one in new.data]
        new = replace(new, data=tuple(own for own, _ in parts), held_out=tuple(held for _, held in parts))
    count, targets = len(new.data), len(options.target_return)
    if targets not in (0, 1, count):
        raise ManyoneError(f"{targets} values of --target-return for {count} new tasks: give one, or one each")
    return AdaptationProblem(new, training, tuple(prompts), policy)


def with_policy(options: AdaptationOptions, problem: AdaptationProblem, folder: RunFolder) -> AdaptationProblem:
    """``problem`` with its policy, trained in a stage of ``folder`` (or the rest of the way) where none was given."""
    if problem.policy is not None:
        return problem
    assert problem.training is not None
    place = folder.stage(STAGE)
    if not (place.path / "model").is_dir():
        arm = pretraining(options)
        own = arm.options()
        print(f"policy: prompt-dt on {len(problem.training.data)} tasks, {own.steps} steps", file=sys.stderr)
        learner = arm.build(own, problem.training)
        every = max(1, own.steps // 500)
        train(learner, place, steps=own.steps, checkpoint_every=own.checkpoint_every, log_every=every)
    return trained_policy(options, problem, folder)


def trained_policy(options: AdaptationOptions, problem: AdaptationProblem, folder: RunFolder) -> AdaptationProblem:
    """``problem`` with the policy that ``folder`` holds already, where none was given."""
    if problem.policy is not None:
        return problem
    place = folder.stage(STAGE).path / "model"
    if not place.is_dir():
        raise ManyoneError(f"{folder.path}: its policy is not trained yet: manyone resume {folder.path}")
    return replace(problem, policy=read_policy(place, str(device_of(options.device))))


def pretraining(options: AdaptationOptions) -> Arm:
    """The training of the policy, as its own recipe's options describe it."""
    names = ("preset", "suite", "data", "quality", "episodes", "horizon", "data_seed", "data_horizon", "data_choices",
             "keys", "simulator", "action_range", "hold_out", "device", "seed", "workers", "checkpoint_every",
             "context", "prompt", "width", "layers", "heads", "dropout", "target_quantile")  # fmt: skip
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    given |= {"steps": options.pretrain_steps, "tasks_per_step": options.pretrain_tasks, "statistics": "pooled"}
    given |= {"batch_size": _WINDOWS}
    return Arm("prompt-dt", "prompt-dt", given)


def new_shots(options: AdaptationOptions, problem: AdaptationProblem) -> FewShots:
    """The new tasks' few episodes, as the policy reads them."""
    asked = options.target_return
    return FewShots(
        problem.frozen,
        problem.new.data,
        problem.prompts or None,
        statistics=options.statistics,
        bounds=_bounds(options, problem.new),
        target_quantile=options.target_quantile,
        targets=asked * len(problem.new.data) if len(asked) == 1 else asked or None,
        horizon=problem.horizon,
    )


def training_shots(options: AdaptationOptions, problem: AdaptationProblem) -> FewShots:
    """The training tasks' data as the policy reads them: windows of all episodes but those that prompts come from."""
    assert problem.training is not None
    data = problem.training.data
    held = [one.best(PROMPT_FRACTION) for one in data]
    prompts = [one.select(best) for one, best in zip(data, held)]
    windows = data if options.hold_out == "never" else [_without(one, best) for one, best in zip(data, held)]
    return FewShots(problem.frozen, windows, prompts, bounds=_bounds(options, problem.training),
                    target_quantile=options.target_quantile, horizon=problem.horizon)  # fmt: skip


def plan_of_adaptation(options: AdaptationOptions) -> list[str]:
    """What a dry run says of policy and data; nothing is made for it."""
    wanted = offline_name(options)
    lines = []
    if wanted is not None:
        lines.append(f"training tasks: {wanted}, {state_of(wanted)}")
    elif options.data:
        lines.append(f"training tasks: own data: {', '.join(options.data)}")
    own = f"prompt-dt is trained first: {options.pretrain_steps} steps"
    lines.append(f"policy: {own if options.policy is None else options.policy}")
    if options.shots:
        lines.append(f"new tasks: own episodes: {', '.join(options.shots)}")
    else:
        names = [_made_name(options, options.shot_quality)]
        names += [_made_name(options, options.prompt_quality)] if options.prompt_quality else []
        tasks = ", ".join(label(task) for task in set_tasks(names[0]))
        lines.append(f"new tasks: {tasks}; " + "; ".join(f"{name}, {state_of(name)}" for name in names))
    return lines


def _given_policy(place: Path, device: str) -> SavedPolicy:
    return read_policy(place / "model" if (place / "model").is_dir() else place, device)


def _own(options: AdaptationOptions, pairs: Sequence[str], option: str) -> PolicyProblem:
    keys = [key for word in options.keys for key in word.split(",") if key]
    return from_places(
        pairs,
        horizon=options.horizon,
        keys=keys,
        data_horizon=options.data_horizon,
        data_choices=options.data_choices,
        simulator=options.simulator,
        option=option,
    )


def _ordered(prompts: Sequence[Trajectories], new: PolicyProblem) -> list[Trajectories]:
    """``prompts`` in the order of the new tasks, which must be theirs."""
    found = {one.name: one for one in prompts}
    if sorted(found) != sorted(new.tasks):
        raise ManyoneError(f"--prompts are of {', '.join(found)}, --shots of {', '.join(new.tasks)}: give the same")
    return [found[task] for task in new.tasks]


def _made_name(options: AdaptationOptions, quality: str) -> OfflineName:
    """The held-out side of the suite; the suite itself where it holds no task out."""
    assert options.suite is not None
    sizes: dict[str, Any] = {"episodes": options.shot_episodes, "steps": options.horizon, "seed": options.data_seed}
    base = options.suite.removesuffix(":train")
    try:
        return parse_offline(f"{base}:test-{quality}", **sizes)
    except ManyoneError:
        return parse_offline(f"{base}-{quality}", **sizes)


def _made(options: AdaptationOptions, quality: str) -> PolicyProblem:
    return from_suite(_made_name(options, quality), horizon=options.horizon, workers=options.workers)


def _bounds(options: AdaptationOptions, problem: PolicyProblem) -> Sequence[Bounds] | Literal["unit"]:
    return problem.bounds if options.action_range == "bounds" else "unit"


def _without(data: Trajectories, held: np.ndarray) -> Trajectories:
    """``data`` without the episodes ``held``, of which there must be fewer than all."""
    rest = np.setdiff1d(np.arange(data.episodes), held)
    if not len(rest):
        raise ManyoneError(f"{data.name}: one episode cannot be prompt and training data: give two or more")
    return data.select(rest)
