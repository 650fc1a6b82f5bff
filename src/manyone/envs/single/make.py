"""Any environment of the project by one name.

======================  =============================================  ==========================
name                    what                                           goals
======================  =============================================  ==========================
``door-open-v3``        a Meta-World v3 task                           0-49 (40-49 for evaluation)
``cheetah-vel:7``       a task of Cheetah-dir, Cheetah-vel or Ant-dir  0 (the index is the goal)
``gym:Hopper-v5``       any Gymnasium environment with Box spaces      0
======================  =============================================  ==========================

Every environment is a ``gymnasium.Env`` with flat observations and actions and the five-tuple ``step``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.engine.extras import need
from manyone.engine.modules import import_named
from manyone.envs.single import locomotion, metaworld
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium


def kind(task: str) -> str:
    """``"metaworld"``, ``"locomotion"`` or ``"gym"``; :class:`ManyoneError` for a name that is none of them."""
    if task.startswith("gym:"):
        return "gym"
    if task.partition(":")[0] in locomotion.FAMILIES:
        locomotion.parse(task)
        return "locomotion"
    if ":" in task:
        families = ", ".join(f"{name}:INDEX" for name in locomotion.FAMILIES)
        raise ManyoneError(f"unknown task {task!r}; allowed: a Meta-World name (door-open-v3), {families}, gym:ID")
    metaworld.task_name(task)
    return "metaworld"


def suite_tasks(suite: str) -> list[str]:
    """Task names of a suite: ``metaworld-mt10`` etc., ``cheetah-vel[:train|:test]`` etc., or one task's own name."""
    if suite.startswith("metaworld-"):
        return metaworld.suite_tasks(suite)
    name, _, rest = suite.partition(":")
    if name in locomotion.FAMILIES and rest in ("", "train", "test"):
        return locomotion.suite_tasks(suite)
    return [metaworld.task_name(suite) if kind(suite) == "metaworld" else suite]


def goals(task: str, *, evaluation: bool = True) -> Sequence[int]:
    """The goals held out for evaluation (or those for data); the only goal 0 where a task has one."""
    if kind(task) == "metaworld":
        return metaworld.EVAL_GOALS if evaluation else metaworld.TRAIN_GOALS
    return range(1)


def make_env(
    task: str,
    goal: int = 0,
    seed: int = 0,
    *,
    horizon: int | None = None,
    render_mode: str | None = None,
    **simulator: Any,
) -> gymnasium.Env:
    """The environment called ``task`` at ``goal``; ``horizon`` cuts episodes (default: the task's own, see spaces)."""
    which = kind(task)
    if which == "gym":
        env = _make_gym(task, horizon, render_mode, **simulator)
        _only_goal(task, goal)
        env.action_space.seed(seed)
        return env
    module = metaworld if which == "metaworld" else locomotion
    options: dict[str, Any] = {} if horizon is None else {"horizon": horizon}
    return module.make_env(task, goal, seed, render_mode=render_mode, **options, **simulator)


def set_goal(env: gymnasium.Env, task: str, goal: int) -> None:
    """Makes ``goal`` the one that the next ``env.reset()`` starts with."""
    if kind(task) == "metaworld":
        metaworld.set_goal(env, goal)
    else:
        _only_goal(task, goal)


@lru_cache(maxsize=256)
def spaces(task: str) -> tuple[int, int, int]:
    """(state width S, action width A, steps of a full episode) of ``task``."""
    which = kind(task)
    if which == "metaworld":
        return metaworld.STATE_DIM, metaworld.ACTION_DIM, metaworld.HORIZON
    if which == "locomotion":
        family, _ = locomotion.parse(task)
        return family.state_dim, family.action_dim, locomotion.HORIZON
    env = _make_gym(task, None, None)
    (states,), (actions,) = env.observation_space.shape or (), env.action_space.shape or ()
    horizon = env.spec.max_episode_steps if env.spec is not None else None
    env.close()
    return states, actions, horizon or 1000


@lru_cache(maxsize=256)
def bounds(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest action of ``task``, float32 [A] each; infinite where it has no bound."""
    if kind(task) != "gym":  # MuJoCo's motors and Meta-World's hands
        ones = np.ones(spaces(task)[1], np.float32)
        return -ones, ones
    env = _make_gym(task, None, None)
    space: Any = env.action_space
    env.close()
    return space.low.astype(np.float32), space.high.astype(np.float32)


def prepare(tasks: Sequence[str]) -> None:
    """Makes what environments read from the cache (Meta-World's goals), once, before processes are started."""
    metaworld.prepare([metaworld.task_name(task) for task in tasks if kind(task) == "metaworld"])


def _only_goal(task: str, goal: int) -> None:
    if goal != 0:
        raise ManyoneError(f"{task}: the task has one goal, so goal must be 0 (got {goal})")


def _make_gym(task: str, horizon: int | None, render_mode: str | None, **simulator: Any) -> gymnasium.Env:
    gymnasium = need("gymnasium", task, "policies")
    module, _, name = task.removeprefix("gym:").rpartition(":")
    try:
        if module:  # it registers the environment
            import_named(module)
        env = gymnasium.make(
            name, max_episode_steps=horizon, render_mode=render_mode, disable_env_checker=True, **simulator
        )
    except (gymnasium.error.Error, ImportError) as problem:
        raise ManyoneError(f"{task}: Gymnasium cannot make {name!r} ({str(problem).splitlines()[0]})") from None
    for what, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            env.close()
            raise ManyoneError(f"{task}: its {what} space is {space}; only flat Box spaces can be used")
    return env
