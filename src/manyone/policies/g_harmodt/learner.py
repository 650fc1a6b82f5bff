"""G-HarmoDT: masks for groups of tasks, found from gradients, and a gate that tells the group at run time.

Training has two phases in one learner. *Warm-up*: the shared weights train dense (or under random task masks), as
``PolicyLearner`` does. Then the tasks' mean gradients on the maskable weights are clustered
(:mod:`manyone.policies.g_harmodt.groups`), every group gets an ERK mask, and training goes on with one mask a group:
the step of task i uses the mask of its group, the mask update scores group g with u_g (the mean over its tasks) against
the mean over all tasks. Beside it the gate (:mod:`manyone.policies.g_harmodt.gate`) learns the group from the same
windows. As many groups as tasks and no warm-up is HarmoDT; one group at sparsity 0 is the dense method.

Paper: Task-Aware Harmony Multi-Task Decision Transformer (G-HarmoDT), arXiv 2411.01146 (its abstract; details are our
reading). Public names: ``GroupedLearner``, ``check_pooled``, ``matched``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.agnostic import AgnosticPolicy, Selection, save_agnostic
from manyone.policies.artefact import save_policy
from manyone.policies.g_harmodt.gate import Gate, GateTrainer, confusion_by_phase, previous_actions
from manyone.policies.g_harmodt.groups import SIGNATURE, Clustering, Grouping, SparseProjection, cluster
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.masks import Scope, TaskMasks, maskable_shapes
from manyone.policies.protocol import SECTION, History
from manyone.policies.tasks import PolicyData, TaskTable, label

_AT_ONCE = 16 << 20  # gradient entries that are held while signatures are taken
_SIGNATURE_BATCHES = 16  # whose mean gradient is a task's signature


class GroupedLearner:
    """Trains ``model`` in place on ``data``: warm-up, clustering, group masks, gate. An engine ``Learner``.

    ``groups``: their number (1 to the number of tasks) or "auto"; ``group_after``: steps before the clustering (0 to
    ``steps`` - 1), in a ``first_phase`` that is "dense" or under "random-masks" (one frozen mask a task).
    ``clustering``: see :func:`~manyone.policies.g_harmodt.groups.cluster`. ``recluster_every``: mask updates between
    later clusterings (0: only the first), which keep the number of groups and each group's mask.

    ``gate``: train one (needs pooled state statistics, since others tell the task); ``gate_context``: its K_g in steps;
    ``gate_width``, ``gate_lr``, ``gate_actions``, ``gate_returns``: see :class:`~manyone.policies.g_harmodt.gate.Gate`.
    The gate takes a step whenever every task has had its turn, on all the windows of that round. ``selection``: how the
    policy chooses the mask when nothing else is said.

    ``sparsity``, ``mask_init``, ``shared_init``, ``mask_scope``, ``seed`` and every argument in ``options`` are
    ``PolicyLearner``'s; ``evaluate`` is called with this learner.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        data: PolicyData,
        *,
        steps: int,
        groups: int | Literal["auto"] = "auto",
        group_after: int,
        first_phase: Literal["dense", "random-masks"] = "dense",
        clustering: Clustering = "k-means",
        recluster_every: int = 0,
        gate: bool = True,
        gate_context: int = 10,
        gate_width: int = 256,
        gate_lr: float = 3e-4,
        gate_actions: bool = True,
        gate_returns: bool = False,
        selection: Selection = "gate",
        seed: int = 0,
        sparsity: float = 0.2,
        mask_init: Literal["erk", "uniform"] = "erk",
        mask_scope: Scope = "blocks_weights_only",
        shared_init: bool = False,
        freeze_unmasked: bool = False,
        evaluate: Callable[[GroupedLearner], Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        for name, value, holds, allowed in (
            ("groups", groups, groups == "auto" or 1 <= groups <= len(data), f"auto or 1..{len(data)}, the tasks"),
            ("group_after", group_after, 0 <= group_after < steps, f"0..{steps - 1}, below the number of steps"),
            ("first_phase", first_phase, first_phase in ("dense", "random-masks"), "dense or random-masks"),
            ("recluster_every", recluster_every, recluster_every >= 0, "0 or more"),
            ("gate_context", gate_context, 1 <= gate_context <= data.context, f"1..{data.context}, the data's context"),
        ):
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")
        if gate:
            check_pooled(data.table)
        self.model, self.data, self.seed = model, data, seed
        self.wanted_groups, self.group_after, self.recluster_every = groups, group_after, recluster_every
        self.selection, self.clustering = selection, clustering
        self._mask_options: dict[str, Any] = {"sparsity": sparsity, "init": mask_init, "shared": shared_init}
        self._with_gate = gate
        self._gate_options: dict[str, Any] = {
            "context": gate_context, "width": gate_width, "use_actions": gate_actions, "use_returns": gate_returns,
        }  # fmt: skip
        self._gate_lr = gate_lr
        tasks = len(data)
        shapes = maskable_shapes(model, "all" if freeze_unmasked else mask_scope)
        if first_phase == "dense":
            masks, assignment = TaskMasks.ones(shapes, 1), [0] * tasks
        else:
            masks, assignment = TaskMasks.random(shapes, tasks, seed=seed, **self._mask_options), list(range(tasks))
        self.learner = PolicyLearner(
            model, data, steps=steps, method="harmodt", seed=seed, masks=masks, assignment=assignment,
            mask_scope=mask_scope, freeze_unmasked=freeze_unmasked,
            evaluate=None if evaluate is None else lambda _: evaluate(self), **options,
        )  # fmt: skip
        self._update = self.learner.update
        self.learner.update = replace(self._update, rule="none")  # until there are groups
        self.grouping: Grouping | None = None
        """The groups, once the warm-up is over."""
        self._vectors: Tensor | None = None
        self.gate: GateTrainer | None = None
        """The gate and its optimiser, once there are groups."""

    @property
    def phase(self) -> Literal["first", "grouped"]:
        """Which phase the next step belongs to, once it is taken."""
        return "first" if self.grouping is None else "grouped"

    @property
    def iteration(self) -> int:
        """Steps taken."""
        return self.learner.iteration

    def step(self) -> dict[str, float]:
        """One step of the policy, before it the clustering when that is due, after it the gate's step when it is."""
        metrics: dict[str, float] = {}
        if self.grouping is None and self.iteration >= self.group_after:
            metrics |= self._group()
        metrics |= self.learner.step()
        if self.grouping is None:
            return metrics
        updates, rest = divmod(self.iteration, self._update.every)
        first = self.group_after // self._update.every
        if self.recluster_every and rest == 0 and (updates - first) % self.recluster_every == 0:
            metrics |= self._group()
        if self.gate is not None and self.iteration % self._round == 0:
            metrics |= self.gate.step(*self._last_round())
        return metrics

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says of this learner."""
        return self.learner.evaluate()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "learner": self.learner.state_dict(),
            "vectors": self._vectors,
            "groups": None if self.grouping is None else list(self.grouping.assignment),
            "silhouettes": None if self.grouping is None else [list(s) for s in self.grouping.silhouettes.items()],
            "gate": None if self.gate is None else self.gate.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.learner.load_state_dict(state["learner"])
        self._vectors, self.grouping, self.gate = state["vectors"], None, None
        if state["groups"] is None:
            self.learner.update = replace(self._update, rule="none")
            return
        self._adopt(Grouping.of(self._vectors, state["groups"], dict(state["silhouettes"])))
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact: with a gate one that acts without a task name, else one that needs it."""
        info = {"method": "g-harmodt", "seed": self.seed, "steps": self.iteration}
        parts = (folder, self.model, self.data.table, self.learner.masks[0])
        gate = self._trained_gate()
        if gate is None:
            save_policy(*parts, assignment=self.learner.assignment, info=info)
        else:
            save_agnostic(*parts, assignment=self.learner.assignment, gate=gate, info=info)

    def policy(self, variant: Selection | Literal[""] = "") -> SequencePolicy:
        """The policy as it is now: without task names as soon as there is a gate, before that and without one by them.

        ``variant``: how it chooses the mask (default: ``selection``).
        """
        gate = self._trained_gate()
        if gate is None:
            return self.learner.policy()
        return AgnosticPolicy(
            self.model, self.data.table, self.learner.masks[0], assignment=self.learner.assignment, gate=gate,
            selection=variant or self.selection,
        )  # fmt: skip

    def effort(self) -> dict[str, float]:
        """That of the policy."""
        return self.learner.effort()

    def sizes(self) -> dict[str, float]:
        """Those of the policy, and the number of groups once there are some."""
        groups = {} if self.grouping is None else {"groups": float(self.grouping.groups)}
        return self.learner.sizes() | groups

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """The groups that ``policy`` acted under beside the true ones, and the tasks of each group."""
        if self.grouping is None or not isinstance(policy, AgnosticPolicy):
            return
        names = [f"group {g}" for g in range(self.grouping.groups)]
        counts = policy.confusion().sum(0).double()
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).tolist()
        caption = "Rows: the true group; columns: the group that the policy acted under; shares of steps."
        data: dict[str, Any] = {"rows": names, "columns": names, "values": shares, "unit": "%"}
        yield Figure("matrix", "the gate's choices", data, caption, SECTION)
        rows = [[label(t), f"group {g}"] for t, g in zip(self.data.names, self.learner.assignment)]
        data = {"columns": ["task", "group"], "rows": sorted(rows, key=lambda row: row[1])}
        yield Figure("table", "groups of tasks", data, "Clustered by their gradients.", SECTION)

    @torch.no_grad()
    def gate_confusion(self, *, batches: int = 16, starts: tuple[int, ...] = (0, 1, 10, 50)) -> Tensor:
        """Counts [phases, groups (actual), groups (gate's)] over windows drawn like training's, at every step."""
        gate = self._trained_gate()
        if gate is None:
            raise ManyoneError("this learner has no gate yet: train past the warm-up, with gate=True")
        total: Tensor | int = 0
        groups = torch.tensor(self.learner.assignment)
        for number in range(batches):
            drawn = self.data.batch(
                range(len(self.data)), number, self.seed, batch_size=self.learner.losses.batch_size,
                purpose="gate confusion",
            )  # fmt: skip
            steps, actual = drawn.steps, groups[drawn.tasks]
            valid = steps["valid"]
            longest = torch.full(valid.shape, gate.context, device=valid.device)
            previous = previous_actions(steps["actions"], valid)
            logits = gate.at_every_step(steps["observations"], previous, valid, longest, steps["returns_to_go"])
            predicted = logits.argmax(dim=-1)[valid].cpu()
            actual = actual[:, None, None].expand(valid.shape)[valid.cpu()]
            total = total + confusion_by_phase(predicted, actual, steps["timesteps"][valid].cpu(), gate.groups, starts)
        assert isinstance(total, Tensor)
        return total

    # ---- phases ---------------------------------------------------------------------------------------------------

    @property
    def _round(self) -> int:
        """Steps in which every task has its turn."""
        return -(-len(self.data) // self.learner.tasks_per_step)

    def _trained_gate(self) -> Gate | None:
        return None if self.gate is None else self.gate.gate

    def _group(self) -> dict[str, float]:
        """Clusters the tasks by their gradients as they are now, and gives the groups their masks."""
        before = None if self.grouping is None else list(self.grouping.assignment)
        self._vectors = self._signature_vectors()
        wanted = self.wanted_groups if before is None else max(before) + 1
        found = cluster(self._vectors, wanted, method=self.clustering, seed=self.seed)
        labels = list(found.assignment) if before is None else matched(found.assignment, before)
        if before is None:
            shapes = self.learner.masks[0].shapes
            masks = TaskMasks.random(shapes, found.groups, seed=self.seed, **self._mask_options)
        else:
            masks = self.learner.masks[0]
        self.learner.regroup(labels, masks)
        self._adopt(replace(found, assignment=tuple(labels)))
        metrics = {"groups": float(found.groups)} | {f"group/{n}": float(g) for n, g in zip(self.data.names, labels)}
        if found.groups in found.silhouettes:
            metrics["silhouette"] = found.silhouettes[found.groups]
        return metrics

    def _adopt(self, grouping: Grouping) -> None:
        """Takes up the groups, with a fresh gate when there is none yet."""
        self.grouping = grouping
        self.learner.update = self._update
        if self._with_gate and self.gate is None:
            widths = (self.data.state_dim, self.data.action_dim)
            gate = Gate(*widths, grouping.groups, seed=self.seed, **self._gate_options)
            self.gate = GateTrainer(gate.to(self.data.device, self.data.dtype), lr=self._gate_lr, seed=self.seed)

    def _signature_vectors(self) -> Tensor:
        """Mean gradients of the tasks on the maskable weights, projected, float64 [N, p]."""
        width = self.learner.point.layout.maskable
        project = SparseProjection(width, seed=self.seed) if width > SIGNATURE else None
        rows: list[Tensor] = []
        at_once = max(1, _AT_ONCE // width)
        for start in range(0, len(self.data), at_once):
            tasks = list(range(start, min(start + at_once, len(self.data))))
            found = self.learner.task_gradients(tasks, batches=_SIGNATURE_BATCHES, purpose="signature", clip=False)
            rows += [v.double().cpu() if project is None else project(v) for v in found]
        return torch.stack(rows)

    def _last_round(self) -> tuple[dict[str, Tensor], Tensor]:
        """The windows of the round that has just ended (drawn again: they are a function of the step), and groups."""
        parts, tasks = [], []
        each, count = self.learner.tasks_per_step, len(self.data)
        for step in range(self.iteration - self._round, self.iteration):
            numbers = [(step * each + j) % count for j in range(each)]
            drawn = self.data.batch(numbers, step, self.seed, batch_size=self.learner.losses.batch_size)
            parts.append(drawn.steps)
            tasks.append(drawn.tasks)
        steps = {key: torch.cat([p[key] for p in parts]) for key in parts[0]}
        groups = torch.tensor(self.learner.assignment)[torch.cat(tasks)].to(self.data.device)
        return steps, groups[:, None].expand(steps["valid"].shape[:2])


def check_pooled(table: TaskTable) -> None:
    """Raises ``ManyoneError`` unless all tasks of ``table`` have the same state statistics."""
    if not (torch.equal(table.mean, table.mean[:1].expand_as(table.mean))
            and torch.equal(table.deviation, table.deviation[:1].expand_as(table.deviation))):  # fmt: skip
        raise ManyoneError(
            "acting without a task name needs pooled state statistics: PolicyData(normalisation='pooled')"
        )


def matched(new: tuple[int, ...], old: list[int]) -> list[int]:
    """The labels ``new``, renamed so that as many tasks as possible keep their old group."""
    groups = max(max(new), max(old)) + 1
    shared = torch.zeros(groups, groups)
    for a, b in zip(new, old):
        shared[a, b] += 1
    _, names = linear_sum_assignment(-shared.numpy())
    return [int(names[g]) for g in new]
