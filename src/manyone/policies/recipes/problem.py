"""What policies are trained on and evaluated in: offline data of several tasks, held-out goals of the same tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from manyone.data.trajectories.offline import OfflineName
from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single import collect, make, own_data
from manyone.policies.held_out import split
from manyone.policies.recipes.needs import offline_name
from manyone.policies.recipes.options import DataOptions

_log = logging.getLogger("manyone")


@dataclass(frozen=True)
class PolicyProblem:
    """Data sets and the environments that they belong to, one a task; a data set is called as its environment."""

    name: str
    data: tuple[Trajectories, ...]
    horizon: int | None = None
    """Steps of an evaluation episode; None: each task's own."""
    held_out: tuple[Trajectories, ...] = ()
    """Without environments: episodes of each task to compare actions with."""

    @property
    def tasks(self) -> list[str]:
        """The environments by name (``manyone.envs.single.make``)."""
        return [one.name for one in self.data]

    @property
    def bounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Least and largest action of each environment, [A] each; infinite where it has no bound."""
        if self.held_out:
            return [(np.full(one.action_dim, -np.inf), np.full(one.action_dim, np.inf)) for one in self.data]
        return [make.bounds(task) for task in self.tasks]

    @property
    def horizons(self) -> dict[str, int]:
        """Steps of an evaluation episode of each environment."""
        return {one.name: own_data.horizon(one, self.horizon) for one in self.data}

    @property
    def longest(self) -> int:
        """Steps of the longest episode, in the data or in the evaluation."""
        longest = [int(one.lengths.max()) for one in self.data]
        return max(self.horizon or 0, *longest, *(() if self.held_out else self.horizons.values()))

    def references(self, given: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Task -> return of a random and of an expert policy, ``given`` as TASK=RANDOM,EXPERT or known to the data."""
        return own_data.references(self.data, given)

    def warn_of_time(self) -> None:
        """Says where an evaluation goes on when the data end, or the environment before it."""
        for one, steps in zip(self.data, self.horizons.values()):
            longest = int(one.lengths.max())
            if self.horizon is not None and steps < self.horizon:
                _log.warning("%s ends its episodes at %d steps, before --horizon %d", one.name, steps, self.horizon)
            if steps > longest:
                _log.warning("%s is evaluated for %d steps, but its data end at %d: none of them shows what comes "
                             "later", one.name, steps, longest)  # fmt: skip

    def digests(self) -> dict[str, str]:
        """What the data held, by content."""
        left_out = own_data.digests(self.held_out)
        return own_data.digests(self.data) | {f"{name}, left out": one for name, one in left_out.items()}


def load_problem(options: DataOptions) -> PolicyProblem:
    """The data that ``options`` name, made if need be."""
    wanted = offline_name(options)
    if wanted is None:
        keys = [key for word in options.keys for key in word.split(",") if key]
        problem = from_places(
            options.data,
            horizon=options.horizon,
            keys=keys,
            data_horizon=options.data_horizon,
            data_choices=options.data_choices,
            # an earlier version cut the actions of .npz files to -1 and 1 when it read them
            clip=1.0 if options.action_range == "unit" else None,
            simulator=options.simulator,
        )
        if options.simulator:
            problem.warn_of_time()
            return problem
        parts = [split(one, options.data_seed) for one in problem.data]
        return replace(problem, data=tuple(own for own, _ in parts), held_out=tuple(held for _, held in parts))
    return from_suite(wanted, horizon=options.horizon, workers=options.workers)


def from_suite(wanted: OfflineName, *, horizon: int | None = None, workers: int | None = None) -> PolicyProblem:
    """The made data ``wanted`` from the cache; what is missing is made first, with progress on stderr."""
    data = collect.made(wanted, workers=workers)
    return _problem(str(wanted), data, horizon)


def from_places(
    pairs: Sequence[str],
    *,
    horizon: int | None = None,
    keys: Sequence[str] = (),
    data_horizon: int | None = None,
    data_choices: int | None = None,
    clip: float | None = None,
    simulator: bool = True,
    option: str = "--data",
) -> PolicyProblem:
    """Own data, each as TASK=PLACE (:func:`manyone.envs.single.own_data.from_places`); ``horizon`` is evaluation's."""
    data = own_data.from_places(
        pairs, keys=keys, data_horizon=data_horizon, data_choices=data_choices, clip=clip, simulator=simulator,
        option=option,
    )  # fmt: skip
    return _problem("own data", data, horizon)


def _problem(name: str, data: Sequence[Trajectories], horizon: int | None) -> PolicyProblem:
    return PolicyProblem(name, tuple(data), horizon)
