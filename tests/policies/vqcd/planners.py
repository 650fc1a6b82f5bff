"""Small planners on made data: three tasks with states and actions of different widths, or of the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.policies.conftest import make_tasks

from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies.vqcd.data import PlanData
from manyone.policies.vqcd.inverse import InverseDynamics
from manyone.policies.vqcd.learner import PlannerLearner, Training
from manyone.policies.vqcd.planner import Planner, Sampling, make_planner
from manyone.policies.vqcd.spaces import Spaces
from manyone.policies.vqcd.strategy import Strategy, entry_of, make_strategy

WIDTHS = ((4, 1), (11, 3), (17, 6))
PLANS, SPACES = 6, 4
"""Steps of a task's two phases."""


def trajectories(widths: Sequence[tuple[int, int]] = WIDTHS) -> list[Trajectories]:
    """A task for each of ``widths`` (states, actions), called t0, t1, ...; episodes of 14 to 11 steps."""
    return [replace(make_tasks(n + 1, states=s, actions=a)[n], name=f"t{n}") for n, (s, a) in enumerate(widths)]


def planner(states: int = 20, actions: int = 10, *, seed: int = 0, **given: Any) -> Planner:
    """A narrow planner; ``given`` replaces parts of its configuration."""
    config = {
        "states": states, "actions": actions, "horizon": 8, "plan": "states", "told": 0, "schedule": "cosine",
        "diffusion_steps": 20, "prediction": "noise",
        "denoiser": {"kind": "mlp", "width": 16, "layers": 2, "embedding": 8},
        "inverse": {"states": states, "actions": actions, "width": 8, "layers": 2}, **given,
    }  # fmt: skip
    return make_planner(config, seed=seed)


def learner(
    widths: Sequence[tuple[int, int]] = WIDTHS,
    strategy: str | Callable[[PlannerLearner], Strategy] = "masks",
    *,
    kind: str = "vq",
    inverse: str = "masked",
    training: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    plan: str = "states",
    data: PlanData | None = None,
    seed: int = 0,
    **given: Any,
) -> PlannerLearner:
    """A learner of a few steps."""
    data = PlanData(trajectories(widths), 8) if data is None else data
    spaces = Spaces(data, kind, steps=SPACES, batch_size=16, codes=16, hidden=8, seed=seed)  # type: ignore[arg-type]
    states, actions = spaces.widths
    entry = entry_of(strategy) if isinstance(strategy, str) else None
    shape = {"states": states, "actions": actions, "width": 8, "layers": 2}
    apart = {"masked": 0, "per-task": len(data), "shared": 1}[inverse] if plan == "states" else 0
    network = planner(states, actions, seed=seed, plan=plan, told=len(data) if entry is not None and entry.told else 0,
                      inverse=shape if plan == "states" and not apart else None)  # fmt: skip
    own = (lambda one: make_strategy(strategy, one, options or {})) if isinstance(strategy, str) else strategy
    return PlannerLearner(
        data, spaces, network, own, Training(**{"steps": PLANS, "batch_size": 8, **(training or {})}),
        at_once=entry is not None and entry.at_once, inverse=inverse,  # type: ignore[arg-type]
        inverses=[InverseDynamics(**shape, seed=k) for k in range(apart)], how=Sampling(steps=3), seed=seed, **given,
    )  # fmt: skip


def run(one: PlannerLearner, until: int | None = None) -> PlannerLearner:
    """Steps of ``one`` to its end, or ``until`` so many are taken."""
    while one.iteration < (one.total if until is None else until):
        one.step()
    return one
