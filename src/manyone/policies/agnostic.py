"""Acting without a task name: the policy works out its own group of tasks while it acts.

A sequence policy whose "tasks" are the groups. All groups have the same state statistics, target and scale of returns,
there is no prompt and no task token, so nothing but the agent's own steps can tell it what it is to do. At every step
the gate reads the last K_g of them, log q is averaged exponentially, the group changes only for a clear gain
(:class:`~manyone.policies.g_harmodt.gate.Belief`), and the step is taken under theta * M_g. ``selection`` gives the
whole ladder:

- ``gate``: as above; ``soft``: theta * sum_g q_g M_g with the averaged q instead of one group;
- ``oracle``: the true group (reads the task's name); ``random``: one group for the episode by lot;
- ``dense``: no masks.

Paper: Task-Aware Harmony Multi-Task Decision Transformer (G-HarmoDT), arXiv 2411.01146 (its abstract; details are our
reading). Public names: ``AgnosticPolicy``, ``leak_report``, ``save_agnostic``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import EpisodeLike, SequencePolicy
from manyone.policies.artefact import save_policy
from manyone.policies.g_harmodt.gate import Belief, Gate, confusion_by_phase, previous_actions
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import TaskTable
from manyone.randomness import generator_for

Selection = Literal["gate", "soft", "oracle", "random", "dense"]
_STACKED = 64 << 20  # entries of softly masked weights that one call may hold


def leak_report(
    model: DecisionTransformer,
    table: TaskTable,
    *,
    gate: Gate | None = None,
    selection: str = "dense",
    target: float | None = None,
) -> dict[str, bool]:
    """Which of the conditions hold under which nothing gives the task away; True means: no leak here.

    ``selection`` "task" stands for a policy that is told its task. ``target`` replaces the targets of ``table``.
    """
    return {
        "task name not read": selection not in ("task", "oracle"),
        "pooled state statistics": _same(table.mean) and _same(table.deviation),
        "one range of actions": table.bounds is None or _same(table.bounds),
        "one target return": target is not None or _same(table.target),
        "one scale of returns": _same(table.scale),
        "no prompt of the task": model.prompt == 0,
        "no task token": not model.reads_task,
        "gate does not read returns": gate is None or not gate.use_returns,
    }


_REMEDIES = {
    "pooled state statistics": "PolicyData(normalisation='pooled')",
    "one range of actions": "PolicyData(normalisation='pooled')",
    "one target return": "PolicyData(target='pooled') or target=...",
    "one scale of returns": "PolicyData(scale='pooled')",
    "no prompt of the task": "train a network without a prompt (prompt=0)",
    "no task token": "train a network without task tokens",
}


class AgnosticPolicy(SequencePolicy):
    """``model`` under the mask of the group that ``selection`` gives; a batched policy that needs no task names.

    ``table`` and ``masks`` are the trained ones, ``assignment`` the group of each task of ``table``, ``gate`` the
    trained gate (for ``gate`` and ``soft``), ``target`` the one return to ask for (default: the table's pooled one).
    ``decay`` and ``hysteresis`` are the belief's. Raises ``ManyoneError`` when table or network would tell the task.

    Names of episodes' tasks are used for the record alone (``confusion``, ``episode_info``), unless ``selection`` is
    ``oracle``; unknown names are all right.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        table: TaskTable,
        masks: TaskMasks | None = None,
        *,
        assignment: Sequence[int] | None = None,
        gate: Gate | None = None,
        selection: Selection = "gate",
        target: float | None = None,
        decay: float = 0.9,
        hysteresis: float = 0.1,
        seed: int = 0,
    ) -> None:
        if selection not in ("gate", "soft", "oracle", "random", "dense"):
            raise ManyoneError(f"selection {selection!r}: must be gate, soft, oracle, random or dense")
        if (masks is None) != (selection == "dense"):
            raise ManyoneError(f"selection {selection!r} and masks do not fit: dense is for a network without masks")
        count = 1 if masks is None else len(masks)
        if selection in ("gate", "soft") and (gate is None or gate.groups != count or gate.context > model.context):
            raise ManyoneError(
                f"selection {selection!r} needs a gate for the {count} groups that reads at most {model.context} steps"
            )
        self._report = leak_report(model, table, gate=gate, selection=selection, target=target)
        for condition, remedy in _REMEDIES.items():
            if not self._report[condition]:
                raise ManyoneError(f"acting without a task name needs {condition}: {remedy}")
        groups = assignment if assignment is not None else range(len(table.names)) if masks is not None else None
        self._group_of = dict(zip(table.names, [0] * len(table.names) if groups is None else groups))
        super().__init__(model, _for_groups(table, count, target), masks, assignment=range(count))
        self.gate = None if gate is None else gate.to(self.device, self.dtype).eval()
        self.groups, self.selection, self.decay, self.hysteresis, self.seed = count, selection, decay, hysteresis, seed

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        self._truth = torch.full((len(episodes),), -1)
        self._belief = Belief(len(episodes), self.groups, decay=self.decay, hysteresis=self.hysteresis)
        self._shown = torch.full((len(episodes), 64), -1, dtype=torch.int16)
        super().start(episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        for slot, episode in zip(slots, episodes, strict=True):
            truth = self._group_of.get(episode.task, -1)
            if self.selection == "oracle" and truth < 0:
                raise ManyoneError(f"task {episode.task!r} has no group to look up: {', '.join(self._group_of)} have")
            group = max(truth, 0) if self.selection == "oracle" else 0
            if self.selection == "random":
                draw = generator_for(self.seed, "random group", slot)
                group = int(torch.randint(self.groups, (1,), generator=draw))
            self.names[slot], self._truth[slot], self._shown[slot] = episode.task, truth, -1
            self._belief.forget(slot)
            self._begin(slot, group, getattr(episode, "target", None))

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the distinct episodes ``slots`` [b]."""
        slot = self.observe(slots, observations)
        if self.selection in ("gate", "soft"):
            self.tasks[slot] = self._infer(slot).to(self.device)
        self._record(slot)
        actions = torch.empty(len(slot), self.model.action_dim, dtype=self.dtype, device=self.device)
        if self.selection == "soft":
            self._act_softly(slot, actions)
        else:
            for places, groups, rows in self.batches(slot):
                actions[places] = self.actions(groups, self.window(slot[places]), rows)[:, :, 0]
        return self.acted(slot, actions)

    def leaks(self) -> dict[str, bool]:
        """Which of the no-leak conditions hold (True: nothing is given away there); see :func:`leak_report`."""
        return dict(self._report)

    def group_track(self, slot: int) -> list[int]:
        """The group that episode ``slot`` acted under at each step so far (the likeliest one for ``soft``)."""
        return self._shown[slot, : int((self._shown[slot] >= 0).sum())].tolist()

    def episode_info(self, slot: int) -> dict[str, Any]:
        """What the record says of an episode: ``group`` at its end, ``group_changes`` as (step, group) pairs from
        step 0 on, and where its task is known ``true_group`` and ``group_right``, the share of steps under it."""
        track = self.group_track(slot)
        changes = [(t, g) for t, g in enumerate(track) if t == 0 or g != track[t - 1]]
        info: dict[str, Any] = {"group": track[-1] if track else None, "group_changes": changes}
        truth = int(self._truth[slot])
        if truth >= 0 and track:
            info |= {"true_group": truth, "group_right": track.count(truth) / len(track)}
        return info

    def confusion(self, starts: Sequence[int] = (0, 1, 10, 50)) -> Tensor:
        """Counts [phases, groups (true), groups (acted under)] of the steps of all episodes whose task is known.

        Phase p holds the time steps ``starts[p]`` .. ``starts[p + 1]`` - 1.
        """
        seen = (self._shown >= 0) & (self._truth[:, None] >= 0)
        episode, step = seen.nonzero(as_tuple=True)
        return confusion_by_phase(self._shown[episode, step].long(), self._truth[episode], step, self.groups, starts)

    def _infer(self, slot: Tensor) -> Tensor:
        assert self.gate is not None
        window = self.window(slot)
        previous = previous_actions(window["actions"], window["valid"])
        logits = self.gate(window["observations"], previous, window["valid"], window["returns_to_go"])
        return self._belief.update(slot.cpu(), logits.log_softmax(dim=-1).cpu())

    def _act_softly(self, slot: Tensor, actions: Tensor) -> None:
        """Every episode under a mixture of masks of its own: theta * sum_g q_g M_g."""
        assert self.masks is not None
        weights = self._belief.probabilities(slot.cpu()).to(self.device, self.dtype)
        masks = self._float_masks()
        theta = torch.cat([self._weights[name].reshape(-1) for name in self.masks.shapes])
        at_once = max(1, _STACKED // self.masks.size)
        for start in range(0, len(slot), at_once):
            part = slice(start, start + at_once)
            mixed = self.masks.named((weights[part] @ masks) * theta)
            if len(weights[part]) == 1:
                mixed = {name: value[0] for name, value in mixed.items()}
            window = self.window(slot[part].unsqueeze(1))
            actions[part] = self.model.run(self._weights | mixed, window, last_only=True)[:, 0, 0]

    def _float_masks(self) -> Tensor:
        if not hasattr(self, "_masks_as_floats"):
            assert self.masks is not None
            self._masks_as_floats = self.masks.flat(range(self.groups)).to(self.dtype)
        return self._masks_as_floats

    def _record(self, slot: Tensor) -> None:
        now = self._time[slot].cpu()
        while int(now.max()) >= self._shown.shape[1]:
            self._shown = torch.cat((self._shown, torch.full_like(self._shown, -1)), dim=1)
        self._shown[slot.cpu(), now] = self.tasks[slot].cpu().to(torch.int16)


def save_agnostic(
    folder: str | os.PathLike[str],
    model: DecisionTransformer,
    table: TaskTable,
    masks: TaskMasks | None = None,
    *,
    assignment: Sequence[int] | None = None,
    gate: Gate | None = None,
    selection: Selection | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes the standard artefact of a policy that acts without a task name: ``load_policy(folder).reset()``.

    ``selection``: "gate" (default with a gate), "soft", or "dense" (default without masks). Raises ``ManyoneError``
    when the policy could not act so.
    """
    selection = selection or ("dense" if masks is None else "gate")
    AgnosticPolicy(model, table, masks, assignment=assignment, gate=gate, selection=selection)  # refuses what cannot be
    more: dict[str, Any] = {"acts_with": "agnostic", "task_free": True, "selection": selection}
    if gate is not None:
        more["gate"] = gate.config()
    extra = {} if gate is None else {f"gate.{name}": value for name, value in gate.state_dict().items()}
    given = {**(info or {}), **more}
    save_policy(folder, model, table, masks, assignment=assignment, extra=extra, info=given,
                learned=() if gate is None else ("gate.*",))  # fmt: skip


def _same(rows: Tensor) -> bool:
    return bool((rows == rows[:1]).all())


def _for_groups(table: TaskTable, groups: int, target: float | None) -> TaskTable:
    """One row a group, all alike: nothing in it tells one group from another."""
    first = table.subset([0] * groups)
    names = tuple(f"group {g}" for g in range(groups))
    plain = TaskTable(names, first.mean, first.deviation, first.scale, first.target, None, first.bounds)
    return plain if target is None else plain.with_targets(target)
