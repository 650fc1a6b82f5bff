"""Any environment of the project by one name.

======================  =============================================  ===========================
name                    what                                           goals
======================  =============================================  ===========================
``door-open-v3``        a Meta-World v3 task                           0-49 (40-49 for evaluation)
``cheetah-vel:7``       a task of Cheetah-dir, Cheetah-vel or Ant-dir  0 (the index is the goal)
``ml1-reach:7``         Meta-World's reach or pick-place, goal hidden  0 (the index is the goal)
``point-robot:7``       a point in the plane, goal hidden              0 (the index is the goal)
``teachers:7``          a linear system with a teacher, made up        0 (the index is the teacher)
``gym:Hopper-v5``       any Gymnasium environment with vectors         0
======================  =============================================  ===========================

A Gymnasium environment's keyword arguments follow a question mark, as JSON where they are no text:
``gym:Ant-v5?ctrl_cost_weight=0.1&max_episode_steps=500``. So do the ``keys`` of dictionary observations that are laid
side by side: ``gym:PointMaze_UMaze-v3?keys=observation,desired_goal``. (``%26`` is an &, ``%3D`` an =.)

Every environment is a ``gymnasium.Env`` with flat observations and actions and the five-tuple ``step``. An environment
with C discrete actions (``gym:CartPole-v1``) takes C numbers and does the choice with the largest.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from manyone.data.trajectories.observations import action_choices, action_width, lay_out, state_width
from manyone.engine.extras import need
from manyone.engine.modules import import_named
from manyone.envs.single import families, locomotion, metaworld, ml1
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium

BODIES = {"hopper": "gym:Hopper-v5", "halfcheetah": "gym:HalfCheetah-v5", "walker2d": "gym:Walker2d-v5"}
"""Short names of environments. D4RL's Walker2d data are of the older model: say gym:Walker2d-v4 for them."""
LINEAR_BODIES = {
    "invertedpendulum": "gym:InvertedPendulum-v5",
    "inverteddoublependulum": "gym:InvertedDoublePendulum-v5",
    "swimmer": "gym:Swimmer-v5",
    "reacher": "gym:Reacher-v5",
    "ant": "gym:Ant-v5?include_cfrc_ext_in_observation=false",
}
"""Short names of the environments whose packaged experts are linear."""
_SEQUENCE = [*list(LINEAR_BODIES.values())[:-1], *BODIES.values(), LINEAR_BODIES["ant"]]  # 4/1 to 27/8
_PLAIN = '[]{}:,"-_.~/'  # what keeps its look in the value of a keyword argument


def kind(task: str) -> str:
    """``"metaworld"``, ``"gym"`` or a family's: ``"locomotion"``, ``"ml1"``, ``"point-robot"``, ``"teachers"``.

    :class:`ManyoneError` for a name that is none of them.
    """
    if task.startswith("gym:"):
        return "gym"
    if task.partition(":")[0] in families.FAMILIES:
        return families.parse(task)[0].kind
    if ":" in task:
        known = ", ".join(f"{name}:INDEX" for name in families.FAMILIES)
        raise ManyoneError(f"unknown task {task!r}; allowed: a Meta-World name (door-open-v3), {known}, gym:ID")
    metaworld.task_name(task)
    return "metaworld"


def suite_tasks(suite: str) -> list[str]:
    """Task names of a suite, or one task's own name.

    Suites are ``metaworld-mt10`` etc., ``cheetah-vel[:train|:test]`` etc. (the splits of
    :mod:`manyone.envs.single.families`), ``mujoco3``, ``mujoco8`` and ``mujoco-hopper`` etc.
    """
    if suite.startswith("metaworld-"):
        return metaworld.suite_tasks(suite)
    bodies = LINEAR_BODIES | BODIES
    if suite.removeprefix("mujoco-") in bodies:
        return [bodies[suite.removeprefix("mujoco-")]]
    if suite in ("mujoco3", "mujoco8"):
        return list(BODIES.values()) if suite == "mujoco3" else list(_SEQUENCE)
    if families.is_split(suite):
        return families.split_tasks(suite)
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
        check_goal(task, goal)
        env.action_space.seed(seed)
        return env
    options = {"horizon": horizon, "render_mode": render_mode, **simulator}
    if which == "metaworld":
        return metaworld.make_env(
            task, goal, seed, **{key: value for key, value in options.items() if value is not None}
        )
    check_goal(task, goal)
    if horizon is not None and horizon < 1:
        raise ManyoneError(f"horizon {horizon} of {task}: must be at least 1")
    return _family_module(which, task).make_env(task, seed, **options)  # type: ignore[no-any-return]


def set_goal(env: gymnasium.Env, task: str, goal: int) -> None:
    """Makes ``goal`` the one that the next ``env.reset()`` starts with."""
    if kind(task) == "metaworld":
        metaworld.set_goal(env, goal)
    else:
        check_goal(task, goal)


def check_goal(task: str, goal: int) -> None:
    """:class:`ManyoneError` where a task with one goal (a family's index is its goal) is asked for another."""
    if goal != 0:
        raise ManyoneError(f"{task}: the task has one goal, so goal must be 0 (got {goal})")


@functools.lru_cache(maxsize=256)
def spaces(task: str) -> tuple[int, int, int]:
    """(state width S, action width A, steps of a full episode) of ``task``."""
    which = kind(task)
    if which == "metaworld":
        return metaworld.STATE_DIM, metaworld.ACTION_DIM, metaworld.HORIZON
    if which != "gym":
        family, _ = families.parse(task)
        return family.state_dim, family.action_dim, family.horizon
    env = _make_gym(task, None, None)
    (states,), (actions,) = env.observation_space.shape or (), env.action_space.shape or ()
    env.close()
    return states, actions, limit(task) or 1000


@functools.lru_cache(maxsize=256)
def limit(task: str) -> int | None:
    """Steps after which ``task`` cuts its episodes off; None: never."""
    if kind(task) != "gym":
        return spaces(task)[2]
    env = _make_gym(task, None, None)
    env.close()
    return None if env.spec is None else env.spec.max_episode_steps


@functools.lru_cache(maxsize=256)
def bounds(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest action of ``task``, float32 [A] each; infinite where it has no bound, 0 and 1 of choices."""
    if kind(task) != "gym":  # MuJoCo's motors and Meta-World's hands
        ones = np.ones(spaces(task)[1], np.float32)
        return -ones, ones
    env = _make_gym(task, None, None)
    space: Any = env.action_space
    env.close()
    return space.low.astype(np.float32), space.high.astype(np.float32)


@functools.lru_cache(maxsize=256)
def choices(task: str) -> int:
    """C, the number of discrete actions of ``task``; 0 where its actions are real numbers."""
    if kind(task) != "gym":
        return 0
    env = _gymnasium(task)
    env.close()
    return action_choices(env.action_space)


def prepare(tasks: Sequence[str]) -> None:
    """Makes what environments read from the cache (Meta-World's goals), once, before processes are started."""
    names = {"metaworld": metaworld.task_name, "ml1": lambda task: ml1.source(task)[0]}
    metaworld.prepare(list(dict.fromkeys(names[which](task) for task in tasks if (which := kind(task)) in names)))


def gym_parts(task: str) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Gymnasium's id, the keys of dictionary observations, and the keyword arguments in ``gym:ID?NAME=VALUE&...``."""
    name, _, query = task.removeprefix("gym:").partition("?")
    keys: tuple[str, ...] = ()
    kwargs: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = (unquote(p) for p in part.partition("="))
        if not equals or not key.isidentifier():
            raise ManyoneError(f"{task}: {part!r} is no NAME=VALUE, e.g. gym:Ant-v5?ctrl_cost_weight=0.1")
        if key == "keys":
            keys = tuple(filter(None, text.split(",")))
            continue
        try:
            kwargs[key] = json.loads(text)
        except ValueError:
            kwargs[key] = text
    return name, keys, kwargs


def gym_task(name: str, keys: Sequence[str] = (), kwargs: Mapping[str, Any] | None = None) -> str:
    """The inverse of :func:`gym_parts`."""
    parts = [f"keys={quote(','.join(keys), safe=',/')}"] if keys else []
    for key, value in (kwargs or {}).items():
        text = json.dumps(value, separators=(",", ":"))
        if isinstance(value, str) and not _is_json(value):
            text = value
        parts.append(f"{key}={quote(text, safe=_PLAIN)}")
    return f"gym:{name}" + ("?" + "&".join(parts) if parts else "")


def with_keys(task: str, keys: Sequence[str]) -> str:
    """``task`` with ``keys`` in its name where it is a Gymnasium environment whose observations are a dictionary."""
    if not keys or kind(task) != "gym" or gym_parts(task)[1] or not _has_dictionary(task):
        return task
    name, _, kwargs = gym_parts(task)
    return gym_task(name, keys, kwargs)


def recorded_task(record: Mapping[str, Any], origin: str) -> str:
    """The task that a data set's own ``record`` of its environment (a Gymnasium ``EnvSpec`` as a mapping) names.

    A file may have come from anywhere, so that only what Gymnasium has registered on this machine is taken, by its id:
    no entry point and no module that the record names is imported, no wrapper is made, and no text that could be a path
    is handed over. :class:`ManyoneError` tells to name the task.
    """
    gymnasium = need("gymnasium", origin, "policies")
    name, advice = str(record.get("id")), "give the environment yourself: --data gym:ID=PLACE"
    if name not in gymnasium.registry:
        raise ManyoneError(f"{origin}: its environment {name!r} is not registered in Gymnasium here; {advice}")
    if record.get("additional_wrappers"):
        raise ManyoneError(f"{origin}: its environment {name} has wrappers of its own, which are not made; {advice}")
    registered = gymnasium.registry[name]
    kwargs = {key: value for key, value in (record.get("kwargs") or {}).items() if registered.kwargs.get(key) != value}
    odd = [key for key, value in kwargs.items() if not str(key).isidentifier() or not _harmless(value)]
    if odd:
        raise ManyoneError(
            f"{origin}: its environment {name} has {odd[0]} = {kwargs[odd[0]]!r}, which is not taken; {advice}"
        )
    steps = record.get("max_episode_steps")
    if isinstance(steps, int) and steps > 0 and steps != registered.max_episode_steps:
        kwargs["max_episode_steps"] = steps
    return gym_task(name, (), kwargs)


def named_task(name: str, origin: str) -> str | None:
    """``name``, found in a file, where it is a task's; None where it is not. Gymnasium's are checked as records are."""
    if not name.startswith("gym:"):
        try:
            return name if suite_tasks(name) == [name] else None
        except ManyoneError:
            return None
    key, keys, kwargs = gym_parts(name)
    found = gym_parts(recorded_task({"id": key, "kwargs": kwargs}, origin))
    return gym_task(found[0], keys, found[2])


def _family_module(which: str, task: str) -> Any:
    """What makes the environments of families; Gymnasium is imported for those that are written here alone."""
    if which not in ("point-robot", "teachers"):
        return {"locomotion": locomotion, "ml1": ml1}[which]
    need("gymnasium", task, "policies")
    from manyone.envs.single import point_robot, teachers

    return {"point-robot": point_robot, "teachers": teachers}[which]


def _harmless(value: Any) -> bool:
    """Whether ``value``, from a file, is of numbers and plain words only: a path to a file needs a dot or slash."""
    if isinstance(value, Mapping):
        return all(_harmless(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_harmless, value))
    return not isinstance(value, str) or re.fullmatch(r"[\w -]*", value) is not None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _make_gym(task: str, horizon: int | None, render_mode: str | None, **simulator: Any) -> gymnasium.Env:
    """The environment with its observations as vectors; refused where they, or the actions, cannot be vectors."""
    given = {"max_episode_steps": horizon, "render_mode": render_mode}  # an environment need not know render_mode
    env = _gymnasium(task, **{key: value for key, value in given.items() if value is not None}, **simulator)
    keys = gym_parts(task)[1]
    try:
        width = state_width(env.observation_space, keys, task)
        action_width(env.action_space, task)
        discrete = action_choices(env.action_space)
        if not discrete and len(env.action_space.shape or ()) != 1:
            raise ManyoneError(f"{task}: its actions are {env.action_space}; only flat Box spaces can be used")
    except ManyoneError:
        env.close()
        raise
    gymnasium = need("gymnasium", task, "policies")
    if discrete:
        scores = gymnasium.spaces.Box(0, 1, (discrete,), np.float32)
        choose = functools.partial(_chosen, space=env.action_space)
        env = gymnasium.wrappers.TransformAction(env, choose, scores)
    if env.observation_space.shape == (width,):
        return env
    flat = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
    return gymnasium.wrappers.TransformObservation(env, functools.partial(lay_out, keys=keys), flat)  # type: ignore[no-any-return]


def _chosen(action: np.ndarray, space: Any) -> int:
    """The choice with the largest number; the first one of equals."""
    return int(space.start) + int(np.argmax(action))


@functools.lru_cache(maxsize=256)
def _has_dictionary(task: str) -> bool:
    env = _gymnasium(task)
    env.close()
    return isinstance(env.observation_space, need("gymnasium", task, "policies").spaces.Dict)


def _gymnasium(task: str, **more: Any) -> gymnasium.Env:
    """What Gymnasium makes of the task's id and keyword arguments."""
    gymnasium = need("gymnasium", task, "policies")
    name, _, kwargs = gym_parts(task)
    module, _, name = name.rpartition(":")
    try:
        if module:  # it registers the environment
            import_named(module)
        return gymnasium.make(name, disable_env_checker=True, **kwargs | more)  # type: ignore[no-any-return]
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as problem:
        raise ManyoneError(f"{task}: Gymnasium cannot make {name!r} ({str(problem).splitlines()[0]})") from None
