"""StarCraft II battles over an installed game: SMAC and SMACv2, which share their methods.

Public: :class:`SmacCopy`, :func:`smac`, :func:`smacv2`. One game runs per slot. A dead unit may only do nothing
(action 0), which is how it is recognised; a battle cut off at its limit of steps says so in ``info["episode_limit"]``.
The reward is shared, also with the dead, who therefore count as waiting; ``info["battle_won"]`` is the success.

The game takes a seed when it is launched and not at a restart, so that later battles of a slot depend on the earlier
ones. ``reset(seed)`` launches it anew; a loaded state launches it too and begins the running battles again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.envs.teams.libraries import SMAC, SMACV2
from manyone.envs.teams.simulator import Copy, Layout, Row
from manyone.envs.workers import SUCCESS, TERMINATED, TRUNCATED
from manyone.errors import ManyoneError

TOLD = ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")
MEASURES = ("dead_allies", "dead_enemies")
# SMACv2's published tasks: unit types, their probabilities, and those that may not make up a whole team.
RACES = {
    "terran": (["marine", "marauder", "medivac"], [0.45, 0.45, 0.1], ["medivac"]),
    "protoss": (["stalker", "zealot", "colossus"], [0.45, 0.45, 0.1], []),
    "zerg": (["zergling", "baneling", "hydralisk"], [0.45, 0.1, 0.45], ["baneling"]),
}


class SmacCopy(Copy):
    """One game with the methods of ``StarCraft2Env``: ``get_env_info``, ``reset``, ``get_obs``, ``get_state``,
    ``get_avail_agent_actions(i)``, ``close`` and ``step(list) -> (reward, terminated, info)``.

    ``factory(seed=...)`` makes it. ``limit``: cuts battles earlier than the map does.
    """

    def __init__(self, factory: Callable[..., Any], *, limit: int | None = None) -> None:
        self.factory, self.game = factory, factory(seed=0)
        told = self.game.get_env_info()
        missing = [name for name in TOLD if name not in told]
        if missing:
            raise ManyoneError(f"get_env_info() tells nothing about {', '.join(missing)}")
        n = int(told["n_agents"])
        self.launch = False
        self.layout = Layout(
            names=tuple(f"unit_{i}" for i in range(n)),
            widths=(int(told["obs_shape"]),) * n,
            counts=(int(told["n_actions"]),) * n,
            state_dim=int(told["state_shape"]),
            horizon=min(int(told["episode_limit"]), limit or int(told["episode_limit"])),
            masked=True,
            absences=True,
            forbids=True,
            replayable=False,
            reports_success=True,
            measures=MEASURES,
        )

    def rewind(self) -> None:
        """The next battle must not depend on those before."""
        self.launch = True

    def reset(self, seed: int, row: Row) -> None:
        """Starts a battle, in a newly launched game after :meth:`rewind`."""
        if self.launch:
            self.game.close()
            self.game, self.launch = self.factory(seed=seed), False
        for number, distribution in enumerate(getattr(self.game, "env_key_to_distribution_map", {}).values()):
            _seed_distribution(distribution, seed + number)
        self.game.reset()
        self._write(row)

    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step; dead units do nothing."""
        orders = np.where(row.alive, actions, 0).tolist()
        reward, terminated, info = self.game.step(orders)
        self._write(row)
        row.rewards[:] = reward
        if not terminated:
            return 0
        row.measures[:] = [float(info.get(name, 0)) for name in MEASURES]
        won = SUCCESS * bool(info.get("battle_won", False))
        return won | (TRUNCATED if info.get("episode_limit", False) else TERMINATED)

    def picture(self) -> np.ndarray:
        """The game draws in windows of its own only."""
        raise ManyoneError("the game draws in windows of its own; save a replay with its save_replay()")

    def close(self) -> None:
        """Ends the game."""
        self.game.close()

    def _write(self, row: Row) -> None:
        row.observations[:] = self.game.get_obs()
        row.state[:] = self.game.get_state()
        row.available[:] = [self.game.get_avail_agent_actions(i) for i in range(self.layout.agents)]
        row.alive[:] = ~row.available[:, 0]
        row.observations[~row.alive] = 0
        row.available[~row.available.any(1), 0] = True


def smac(map_name: str, seed: int, **options: Any) -> Any:
    """A game of SMAC on one of its maps."""
    return need("smac.env", f"smac:{map_name}", SMAC).StarCraft2Env(map_name=map_name, seed=seed, **options)


def smacv2(map_name: str, seed: int, units: int = 5, enemies: int = 5, **options: Any) -> Any:
    """A game of SMACv2 with its published distributions of units and places; the map's name ends in the race."""
    race = map_name.rpartition("_")[2]
    if race not in RACES:
        raise ManyoneError(f"smacv2:{map_name}: the name must end in one of {', '.join(RACES)}, as in 10gen_terran")
    types, weights, exceptions = RACES[race]
    team = {"dist_type": "weighted_teams", "unit_types": types, "weights": weights, "observe": True}
    if exceptions:
        team["exception_unit_types"] = exceptions
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    drawn = {"n_units": units, "n_enemies": enemies, "team_gen": team, "start_positions": places}
    published = {
        "obs_own_pos": True,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "num_fov_actions": 12,
        "conic_fov": False,
        "prob_obs_enemy": 0,
    }
    settings = {**published, "capability_config": drawn, **options}
    wrapper = need("smacv2.env.starcraft2.wrapper", f"smacv2:{map_name}", SMACV2)
    return wrapper.StarCraftCapabilityEnvWrapper(map_name=map_name, seed=seed, **settings)


def _seed_distribution(distribution: Any, seed: int) -> None:
    """SMACv2's distributions draw from generators of their own, which nothing seeds; parts are seeded too."""
    for number, (name, part) in enumerate(vars(distribution).items()):
        if isinstance(part, np.random.Generator):
            setattr(distribution, name, np.random.default_rng(seed))
        elif hasattr(part, "generate"):
            _seed_distribution(part, seed + 1000 * (number + 1))
