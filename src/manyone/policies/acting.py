"""A sequence policy that acts in many episodes of many tasks at once.

At every step the last K steps of all running episodes go through the network in one batched call: episodes are grouped
by their mask, and the masked weights are stacked [masks, ...] (made once, while they fit into memory); so are weights
of a task's own, where a frozen network was adapted to each. The front of
each sequence (prompt, task token) does not see the history, so its keys and values are computed once: per task, or per
episode where episodes have prompts of their own (:meth:`SequencePolicy.give_prompts`). That is exact.
The history's own keys are not kept: its window slides, and every step's returns-to-go and place in it change.
Returns-to-go start at the episode's or the task's target and fall by each reward (g_{t+1} = g_t - r_t).
Public names: :class:`SequencePolicy`, :class:`EpisodeLike`, :func:`checked_observations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.adapters import SOFT
from manyone.nets.decision import DecisionTransformer, Prefix
from manyone.nets.memory import keep_freed_memory
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import Steps, TaskTable

Batch = tuple[Tensor, tuple[int, ...], tuple[int, ...]]
_CACHED = 256 << 20  # bytes of masked weights that are kept


class EpisodeLike(Protocol):
    """What a policy reads of an episode: the name of its task and, where it has a ``target``, the return to ask for."""

    @property
    def task(self) -> str: ...


def checked_observations(observations: Any, slots: Tensor, width: int, names: Sequence[str]) -> Tensor:
    """``observations`` as a tensor [b, S] on the CPU; ``names`` [n] are the tasks of all slots.

    Raises ``ManyoneError`` for another shape, and names the slot and its task where one is not finite.
    """
    seen = np.array(observations)
    if seen.shape != (len(slots), width):
        raise ManyoneError(f"observations {list(seen.shape)}: expected [{len(slots)}, {width}] for this policy")
    wrong = ~np.isfinite(seen).all(1)
    if wrong.any():
        slot, row = int(slots[int(np.argmax(wrong))]), seen[int(np.argmax(wrong))]
        entry = int(np.argmin(np.isfinite(row)))
        raise ManyoneError(
            f"slot {slot} ({names[slot] or 'no task named'}): entry {entry} of the observation is {row[entry]}: mend "
            "the environment, or end the episode there"
        )
    return torch.from_numpy(seen)


class SequencePolicy:
    """``model`` under the task's mask: batched over all episodes (the roll-outs' ``BatchedPolicy``).

    ``table``: names, statistics, targets and prompts of the tasks; ``masks`` (None: dense) and ``assignment`` (task ->
    mask, default its own). In the place of masks ``own`` may hold weights of the network, or parts of
    :mod:`manyone.nets.adapters`, by name [m, ...]: ``assignment`` then says which of the m a task has. Weights are read
    once: make a new policy after training on.
    """

    reads_returns = True
    """Whether a target return makes a difference."""

    def __init__(
        self,
        model: DecisionTransformer,
        table: TaskTable,
        masks: TaskMasks | None = None,
        *,
        assignment: Sequence[int] | None = None,
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        parameter = next(model.parameters())
        self.model, self.device, self.dtype = model, parameter.device, parameter.dtype
        self.table = table.to(self.device, self.dtype)
        self.masks = None if masks is None else masks.to(self.device)
        self.assignment = list(range(len(table.names))) if assignment is None else list(assignment)
        if len(self.assignment) != len(table.names):
            raise ManyoneError(f"{len(self.assignment)} masks assigned to {len(table.names)} tasks: give each task one")
        if self.masks is not None and max(self.assignment) >= len(self.masks):
            raise ManyoneError(f"mask {max(self.assignment)} is assigned, but there are masks 0..{len(self.masks) - 1}")
        self._own = {name: value.detach().to(self.device, self.dtype) for name, value in (own or {}).items()}
        if self._own and self.masks is not None:
            raise ManyoneError("weights of the tasks' own beside masks: a policy has one of them")
        for name, value in self._own.items():
            if max(self.assignment) >= len(value):
                raise ManyoneError(f"{name} of {len(value)} members, but member {max(self.assignment)} is assigned")
        if model.prompt and table.prompt is None:
            raise ManyoneError("the network reads prompts, but the task table holds none")
        if self.device.type == "cpu":
            keep_freed_memory()
        self._weights = {name: value.detach() for name, value in model.named_parameters()}
        each = sum(v[0].numel() for v in self._own.values()) if self.masks is None else sum(self.masks.sizes)
        self._bytes = each * parameter.element_size()  # of what a mask or member makes its own
        self._cache: dict[tuple[int, ...], dict[str, Tensor]] = {}
        self._laid_out: tuple[np.ndarray, list[Batch]] | None = None
        self._prefixes: dict[tuple[int, ...], Prefix | None] = {}
        self._fronts: Prefix | None = None  # of each slot, where episodes have prompts of their own

    # ---- the roll-outs' interface ---------------------------------------------------------------------------------

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        count, k = len(episodes), self.model.context
        self.names = [""] * count

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device, dtype=self.dtype)

        # ring buffers: the entry of step t is at t mod K
        self._states = zeros(count, k, self.model.state_dim)
        self._actions = zeros(count, k, self.model.action_dim)
        self._returns, self._left = zeros(count, k), zeros(count)
        self._time = torch.zeros(count, dtype=torch.int64, device=self.device)
        self.tasks = torch.zeros_like(self._time)
        self._fronts = None
        self.restart(range(count), episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        for slot, episode in zip(slots, episodes, strict=True):
            self.names[slot] = episode.task
            self._begin(slot, self.table.index(episode.task), getattr(episode, "target", None))

    def _begin(self, slot: int, task: int, target: float | None) -> None:
        """An episode of ``task`` in ``slot``; what the window holds of an earlier one is never read."""
        self.tasks[slot], self._time[slot] = task, 0
        self._left[slot] = self.table.target[task] if target is None else target

    @torch.no_grad()
    def give_prompts(self, slots: Any, prompts: Steps | Tensor) -> None:
        """Prompts [b, K*, ...] of their own for the episodes ``slots`` [b], until they are given others.

        Normalised as the tasks' own in the table are, which all other episodes keep; every step must be valid. A tensor
        [b, 3 K*, E] is soft tokens (:mod:`manyone.nets.adapters`). To be called after :meth:`start` or :meth:`restart`,
        which leave prompts as they are.
        """
        slot = self._slots(slots)
        if self._fronts is None:
            everyone = torch.arange(len(self.names), device=self.device)
            rest = everyone[~torch.isin(everyone, slot)]
            self._fronts = []
            if len(rest):
                assert self.table.prompt is not None
                self._put_fronts(rest, {k: v[self.tasks[rest]] for k, v in self.table.prompt.items()})
        self._put_fronts(slot, prompts)

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the distinct episodes ``slots`` [b]."""
        slot = self.observe(slots, observations)
        actions = torch.empty(len(slot), self.model.action_dim, dtype=self.dtype, device=self.device)
        for places, groups, tasks in self.batches(slot):
            actions[places] = self.actions(groups, self.window(slot[places]), tasks, slot[places])[:, :, 0]
        return self.acted(slot, actions)

    def reward(self, slots: Any, rewards: Any) -> None:
        """Rewards [b] of the step just taken; moves the returns-to-go and the clock of the episodes ``slots``."""
        slot = self._slots(slots)
        self._left[slot] -= torch.from_numpy(np.array(rewards)).to(self._left)
        self._time[slot] += 1

    def took(self, slots: Any, actions: Any) -> None:
        """Actions [b, A] that were taken instead of those of the last :meth:`act`; to be told before the rewards."""
        slot = self._slots(slots)
        self.acted(slot, self.table.unit_actions(torch.from_numpy(np.array(actions)).to(self._left), self.tasks[slot]))

    # ---- its parts, for policies that choose the mask themselves --------------------------------------------------

    def observe(self, slots: Any, observations: Any) -> Tensor:
        """Puts the present observations into the windows; the slots as a tensor."""
        slot = self._slots(slots)
        seen = checked_observations(observations, slot, self.model.state_dim, self.names).to(self.device, self.dtype)
        tasks = self.tasks[slot]
        place = self._time[slot] % self.model.context
        self._states[slot, place] = (seen - self.table.mean[tasks]) / self.table.deviation[tasks]
        self._returns[slot, place] = self._left[slot] / self.table.scale[tasks]
        self._actions[slot, place] = 0
        return slot

    def acted(self, slot: Tensor, actions: Tensor) -> np.ndarray:
        """Remembers the actions [b, A] that the network chose; float32 [b, A] within the bounds of the tasks."""
        self._actions[slot, self._time[slot] % self.model.context] = actions
        return self.table.own_actions(actions, self.tasks[slot]).float().cpu().numpy()

    def window(self, slot: Tensor) -> dict[str, Tensor]:
        """The last steps of the episodes ``slot`` [...] as the network reads them; only as long as they need."""
        now = self._time[slot]
        length = min(self.model.context, int(now.max()) + 1)
        times = now.unsqueeze(-1) + torch.arange(1 - length, 1, device=self.device)
        valid, at = times >= 0, times % self.model.context
        rows = slot.unsqueeze(-1)
        states, actions, returns = (t[rows, at] for t in (self._states, self._actions, self._returns))
        if not bool(valid.all()):
            states, actions = states * valid.unsqueeze(-1), actions * valid.unsqueeze(-1)
            returns = returns * valid
        return {"observations": states, "actions": actions, "returns_to_go": returns, "timesteps": times.clamp(min=0),
                "valid": valid}  # fmt: skip

    def batches(self, slot: Tensor) -> list[Batch]:
        """Episodes laid out for stacked calls: (places [G, B] in ``slot``, mask of each row, task of each row).

        Rows of unequal length are filled up by repeating their first episode; tasks of very unequal counts go into
        calls of their own.
        """
        tasks = self.tasks[slot].cpu().numpy()
        if self._laid_out is None or not np.array_equal(self._laid_out[0], tasks):  # mostly as at the step before
            self._laid_out = tasks, self._lay_out(tasks)
        return self._laid_out[1]

    def _lay_out(self, tasks: np.ndarray) -> list[Batch]:
        found, counts = np.unique(tasks, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        parts: list[list[int]] = []
        for i in order:
            if parts and counts[parts[-1][0]] * (len(parts[-1]) + 1) <= 1.5 * (counts[parts[-1]].sum() + counts[i]):
                parts[-1].append(int(i))
            else:
                parts.append([int(i)])
        if self._bytes:
            most = max(1, _CACHED // self._bytes)
            parts = [part[i : i + most] for part in parts for i in range(0, len(part), most)]
        batches = []
        for part in parts:
            longest = counts[part].max()
            rows = []
            for i in sorted(part):
                places = np.flatnonzero(tasks == found[i])
                rows.append(np.concatenate([places, np.repeat(places[:1], longest - len(places))]))
            numbers = tuple(int(found[i]) for i in sorted(part))
            groups = tuple(self.assignment[t] for t in numbers)
            batches.append((torch.from_numpy(np.stack(rows)).to(self.device), groups, numbers))
        return batches

    def actions(
        self, groups: tuple[int, ...], window: dict[str, Tensor], tasks: tuple[int, ...], slots: Tensor | None = None
    ) -> Tensor:
        """Actions [G, B, 1, A] for windows [G, B, ...], row i under mask ``groups[i]`` as task ``tasks[i]``.

        With the windows' ``slots`` [G, B], prompts that these were given stand before them.
        """
        weights = self.weights(groups)
        if self._fronts is not None and slots is not None:
            prefix: Prefix | None = [(k[slots], v[slots]) for k, v in self._fronts]
        else:
            prefix = self._prefix(groups, tasks, weights)
        prompt, task = self._front(tasks, window["timesteps"].shape[:2])
        if prefix is not None:
            return self.model.run(weights, window, None, task, prefix=prefix, last_only=True)
        return self.model.run(weights, window, prompt, task, last_only=True)

    def weights(self, groups: tuple[int, ...]) -> dict[str, Tensor]:
        """Parameters by name, masked ones or the tasks' own stacked [G, ...] for the masks or members ``groups``."""
        if not self._bytes:
            return self._weights
        if groups not in self._cache:
            if (sum(len(g) for g in self._cache) + len(groups)) * self._bytes > _CACHED:
                self._cache.clear()
                self._prefixes.clear()
            if self.masks is None:
                stacked = {n: v[list(groups)] for n, v in self._own.items()}
            else:
                masks = self.masks.stacked(groups)
                stacked = {n: torch.where(m, self._weights[n], 0) for n, m in masks.items()}
            single = {n: v[0] for n, v in stacked.items()} if len(groups) == 1 else stacked
            self._cache[groups] = self._weights | single
        return self._cache[groups]

    def _prefix(self, groups: tuple[int, ...], tasks: tuple[int, ...], weights: dict[str, Tensor]) -> Prefix | None:
        key = (*groups, -1, *tasks)
        if key not in self._prefixes:
            prompt, task = self._front(tasks, (len(tasks), 1))
            if prompt is not None and not bool(prompt["valid"].all()):
                self._prefixes[key] = None  # a padded prompt is read anew each time
            else:
                self._prefixes[key] = self.model.encode_prefix(weights, prompt, task, (len(tasks), 1))
        return self._prefixes[key]

    def _put_fronts(self, slot: Tensor, prompts: Steps | Tensor) -> None:
        """Encodes ``prompts`` [b, K*, ...] for the episodes ``slot`` [b], each under its task's weights."""
        assert self._fronts is not None
        for number in self.tasks[slot].unique().tolist():
            rows = self.tasks[slot] == number
            weights, own, task = self.weights((self.assignment[number],)), None, None
            size = (int(rows.sum()), 1)
            if isinstance(prompts, Tensor):
                weights = weights | {SOFT: prompts[rows.to(prompts.device)].to(self.device)}
            else:
                own = {k: v[rows.to(v.device)].to(self.device).unsqueeze(1) for k, v in prompts.items()}
            if self.model.reads_task:
                task = torch.full(size, number, device=self.device)
            made = self.model.encode_prefix(weights, own, task, size)
            if made is None:
                raise ManyoneError("the network reads no prompts: it was built with prompt = 0")
            if not self._fronts:
                count = len(self.names)
                self._fronts = [(k.new_zeros(count, *k.shape[2:]), v.new_zeros(count, *v.shape[2:])) for k, v in made]
            for (keys, values), (k, v) in zip(self._fronts, made):
                keys[slot[rows]], values[slot[rows]] = k[:, 0], v[:, 0]

    def _front(self, tasks: tuple[int, ...], size: Sequence[int]) -> tuple[dict[str, Tensor] | None, Tensor | None]:
        prompt = None
        if self.model.prompt and self.table.prompt is not None:
            rows = {k: v[list(tasks)].unsqueeze(1) for k, v in self.table.prompt.items()}
            prompt = {k: v.expand(v.shape[0], size[1], *v.shape[2:]) for k, v in rows.items()}
        task = None
        if self.model.reads_task:
            task = torch.tensor(tasks, device=self.device).unsqueeze(1).expand(-1, size[1])
        return prompt, task

    def _slots(self, slots: Any) -> Tensor:
        return torch.from_numpy(np.array(slots, dtype=np.int64)).to(self.device)
