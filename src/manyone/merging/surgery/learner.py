"""Training of representation surgery: unlabelled inputs, the experts as teachers, everything but U and D frozen.

    Surgery:    L1( v^_merged , v_expert )
    SurgeryV2:  sum_l L1( mean_tokens(x^_l) , mean_tokens(x_l^expert) ) + L1( v^ , v_expert )

each term a mean over batch and features. Because the merged model and the experts never change, their share is
computed once: Surgery trains on stored pairs (v_merged, v_expert) and never runs a network again; SurgeryV2 stores the
experts' token means (M h + d numbers an input) and the first block's output, and runs the frozen blocks without weight
gradients.
Small tasks are stepped side by side in one pass (their parameters are disjoint, so this changes no gradient).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from manyone.data.tasks import Inputs, concatenate, count, take
from manyone.errors import ManyoneError
from manyone.merging.measures import batches, device_of, feature_bias, features, frozen, to_device
from manyone.merging.surgery.cache import FirstBlockCache
from manyone.merging.surgery.model import Surgery, SurgeryV2, find_block_modules, represent, save
from manyone.randomness import BatchOrder

Expert = nn.Module | Mapping[str, Tensor]
BATCHES = 2
"""Mini-batches, each an optimiser step, a task and iteration, as in the papers."""
CACHE_BYTES = 1 << 30
"""Most memory for stored first-block outputs (SurgeryV2); beyond it the whole network runs."""
BIAS_SAMPLES = 256
"""Inputs a task on which SurgeryV2 measures the feature bias; Surgery uses all."""


class SurgeryLearner:
    """Trains a :class:`Surgery` or :class:`SurgeryV2`; one :meth:`step` is one iteration over all tasks.

    Args:
        model: the surgery; only its corrections are written.
        experts: per task the expert encoder, or its weights under the names of ``encoder``.
        inputs: per task the unlabelled inputs.
        lr: Adam's step size (betas 0.9 and 0.999, no weight decay).
        iterations: the planned number of steps (:attr:`steps`); ``online`` overrides it.
        batch_size: inputs in a mini-batch.
        loss: "l1" (the papers) or "l2" (mean squared error).
        shared_stale_adam: re-enacts the published script under PyTorch 1: one Adam for all tasks whose gradients are
            zero-filled, so that a task's corrections drift on by momentum while other tasks train.
        online: one pass over each task's shuffled inputs, one input at a time, every input used once.
        side_by_side: run all tasks' mini-batches as one batch; by default where a mini-batch is small and the merged
            model does not route by batch.
        encoder: the module that expert weights belong to; by default the merged model inside ``model``.
        expert_features: per task the experts' features of ``inputs``, where they are known already (Surgery).
        merged_features: likewise those of the merged model (SurgeryV2 takes the first :data:`BIAS_SAMPLES`).
        seed: names the random stream of the batch order.
    """

    def __init__(
        self,
        model: Surgery | SurgeryV2,
        experts: Mapping[str, Expert],
        inputs: Mapping[str, Inputs],
        *,
        lr: float = 1e-3,
        iterations: int = 500,
        batch_size: int = 16,
        loss: Literal["l1", "l2"] = "l1",
        shared_stale_adam: bool = False,
        online: bool = False,
        side_by_side: bool | None = None,
        encoder: nn.Module | None = None,
        expert_features: Mapping[str, Tensor] | None = None,
        merged_features: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        if loss not in ("l1", "l2"):
            raise ManyoneError(f"unknown surgery loss {loss!r}: use l1 or l2")
        for name, given in (("expert", experts), ("inputs", inputs)):
            for task in model.tasks:
                if task not in given:
                    raise ManyoneError(f"surgery of task {task!r} has no {name}")
        self.model, self.tasks, self.inputs, self.loss = model, model.tasks, inputs, loss
        self.device = device_of(model.corrections)
        sizes = [count(inputs[t]) for t in self.tasks]
        if min(sizes) == 0:
            raise ManyoneError(f"task {self.tasks[sizes.index(0)]!r} has no inputs for surgery to train on")
        self.online = online
        self.batches = 1 if online else BATCHES
        size = 1 if online else batch_size
        self.orders = [BatchOrder(n, size, seed, "surgery", t) for n, t in zip(sizes, self.tasks)]
        self.steps = max(sizes) if online else iterations
        self.iteration = 0

        encoder = encoder if encoder is not None else model.merged
        self.expert_features: list[Tensor] = []
        self.expert_means: list[list[Tensor]] = []
        self.cache: FirstBlockCache | None = None
        if expert_features is not None and isinstance(model, Surgery):
            known = [_rows("expert_features", expert_features, t, n) for t, n in zip(self.tasks, sizes)]
            self.expert_features = [v.to(self.device) for v in known]
        else:
            self._represent_experts(experts, encoder)
        if isinstance(model, SurgeryV2):
            self.cache = FirstBlockCache.build(model, inputs, CACHE_BYTES)
            rows = BIAS_SAMPLES
        else:
            rows = max(sizes)
        if merged_features is not None:
            found = [_rows("merged_features", merged_features, t, n)[:rows] for t, n in zip(self.tasks, sizes)]
        else:
            found = [features(model.merged, take(inputs[t], slice(0, rows))) for t in self.tasks]
        self.merged_features = [v.to(self.device) for v in found]
        self.bias_before = self._biases(self.merged_features)

        alike = len({o.batch_size for o in self.orders}) == 1 and not (online and len(set(sizes)) > 1)
        if side_by_side is None:
            side_by_side = self._small_batches() and getattr(model.merged, "routing", None) != "batch"
        self.side_by_side = bool(side_by_side) and alike and not shared_stale_adam and len(self.tasks) > 1
        self._stale = shared_stale_adam
        parameters = [model.task_parameters(t) for t in self.tasks]
        together = shared_stale_adam or self.side_by_side
        groups = [[p for task in parameters for p in task]] if together else parameters
        self.optimisers = [torch.optim.Adam(g, lr=lr, fused=True) for g in groups]

    def _represent_experts(self, experts: Mapping[str, Expert], encoder: nn.Module) -> None:
        for task in self.tasks:
            expert = experts[task]
            module = expert if isinstance(expert, nn.Module) else encoder
            weights = None if isinstance(expert, nn.Module) else _fitting(expert, encoder, task)
            if isinstance(self.model, SurgeryV2):
                means, feature = self._expert_means(module, weights, task)
                self.expert_means.append([m.to(self.device) for m in means])
            elif weights is None:
                feature = features(module, self.inputs[task])
            else:
                with frozen(module):
                    feature = features(partial(_run, module, weights), self.inputs[task])
            self.expert_features.append(feature.to(self.device))

    def _expert_means(
        self, module: nn.Module, weights: Mapping[str, Tensor] | None, task: str
    ) -> tuple[list[Tensor], Tensor]:
        assert isinstance(self.model, SurgeryV2)
        blocks = _blocks_like(module, self.model, task)
        rows, order, values = [], [], []
        with torch.no_grad(), frozen(module):
            for index, batch in batches(self.inputs[task], 64):
                batch = to_device(batch, device_of(module))
                run = None if weights is None else partial(_run, module, weights, batch)
                means, feature = represent(module, blocks, batch, run)
                rows.append(means)
                values.append(feature)
                order.append(index)
        back = torch.cat(order).argsort()
        stacked = [torch.cat(parts).float().cpu()[back] for parts in zip(*rows)]
        return stacked, torch.cat(values).float().cpu()[back]

    def _small_batches(self) -> bool:
        """Whether one mini-batch is too small to keep the processor busy by itself."""
        if isinstance(self.model, Surgery):
            return True
        tensors = all(isinstance(self.inputs[t], Tensor) for t in self.tasks)
        return tensors and self.cache is not None and self.cache.row_size * self.orders[0].batch_size <= 1 << 17

    # ---------------------------------------------------------------- training

    def step(self) -> dict[str, float]:
        """One iteration: every task takes ``batches`` optimiser steps. Returns the mean loss and each task's."""
        losses: dict[str, list[float]] = {}
        with frozen(
            self.model.merged if isinstance(self.model, SurgeryV2) else None
        ):  # Surgery runs on stored features
            if self.side_by_side:
                for b in range(self.batches):
                    position = self.iteration * self.batches + b
                    terms = self.losses(list(range(len(self.tasks))), position)
                    self.update(0, terms)
                    for task, term in zip(self.tasks, terms.tolist()):
                        losses.setdefault(task, []).append(term)
            else:
                for t, task in enumerate(self.tasks):
                    for b in range(self.batches):
                        position = self.iteration * self.batches + b
                        if self.online and position >= self.orders[t].length:
                            continue
                        terms = self.losses([t], position)
                        self.update(0 if self._stale else t, terms)
                        losses.setdefault(task, []).append(terms.item())
        self.iteration += 1
        result = {f"loss/{t}": sum(v) / len(v) for t, v in losses.items()}
        return {"loss": sum(result.values()) / max(len(result), 1)} | result

    def update(self, which: int, terms: Tensor) -> None:
        """One step of optimiser ``which`` on the sum of ``terms``."""
        optimiser = self.optimisers[which]
        optimiser.zero_grad(set_to_none=not self._stale)
        terms.sum().backward()
        optimiser.step()

    def losses(self, which: list[int], position: int) -> Tensor:
        """The loss of each task in ``which`` on its mini-batch number ``position``."""
        rows = [self.orders[t].batch(position) for t in which]
        target = torch.cat([self.expert_features[t][r] for t, r in zip(which, rows)])
        if isinstance(self.model, Surgery):
            merged = torch.cat([self.merged_features[t][r] for t, r in zip(which, rows)])
            return self.distance(self.model.corrections[0](merged, which), target, len(which))
        tasks = [self.tasks[t] for t in which]
        batch = concatenate([take(self.inputs[t], r) for t, r in zip(tasks, rows)])
        stored = nullcontext() if self.cache is None else self.cache.use(list(zip(tasks, rows)))
        with stored:
            means, feature = self.model.represent(to_device(batch, self.device), tasks)
        result = self.distance(feature, target, len(which))
        for place, mean in enumerate(means):
            wanted = torch.cat([self.expert_means[t][place][r] for t, r in zip(which, rows)])
            result = result + self.distance(mean, wanted, len(which))
        return result

    def distance(self, value: Tensor, target: Tensor, groups: int) -> Tensor:
        """Mean L1 or L2 distance of each of ``groups`` equal runs of rows; [groups]."""
        compare = F.l1_loss if self.loss == "l1" else F.mse_loss
        return compare(value, target, reduction="none").view(groups, -1).mean(1)

    # ---------------------------------------------------------------- what the loop asks for

    def evaluate(self) -> dict[str, float]:
        """The feature bias mean |v^_merged - v_expert|: ``bias`` and ``bias/<task>``."""
        with torch.no_grad(), frozen(self.model):
            if isinstance(self.model, Surgery):
                corrected = [self.model.corrections[0](v, [t]) for t, v in enumerate(self.merged_features)]
            else:
                rows = slice(0, BIAS_SAMPLES)
                corrected = [features(self.model, take(self.inputs[t], rows), t) for t in self.tasks]
        return self._biases(corrected)

    def _biases(self, values: list[Tensor]) -> dict[str, float]:
        pairs = zip(self.tasks, values, self.expert_features)
        each = {f"bias/{t}": feature_bias(v.to(self.device), e[: len(v)]) for t, v, e in pairs}
        return {"bias": sum(each.values()) / len(each)} | each

    def state_dict(self) -> dict[str, Any]:
        """Iteration, corrections and Adam's moments by parameter name."""
        names = {id(p): n for n, p in self.model.corrections.named_parameters()}
        adam = {}
        for optimiser in self.optimisers:
            for parameter, values in optimiser.state.items():
                adam[names[id(parameter)]] = {k: v.detach().clone() for k, v in values.items()}
        corrections = {n: v.clone() for n, v in self.model.correction_state().items()}
        return {"iteration": self.iteration, "corrections": corrections, "adam": adam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where :meth:`state_dict` was taken."""
        self.iteration = int(state["iteration"])
        self.model.corrections.load_state_dict(dict(state["corrections"]))
        parameters = dict(self.model.corrections.named_parameters())
        for optimiser in self.optimisers:
            optimiser.state.clear()
            for parameter in optimiser.param_groups[0]["params"]:
                parameter.grad = None
        for name, values in state["adam"].items():
            parameter = parameters[name]
            owner = next(o for o in self.optimisers if any(p is parameter for p in o.param_groups[0]["params"]))
            owner.state[parameter] = {k: v.to(parameter.device).clone() for k, v in values.items()}
            if self._stale:
                parameter.grad = torch.zeros_like(parameter)

    def export(self, folder: Path) -> None:
        """Writes the corrections (:func:`manyone.merging.surgery.model.save`) into ``folder``."""
        save(self.model, folder)


def _run(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, task: str = "") -> Tensor:
    """The features of ``module`` with other weights."""
    inputs = to_device(inputs, device_of(module))
    if isinstance(inputs, Tensor):
        return functional_call(module, dict(weights), (inputs,))
    return functional_call(module, dict(weights), (), dict(inputs))


def _rows(argument: str, values: Mapping[str, Tensor], task: str, count: int) -> Tensor:
    """The given features of ``task``, one for each of its ``count`` inputs."""
    if task not in values or len(values[task]) != count:
        have = len(values[task]) if task in values else 0
        raise ManyoneError(f"{argument} of task {task!r} has {have} rows, but the task has {count} inputs")
    return values[task]


def _fitting(weights: Mapping[str, Tensor], encoder: nn.Module, task: str) -> Mapping[str, Tensor]:
    names = set(encoder.state_dict())
    missing = [n for n, _ in encoder.named_parameters() if n not in weights]
    extra = [n for n in weights if n not in names]
    if missing or extra:
        problem = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the encoder lacks"
        raise ManyoneError(
            f"the expert of task {task!r} {problem}: give expert modules, or encoder= with the experts' parameter names"
        )
    device = device_of(encoder)
    return {n: v.to(device) for n, v in weights.items()}


def _blocks_like(module: nn.Module, model: SurgeryV2, task: str) -> list[nn.Module]:
    """The expert's blocks, one for each of the merged model's."""
    if module is model.merged:
        return [module.get_submodule(name) for name in model.blocks]
    try:
        found = find_block_modules(module, model.pattern)
    except ManyoneError:
        found = find_block_modules(module)
    if len(found) != len(model.blocks):
        raise ManyoneError(
            f"the expert of task {task!r} has {len(found)} blocks but the merged model {len(model.blocks)}"
        )
    return list(found.values())
