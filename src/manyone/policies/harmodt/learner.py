"""Training one policy on the offline data of many tasks: dense, with task masks (HarmoDT), or with gradient surgery.

Hu et al., "HarmoDT" (arXiv 2405.18080). One step takes one task i (round robin) and one batch of its windows:

    w = theta * M_i on the maskable weights W, theta elsewhere            harmodt/point.py
    L_i(w) = mean of (policy(w) - a)^2                                    harmodt/losses.py
    g = dL_i/dw, its global norm clipped, then * M_i on W                 harmodt/steps.py
    theta <- AdamW(theta, g), entries of W outside M_i keep their value   MaskedPoint.move

and every ``mask_every`` steps the masks exchange weights (harmodt/mask_updates.py, scores in harmodt/harmony.py). Two
ways to do more in one tensor program: ``tasks_per_step`` = G takes G tasks at once under stacked masked weights, the
same as accumulating their gradients; a sequence of models with as many ``seeds`` trains these independently side by
side, each as it would be alone. All parameters are one flat vector, the masked ones first, and the optimiser is torch's
fused AdamW on the masked point itself, so masking costs three passes over W and no copy of the network's state.
Public names: :class:`PolicyLearner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.nets.memory import keep_freed_memory
from manyone.policies.acting import SequencePolicy
from manyone.policies.agnostic import leak_report, save_agnostic
from manyone.policies.artefact import save_policy
from manyone.policies.conflict import GradNorm, cagrad, pcgrad
from manyone.policies.harmodt.harmony import Importance, Ranking
from manyone.policies.harmodt.losses import TaskLosses
from manyone.policies.harmodt.mask_updates import MaskUpdate, exchange_masks
from manyone.policies.harmodt.point import MaskedPoint
from manyone.policies.harmodt.steps import Direction, combined, one_mask, stacked_masks, task_gradients
from manyone.policies.harmodt.variants import Update
from manyone.policies.harmodt.variants import method as method_of
from manyone.policies.masks import Scope, TaskMasks, maskable_shapes
from manyone.policies.optimiser import FlatAdamW, learning_rate
from manyone.policies.protocol import SECTION, History, effort_of, sizes_of
from manyone.policies.tasks import PolicyData, label
from manyone.randomness import generator_for


class PolicyLearner:
    """Trains ``model`` in place (its parameters are views of the learner's vector) on ``data``.

    ``model`` may be a sequence of S networks of one shape, trained side by side with ``seed`` a sequence of S seeds.
    ``masks``: the task masks (one set a network; default: the method's, drawn from the seed); ``assignment``: task ->
    mask (default: its own). ``steps`` is the planned number of steps, which the swap and learning-rate schedules
    need. None in ``update``, ``importance``, ``gamma``, ``shared_init``: the method's choice.

    ``mask_scope``: which weights masks reach; ``freeze_unmasked``: masks for every tensor, applied in the forward pass
    to those of ``mask_scope`` alone, frozen everywhere (the authors' program). ``moment_policy``: Adam moments of
    masked entries decay (``shared``) or stay (``freeze_masked``). ``clip``: largest global gradient norm, taken before
    masking. ``ema_decay``: smoothing of the tasks' gradients over mask updates; ``mask_until``: the share of the steps
    after which masks stay, over which their schedule goes; ``mask_batches``: batches that are averaged for the scores;
    ``fisher_samples``: squares of per-sample gradients. ``evaluate`` is called with the learner and gives metrics; the
    best "success" so far is kept beside the last.
    """

    def __init__(
        self,
        model: DecisionTransformer | Sequence[DecisionTransformer],
        data: PolicyData,
        *,
        steps: int,
        method: str = "harmodt",
        seed: int | Sequence[int] = 0,
        masks: TaskMasks | Sequence[TaskMasks] | None = None,
        assignment: Sequence[int] | None = None,
        batch_size: int = 8,
        tasks_per_step: int | None = None,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        warmup: int = 10_000,
        schedule: Literal["constant", "cosine"] = "constant",
        clip: float = 0.25,
        moment_policy: Literal["shared", "freeze_masked"] = "shared",
        sparsity: float = 0.2,
        mask_init: Literal["erk", "uniform"] = "erk",
        mask_scope: Scope = "blocks_weights_only",
        shared_init: bool | None = None,
        freeze_unmasked: bool = False,
        mask_every: int = 500,
        eta_min: float = 0,
        eta_max: float = 100,
        swap_schedule: Literal["bump", "decay"] = "bump",
        update: Update | None = None,
        importance: Importance | None = None,
        gamma: float | None = None,
        ranking: Ranking = "global",
        ema_decay: float = 0.0,
        mask_until: float = 1.0,
        mask_batches: int = 1,
        fisher_samples: bool = False,
        evaluate: Callable[[PolicyLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        chosen = method_of(method)
        self.models = [model] if isinstance(model, DecisionTransformer) else list(model)
        self.seeds = [seed] if isinstance(seed, int) else list(seed)
        self.model, self.data, self.method, self.surgery = self.models[0], data, method, chosen.surgery
        tasks = len(data)
        several = tasks if chosen.surgery != "none" else 1
        self.tasks_per_step = several if tasks_per_step is None else tasks_per_step
        for name, value, holds, allowed in (
            ("steps", steps, steps >= 1, "1 or more"),
            ("batch_size", batch_size, batch_size >= 1, "1 or more"),
            ("lr", lr, lr > 0, "above 0"),
            ("clip", clip, clip > 0, "above 0"),
            ("mask_every", mask_every, mask_every >= 1, "1 or more"),
            ("eta_min", eta_min, 0 <= eta_min <= eta_max, "0 or more and at most eta_max"),
            ("ema_decay", ema_decay, 0 <= ema_decay < 1, "in [0, 1)"),
            ("mask_batches", mask_batches, mask_batches >= 1, "1 or more"),
            ("mask_until", mask_until, 0 < mask_until <= 1, "in (0, 1]"),
            ("tasks_per_step", self.tasks_per_step, 1 <= self.tasks_per_step <= tasks, f"1..{tasks}, the tasks"),
        ):
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")
        if chosen.surgery != "none" and self.tasks_per_step < 2:
            raise ManyoneError(f"{chosen.surgery} combines tasks: tasks_per_step must be at least 2")
        _check_fit(self.models, self.seeds, data)
        self.steps_planned, self.lr, self.warmup, self.schedule, self.clip = steps, lr, warmup, schedule, clip
        self.balance = [GradNorm(tasks) for _ in self.seeds if chosen.surgery == "gradnorm"]
        self.evaluator = evaluate
        self.update = MaskUpdate(
            rule=chosen.update if update is None else update,
            importance=chosen.importance if importance is None else importance,
            gamma=chosen.gamma if gamma is None else gamma,
            every=mask_every, steps=steps, eta_min=eta_min, eta_max=eta_max, schedule=swap_schedule, ranking=ranking,
            ema_decay=ema_decay, until=mask_until, batches=mask_batches,
            fisher_samples=fisher_samples,
        )  # fmt: skip

        in_forward = maskable_shapes(self.model, mask_scope)
        shapes = maskable_shapes(self.model, "all") if freeze_unmasked else in_forward
        own = [masks] if isinstance(masks, TaskMasks) else list(masks or ())
        if own:
            shapes = own[0].shapes
        elif chosen.masked:
            shared = chosen.shared_init if shared_init is None else shared_init
            count = tasks if assignment is None else max(assignment) + 1
            own = [TaskMasks.random(shapes, count, sparsity, seed=s, init=mask_init, shared=shared) for s in self.seeds]
        if data.device.type == "cpu":
            keep_freed_memory()
        assignment = self._checked(list(range(tasks)) if assignment is None else list(assignment))
        dense = set(shapes) - set(in_forward) if freeze_unmasked else ()
        self.losses = TaskLosses(self.model, data, self.seeds, batch_size)
        self.point = MaskedPoint(self.models, shapes, own, assignment, dense)
        self.optimiser = FlatAdamW(self.point.w, weight_decay, moment_policy)
        self.iteration = 0
        self.best: dict[str, float] = {}

    @property
    def masks(self) -> list[TaskMasks]:
        """The masks, one set a network; none of a dense method."""
        return self.point.masks

    @property
    def assignment(self) -> list[int]:
        """Task -> mask."""
        return self.point.assignment

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimisation step on ``tasks_per_step`` tasks, and the mask update when it is due."""
        at, losses, step = self.point, self.losses, self.iteration
        tasks = [(step * self.tasks_per_step + j) % len(self.data) for j in range(self.tasks_per_step)]
        rate = learning_rate(step, self.lr, self.warmup, self.schedule, self.steps_planned)
        direction: Direction
        if self.surgery != "none":
            direction = combined(at, losses, tasks, step, self.clip, lambda n, u, v: self._combine(n, u, v, tasks))
        elif len(tasks) == 1 or not at.masked:
            direction = one_mask(at, losses, tasks, step, self.clip)
        else:
            direction = stacked_masks(at, losses, tasks, step, self.clip)
        at.move(self.optimiser, direction.gradient, rate, direction.mask)
        self.iteration += 1
        metrics = {"loss": float(direction.losses.mean()), "learning_rate": rate}
        if at.masked and self.update.due(self.iteration):
            metrics |= exchange_masks(at, losses, self.update, self.iteration, self.clip)
        return metrics

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says, and the best "success" seen so far as "success_best"."""
        if self.evaluator is None:
            return {}
        metrics = dict(self.evaluator(self))
        for name in [n for n in metrics if n == "success" or n.startswith("success/seed")]:
            self.best[name] = max(float(metrics[name]), self.best.get(name, float("-inf")))
            metrics[name.replace("success", "success_best", 1)] = self.best[name]
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            **self.point.state_dict(),
            "iteration": self.iteration,
            "optimiser": self.optimiser.state_dict(),
            "best": dict(self.best),
            "balance": [one.state_dict() for one in self.balance],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.point.load_state_dict(state)
        self.iteration, self.best = int(state["iteration"]), dict(state["best"])
        for one, saved in zip(self.balance, state.get("balance", ())):
            one.load_state_dict(saved)
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact; of several seeds one folder ``seed-N`` each.

        Where nothing tells a dense network its task, the artefact acts without a task name.
        """
        table = self.data.table
        free = not self.masks and all(leak_report(self.model, table).values())
        for number, seed in enumerate(self.seeds):
            place = folder if len(self.seeds) == 1 else folder / f"seed-{seed}"
            info = {"method": self.method, "seed": seed, "steps": self.iteration}
            if free:
                save_agnostic(place, self.models[number], table, info=info)
            else:
                masks = self.masks[number] if self.masks else None
                save_policy(place, self.models[number], table, masks, assignment=self.assignment, info=info)

    # ---- a policy's learner ---------------------------------------------------------------------------------------

    def policy(self, variant: Literal[""] = "", *, member: int = 0) -> SequencePolicy:
        """The policy of network ``member`` as it is now."""
        masks = self.masks[member] if self.masks else None
        return SequencePolicy(self.models[member], self.data.table, masks, assignment=self.assignment)

    def effort(self) -> dict[str, float]:
        """Updates and samples a task of each network."""
        return effort_of(self.data, self.iteration, self.tasks_per_step, self.losses.batch_size)

    def sizes(self) -> dict[str, float]:
        """Parameters of a network, bytes and overlap of its masks."""
        return sizes_of([self.model], self.masks[0] if self.masks else None)

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """How much the masks have in common, and how far the tasks agreed at each mask update."""
        if self.masks:
            names = [label(t) for t in self.data.names]
            data: dict[str, Any] = {"rows": names, "columns": names, "values": self.masks[0].overlap().tolist()}
            caption = "Share of the weights of two tasks' masks that they have in common (intersection over union)."
            yield Figure("matrix", "overlap of the masks", data | {"unit": "%"}, caption, SECTION)
        curves = {n.removeprefix("agreement/"): c for n, c in history.items() if n.startswith("agreement/")}
        if curves:
            series = {label(t): {"x": [s for s, _ in c], "y": [v for _, v in c]} for t, c in curves.items()}
            data = {"series": series, "x_label": "step", "y_label": "agreement"}
            caption = "Cosine between a task's dense gradient and the mean over tasks, at each mask update."
            yield Figure("lines", "agreement of the tasks", data, caption, SECTION)

    # ---- for those who build on it --------------------------------------------------------------------------------

    def regroup(self, assignment: Sequence[int], masks: TaskMasks | Sequence[TaskMasks]) -> None:
        """Other groups from now on: task -> mask, and the masks (over the same tensors)."""
        if not self.masks:
            raise ManyoneError("a dense method has no masks to regroup")
        self.point.regroup(self._checked(assignment), [masks] if isinstance(masks, TaskMasks) else masks)

    def task_gradients(
        self, tasks: Sequence[int] | None = None, *, batches: int = 1, purpose: str = "score", clip: bool = True
    ) -> Tensor:
        """Dense gradients on W at the masked points theta * M_i, [N, d] ([S, N, d] for several networks).

        See :func:`manyone.policies.harmodt.steps.task_gradients`; they are drawn for the present step.
        """
        numbers = range(len(self.data)) if tasks is None else tasks
        found = task_gradients(self.point, self.losses, numbers, self.iteration, batches=batches, purpose=purpose,
                               clip=self.clip if clip else None)  # fmt: skip
        return found[0] if len(self.models) == 1 else found

    def _combine(self, number: int, gradients: Tensor, losses: Tensor, tasks: list[int]) -> Tensor:
        """One direction for network ``number`` from the gradients [G, P] of ``tasks``."""
        if self.surgery == "pcgrad":
            return pcgrad(gradients, generator_for(self.seeds[number], "pcgrad", self.iteration))
        if self.surgery == "gradnorm":
            return self.balance[number].combine(gradients, losses, tasks)
        return cagrad(gradients)

    def _checked(self, assignment: Sequence[int]) -> list[int]:
        if len(assignment) != len(self.data) or min(assignment) < 0:
            raise ManyoneError(f"assignment {assignment}: must give each of the {len(self.data)} tasks a mask number")
        return list(assignment)


def _check_fit(models: Sequence[DecisionTransformer], seeds: Sequence[int], data: PolicyData) -> None:
    """Raises ``ManyoneError`` unless networks, seeds and data belong together."""
    model = models[0]
    if len(models) != len(seeds):
        raise ManyoneError(f"{len(models)} networks but {len(seeds)} seeds: give one seed a network")
    if any(m.config() != model.config() for m in models):
        raise ManyoneError("networks that are trained side by side must have the same shape")
    if (model.state_dim, model.action_dim) != (data.state_dim, data.action_dim):
        raise ManyoneError(
            f"the network is for states and actions of width {model.state_dim} and {model.action_dim}, the data have "
            f"{data.state_dim} and {data.action_dim}"
        )
    if model.widths != data.widths:
        raise ManyoneError(f"the network is for tasks of widths {model.widths}, the data have {data.widths}")
    if model.context != data.context or (model.prompt and model.prompt != data.prompt_steps):
        raise ManyoneError(
            f"the network reads {model.context} steps and {model.prompt} of a prompt, the data give {data.context} and "
            f"{data.prompt_steps}: make both with the same context and prompt"
        )
    if model.id_tokens and model.id_tokens != len(data):
        raise ManyoneError(f"the network has tokens for {model.id_tokens} tasks, the data are {len(data)} tasks")
