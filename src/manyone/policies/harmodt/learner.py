"""Training one policy on the offline data of many tasks: dense, with task masks (HarmoDT), or with gradient surgery.

Hu et al., "HarmoDT" (arXiv 2405.18080). One step takes one task i (round robin) and one batch of its windows:

    w = theta * M_i on the maskable weights W, theta elsewhere
    g = d/dw mean over valid steps and action dimensions of (policy(w) - a)^2, its global norm clipped, then * M_i on W
    theta <- AdamW(theta, g), entries of W outside M_i keep their value exactly

and every ``mask_every`` steps the masks exchange weights (:mod:`manyone.policies.harmodt.harmony`). Two ways to do more
in one tensor program: ``tasks_per_step`` = G takes G tasks at once under stacked masked weights, the same as
accumulating their gradients; a sequence of models with as many ``seeds`` trains these independently side by side, each
as it would be alone. All parameters are one flat vector, the masked ones first, and the optimiser is torch's fused
AdamW on the masked point itself, so masking costs three passes over W and no copy of the network's state. Public names:
:class:`PolicyLearner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.nets.memory import keep_freed_memory
from manyone.policies.conflict import GradNorm
from manyone.policies.harmodt.harmony import Importance, Ranking
from manyone.policies.harmodt.layout import Layout
from manyone.policies.harmodt.mask_updates import MaskUpdate, exchange_masks
from manyone.policies.harmodt.steps import all_task_gradients, take_step
from manyone.policies.harmodt.variants import Update
from manyone.policies.harmodt.variants import method as method_of
from manyone.policies.masks import Scope, TaskMasks, maskable_shapes
from manyone.policies.optimiser import FlatAdamW, learning_rate
from manyone.policies.tasks import PolicyData

_CACHED = 64 << 20  # bytes of unpacked masks that are kept


class PolicyLearner:
    """Trains ``model`` in place (its parameters are views of the learner's vector) on ``data``.

    ``model`` may be a sequence of S networks of one shape, trained side by side with ``seed`` a sequence of S seeds.
    ``masks``: the task masks (one set a network; default: the method's, drawn from the seed); ``assignment``: task ->
    mask (default: its own). ``steps`` is the planned number of steps, which the swap and learning-rate schedules
    need. None in ``update``, ``importance``, ``gamma``, ``shared_init``: the method's choice.

    ``mask_scope``: which weights masks reach; ``legacy_freeze_unmasked``: masks for every tensor, applied in the
    forward pass to the blocks alone, frozen everywhere (the authors' program). ``moment_policy``: Adam moments of
    masked entries decay (``shared``) or stay (``freeze_masked``). ``clip``: largest global gradient norm, taken before
    masking unless ``clip_after_mask``. ``ema_decay``: smoothing of the tasks' gradients over mask updates;
    ``fisher_samples``: squares of per-sample gradients; ``score_clip``: score clipped gradients, as the program does.
    ``evaluate`` is called with the learner and gives metrics; the best "success" so far is kept beside the last.
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
        betas: tuple[float, float] = (0.9, 0.999),
        warmup: int = 10_000,
        schedule: Literal["constant", "cosine"] = "constant",
        clip: float = 0.25,
        clip_after_mask: bool = False,
        moment_policy: Literal["shared", "freeze_masked"] = "shared",
        sparsity: float = 0.2,
        mask_init: Literal["erk", "uniform"] = "erk",
        mask_scope: Scope = "blocks_weights_only",
        shared_init: bool | None = None,
        legacy_freeze_unmasked: bool = False,
        mask_every: int = 500,
        eta_min: float = 0,
        eta_max: float = 100,
        swap_schedule: Literal["bump", "decay"] = "bump",
        update: Update | None = None,
        importance: Importance | None = None,
        gamma: float | None = None,
        ranking: Ranking = "global",
        ema_decay: float = 0.0,
        fisher_samples: bool = False,
        score_clip: bool = True,
        cagrad_c: float = 0.4,
        gradnorm_alpha: float = 1.5,
        autocast: torch.dtype | None = None,
        evaluate: Callable[[PolicyLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        chosen = method_of(method)
        self.models = [model] if isinstance(model, DecisionTransformer) else list(model)
        self.seeds = [seed] if isinstance(seed, int) else list(seed)
        self.model, self.data, self.method = self.models[0], data, method
        tasks = len(data)
        default = tasks if chosen.surgery != "none" else 1
        self.tasks_per_step = tasks_per_step if tasks_per_step is not None else default
        _check(self, steps, batch_size, lr, clip, mask_every, eta_min, eta_max, ema_decay, chosen.surgery)
        self.steps_planned, self.batch_size = steps, batch_size
        self.lr, self.warmup, self.schedule = lr, warmup, schedule
        self.clip, self.clip_after_mask, self.score_clip = clip, clip_after_mask, score_clip
        self.surgery, self.cagrad_c, self.autocast = chosen.surgery, cagrad_c, autocast
        self.balance = [GradNorm(tasks, gradnorm_alpha) for _ in self.seeds if chosen.surgery == "gradnorm"]
        self.mask_every, self.evaluator = mask_every, evaluate
        self.update = MaskUpdate(
            rule=chosen.update if update is None else update,
            importance=chosen.importance if importance is None else importance,
            gamma=chosen.gamma if gamma is None else gamma,
            eta_min=eta_min, eta_max=eta_max, schedule=swap_schedule, ranking=ranking, ema_decay=ema_decay,
            fisher_samples=fisher_samples,
        )  # fmt: skip

        in_forward = maskable_shapes(self.model, mask_scope)
        shapes = maskable_shapes(self.model, "all") if legacy_freeze_unmasked else in_forward
        self.masked = chosen.masked or masks is not None
        self.masks: list[TaskMasks] = []
        if self.masked:
            if masks is None:
                shared = chosen.shared_init if shared_init is None else shared_init
                count = tasks if assignment is None else max(assignment) + 1
                self.masks = [
                    TaskMasks.random(shapes, count, sparsity, seed=s, init=mask_init, shared=shared) for s in self.seeds
                ]
            else:
                self.masks = [masks] if isinstance(masks, TaskMasks) else list(masks)
                shapes = self.masks[0].shapes
            self.masks = [m.to(data.device) for m in self.masks]
        if data.device.type == "cpu":
            keep_freed_memory()
        self.layout = Layout(self.model, shapes)
        self.assignment = list(range(tasks)) if assignment is None else list(assignment)
        self._check_masks()

        # where the forward pass is dense although a mask covers the entry (None: nowhere)
        outside = [torch.full((self.layout.sizes[n],), n not in in_forward) for n in self.layout.first]
        self._dense = torch.cat(outside).to(data.device) if legacy_freeze_unmasked and outside else None
        flat = torch.stack([self.layout.pack(dict(m.named_parameters())) for m in self.models])
        self._point = flat.requires_grad_()  # [S, P]; of a masked method its first d entries are scratch
        d = self.layout.maskable
        self._kept = flat.detach()[:, :d].clone() if self.masked else flat.detach()[:, :d]
        self._optimiser = FlatAdamW(self._point, betas, weight_decay, moment_policy)
        self._unpacked: Tensor | None = None
        self._factors: tuple[Tensor, Tensor] | None = None  # the unpacked masks they were made of, and they
        self.iteration = 0
        self.best: dict[str, float] = {}
        self._smooth: Tensor | None = None
        self._bind()

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimisation step on ``tasks_per_step`` tasks, and the mask update when it is due."""
        tasks = [(self.iteration * self.tasks_per_step + j) % len(self.data) for j in range(self.tasks_per_step)]
        batch = self.data.batch(tasks, self.iteration, self.seeds, batch_size=self.batch_size)
        rate = learning_rate(self.iteration, self.lr, self.warmup, self.schedule, self.steps_planned)
        losses = take_step(self, tasks, batch, rate)
        self.iteration += 1
        metrics = {"loss": float(losses.mean()), "learning_rate": rate}
        if self.masked and self.update.rule != "none" and self.iteration % self.mask_every == 0:
            metrics |= exchange_masks(self)
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
            "iteration": self.iteration,
            "point": self._point.detach(),
            "kept": self._kept if self.masked else None,
            "optimiser": self._optimiser.state_dict(),
            "masks": [m.bits for m in self.masks],
            "assignment": self.assignment,
            "smooth": self._smooth,
            "best": dict(self.best),
            "balance": [one.state_dict() for one in self.balance],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if state["point"].shape != self._point.shape or len(state["masks"]) != len(self.masks):
            raise ManyoneError(
                f"the saved state has {list(state['point'].shape)} parameters, this learner {list(self._point.shape)}"
            )
        with torch.no_grad():
            self._point.copy_(state["point"])
            if self.masked:
                self._kept.copy_(state["kept"])
        for masks, bits in zip(self.masks, state["masks"]):
            masks.bits = bits.to(masks.bits.device).clone()
        self.assignment, self.iteration = list(state["assignment"]), int(state["iteration"])
        self._smooth = None if state["smooth"] is None else state["smooth"].to(self._point.device)
        self.best = dict(state["best"])
        for one, saved in zip(self.balance, state.get("balance", ())):
            one.load_state_dict(saved)
        self._optimiser.load_state_dict(state["optimiser"])
        self._unpacked = None

    def export(self, folder: Path) -> None:
        """Writes the standard artefact; of several seeds one folder ``seed-N`` each.

        Where nothing tells a dense network its task, the artefact acts without a task name.
        """
        from manyone.policies.agnostic import leak_report, save_agnostic
        from manyone.policies.artefact import save_policy

        table = self.data.table
        free = not self.masked and all(leak_report(self.model, table).values())
        for number, seed in enumerate(self.seeds):
            place = folder if len(self.seeds) == 1 else folder / f"seed-{seed}"
            info = {"method": self.method, "seed": seed, "steps": self.iteration}
            if free:
                save_agnostic(place, self.models[number], table, info=info)
            else:
                masks = self.masks[number] if self.masked else None
                save_policy(place, self.models[number], table, masks, assignment=self.assignment, info=info)

    # ---- for those who build on it --------------------------------------------------------------------------------

    def policy(self, member: int = 0) -> Any:
        """A :class:`~manyone.policies.acting.SequencePolicy` of network ``member`` as it is now."""
        from manyone.policies.acting import SequencePolicy

        masks = self.masks[member] if self.masked else None
        return SequencePolicy(self.models[member], self.data.table, masks, assignment=self.assignment)

    def regroup(self, assignment: Sequence[int], masks: TaskMasks | Sequence[TaskMasks]) -> None:
        """Other groups from now on: task -> mask, and the masks (over the same tensors)."""
        if not self.masked:
            raise ManyoneError("a dense method has no masks to regroup")
        self.masks = [m.to(self._point.device) for m in ([masks] if isinstance(masks, TaskMasks) else masks)]
        self.assignment = list(assignment)
        self._unpacked = self._smooth = None
        self._check_masks()

    def flat_masks(self, tasks: Sequence[int]) -> Tensor:
        """Masks of ``tasks`` in every network, bool [S, G, d]."""
        numbers = [self.assignment[t] for t in tasks]
        self._unpack()
        if self._unpacked is None:
            return torch.stack([m.flat(numbers) for m in self.masks])
        return _chosen(self._unpacked, numbers)

    def forward_mask(self, mask: Tensor) -> Tensor:
        """``mask`` [..., d] as the forward pass sees it: one also where the network is dense whatever the mask says."""
        return mask if self._dense is None else mask | self._dense

    def mask_factors(self, tasks: Sequence[int]) -> Tensor:
        """Masks of ``tasks`` as the numbers that weights are multiplied by, [S, G, d]."""
        self._unpack()
        if self._unpacked is None or self._unpacked.numel() * self._kept.element_size() > _CACHED:
            return self.forward_mask(self.flat_masks(tasks)).to(self._kept.dtype)
        if self._factors is None or self._factors[0] is not self._unpacked:
            self._factors = self._unpacked, self.forward_mask(self._unpacked).to(self._kept.dtype)
        return _chosen(self._factors[1], [self.assignment[t] for t in tasks])

    def maskable_weights(self) -> Tensor:
        """theta on W, unmasked, [S, d]."""
        return self._kept

    def task_gradients(
        self, tasks: Sequence[int] | None = None, *, batches: int = 1, purpose: str = "score", clip: bool | None = None
    ) -> Tensor:
        """Dense gradients on W at the masked points theta * M_i, [N, d] ([S, N, d] for several networks).

        Means over ``batches`` batches drawn for (seed, ``purpose``, task, this step); without dropout. With ``clip``
        (default: ``score_clip``) each batch's gradient is clipped like a step's, over all parameters.
        """
        found = all_task_gradients(self, tasks, batches=batches, purpose=purpose, clip=clip)
        return found[0] if len(self.models) == 1 else found

    def _unpack(self) -> None:
        """Unpacks all masks if they are to be kept so and are not yet."""
        if self._unpacked is None and len(self.masks) * len(self.masks[0]) * self.layout.maskable <= _CACHED:
            self._unpacked = torch.stack([m.flat(range(len(m))) for m in self.masks])

    def _check_masks(self) -> None:
        groups = set(self.assignment)
        if len(self.assignment) != len(self.data) or min(groups) < 0:
            raise ManyoneError(
                f"assignment {self.assignment}: must give each of the {len(self.data)} tasks a mask number"
            )
        for masks in self.masks:
            if max(groups) >= len(masks):
                raise ManyoneError(f"assignment {self.assignment}: there are masks 0..{len(masks) - 1}")
            if masks.shapes != {n: self.layout.shapes[n] for n in self.layout.first}:
                raise ManyoneError("the masks were made for a network of other shapes")
        if self.masked and len(self.masks) != len(self.models):
            raise ManyoneError(
                f"{len(self.masks)} sets of masks for {len(self.models)} networks: give one set a network"
            )

    def _bind(self) -> None:
        """Makes the networks' parameters views of the learner's vectors."""
        d = self.layout.maskable
        for number, model in enumerate(self.models):
            views = self.layout.views(self._kept[number : number + 1], "maskable")
            views |= self.layout.views(self._point.detach()[number : number + 1, d:], "rest")
            for name, value in model.named_parameters():
                value.data = views[name]
                value.requires_grad_(False)


def _chosen(rows: Tensor, numbers: list[int]) -> Tensor:
    """Rows ``numbers`` of [S, N, d]; no copy of a single one or of all in order."""
    if len(numbers) == 1:
        return rows[:, numbers[0] : numbers[0] + 1]
    return rows if numbers == list(range(rows.shape[1])) else rows[:, numbers]


def _check(
    learner: PolicyLearner, steps: int, batch_size: int, lr: float, clip: float, mask_every: int, eta_min: float,
    eta_max: float, ema_decay: float, surgery: str,
) -> None:  # fmt: skip
    data, model = learner.data, learner.model
    for name, value, holds, allowed in (
        ("steps", steps, steps >= 1, "1 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
        ("lr", lr, lr > 0, "above 0"),
        ("clip", clip, clip > 0, "above 0"),
        ("mask_every", mask_every, mask_every >= 1, "1 or more"),
        ("eta_min", eta_min, 0 <= eta_min <= eta_max, "0 or more and at most eta_max"),
        ("ema_decay", ema_decay, 0 <= ema_decay < 1, "in [0, 1)"),
        (
            "tasks_per_step",
            learner.tasks_per_step,
            1 <= learner.tasks_per_step <= len(data),
            f"1..{len(data)}, the tasks",
        ),
    ):
        if not holds:
            raise ManyoneError(f"{name} = {value}: must be {allowed}")
    if surgery != "none" and learner.tasks_per_step < 2:
        raise ManyoneError(f"{surgery} combines tasks: tasks_per_step must be at least 2")
    if len(learner.models) != len(learner.seeds):
        raise ManyoneError(f"{len(learner.models)} networks but {len(learner.seeds)} seeds: give one seed a network")
    if any(m.config() != model.config() for m in learner.models):
        raise ManyoneError("networks that are trained side by side must have the same shape")
    if (model.state_dim, model.action_dim) != (data.state_dim, data.action_dim):
        raise ManyoneError(
            f"the network is for states and actions of width {model.state_dim} and {model.action_dim}, the data have "
            f"{data.state_dim} and {data.action_dim}"
        )
    if model.context != data.context or (model.prompt and model.prompt != data.prompt_steps):
        raise ManyoneError(
            f"the network reads {model.context} steps and {model.prompt} of a prompt, the data give {data.context} and "
            f"{data.prompt_steps}: make both with the same context and prompt"
        )
    if model.id_tokens and model.id_tokens != len(data):
        raise ManyoneError(f"the network has tokens for {model.id_tokens} tasks, the data are {len(data)} tasks")
