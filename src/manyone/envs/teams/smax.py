"""SMAX, StarCraft-like battles in JAX: all slots are stepped by one compiled function.

Public: :class:`SmaxTeam`. The host calls the step, which is mapped over slots and compiled once per map and batch size
(about half a minute); a loop of steps inside one compiled function is many times slower on CPUs. Arrays become tensors
at the boundary. Every slot has the key of its episode, into which the number of the step is folded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from manyone.engine.extras import need
from manyone.envs.teams.types import Observation, Step, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import seed_for


class SmaxTeam:
    """``batch`` battles against the built-in enemy; a :class:`~manyone.envs.teams.types.TeamEnv`.

    ``scenario``: a map name of ``jaxmarl`` such as ``"3m"``; ``limit``: steps of an episode; ``continuous``: SMAX's
    four continuous controls instead of moves and targets; ``options`` go to ``HeuristicEnemySMAX``.
    """

    def __init__(
        self,
        scenario: str,
        batch: int,
        *,
        device: str | torch.device = "cpu",
        limit: int = 100,
        continuous: bool = False,
        **options: Any,
    ) -> None:
        jaxmarl = need("jaxmarl", f"smax:{scenario}", "smax")
        maps = need("jaxmarl.environments.smax.smax_env", f"smax:{scenario}", "smax").MAP_NAME_TO_SCENARIO
        self._jax = need("jax", f"smax:{scenario}", "smax")
        self.name, self.batch, self.device, self.limit = f"smax:{scenario}", batch, torch.device(device), limit
        if scenario not in maps:
            raise ManyoneError(f"{self.name}: the maps are {', '.join(maps)}")
        if batch < 1 or limit < 1:
            raise ManyoneError(f"batch {batch}, limit {limit}: both must be at least 1")
        kind = "continuous" if continuous else "discrete"
        self._env = jaxmarl.make(
            "HeuristicEnemySMAX",
            scenario=maps[scenario],
            max_steps=limit + 1,  # the limit is kept here, where a cut is told from an end
            action_type=kind,
            **options,
        )
        agents = self._env.agents
        self.spec = TeamSpec(
            name=self.name,
            agents=len(agents),
            observation_dim=int(self._env.obs_size),
            actions=0 if continuous else int(self._env.num_ally_actions),
            action_dim=4 if continuous else 0,
            low=(0.0,) * 4 if continuous else (),
            high=(1.0,) * 4 if continuous else (),
            agent_low=((0.0,) * 4,) * len(agents) if continuous else (),
            agent_high=((1.0,) * 4,) * len(agents) if continuous else (),
            state_dim=int(self._env.state_size),
            horizon=limit,
            agent_names=tuple(agents),
            reports_success=True,
            masked=not continuous,
            absences=True,
        )
        self._start, self._advance, self._merge = _compiled(self._jax, self._env, not continuous)
        self._seed: int | None = None

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot."""
        self._seed = seed
        self._episodes = np.zeros(self.batch, np.int64)
        self._steps = np.zeros(self.batch, np.int32)
        self._keys = np.stack([self._key(slot) for slot in range(self.batch)])
        self._states, self._seen = self._start(self._keys)
        return self._observation(self._seen)

    def step(self, actions: Tensor) -> Step:
        """Steps all slots; see :class:`~manyone.envs.teams.types.Step`."""
        chosen = self._checked(actions)
        self._steps += 1
        out = self._advance(self._keys, self._steps, self._states, chosen)
        self._states, self._seen, rewards, ended, won = out
        terminated = np.array(ended)
        truncated = ~terminated & (self._steps >= self.limit)
        over = terminated | truncated
        final = None
        if over.any():
            final = self._observation(self._seen)
            self._episodes[over] += 1
            self._steps[over] = 0
            for slot in np.flatnonzero(over).tolist():
                self._keys[slot] = self._key(slot)
            fresh = self._start(self._keys)
            self._states, self._seen = self._merge(over, fresh, (self._states, self._seen))
        return Step(
            observation=self._observation(self._seen),
            rewards=self._tensor(rewards),
            terminated=torch.from_numpy(terminated).to(self.device),
            truncated=torch.from_numpy(truncated).to(self.device),
            final=final,
            success=self._tensor(won),
            measures={},
            # the fallen share the team's reward: they wait for its end
            left=torch.zeros(self.batch, self.spec.agents, dtype=torch.bool, device=self.device),
        )

    def state_dict(self) -> dict[str, Any]:
        """Seed, episode and step of each slot, and the leaves of JAX's state."""
        self._need_start()
        return {
            "seed": self._seed,
            "episodes": torch.from_numpy(self._episodes.copy()),
            "steps": torch.from_numpy(self._steps.copy()),
            "leaves": [_stored(leaf) for leaf in self._jax.tree.leaves((self._states, self._seen))],
        }

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Puts the leaves back."""
        jax = self._jax
        if len(state["steps"]) != self.batch:
            raise ManyoneError(f"{self.name}: the saved state has {len(state['steps'])} slots, this one {self.batch}")
        self.reset(state["seed"])
        self._episodes, self._steps = state["episodes"].numpy().copy(), state["steps"].numpy().copy()
        self._keys = np.stack([self._key(slot) for slot in range(self.batch)])
        now, shape = jax.tree.flatten((self._states, self._seen))
        leaves = [jax.numpy.asarray(_restored(saved, leaf)) for saved, leaf in zip(state["leaves"], now)]
        self._states, self._seen = jax.tree.unflatten(shape, leaves)
        return self._observation(self._seen)

    def frame(self, slot: int = 0) -> np.ndarray:
        """The battle from above: allies blue, enemies red, paler with less health."""
        self._need_start()
        battle, size = self._states.state, 12
        width, height = int(self._env.map_width), int(self._env.map_height)
        picture = Image.new("RGB", (width * size, height * size), (250, 250, 250))
        pen = ImageDraw.Draw(picture)
        whole = np.asarray(self._env.unit_type_health)[np.asarray(battle.unit_types[slot])]
        health = np.asarray(battle.unit_health[slot]) / whole
        for unit, (x, y) in enumerate(np.asarray(battle.unit_positions[slot]) * size):
            if health[unit] <= 0:
                continue
            pale = int(200 * (1 - health[unit]))
            colour = (pale, pale, 230) if unit < self.spec.agents else (230, pale, pale)
            pen.ellipse((x - 5, height * size - y - 5, x + 5, height * size - y + 5), fill=colour)
        return np.asarray(picture)

    def close(self) -> None:
        """Nothing is held outside this process."""

    def _key(self, slot: int) -> np.ndarray:
        assert self._seed is not None
        seed = seed_for(self._seed, "team episode", slot, int(self._episodes[slot]))
        return np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)

    def _observation(self, seen: dict[str, Any]) -> Observation:
        available = self._tensor(seen["available"]) if self.spec.discrete else None
        return Observation(
            self._tensor(seen["observations"]), self._tensor(seen["alive"]), available, self._tensor(seen["state"])
        )

    def _tensor(self, array: Any) -> Tensor:
        """A copy as a tensor on this device; without a way through the host where JAX computes on the same one."""
        if self.device.type == "cuda" and next(iter(array.devices())).platform in ("gpu", "cuda"):
            return torch.from_dlpack(array).clone()
        return torch.from_numpy(np.array(array)).to(self.device)

    def _checked(self, actions: Tensor) -> np.ndarray:
        self._need_start()
        n = self.spec.agents
        wanted = (self.batch, n) if self.spec.discrete else (self.batch, n, 4)
        given = actions.detach().cpu().numpy()
        if given.shape != wanted:
            raise ManyoneError(f"{self.name}: actions have shape {list(given.shape)}; {list(wanted)} is needed")
        if not self.spec.discrete:
            if not np.isfinite(given).all():
                raise ManyoneError(f"{self.name}: an action is not finite; check the policy's weights")
            return np.clip(given.astype(np.float32), 0, 1)
        fine = (given >= 0) & (given < self.spec.actions)
        held = np.where(fine, given, 0)
        fine &= np.take_along_axis(np.asarray(self._seen["available"]), held[..., None], 2)[..., 0]
        fine |= ~np.asarray(self._seen["alive"])
        if not fine.all():
            slot, agent = (int(index) for index in np.argwhere(~fine)[0])
            raise ManyoneError(
                f"{self.name}, slot {slot}, step {int(self._steps[slot]) + 1}: action {given[slot, agent]} is not "
                f"available to agent {self.spec.agent_names[agent]!r}; choose among Observation.available"
            )
        return held.astype(np.int32)

    def _need_start(self) -> None:
        if self._seed is None:
            raise ManyoneError(f"{self.name}: call reset(seed) first")


def _compiled(jax: Any, env: Any, discrete: bool) -> tuple[Any, Any, Any]:
    """``start(keys)``, ``advance(keys, steps, states, actions)`` and ``merge(mask, fresh, old)`` over all slots."""
    jnp, names, allies = jax.numpy, env.agents, env.num_allies

    def seen(observations: dict[str, Any], state: Any) -> dict[str, Any]:
        alive = state.state.unit_alive[:allies]
        joined = jnp.stack([observations[name] for name in names])
        found = {
            "observations": jnp.where(alive[:, None], joined, 0.0).astype(jnp.float32),
            "alive": alive,
            "state": observations["world_state"].astype(jnp.float32),
        }
        if discrete:
            masks = env.get_avail_actions(state)
            found["available"] = jnp.stack([masks[name] for name in names]).astype(bool)
        return found

    def start(key: Any) -> Any:
        observations, state = env.reset(key)
        return state, seen(observations, state)

    def advance(key: Any, step: Any, state: Any, actions: Any) -> Any:
        chosen = {name: actions[i] for i, name in enumerate(names)}
        observations, state, rewards, _, _ = env.step_env(jax.random.fold_in(key, step), state, chosen)
        alive = state.state.unit_alive
        lost, beaten = ~alive[:allies].any(), ~alive[allies:].any()
        gained = jnp.stack([rewards[name] for name in names]).astype(jnp.float32)
        return state, seen(observations, state), gained, lost | beaten, beaten & ~lost

    def merge(mask: Any, fresh: Any, old: Any) -> Any:
        def chosen(new: Any, was: Any) -> Any:
            return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, was)

        return jax.tree.map(chosen, fresh, old)

    return jax.jit(jax.vmap(start)), jax.jit(jax.vmap(advance)), jax.jit(merge)


def _stored(leaf: Any) -> Tensor:
    array = np.array(leaf)
    if array.dtype == np.uint32:
        array = array.view(np.int32)  # a format that every reader of tensors knows
    return torch.from_numpy(np.atleast_1d(array))


def _restored(saved: Tensor, like: Any) -> np.ndarray:
    array = saved.numpy()
    if like.dtype == np.uint32:
        array = array.view(np.uint32)
    return array.reshape(like.shape).astype(like.dtype)
