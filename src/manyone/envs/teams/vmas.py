"""VMAS scenarios: batched in torch already, so that tensors go in and out without a copy through numpy.

Public: :class:`VmasTeam`. VMAS draws from one global stream for the whole batch, while episode e of slot b must depend
on (seed, b, e) alone. Hence a second world of fixed size is reset with the seed of (group of slots, e); row b of its
state *is* the start of that episode, and is copied into the slot when it restarts. One such reset serves all slots of
a group, where resetting them one by one would cost more than their steps. What must be copied is found by walking
through the world's objects (:mod:`manyone.envs.teams.vmas_state`).
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.engine.extras import need
from manyone.envs.teams.simulator import Layout
from manyone.envs.teams.spaces import MASKS, mask_of
from manyone.envs.teams.types import Observation, Step, TeamSpec
from manyone.envs.teams.vmas_picture import picture
from manyone.envs.teams.vmas_state import WorldState, same_numbers
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

GROUP = 251  # slots that share a reset; a prime, so that no other axis of a scenario's tensors has this length
KEPT = 64  # starts that are remembered
TRIES = 8  # resets by which a scenario that draws for the whole batch at once is found out
# Scenarios in which being done means that the task is solved.
SOLVED = {
    *("discovery", "dispersion", "give_way", "joint_passage", "joint_passage_size", "multi_give_way"),
    *("navigation", "passage", "reverse_transport", "transport"),
}


class VmasTeam:
    """``batch`` slots of a VMAS scenario; a :class:`~manyone.envs.teams.types.TeamEnv`.

    ``scenario``: a name in ``vmas.scenarios``, or an object of a class of your own (a ``BaseScenario``) per world made
    by calling it; ``continuous``: forces within the scenario's range, or one of its discrete moves; ``limit``: steps
    of an episode; ``success``: whether a terminated episode is a solved one (None: known for VMAS's own scenarios);
    ``options`` go to the scenario.

    Scenarios that draw random numbers during a step draw them for the whole batch, from (seed, steps since ``reset``).
    Those that draw one thing for the whole batch at a restart (a goal that all slots share, as in some of ``mpe``) can
    only restart all slots together; their episodes also depend on the batch size.
    """

    def __init__(
        self,
        scenario: Any,
        batch: int,
        *,
        device: str | torch.device = "cpu",
        continuous: bool = True,
        limit: int = 100,
        success: bool | None = None,
        **options: Any,
    ) -> None:
        if batch < 1 or limit < 1:
            raise ManyoneError(f"batch {batch}, limit {limit}: both must be at least 1")
        called = scenario if isinstance(scenario, str) else getattr(scenario, "__name__", "own scenario")
        self.name, self.batch, self.device, self.limit = f"vmas:{called}", batch, torch.device(device), limit
        # VMAS's streams, which it puts in place around each of its methods
        simulator = need("vmas.simulator.environment", self.name, "teams")
        self._stream: list[Any] = simulator.Environment.vmas_random_state
        self._continuous, self._generator, self._python = continuous, torch.Generator(), random.Random()
        self._make = lambda slots: _world(self.name, scenario, slots, self.device, continuous, options)
        with self._draws("build"):  # both worlds alike, whatever the scenario draws for its colours and sizes
            self._env = self._make(batch)
        with self._draws("build"):
            self._source = self._make(GROUP)
        self._agents = len(self._env.agents)
        self._solved = success if success is not None else called in SOLVED
        self.spec = self._describe(self.name)
        self._alive = torch.ones(batch, self._agents, dtype=torch.bool, device=self.device)
        for env in (self._env, self._source):  # what a scenario only sets in a step is there from now on
            with self._draws("build"):
                env.step([self._idle(env, agent) for agent in env.agents])
                env.reset()
        self._fresh = WorldState(self._source).freeze()
        self._together = self._draws_for_all()
        self._starts: OrderedDict[tuple[int, int], tuple[dict[str, Tensor], Tensor]] = OrderedDict()
        self._seed: int | None = None

    # -- running ------------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot."""
        self._seed, self._time = seed, 0
        self._episodes = torch.zeros(self.batch, dtype=torch.int64)
        self._steps = torch.zeros(self.batch, dtype=torch.int64)
        self._starts.clear()
        width = self.spec.observation_dim + self._masked * self.spec.actions
        self._seen = torch.zeros(self.batch, self._agents, width, device=self.device)
        self._restart(torch.ones(self.batch, dtype=torch.bool))
        return self._observation(self._seen)

    def step(self, actions: Tensor) -> Step:
        """Steps all slots; see :class:`~manyone.envs.teams.types.Step`."""
        chosen = self._checked(actions)
        self._time += 1
        self._steps += 1
        with self._draws("step", self._time):
            observations, rewards, done, _ = self._env.step(chosen)
        seen, gained = self._stacked(observations), torch.stack(rewards, 1).float()
        terminated = done.bool()
        ended, strange = torch.stack([terminated.any(), ~torch.isfinite(seen.sum() + gained.sum())]).tolist()
        if strange:
            self._refuse(seen, gained)
        cut = self._steps >= self.limit
        truncated = cut.to(self.device) & ~terminated
        final = None
        self._seen = seen
        if ended or bool(cut.any()):
            final = self._observation(seen)
            over = cut | terminated.cpu()
            self._episodes[over] += 1
            self._steps[over] = 0
            self._restart(over)
        success = terminated if self._solved else torch.zeros_like(terminated)
        return Step(self._observation(self._seen), gained, terminated, truncated, final, success, {})

    def frame(self, slot: int = 0) -> np.ndarray:
        """The slot's agents and landmarks from above."""
        return picture(self._env, slot)

    def close(self) -> None:
        """Nothing is held outside this process."""

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The world's tensors and numbers, and where each slot is."""
        self._need_start()
        return {
            "seed": self._seed,
            "time": self._time,
            "episodes": self._episodes.clone(),
            "steps": self._steps.clone(),
            "seen": self._seen.clone(),
            "world": WorldState(self._env).saved(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Puts the tensors back."""
        if len(state["steps"]) != self.batch:
            raise ManyoneError(f"{self.name}: the saved state has {len(state['steps'])} slots, this one {self.batch}")
        self.reset(state["seed"])
        self._time, self._seen = state["time"], state["seen"].clone().to(self.device)
        self._episodes, self._steps = state["episodes"].clone(), state["steps"].clone()
        if self._together:
            self._restart_all()  # brings back what tensors do not hold
            self._seen = state["seen"].clone().to(self.device)
        WorldState(self._env).load(state["world"], self.name)
        return self._observation(self._seen)

    # -- restarts -----------------------------------------------------------------------------------------------------

    def _restart(self, over: Tensor) -> None:
        """Puts the slots marked in ``over`` (bool [B], on the CPU) at the start of their episodes."""
        if self._together:
            if not bool(over.all()):
                slot = int(over.int().argmax())
                raise ManyoneError(
                    f"{self.name}, slot {slot} ended before the others, but this scenario draws what all slots share "
                    "at a restart (VMAS changes it under running episodes): choose a scenario that draws for each slot"
                )
            self._restart_all()
            return
        world = WorldState(self._env)
        slots = torch.nonzero(over)[:, 0]
        keys = [(slot // GROUP, int(self._episodes[slot])) for slot in slots.tolist()]
        for group, episode in sorted(set(keys)):
            mine = torch.tensor([key == (group, episode) for key in keys])
            chosen = slots[mine].to(self.device)
            state, seen = self._start(group, episode)
            rows = chosen % GROUP
            world.put_rows(chosen, rows, state)
            self._seen = self._seen.index_copy(0, chosen, seen[rows])
        self._env.steps[over.to(self.device)] = 0

    def _restart_all(self) -> None:
        with self._draws("team episodes", int(self._episodes[0])):
            self._seen = self._stacked(self._env.reset())

    def _start(self, group: int, episode: int) -> tuple[dict[str, Tensor], Tensor]:
        """The starts of one episode in one group of slots: tensors by path, and observations [GROUP, n, d]."""
        key = (group, episode)
        if key not in self._starts:
            self._fresh.restore()
            with self._draws("team episode", group, episode):
                seen = self._stacked(self._source.reset(), GROUP)
            self._starts[key] = (WorldState(self._source).rows(GROUP), seen)
            while len(self._starts) > KEPT:
                self._starts.popitem(last=False)
        self._starts.move_to_end(key)
        return self._starts[key]

    def _draws_for_all(self) -> bool:
        """Whether resets change something that is not one row per slot."""
        found = []
        for attempt in range(TRIES):
            self._fresh.restore()
            with self._draws("try", attempt):
                self._source.reset()
            found.append(WorldState(self._source))
        self._fresh.restore()
        return not all(same_numbers(found[0], other, GROUP) for other in found[1:])

    @contextlib.contextmanager
    def _draws(self, *names: str | int) -> Iterator[None]:
        """Within: VMAS draws from streams called (seed, names). Its stream and torch's are as before afterwards."""
        seed = seed_for(getattr(self, "_seed", None) or 0, "vmas", *names)
        stream = self._stream  # VMAS puts these in place around each of its methods
        before = list(stream)
        stream[0] = self._generator.manual_seed(seed).get_state()
        words = np.frombuffer(hashlib.shake_128(seed.to_bytes(8)).digest(4 * 624), np.uint32)
        stream[1] = ("MT19937", words, 624, 0, 0.0)  # a tenth of the time of a new RandomState, at every step
        self._python.seed(seed)
        stream[2] = self._python.getstate()
        forked = torch.random.fork_rng([self.device]) if self.device.type == "cuda" else contextlib.nullcontext()
        try:
            with forked:
                if self.device.type == "cuda":
                    torch.cuda.manual_seed(seed)
                yield
        finally:
            stream[:] = before

    # -- shapes -------------------------------------------------------------------------------------------------------

    def _describe(self, name: str) -> TeamSpec:
        env = self._env
        spaces = [env.get_agent_action_space(agent) for agent in env.agents]
        shown = [env.scenario.observation(agent) for agent in env.agents]
        seen = [_flat(part) for part in shown]
        self._widths = [int(part.shape[1]) for part in seen]
        self._sizes = [env.get_agent_action_size(agent) for agent in env.agents]
        low, high = np.zeros((2, 0))
        digits: list[tuple[int, ...]] = [(0,)] * self._agents
        if self._continuous:
            wide = max(space.shape[0] for space in spaces)
            low, high = np.zeros((2, self._agents, wide), np.float32)
            for agent, space in enumerate(spaces):
                low[agent, : space.shape[0]], high[agent, : space.shape[0]] = space.low, space.high
            self._low, self._high = (torch.from_numpy(bound).to(self.device) for bound in (low, high))
        else:
            digits = [tuple(map(int, getattr(space, "nvec", [getattr(space, "n", 0)]))) for space in spaces]
        names, several = tuple(agent.name for agent in env.agents), max(map(len, digits)) > 1
        counts = tuple(map(sum, digits))
        self._layout = Layout(names, tuple(self._widths), counts, digits=tuple(digits) if several else ())
        self._permitted = torch.from_numpy(self._layout.permitted()).to(self.device)
        self._offsets = torch.from_numpy(self._layout.starts).to(self.device)
        self._masked = any(mask_of(part) is not None for part in shown)
        if self._masked and self._continuous:
            raise ManyoneError(f"{name}: it tells an action mask, and continuous actions cannot be masked")
        self._available = self._permitted.expand(self.batch, -1, -1) if len(set(digits)) > 1 else None
        return TeamSpec(
            name=name,
            agents=self._agents,
            observation_dim=max(self._widths),
            actions=self._layout.actions,
            action_dim=low.shape[1] if self._continuous else 0,
            low=tuple(low.min(0).tolist()) if self._continuous else (),
            high=tuple(high.max(0).tolist()) if self._continuous else (),
            agent_low=tuple(map(tuple, low.tolist())) if self._continuous else (),
            agent_high=tuple(map(tuple, high.tolist())) if self._continuous else (),
            horizon=self.limit,
            agent_names=names,
            reports_success=self._solved,
            digits=self._layout.widest,
            masked=self._masked or self._available is not None,
        )

    def _observation(self, seen: Tensor) -> Observation:
        if self._masked:
            width = self.spec.observation_dim
            return Observation(seen[..., :width].contiguous(), self._alive, seen[..., width:] > 0)
        return Observation(seen, self._alive, self._available)

    def _stacked(self, observations: list[Any], slots: int | None = None) -> Tensor:
        """[B, n, d], and A columns more with the masks of a scenario that tells some."""
        parts = [_flat(part).float() for part in observations]
        if len(set(self._widths)) == 1 and not self._masked:
            return torch.stack(parts, 1)
        width = self.spec.observation_dim
        wide = parts[0].new_zeros(slots or self.batch, self._agents, width + self._masked * self.spec.actions)
        for agent, part in enumerate(parts):
            wide[:, agent, : part.shape[1]] = part
            if self._masked:
                wide[:, agent, width:] = self._permitted[agent]
                if (mask := mask_of(observations[agent])) is not None:
                    wide[:, agent, width + torch.from_numpy(self._layout.entries(agent))] = self._allowed(agent, mask)
        return wide

    def _allowed(self, agent: int, mask: Tensor) -> Tensor:
        """``mask`` [B, c] of an agent as numbers; ``ManyoneError`` where it does not fit or allows nothing."""
        who = f"{self.name}: agent {self._layout.names[agent]!r}"
        allowed, choices = mask.flatten(1) != 0, self._layout.counts[agent]
        if allowed.shape[1] != choices:
            raise ManyoneError(f"{who} has a mask of {allowed.shape[1]} entries for {choices} actions")
        digits = self._layout.digits[agent] if self._layout.digits else (choices,)
        if not bool(torch.stack([digit.any(-1) for digit in allowed.split(digits, -1)]).all()):
            raise ManyoneError(f"{who} has no available action; leave it one")
        return allowed.float()

    def _idle(self, env: Any, agent: Any) -> Tensor:
        size = env.get_agent_action_size(agent)
        return torch.zeros(env.num_envs, size, device=self.device, dtype=torch.float32 if self._continuous else None)

    def _checked(self, actions: Tensor) -> list[Tensor]:
        self._need_start()
        wanted = (self.batch, self._agents, *self.spec.action_shape)
        if tuple(actions.shape) != wanted:
            raise ManyoneError(f"{self.name}: actions have shape {list(actions.shape)}; {list(wanted)} is needed")
        actions = actions.detach().to(self.device)
        if self._continuous:
            if not bool(torch.isfinite(actions).all()):
                raise ManyoneError(f"{self.name}: an action is not finite; check the policy's weights")
            clipped = torch.clamp(actions.float(), self._low, self._high).unbind(1)
            wide = self.spec.action_dim
            return [part if size == wide else part[:, :size] for part, size in zip(clipped, self._sizes)]
        actions = actions.view(self.batch, self._agents, -1)
        most = torch.tensor(self._layout.widest or (self.spec.actions,), device=self.device)
        inside = (actions >= 0) & (actions < most)
        allowed = self._seen[..., self.spec.observation_dim :] > 0 if self._masked else self._permitted
        entries = torch.where(inside, actions, 0) + self._offsets
        wrong = ~(inside & allowed.expand(self.batch, -1, -1).gather(-1, entries)).all(-1)
        if bool(wrong.any()):
            slot, agent = torch.nonzero(wrong)[0].tolist()
            chosen, choices = actions[slot, agent].tolist(), self._layout.counts[agent]
            raise ManyoneError(
                f"{self.name}, slot {slot}: action {chosen if self.spec.digits else chosen[0]} is not available to "
                f"agent {self.spec.agent_names[agent]!r}, which has {choices}; choose among Observation.available"
            )
        return [part[:, :size] for part, size in zip(actions.unbind(1), self._sizes)]

    def _refuse(self, seen: Tensor, gained: Tensor) -> None:
        for values, what in ((seen, "observed"), (gained[..., None], "was rewarded with")):
            wrong = ~torch.isfinite(values).all(2)
            if wrong.any():
                slot, agent = torch.nonzero(wrong)[0].tolist()
                raise ManyoneError(
                    f"{self.name}, slot {slot}, step {int(self._steps[slot])}: agent "
                    f"{self.spec.agent_names[agent]!r} {what} a number that is not finite (NaN or infinite)"
                )

    def _need_start(self) -> None:
        if self._seed is None:
            raise ManyoneError(f"{self.name}: call reset(seed) first")


def _world(name: str, scenario: Any, slots: int, device: torch.device, continuous: bool, options: Any) -> Any:
    vmas, known = need("vmas", name, "teams"), isinstance(scenario, str)
    try:
        return vmas.make_env(
            scenario if known else scenario(),
            num_envs=slots,
            device=device,
            continuous_actions=continuous,
            **options,
        )
    except AssertionError as problem:
        if known and "scenario not found" in str(problem):
            raise ManyoneError(f"{name}: VMAS has no such scenario; see vmas.scenarios for its names") from None
        raise ManyoneError(f"{name}: {' '.join(str(problem).split())}") from problem


def _flat(seen: Any) -> Tensor:
    """An observation as one tensor [B, d]; those that are dictionaries are joined in the order of their keys, without
    action masks."""
    if isinstance(seen, dict):
        return torch.cat([_flat(seen[key]) for key in sorted(seen) if key not in MASKS], 1)
    return seen.flatten(1)
