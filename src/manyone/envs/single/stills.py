"""The picture of one state of a body, given by its observation, with the action that is taken there.

Most MuJoCo bodies of Gymnasium observe their own state, [positions but the root's first ones, velocities, ...], so a
state that no episode ever reached (a synthetic one) can be looked at. The picture is MuJoCo's where OpenGL works
(:mod:`manyone.envs.single.opengl`); elsewhere the shapes of its kinematics are drawn with Pillow. Over it: an arc at
each joint the way its torque turns it (blue above 0, orange below), an arrow for a tenth of a second of the body's
velocity, and below it the actions as bars.

Classic control (CartPole, Pendulum, Acrobot, MountainCar) is drawn by Gymnasium, which needs pygame.

Public names: :func:`still`, :func:`stills`, :class:`Stills`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from manyone.engine.extras import need
from manyone.envs.single import opengl
from manyone.envs.single.make import make_env
from manyone.envs.single.sketch import (
    NEGATIVE,
    POSITIVE,
    Eye,
    Shape,
    draw_arrow,
    draw_ground,
    draw_torque,
    sketch,
    strip,
)
from manyone.errors import ManyoneError

_SCALE = 2  # pictures are drawn this much larger and then made small: smooth edges
_SHOWN = 0.1  # seconds of velocity that the arrow spans
_BEYOND = math.pi / 2  # radians that a joint may leave its range by, as drawn
_FAR = 3.0  # body sizes that a sliding joint may be off, as drawn
_CLASSIC = {
    "PendulumEnv": lambda o: np.array([math.atan2(o[1], o[0]), o[2]]),
    "AcrobotEnv": lambda o: np.array([math.atan2(o[1], o[0]), math.atan2(o[3], o[2]), o[4], o[5]]),
}
"""State from observation, where it is not the observation itself."""


@dataclass(frozen=True, eq=False)
class Stills:
    """Pictures, all of one size, and what a caption must say of them."""

    pictures: tuple[np.ndarray, ...]
    """uint8 [height, width, 3] each."""
    drawn_by: str
    """Who drew them, and why not MuJoCo where it did not."""
    clipped: tuple[bool, ...]
    """Of each state: whether positions were brought closer, so that there is something to see."""


def still(
    task: str, observation: Sequence[float] | np.ndarray, action: Sequence[float] | np.ndarray | None = None,
    size: int = 200,
) -> np.ndarray:  # fmt: skip
    """One state of ``task`` as uint8 [height, width, 3], ``size`` wide; see :func:`stills`."""
    actions = None if action is None else np.asarray(action, np.float64)[None]
    return stills(task, np.asarray(observation, np.float64)[None], actions, size).pictures[0]


def stills(task: str, observations: np.ndarray, actions: np.ndarray | None = None, size: int = 200) -> Stills:
    """States given by ``observations`` [n, S], with the ``actions`` [n, A] (in the environment's units) taken there.

    ``ManyoneError`` where ``task``'s observations do not hold its state, have another width, or are not finite.
    """
    observations = np.asarray(observations, np.float64)
    if size < 64:
        raise ManyoneError(f"size {size} of a still: must be at least 64 pixels")
    if observations.ndim != 2 or not np.isfinite(observations).all():
        raise ManyoneError(f"{task}: stills need finite observations [n, S], got shape {list(observations.shape)}")
    env = make_env(task)
    try:
        if hasattr(env.unwrapped, "model") and hasattr(env.unwrapped, "data"):
            return _Body(task, env, size * _SCALE).stills(observations, _shares(task, env, actions, len(observations)))
        return _classic(task, env, observations, _shares(task, env, actions, len(observations)), size)
    finally:
        env.close()


def _shares(task: str, env: Any, actions: np.ndarray | None, rows: int) -> np.ndarray | None:
    """``actions`` as shares of the largest ones, [rows, A]."""
    if actions is None:
        return None
    actions, space = np.asarray(actions, np.float64), env.action_space
    if actions.shape != (rows, *space.shape) or not np.isfinite(actions).all():
        wanted = [rows, *space.shape]
        raise ManyoneError(f"{task}: actions of {list(actions.shape)}: stills need finite ones, {wanted}")
    most = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    return actions / np.where(np.isfinite(most) & (most > 0), most, 1.0)


class _Body:
    """A MuJoCo body whose observations hold its state."""

    def __init__(self, task: str, env: Any, size: int) -> None:
        self.mujoco = need("mujoco", task, "policies")
        self.task, self.size = task, size
        self.model, self.data = env.unwrapped.model, env.unwrapped.data
        self.skip = _skipped(task, env)
        self.given = self.model.nq - self.skip + self.model.nv
        (self.observed,) = env.observation_space.shape
        self.pieces = [g for g in range(self.model.ngeom) if self._body_of(g) and self._visible(g)]
        self.planes = [
            g for g in range(self.model.ngeom) if self.model.geom_type[g] == self.mujoco.mjtGeom.mjGEOM_PLANE
        ]
        # the pose of the model's file, which the middle and the size of the picture follow
        self._pose(self.model.qpos0, np.zeros(self.model.nv))
        self.radius = self._extent()[1]
        self.rest, self.view = self.model.qpos0.copy(), self._view()

    # --- the model ----------------------------------------------------------------------------------------------------

    def _body_of(self, geom: int) -> int:
        """The body that carries ``geom``; 0 is the world."""
        return int(self.model.geom_bodyid[geom])

    def _visible(self, geom: int) -> bool:
        """Whether ``geom`` is seen: groups from 3 on are MuJoCo's hidden ones."""
        return bool(self.model.geom_group[geom] < 3 and self.model.geom_rgba[geom, 3] > 0)

    def _view(self) -> tuple[float, float]:
        """(azimuth, elevation): along the axis that all joints turn about, else from above and the side."""
        hinge = [j for j in range(self.model.njnt) if self.model.jnt_type[j] == self.mujoco.mjtJoint.mjJNT_HINGE]
        axes = np.abs(self.data.xaxis[hinge])
        if len(axes) and bool((axes[:, 1] > 0.99).all()):
            return 90.0, 0.0
        if len(axes) and bool((axes[:, 2] > 0.99).all()):
            return 90.0, -89.0
        return 120.0, -25.0

    def _pose(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Places everything; positions and velocities alone, for the dynamics of extreme states may not be finite."""
        data, mujoco = self.data, self.mujoco
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_camlight(self.model, data)
        mujoco.mj_tendon(self.model, data)
        mujoco.mj_comVel(self.model, data)
        mujoco.mj_subtreeVel(self.model, data)

    def _extent(self) -> tuple[np.ndarray, float]:
        """Middle and radius of the pieces as they stand."""
        at, bound = self.data.geom_xpos[self.pieces], self.model.geom_rbound[self.pieces, None]
        low, high = (at - bound).min(0), (at + bound).max(0)
        middle = (low + high) / 2
        return middle, float((np.linalg.norm(at - middle, axis=1) + bound[:, 0]).max())

    # --- states -------------------------------------------------------------------------------------------------------

    def _state(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """(positions, velocities, whether positions were clipped) of an observation."""
        held = self.model.nq - self.skip
        qpos = np.concatenate([self.rest[: self.skip], observation[:held]])
        drawn = qpos.copy()
        for joint in range(self.model.njnt):
            kind, at = self.model.jnt_type[joint], self.model.jnt_qposadr[joint]
            if kind == self.mujoco.mjtJoint.mjJNT_HINGE and self.model.jnt_limited[joint]:
                low, high = self.model.jnt_range[joint] + [-_BEYOND, _BEYOND]
                drawn[at] = min(max(qpos[at], low), high)
            elif kind == self.mujoco.mjtJoint.mjJNT_SLIDE:
                far = _FAR * self.radius
                drawn[at] = min(max(qpos[at], self.rest[at] - far), self.rest[at] + far)
            elif kind == self.mujoco.mjtJoint.mjJNT_FREE:
                far = _FAR * self.radius
                drawn[at : at + 3] = np.clip(qpos[at : at + 3], self.rest[at : at + 3] - far,
                                             self.rest[at : at + 3] + far)  # fmt: skip
        return drawn, observation[held : self.given], not np.array_equal(drawn, qpos)

    def stills(self, observations: np.ndarray, shares: np.ndarray | None) -> Stills:
        """``shares`` [n, A]: the actions, of the largest."""
        if observations.shape[1] not in (self.given, self.observed):
            raise ManyoneError(
                f"{self.task}: observations of width {observations.shape[1]}: its own have {self.observed}"
            )
        pictures, clipped = [], []
        with self._painter() as (paint, drawn_by):
            for k, observation in enumerate(observations):
                qpos, qvel, far = self._state(observation)
                self._pose(qpos, qvel)
                middle, radius = self._extent()
                eye = self._eye(middle, max(radius, self.radius))
                picture = paint(eye)
                self._mark(picture, eye, None if shares is None else shares[k])
                if shares is not None:
                    picture = _below(picture, strip(self._names(), list(shares[k]), self.size, _SCALE))
                pictures.append(_small(picture))
                clipped.append(far)
        return Stills(tuple(pictures), drawn_by, tuple(clipped))

    def _eye(self, middle: np.ndarray, radius: float) -> Eye:
        field = float(self.model.vis.global_.fovy)
        distance = 1.12 * radius / math.sin(math.radians(field) / 2)
        return Eye(middle, distance, *self.view, field, self.size)

    # --- pictures -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _painter(self) -> Iterator[tuple[Any, str]]:
        """(how an eye sees the body now, who draws it)."""
        name = opengl.working()
        if name is None:
            yield self._sketch, "drawn from MuJoCo's kinematics with Pillow, for OpenGL does not work here"
            return
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = self.size
        self._fade_floor()
        with opengl.context(name, self.size):
            render = self.mujoco.MjrContext(self.model, self.mujoco.mjtFontScale.mjFONTSCALE_100)
            scene = self.mujoco.MjvScene(self.model, 1000)
            # seen from the side, shadows are stripes that seem to float
            scene.flags[self.mujoco.mjtRndFlag.mjRND_SHADOW] = int(self.view[1] != 0)
            try:
                yield (lambda eye: self._render(eye, scene, render)), f"rendered by MuJoCo ({name})"
            finally:
                render.free()

    def _fade_floor(self) -> None:
        """Makes the floor's pattern pale, for marks to stand out from it."""
        model = self.model
        materials = {int(model.geom_matid[g]) for g in self.planes} - {-1}
        for texture in {int(t) for m in materials for t in np.ravel(model.mat_texid[m])} - {-1}:
            at = int(model.tex_adr[texture])
            length = int(model.tex_height[texture] * model.tex_width[texture] * model.tex_nchannel[texture])
            model.tex_data[at : at + length] = 190 + model.tex_data[at : at + length].astype(np.int64) // 6
        for material in materials:
            model.mat_reflectance[material] = 0.0

    def _render(self, eye: Eye, scene: Any, render: Any) -> Image.Image:
        mujoco = self.mujoco
        camera = mujoco.MjvCamera()
        camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (
            eye.lookat, eye.distance, eye.azimuth, eye.elevation,
        )  # fmt: skip
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.model, self.data, mujoco.MjvOption(), None, camera, everything, scene)
        area, pixels = mujoco.MjrRect(0, 0, eye.size, eye.size), np.empty((eye.size, eye.size, 3), np.uint8)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, render)
        mujoco.mjr_render(area, scene, render)
        mujoco.mjr_readPixels(pixels, None, area, render)
        return Image.fromarray(pixels[::-1])

    def _sketch(self, eye: Eye) -> Image.Image:
        kinds = {
            int(self.mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
            int(self.mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
            int(self.mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
            int(self.mujoco.mjtGeom.mjGEOM_BOX): "box",
            int(self.mujoco.mjtGeom.mjGEOM_ELLIPSOID): "ellipsoid",
        }
        model, data, shapes = self.model, self.data, []
        floor = float(data.geom_xpos[self.planes[0], 2]) if self.planes else None
        for geom in range(model.ngeom):
            kind = int(model.geom_type[geom])
            if geom not in self.planes and self._visible(geom):
                red, green, blue = (int(255 * c) for c in model.geom_rgba[geom, :3])
                axes, size = data.geom_xmat[geom].reshape(3, 3), model.geom_size[geom].copy()
                if kind not in kinds:  # a mesh, by the ball around it
                    size[0] = model.geom_rbound[geom]
                at, colour = data.geom_xpos[geom].copy(), (red, green, blue)
                shapes.append(Shape(kinds.get(kind, "sphere"), at, axes.copy(), size, colour))
        return sketch(eye, shapes, floor)

    def _names(self) -> list[str]:
        """The actuators' names, or their joints' where they have none."""
        found = []
        for k in range(self.model.nu):
            name = self.model.actuator(k).name or (
                self.model.joint(self._joint(k)).name if self._joint(k) is not None else f"action {k + 1}"
            )
            found.append(name.removesuffix("_joint").replace("_", " "))
        return found

    def _joint(self, actuator: int) -> int | None:
        """The joint that an actuator pulls at; None for tendons and the rest."""
        on_joint = self.model.actuator_trntype[actuator] == self.mujoco.mjtTrn.mjTRN_JOINT
        return int(self.model.actuator_trnid[actuator, 0]) if on_joint else None

    def _mark(self, picture: Image.Image, eye: Eye, shares: np.ndarray | None) -> None:
        """Velocity and torques over the picture."""
        draw, data = ImageDraw.Draw(picture), self.data
        for plane in self.planes if self.view[1] == 0 else ():
            draw_ground(draw, eye, float(data.geom_xpos[plane, 2]))
        root = int(self.model.geom_bodyid[self.pieces[0]])
        velocity = data.subtree_linvel[root] * _SHOWN
        longest = 0.9 * self.radius
        velocity = velocity * min(1.0, longest / max(float(np.linalg.norm(velocity)), 1e-9))
        draw_arrow(draw, eye, data.subtree_com[root], velocity)
        for k in range(self.model.nu if shares is not None else 0):
            assert shares is not None
            joint = self._joint(k)
            if joint is None or abs(shares[k]) < 0.02:
                continue
            share = float(np.clip(shares[k], -1, 1))
            anchor, axis = data.xanchor[joint], data.xaxis[joint]
            turn = -1.0 if self.model.actuator_gear[k, 0] < 0 else 1.0
            if self.model.jnt_type[joint] == self.mujoco.mjtJoint.mjJNT_SLIDE:
                colour = POSITIVE if share > 0 else NEGATIVE
                draw_arrow(draw, eye, anchor, axis * share * turn * 0.6 * self.radius, colour)
            elif self.model.jnt_type[joint] == self.mujoco.mjtJoint.mjJNT_HINGE:
                limb = data.xipos[int(self.model.jnt_bodyid[joint])] - anchor
                draw_torque(draw, eye, anchor, axis, limb, 0.17 * self.radius, share, turn)


def _skipped(task: str, env: Any) -> int:
    """How many of the first positions ``env``'s observations leave out, [positions, velocities] being their beginning.

    Found by looking: an episode's first steps, whose observations are compared with the simulator's state.
    """
    env.action_space.seed(0)
    pairs = []
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        data = env.unwrapped.data
        pairs.append((np.asarray(observation, np.float64), data.qpos.copy(), data.qvel.copy()))
        observation, *_ = env.step(env.action_space.sample())
    for skip in range(min(4, len(pairs[0][1]))):
        if all(_holds(seen, qpos[skip:], qvel) for seen, qpos, qvel in pairs):
            return skip
    raise ManyoneError(
        f"{task}: its observations do not hold the body's positions and velocities, so none can be drawn"
    )


def _holds(seen: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> bool:
    """Whether an observation begins with these; velocities may be cut at 10, as Hopper's and Walker2d's are."""
    known = len(qpos) + len(qvel)
    if len(seen) < known:
        return False
    moves = seen[len(qpos) : known]
    return np.allclose(seen[: len(qpos)], qpos, atol=1e-5) and (
        np.allclose(moves, qvel, atol=1e-5) or np.allclose(moves, np.clip(qvel, -10, 10), atol=1e-5)
    )


def _classic(task: str, env: Any, observations: np.ndarray, shares: np.ndarray | None, size: int) -> Stills:
    """Pictures by Gymnasium of an environment whose ``state`` can be set."""
    read = _CLASSIC.get(type(env.unwrapped).__name__, lambda o: o)
    first, _ = env.reset(seed=0)
    own = np.asarray(getattr(env.unwrapped, "state", None), np.float64)
    found = read(np.asarray(first, np.float64))
    if own.shape != found.shape or not np.allclose(found, own, atol=1e-5):
        raise ManyoneError(f"{task}: its observations do not hold a state to set, so none can be drawn")
    if observations.shape[1:] != first.shape:
        raise ManyoneError(f"{task}: observations of width {observations.shape[1]}: its own have {len(first)}")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # no picture makes a sound; without a desktop SDL would complain
    need("pygame", f"a picture of {task}", "pip install 'gymnasium[classic-control]'")
    shown = make_env(task, render_mode="rgb_array")
    try:
        shown.reset(seed=0)
        pictures = []
        for k, observation in enumerate(observations):
            shown.unwrapped.state = read(observation)  # type: ignore[attr-defined]
            image: Any = shown.render()
            picture = Image.fromarray(np.asarray(image, np.uint8))
            picture = picture.resize((size * _SCALE, round(size * _SCALE * picture.height / picture.width)))
            if shares is not None:
                names = ["action"] if shares.shape[1] == 1 else [f"action {i}" for i in range(shares.shape[1])]
                picture = _below(picture, strip(names, list(shares[k]), picture.width, _SCALE))
            pictures.append(_small(picture))
    finally:
        shown.close()
    return Stills(tuple(pictures), "drawn by Gymnasium", (False,) * len(pictures))


def _below(picture: Image.Image, bars: Image.Image) -> Image.Image:
    both = Image.new("RGB", (picture.width, picture.height + bars.height))
    both.paste(picture, (0, 0))
    both.paste(bars, (0, picture.height))
    return both


def _small(picture: Image.Image) -> np.ndarray:
    size = (picture.width // _SCALE, picture.height // _SCALE)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
