"""Locomotion families whose tasks differ in the reward alone: Cheetah-dir, Cheetah-vel and Ant-dir.

The rewards of the meta-learning benchmarks (Finn et al. 2017, MAML; PEARL; MACAW), with the tasks of Prompt-DT (Xu et
al. 2022), on today's MuJoCo models HalfCheetah-v5 and Ant-v5 of Gymnasium::

    cheetah-dir:i   r = d_i v - 0.05 |a|^2                            d_0 = 1 (forward), d_1 = -1 (backward)
    cheetah-vel:i   r = -|v - v_i| - 0.05 |a|^2                       v_i = 0.075 (i + 1), i < 40
    ant-dir:i       r = v_xy . u_i - 0.5 |a|^2 - 0.0005 |clip(c, -1, 1)|^2 + 1    u_i at the angle ANT_DIRECTIONS[i]

v is the velocity of the root over the step, c the contact forces. Episodes have 200 steps; Ant-dir ends early when
the torso leaves the height 0.2-1.0.

Cheetahs see the originals' 20 entries (positions without x, velocities, torso position, whose x grows with the way);
``cheetah17-dir:i`` and ``cheetah17-vel:i`` are the same tasks without the last three. Ants see Ant-v5's 27 entries
(positions without x, y; velocities).

Differences from the original environments, which stood on Gym 0.1x and MuJoCo 1.5/2.0: contact dynamics are those of
current MuJoCo; contact forces are really computed (mujoco-py with MuJoCo >= 2 returned zeros); the ant is Gymnasium's
own (published data are of one with weaker gears). Returns are therefore comparable between methods run here and only
roughly with published tables.

Public names: ``ANT_DIRECTIONS``, ``target``, ``make_env``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyone.engine.extras import need
from manyone.envs.single.families import parse

if TYPE_CHECKING:
    import gymnasium

ANT_DIRECTIONS = (
    1.203, 0.427, 4.945, 4.124, 4.0057, 3.617, 0.245, 2.248, 5.942, 0.377,
    5.4289, 5.512, 0.322, 4.099, 3.467, 3.7543, 3.038, 1.778, 1.8707, 3.5281,
    2.488, 4.956, 2.629, 0.904, 0.948, 0.3471, 4.5116, 1.837, 1.249, 5.224,
    3.569, 0.517, 3.424, 0.999, 4.2522, 0.744, 2.796, 5.579, 5.009, 0.427,
    6.037, 4.142, 4.5162, 4.672, 5.578, 0.842, 4.882, 5.265, 5.211, 0.1832,
)  # fmt: skip
"""Angles of Ant-dir's fifty tasks in radians: Prompt-DT's draw, rounded to a thousandth (those of VQ-CD to four)."""


def target(task: str) -> float:
    """What the task asks for: the direction's sign, the velocity in m/s, or the direction's angle in radians."""
    family, index = parse(task)
    if family.name.endswith("-vel"):
        return 0.075 * (index + 1)
    return ANT_DIRECTIONS[index] if family.name == "ant-dir" else (1.0, -1.0)[index]


def make_env(
    task: str, seed: int = 0, *, horizon: int | None = None, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """The environment of ``task``, e.g. ``"ant-dir:3"``, cut off after ``horizon`` steps (default 200)."""
    family, _ = parse(task)
    wrappers = need("gymnasium", task, "policies").wrappers
    need("mujoco", task, "policies")
    from manyone.envs.single.bodies import Ant, Cheetah

    if family.body == "Ant-v5":
        env: gymnasium.Env = Ant(target(task), render_mode=render_mode, **simulator)
    else:
        options = {"velocity": family.name.endswith("-vel"), "torso": family.state_dim == 20}
        env = Cheetah(target(task), **options, render_mode=render_mode, **simulator)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    return wrappers.TimeLimit(env, max_episode_steps=horizon or family.horizon)
