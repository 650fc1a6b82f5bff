"""What behavior recipes read: offline data sets, each with the environment that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manyone.behavior.data import BehaviorData, behavior_data
from manyone.behavior.recipes.needs import offline_name
from manyone.behavior.recipes.options import BehaviorOptions
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.devices import device_of
from manyone.engine.run import RunFolder
from manyone.envs.single import collect, make, own_data
from manyone.errors import ManyoneError
from manyone.recipes.options import Split


@dataclass(frozen=True)
class BehaviorProblem:
    """Data sets of one recipe; each is called as its environment where there is one."""

    name: str
    data: tuple[BehaviorData, ...]
    trajectories: tuple[Trajectories, ...]

    def digests(self) -> dict[str, str]:
        """What the data held, by content."""
        return own_data.digests(self.trajectories)


def load_problem(options: BehaviorOptions) -> BehaviorProblem:
    """The data that ``options`` name, made if need be."""
    wanted = offline_name(options)
    if wanted is not None:
        return problem_of(str(wanted), collect.made(wanted, workers=options.workers), options)
    keys = [key for word in options.keys for key in word.split(",") if key]
    data = own_data.from_places(
        options.data,
        keys=keys,
        data_horizon=options.data_horizon,
        data_choices=options.data_choices,
        simulator=options.simulator,
    )
    return problem_of("own data", data, options)


def problem_of(name: str, trajectories: Sequence[Trajectories], options: BehaviorOptions) -> BehaviorProblem:
    """``trajectories`` as tensors on the options' device, with bounds, horizons and references."""
    references = own_data.references(trajectories, options.reference)
    device = device_of(options.device)
    found = []
    for one in trajectories:
        acts = options.simulator
        horizon = own_data.horizon(one, options.horizon) if acts else options.horizon
        bounds = make.bounds(one.name) if acts and not one.choices else None
        environment = one.name if acts else None
        data = behavior_data(one, bounds=bounds, environment=environment, horizon=horizon, device=device)
        found.append(replace(data, reference=references.get(one.name)))
    if len({one.name for one in found}) < len(found):
        raise ManyoneError(f"two data sets are called {found[0].name}: give each a name of its own")
    return BehaviorProblem(name, tuple(found), tuple(trajectories))


def exported(folder: RunFolder, split: Split) -> Path:
    """The model of a run that is evaluated; behavior runs export what acts when they have come to their end."""
    if split != "test":
        raise ManyoneError(f"--split {split}: {folder.recipe} has no splits: leave it out")
    model = folder.path / "model"
    if not model.is_dir():
        raise ManyoneError(f"{folder.path}: not finished, nothing to evaluate yet: manyone resume {folder.path}")
    return model


def plan_of_data(options: BehaviorOptions, recipe: str) -> str:
    """What a dry run says of the data."""
    wanted = offline_name(options)
    if wanted is None:
        return f"{recipe} on own data: {', '.join(options.data)}"
    state = "in the cache" if wanted.made() else f"would be made in the simulator; licence: {wanted.licence}"
    return f"{recipe} on {wanted}: {', '.join(collect.set_tasks(wanted))}\ndata: {state}"
