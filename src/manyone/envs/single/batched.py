"""Many copies of one MuJoCo body in lock-step: Gymnasium's Hopper, HalfCheetah, Walker2d, Ant, and our task families.

``gymnasium.make(...).step`` spends as long in Python as in MuJoCo. Here the copies' states are the rows of one array;
MuJoCo advances row after row in one ``MjData``, and observations, rewards and terminations of all rows are computed
together. A row's episode is, bit for bit, the one that ``gymnasium.make`` and ``env.reset(seed=...)`` give: the same
draws, the same order of operations, the same precision, for versions 4 and 5 and whatever keyword arguments Gymnasium
itself takes.

    from manyone.envs.single.batched import batched
    bodies = batched("gym:Hopper-v5?ctrl_cost_weight=0.1")   # None: step this environment one by one
    observations = bodies.reset([0, 1, 2], [7, 8, 9])        # rows, seeds
    seen = bodies.step([0, 1, 2], actions)                   # observations, rewards, terminated, truncated

(``mujoco.rollout`` steps batches natively, but it does not return what the constraint solver starts from next, so that
trajectories part from Gymnasium's in the last digits, and soon in the first.) MuJoCo computes without Python's lock: a
step is ``prepare``, ``advance`` for any parts of the rows, each in a thread if one likes, and ``finish``.
Public names: ``known``, ``batched``, ``Bodies``, ``Step``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from manyone.engine.extras import need
from manyone.envs.single import make as build
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium

_WRAPPERS = ("OrderEnforcing", "PassiveEnvChecker", "TimeLimit")  # of Gymnasium; they change nothing but the end
_FAR_AWAY = 1 << 62  # steps of an episode that nothing cuts off


class Step(NamedTuple):
    """What a step of b rows gave."""

    observations: np.ndarray  # float64 [b, S]
    rewards: np.ndarray  # float64 [b]
    terminated: np.ndarray  # bool [b]
    truncated: np.ndarray  # bool [b]: the last step of the environment's own limit
    survival: np.ndarray  # float64 [b]: the rewards' bonus for being alive, where the environment tells it, else 0


@functools.lru_cache(maxsize=256)
def known(task: str) -> bool:
    """Whether the bodies of ``task`` can be stepped together."""
    kind = build.kind(task)
    if kind != "gym":
        return kind == "locomotion"
    env = build.make_env(task)
    env.close()
    return _fits(env)


def batched(task: str) -> Bodies | None:
    """The bodies of ``task`` (a name for :func:`manyone.envs.single.make.make_env`); None for any other environment.

    ``ManyoneError`` where there is no such environment or where it refuses its keyword arguments.
    """
    if not known(task):
        return None
    env = build.make_env(task)
    env.close()
    return Bodies(task, env)


class Bodies:
    """Copies of the body of ``env``, one in each row; a row is there from its first reset on.

    ``state_dim`` S, ``action_dim`` A, ``low`` and ``high`` (float32 [A]) are the environment's.
    """

    def __init__(self, task: str, env: gymnasium.Env) -> None:
        self._mujoco = mujoco = need("mujoco", task, "policies")
        body: Any = env.unwrapped
        space: Any = env.action_space
        self.task, self.low, self.high = task, space.low, space.high
        (self.state_dim,), self.action_dim = env.observation_space.shape, len(space.low)  # type: ignore[misc]
        self._rules, self._given = _RULES[_name(body)], _arguments(env)
        self._model = body.model
        self._data = {0: body.data}  # one for each thread
        self._frames, self._dt = body.frame_skip, body.dt
        self._start = body.init_qpos, body.init_qvel
        self._limit = build.limit(task) or _FAR_AWAY
        self._point = None if self._rules.point is None else body.model.body(self._rules.point(self._given)).id
        kinds = mujoco.mjtState
        parts = kinds.mjSTATE_QPOS, kinds.mjSTATE_QVEL, kinds.mjSTATE_WARMSTART, kinds.mjSTATE_CTRL
        self._parts = sum(int(part) for part in parts)
        self._width = mujoco.mj_stateSize(self._model, self._parts)
        self._full = np.zeros((0, self._width))  # a row: positions, velocities, the solver's start, controls
        self._points = np.zeros((0, 3))
        self._forces = np.zeros((0, 6 * self._model.nbody))
        self._steps = np.zeros(0, np.int64)
        self._row: list[np.ndarray] = []

    def reset(self, rows: ArrayLike, seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode in each of the rows [b] with ``env.reset(seed=...)``'s draws; observations [b, S]."""
        rows = np.asarray(rows, np.int64)
        if len(rows) != len(seeds):
            raise ManyoneError(f"{len(rows)} rows and {len(seeds)} seeds: give one seed for each row")
        if len(rows):
            self._grow(int(rows.max()) + 1)
        mujoco, model, data = self._mujoco, self._model, self._data[0]
        positions, velocities = self._start
        scale = self._given["reset_noise_scale"]
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed))))
            mujoco.mj_resetData(model, data)
            data.qpos[:] = positions + draw.uniform(low=-scale, high=scale, size=model.nq)
            if self._rules.normal:
                data.qvel[:] = velocities + scale * draw.standard_normal(model.nv)
            else:
                data.qvel[:] = velocities + draw.uniform(low=-scale, high=scale, size=model.nv)
            mujoco.mj_forward(model, data)
            self._keep(row, data)
        self._steps[rows] = 0
        return self._rules.observe(self, rows)

    def step(self, rows: ArrayLike, actions: np.ndarray) -> Step:
        """One step of each of the rows [b] with its action [b, A]; the rewards' arithmetic is of the actions' dtype.

        As in ``env.step``, actions are not clipped; MuJoCo clips the motors' controls where the model says so.
        """
        rows = np.asarray(rows, np.int64)
        before = self.prepare(rows, actions)
        self.advance(rows.tolist())
        return self.finish(rows, actions, before)

    def prepare(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The first part of :meth:`step`: hands the actions over; what :meth:`finish` needs."""
        if actions.shape != (len(rows), self.action_dim):
            raise ManyoneError(f"actions {list(actions.shape)}: {[len(rows), self.action_dim]} are needed")
        self._full[rows, self._width - self.action_dim :] = actions
        return self._place(rows)

    def advance(self, rows: Sequence[int], thread: int = 0) -> None:
        """MuJoCo's part of :meth:`step`, which takes long, for some of the rows; ``thread``: whose memory it uses."""
        data = self._data.get(thread)
        if data is None:
            data = self._data[thread] = self._mujoco.MjData(self._model)
        mujoco, model, frames, parts = self._mujoco, self._model, self._frames, self._parts
        put, step, get, forces = mujoco.mj_setState, mujoco.mj_step, mujoco.mj_getState, mujoco.mj_rnePostConstraint
        if self._point is None:
            for row in rows:
                numbers = self._row[row]
                put(model, data, numbers, parts)
                step(model, data, frames)
                get(model, data, numbers, parts)
        else:
            for row in rows:
                put(model, data, self._row[row], parts)
                step(model, data, frames)
                forces(model, data)  # so that contact forces are those of this step
                self._keep(row, data)

    def finish(self, rows: np.ndarray, actions: np.ndarray, before: np.ndarray) -> Step:
        """The last part of :meth:`step`: what the rows show and are paid."""
        self._steps[rows] += 1
        velocity = (self._place(rows) - before) / self._dt
        rewards, terminated, survival = self._rules.score(self, rows, velocity, actions)
        return Step(self._rules.observe(self, rows), rewards, terminated, self._steps[rows] >= self._limit, survival)

    # ---- what the rules read --------------------------------------------------------------------------------------

    def given(self, name: str) -> Any:
        """A constructor's argument of the environment, or its default."""
        return self._given[name]

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """``qpos`` [b, nq]."""
        return self._full[rows, : self._model.nq]

    def velocities(self, rows: np.ndarray) -> np.ndarray:
        """``qvel`` [b, nv]."""
        return self._full[rows, self._model.nq : self._model.nq + self._model.nv]

    def points(self, rows: np.ndarray) -> np.ndarray:
        """Where the main body is, [b, 3]; for rules with a ``point``."""
        return self._points[rows]

    def contact_forces(self, rows: np.ndarray) -> np.ndarray:
        """External forces on each body, clipped, [b, 6 bodies]; for rules with a ``point``."""
        least, most = self._given.get("contact_force_range", (-1.0, 1.0))
        return np.clip(self._forces[rows], least, most)

    # ---------------------------------------------------------------------------------------------------------------

    def _place(self, rows: np.ndarray) -> np.ndarray:
        """What moves forward: the root's x [b], or the x and y of the main body [b, 2]."""
        return self._points[rows, :2] if self._rules.follows_point else self._full[rows, 0]

    def _keep(self, row: int, data: Any) -> None:
        """Writes what ``MjData`` holds to the row."""
        self._mujoco.mj_getState(self._model, data, self._row[row], self._parts)
        if self._point is not None:
            self._points[row] = data.xpos[self._point]
            self._forces[row] = data.cfrc_ext.ravel()

    def _grow(self, count: int) -> None:
        more = count - len(self._row)
        if more > 0:
            for name in ("_full", "_points", "_forces", "_steps"):
                array = getattr(self, name)
                setattr(self, name, np.concatenate((array, np.zeros((more, *array.shape[1:]), array.dtype))))
            self._row = list(self._full)


# ---- the environments' rules --------------------------------------------------------------------------------------

Score = tuple[np.ndarray, np.ndarray, np.ndarray]  # rewards float64 [b], terminated bool [b], survival float64 [b]


@dataclass(frozen=True)
class _Rules:
    """How an environment draws its starts, what it shows and what it pays."""

    score: Callable[[Bodies, np.ndarray, np.ndarray, np.ndarray], Score]  # bodies, rows, velocity, actions
    observe: Callable[[Bodies, np.ndarray], np.ndarray]
    normal: bool = False  # whether velocities start from a normal distribution, else from a uniform one
    point: Callable[[Mapping[str, Any]], int | str] | None = None  # the body whose place is read, and forces, if any
    follows_point: bool = False  # whether the velocity is that body's, [b, 2], else the root's along x, [b]


def _cost(bodies: Bodies, actions: np.ndarray) -> np.ndarray:
    return bodies.given("ctrl_cost_weight") * np.square(actions).sum(1)  # type: ignore[no-any-return]


def _alive(healthy: np.ndarray, bodies: Bodies, *, always: bool) -> tuple[np.ndarray, np.ndarray]:
    """(Reward for being healthy, terminated). Version 4 pays it ``always``, where unhealthy means the end."""
    ends = bool(bodies.given("terminate_when_unhealthy"))
    paid = np.ones_like(healthy) if always and ends else healthy
    return paid * bodies.given("healthy_reward"), ~healthy & ends


def _upright(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
    """Walker2d: height and angle are within their ranges."""
    z, angle = bodies.positions(rows)[:, 1:3].T
    (low, high), (left, right) = bodies.given("healthy_z_range"), bodies.given("healthy_angle_range")
    return (low < z) & (z < high) & (left < angle) & (angle < right)


def _hopping(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
    """Hopper: upright, and the rest of the state is within its range."""
    state = np.concatenate((bodies.positions(rows), bodies.velocities(rows)), 1)[:, 2:]
    low, high = bodies.given("healthy_state_range")
    return _upright(bodies, rows) & ((low < state) & (state < high)).all(1)


def _legs(healthy: Callable[[Bodies, np.ndarray], np.ndarray], *, always: bool) -> Callable[..., Score]:
    """Hopper and Walker2d: forward velocity and health, less the cost of control."""

    def score(bodies: Bodies, rows: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> Score:
        paid, terminated = _alive(healthy(bodies, rows), bodies, always=always)
        rewards = bodies.given("forward_reward_weight") * velocity + paid - _cost(bodies, actions)
        return rewards, terminated, np.zeros(len(rows)) if always else paid  # version 4 does not tell it

    return score


def _half_cheetah(bodies: Bodies, rows: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> Score:
    rewards = bodies.given("forward_reward_weight") * velocity - _cost(bodies, actions)
    return rewards, np.zeros(len(rows), bool), np.zeros(len(rows))


def _ant(version: int) -> Callable[..., Score]:
    """Ant: forward velocity of the torso and health, less the costs of control and (version 4: if asked) of contact."""

    def score(bodies: Bodies, rows: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> Score:
        paid, terminated = _alive(_standing(bodies, rows), bodies, always=version == 4)
        weight = 1.0 if version == 4 else bodies.given("forward_reward_weight")
        costs = _cost(bodies, actions)
        if version == 5 or bodies.given("use_contact_forces"):
            costs = costs + bodies.given("contact_cost_weight") * np.square(bodies.contact_forces(rows)).sum(1)
        return velocity[:, 0] * weight + paid - costs, terminated, paid

    return score


def _standing(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
    """Ant: every number is finite and the torso's height is within its range."""
    positions = bodies.positions(rows)
    low, high = bodies.given("healthy_z_range")
    finite = np.isfinite(positions).all(1) & np.isfinite(bodies.velocities(rows)).all(1)
    return finite & (low <= positions[:, 2]) & (positions[:, 2] <= high)


def _cheetah_task(bodies: Bodies, rows: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> Score:
    """Cheetah-dir and Cheetah-vel of :mod:`manyone.envs.single.bodies`."""
    target = bodies.given("target")
    forward = -np.abs(velocity - target) if bodies.given("velocity") else target * velocity
    control = 0.05 * np.square(actions).sum(1).astype(np.float64)
    return forward - control, np.zeros(len(rows), bool), np.zeros(len(rows))


def _ant_task(bodies: Bodies, rows: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> Score:
    """Ant-dir of :mod:`manyone.envs.single.bodies`."""
    target = bodies.given("target")
    forward = velocity[:, 0] * math.cos(target) + velocity[:, 1] * math.sin(target)
    control = 0.5 * np.square(actions).sum(1).astype(np.float64)
    contact = 0.0005 * np.square(bodies.contact_forces(rows)).sum(1)
    return forward - control - contact + 1.0, ~_standing(bodies, rows), np.ones(len(rows))


def _plain(hidden: int, *, clipped: bool = False) -> Callable[[Bodies, np.ndarray], np.ndarray]:
    """Positions without the first ``hidden`` (unless asked for) and velocities, ``clipped`` to -10..10 or not."""

    def observe(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
        left_out = hidden if bodies.given("exclude_current_positions_from_observation") else 0
        velocities = bodies.velocities(rows)
        shown = np.clip(velocities, -10, 10) if clipped else velocities
        return np.concatenate((bodies.positions(rows)[:, left_out:], shown), 1)

    return observe


def _ant_seen(version: int) -> Callable[[Bodies, np.ndarray], np.ndarray]:
    """Ant: contact forces too, of all bodies (version 4, if asked) or of all but the world (version 5, if not not)."""
    plain = _plain(2)

    def observe(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
        shown = plain(bodies, rows)
        if not bodies.given("use_contact_forces" if version == 4 else "include_cfrc_ext_in_observation"):
            return shown
        return np.concatenate((shown, bodies.contact_forces(rows)[:, 0 if version == 4 else 6 :]), 1)

    return observe


def _cheetah_task_seen(bodies: Bodies, rows: np.ndarray) -> np.ndarray:
    torso = bodies.points(rows)[:, : 3 if bodies.given("torso") else 0]
    return np.concatenate((bodies.positions(rows)[:, 1:], bodies.velocities(rows), torso), 1)


_GYM, _OURS = "gymnasium.envs.mujoco.", "manyone.envs.single.bodies:"
_FALLING, _CRAWLING = _plain(1, clipped=True), _plain(1)
_ANT = {"normal": True, "follows_point": True}
_RULES = {
    f"{_GYM}hopper_v4:HopperEnv": _Rules(_legs(_hopping, always=True), _FALLING),
    f"{_GYM}hopper_v5:HopperEnv": _Rules(_legs(_hopping, always=False), _FALLING),
    f"{_GYM}walker2d_v4:Walker2dEnv": _Rules(_legs(_upright, always=True), _FALLING),
    f"{_GYM}walker2d_v5:Walker2dEnv": _Rules(_legs(_upright, always=False), _FALLING),
    f"{_GYM}half_cheetah_v4:HalfCheetahEnv": _Rules(_half_cheetah, _CRAWLING, normal=True),
    f"{_GYM}half_cheetah_v5:HalfCheetahEnv": _Rules(_half_cheetah, _CRAWLING, normal=True),
    f"{_GYM}ant_v4:AntEnv": _Rules(_ant(4), _ant_seen(4), point=lambda given: "torso", **_ANT),
    f"{_GYM}ant_v5:AntEnv": _Rules(_ant(5), _ant_seen(5), point=lambda given: given["main_body"], **_ANT),
    f"{_OURS}Cheetah": _Rules(_cheetah_task, _cheetah_task_seen, normal=True, point=lambda given: "torso"),
    f"{_OURS}Ant": _Rules(_ant_task, _ant_seen(5), point=lambda given: "torso", **_ANT),
}


def _name(body: Any) -> str:
    return f"{type(body).__module__}:{type(body).__qualname__}"


def _fits(env: gymnasium.Env) -> bool:
    """Whether the rules are those of ``env``, and its wrappers and model nothing that they leave out."""
    body: Any = env
    while body is not body.unwrapped:
        kind = type(body)
        if kind.__name__ not in _WRAPPERS or not kind.__module__.startswith("gymnasium.wrappers."):
            return False
        body = body.env
    return _name(body) in _RULES and not (body.model.na or body.model.nmocap or body.model.nplugin)


def _arguments(env: gymnasium.Env) -> dict[str, Any]:
    """The constructor's arguments of a body by name, defaults among them."""
    body: Any = env.unwrapped
    if _name(body).startswith(_OURS):
        own = {name: getattr(body, name, None) for name in ("target", "velocity", "torso")}
        bound = inspect.signature(type(body).__mro__[1]).bind(include_cfrc_ext_in_observation=False)
    else:
        own = {}
        bound = inspect.signature(type(body)).bind(**(env.spec.kwargs if env.spec is not None else {}))
    bound.apply_defaults()
    return bound.arguments | own
