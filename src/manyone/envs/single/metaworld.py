"""Meta-World v3 by name: the papers' task lists, fifty fixed goals a task, and the scripted experts.

Meta-World defines a task by a *random vector* (where the object and the goal lie). ``metaworld.MT1(task, seed=0)``
draws fifty of them by resetting the simulator fifty times, about one second of processor time a task; the vectors are
plain numbers, so they are kept as JSON in the cache and every later process starts from there. The observation has 39
entries: 18 now, 18 one step ago, and the goal's position (visible, the convention of the multi-task benchmarks).

Goals 0-39 are for data (:data:`TRAIN_GOALS`), 40-49 for evaluation (:data:`EVAL_GOALS`).

Task lists: MT5, MT30 and MT50 are the prefixes of the list that MTDiff, HarmoDT and later papers use (their texts say
"randomly sampled", their code uses this order); MT10 is Meta-World's own benchmark; *pairs10* holds ten tasks with
opposing pairs (open and close), where the gradients of one policy conflict most, *pairs4* the four quickest of them;
*cw10* is the sequence of Continual World (Wolczyk et al. 2021), in its order, with today's tasks of the same names.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.assets.cache import cache_folder, locked
from manyone.engine.extras import need
from manyone.engine.files import write_atomic
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium

STATE_DIM, ACTION_DIM, HORIZON = 39, 4, 500
GOALS = 50
TRAIN_GOALS, EVAL_GOALS = range(40), range(40, GOALS)
BENCHMARK_SEED = 0  # of MT1: fixes what goal 0, 1, ... of a task is, for everybody

_PAPER_ORDER = """
basketball bin-picking button-press-topdown button-press button-press-wall
coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open door-unlock hand-insert
drawer-close drawer-open faucet-open faucet-close handle-press-side handle-press handle-pull-side handle-pull lever-pull
peg-insert-side pick-place-wall pick-out-of-hole reach push-back push
pick-place plate-slide plate-slide-side plate-slide-back plate-slide-back-side soccer push-wall shelf-place sweep-into
sweep window-open window-close assembly button-press-topdown-wall hammer peg-unplug-side reach-wall stick-push
stick-pull box-close
"""
_MT10 = """
reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side window-open window-close
"""
_PAIRS10 = """
basketball bin-picking button-press-topdown button-press door-open door-close drawer-open drawer-close window-open
window-close
"""
_CW10 = """
hammer push-wall faucet-close push-back stick-pull handle-press-side push shelf-place window-close peg-unplug-side
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(f"{name}-v3" for name in text.split())


TASKS50 = _names(_PAPER_ORDER)
SUITES: dict[str, tuple[str, ...]] = {
    "metaworld-mt5": TASKS50[:5],
    "metaworld-mt10": _names(_MT10),
    "metaworld-mt30": TASKS50[:30],
    "metaworld-mt50": TASKS50,
    "metaworld-pairs4": _names("drawer-open drawer-close window-open window-close"),
    "metaworld-pairs10": _names(_PAIRS10),
    "metaworld-cw10": _names(_CW10),
}


def task_name(name: str) -> str:
    """The v3 name of a task, with or without its version ("door-open" -> "door-open-v3")."""
    full = name if name.endswith("-v3") else f"{name}-v3"
    if full not in TASKS50:
        near = difflib.get_close_matches(full, TASKS50, n=3) or TASKS50[:3]
        raise ManyoneError(f"{name!r} is not a Meta-World v3 task; did you mean {' or '.join(near)}?")
    return full


def suite_tasks(suite: str) -> list[str]:
    """The task names of a suite: ``metaworld-mt5|mt10|mt30|mt50|pairs4|pairs10|cw10`` or ``metaworld-mt1:TASK``."""
    if suite.startswith("metaworld-mt1:"):
        return [task_name(suite.removeprefix("metaworld-mt1:"))]
    if suite not in SUITES:
        raise ManyoneError(
            f"unknown suite {suite!r}; allowed: {', '.join(SUITES)}, metaworld-mt1:TASK (e.g. TASK = door-open-v3)"
        )
    return list(SUITES[suite])


def make_env(
    task: str, goal: int = 0, seed: int = 0, *, horizon: int = HORIZON, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """One Meta-World environment at ``goal`` (0-49) whose episodes are cut after ``horizon`` (1-500) steps.

    Observations are float64 [39] with the goal visible, actions in [-1, 1]^4, ``info["success"]`` is 0 or 1. The
    simulator itself is deterministic: a goal fixes the start of an episode; ``seed`` only seeds the action space and
    what ``reset(seed=...)`` records. ``simulator`` (camera_name, width, ...) goes to Meta-World's constructor.
    """
    name = task_name(task)
    if not 1 <= horizon <= HORIZON:
        raise ManyoneError(f"horizon {horizon} of {name}: Meta-World episodes have 1 to {HORIZON} steps")
    simulated = _sharing_class(name)(render_mode=render_mode, **simulator)
    env = _library("gymnasium").wrappers.TimeLimit(_goal_wrapper()(simulated, name), max_episode_steps=horizon)
    set_goal(env, goal)
    env.action_space.seed(seed)
    return env


def set_goal(env: gymnasium.Env, goal: int) -> None:
    """Makes ``goal`` (0-49) the one that the next ``env.reset()`` starts with."""
    env.get_wrapper_attr("set_goal")(goal)


def expert_action(task: str, observation: np.ndarray) -> np.ndarray:
    """What Meta-World's scripted policy does (float32 [4], unclipped); it is a function of the observation alone."""
    return np.asarray(_expert(task_name(task)).get_action(np.asarray(observation, np.float64)), np.float32)


@lru_cache(maxsize=64)
def _expert(name: str) -> Any:
    experts: dict[str, Any] = _library("metaworld.policies").ENV_POLICY_MAP
    warnings.filterwarnings(
        "ignore", message=r"Constant\(s\) may be too high", module="metaworld"
    )  # actions are clipped
    return experts[name]()


@lru_cache(maxsize=64)
def goal_vectors(task: str) -> np.ndarray:
    """The random vectors of a task's fifty goals, float64 [50, d] (read-only); drawn once, then read from the cache."""
    name = task_name(task)
    metaworld = _library("metaworld")
    file = cache_folder("envs", f"metaworld-goals-{BENCHMARK_SEED}-{version('metaworld')}") / f"{name}.json"
    vectors = _read(file)
    if vectors is None:
        with locked(f"metaworld-goals-{name}"):
            vectors = _read(file)
            if vectors is None:
                vectors = _draw(metaworld, name)
                write_atomic(file, json.dumps(vectors.tolist()).encode())
    vectors.setflags(write=False)
    return vectors


def prepare(tasks: Sequence[str]) -> None:
    """Draws and caches the goals of ``tasks``, so that worker processes find them made."""
    for task in tasks:
        goal_vectors(task)


def _draw(metaworld: Any, name: str) -> np.ndarray:
    benchmark = metaworld.MT1(name, seed=BENCHMARK_SEED)
    env = benchmark.train_classes[name]()
    vectors = []
    for task in benchmark.train_tasks:  # Meta-World unpacks what it packed itself in this process
        env.set_task(task)
        vectors.append(np.array(env._last_rand_vec, np.float64))
    env.close()
    return np.stack(vectors)


def _read(file: Path) -> np.ndarray | None:
    """The vectors of a cache file; None when there is none or it is not whole, and then they are drawn anew."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(rows, list) and len(rows) == GOALS and all(isinstance(r, list) and r for r in rows)
    if not whole or len({len(r) for r in rows}) != 1:
        return None
    if not all(isinstance(x, float) and math.isfinite(x) for r in rows for x in r):
        return None
    return np.array(rows, np.float64)


def _class(name: str) -> Any:
    return _library("metaworld").env_dict.ALL_V3_ENVIRONMENTS[name]


@lru_cache(maxsize=64)
def _sharing_class(name: str) -> Any:
    """Meta-World's class, but a second environment of a task copies the first one's compiled model.

    Compiling the XML and its meshes is nearly all that building costs (0.13 of 0.14 s); a copy of the untouched model
    takes 0.02 s and behaves the same. Environments change their model, so each keeps a copy of its own.
    """
    mujoco = _library("mujoco")
    original = _class(name)

    def initialise(self: Any) -> tuple[Any, Any]:
        model = copy.copy(_compiled(self.fullpath))
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    return type(original.__name__, (original,), {"_initialize_simulation": initialise})


@lru_cache(maxsize=2)  # a model holds 20 MB; environments of one task are usually built one after another
def _compiled(file: str) -> Any:
    return _library("mujoco").MjModel.from_xml_path(file)


def _library(name: str) -> Any:
    return need(name, "a Meta-World task", "policies")


@lru_cache(maxsize=1)
def _goal_wrapper() -> type:
    """The wrapper's class, made when gymnasium is there."""
    import gymnasium as gym

    metaworld = _library("metaworld")

    class AtGoal(gym.Wrapper):
        """A Meta-World environment that starts every episode at its goal, whatever happened before."""

        def __init__(self, env: Any, name: str) -> None:
            super().__init__(env)
            self.simulator: Any = env
            self.name, self.goal = name, -1

        def set_goal(self, goal: int) -> None:
            if not (isinstance(goal, (int, np.integer)) and 0 <= goal < GOALS):
                raise ManyoneError(f"goal {goal!r} of {self.name}: allowed are 0 to {GOALS - 1}")
            self.goal = int(goal)
            name, vector = (
                self.name,
                goal_vectors(self.name)[self.goal].copy(),
            )  # some environments write into their vector
            data = {"rand_vec": vector, "env_cls": _class(name), "partially_observable": False}
            self.simulator.set_task(metaworld._encode_task(name, data))

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            self.set_goal(self.goal)
            if seed is not None:
                self.simulator.seed(seed)
            return self.env.reset(seed=seed, options=options)

    return AtGoal
