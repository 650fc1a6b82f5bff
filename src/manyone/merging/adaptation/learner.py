"""Test-time adaptation: trains whatever a merged model leaves trainable, on unlabelled inputs of all tasks.

One step draws one mini-batch per task and takes one Adam step on the sum of the tasks' objectives (entropy in
AdaMerging, WEMoE and E-WEMoE). Entropy is a proxy that falls even while predictions collapse, so a fixed unlabelled
subset is watched: a task whose predictions collapse is paused, and a model that ends worse than it began is put back.
Public names: :class:`AdaptationLearner`.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from manyone.data.tasks import Inputs, concatenate, count
from manyone.engine.artefact import plain_tensors
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError
from manyone.merging.adaptation.objectives import Objective, entropy, marginal_entropy, objective_value
from manyone.merging.adaptation.unlabelled import UnlabelledSource
from manyone.merging.heads import Head, OwnLogits
from manyone.merging.outputs import features_of

Schedule = Literal["constant", "cosine"]
ONE_PASS = 1 << 18
"""Numbers in all tasks' batches up to which they go through the model together."""
GUARD, GUARD_EVERY = 0.5, 100
"""A task is paused while its marginal entropy is below this fraction of its initial value; looked at every so often."""
OBJECTIVES: tuple[Objective, ...] = ("entropy", "information-maximisation", "expert-kl")


class AdaptationLearner:
    """Adapts the parameters of ``model`` that require gradients; ``model(inputs)`` gives features.

    ``heads`` maps tasks to functions feature -> logits [n, classes]; None where the model's output has logits of its
    own. What the feature of an output is that is no tensor: :mod:`manyone.merging.outputs`. ``inputs`` maps the same
    tasks to unlabelled inputs in memory, or to an iterable of batches (then a resumed run goes on with the iterable's
    next batch). ``expert_logits`` (rows as in ``inputs``) serve ``objective="expert-kl"``.

    A criterion is compared between the initialisation and the end on ``monitor_samples`` inputs per task: the
    information-maximisation value (which sees collapse), or the KL to the experts for ``expert-kl``. ``fallback``
    restores the initialisation when it ended worse. Every :data:`GUARD_EVERY` steps a task whose marginal entropy lies
    below the fraction :data:`GUARD` of its initial value stops contributing until it recovers.

    A model may define ``phases()`` (groups of parameters updated one after another within a step) and
    ``adaptation_step(k)`` (a context around the passes of step k). ``fabric`` gives device, precision and ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, Callable[[Tensor], Tensor]] | None,
        inputs: Mapping[str, Any],
        *,
        objective: Objective = "entropy",
        lr: float = 1e-3,
        steps: int = 1000,
        batch_size: int = 16,
        seed: int = 0,
        schedule: Schedule = "constant",
        expert_logits: Mapping[str, Tensor] | None = None,
        fallback: bool = True,
        monitor_samples: int = 256,
        fabric: Any = None,
    ) -> None:
        heads = dict.fromkeys(inputs, OwnLogits()) if heads is None else heads
        _check_options(heads, inputs, objective, expert_logits, schedule, steps, lr)
        _check_trainable(model)
        self.model, self.tasks, self.fabric = model, tuple(inputs), fabric
        self.objective, self.lr, self.steps, self.schedule = objective, lr, steps, schedule
        self.criterion: Objective = "expert-kl" if objective == "expert-kl" else "information-maximisation"
        self.fallback = fallback
        if fabric is not None:
            model.to(fabric.device)
        self.device = next(model.parameters()).device
        self.heads: dict[str, Any] = {t: _to(heads[t], self.device) for t in self.tasks}
        world, rank = (fabric.world_size, fabric.global_rank) if fabric is not None else (1, 0)
        self.sources = {
            t: UnlabelledSource(
                inputs[t],
                None if expert_logits is None else expert_logits[t],
                t,
                batch_size,
                seed,
                monitor_samples,
                rank,
                world,
            )
            for t in self.tasks
        }
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        own = getattr(model, "phases", None)
        phases: list[list[nn.Parameter]] = [list(self.trainable.values())] if own is None else own()
        self.optimisers = [torch.optim.Adam(phase, lr=lr) for phase in phases]
        self.step_count = 0
        self.initial = {name: p.detach().clone() for name, p in self.trainable.items()}
        self.initial_monitors: dict[str, float] | None = None
        self._final_monitors: dict[str, float] | None = None
        self.paused: set[str] = set()
        self.fell_back = False

    # -- Learner -----------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One step on all tasks; the last one may fall back to the initialisation."""
        if self.initial_monitors is None:
            self.initial_monitors = self.monitors()
        self.model.train()
        rate = self.lr
        if self.schedule == "cosine":
            rate = 0.5 * self.lr * (1 + math.cos(math.pi * min(self.step_count / self.steps, 1.0)))
        batches = {t: self.sources[t].batch(self.step_count, self.device) for t in self.tasks}
        metrics: dict[str, float] = {}
        for optimiser in self.optimisers:
            metrics = self._update(optimiser, batches, rate)
        self.step_count += 1
        metrics["lr"] = rate
        if self.step_count % GUARD_EVERY == 0 and self.step_count < self.steps:
            self.pause_collapsed(self.monitors())
        metrics |= {f"paused/{t}": 1.0 for t in sorted(self.paused)}
        if self.step_count == self.steps and self.fallback:
            metrics["fell_back"] = self._fall_back()
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Monitors on the fixed unlabelled subset."""
        known = self._final_monitors if self.step_count == self.steps else None
        monitors = known or self.monitors()
        if self.initial_monitors is None:
            self.initial_monitors = dict(monitors)
        metrics = dict(monitors) | {"criterion_at_start": self.initial_monitors["criterion"]}
        if self.step_count >= self.steps and self.fallback:
            metrics["fell_back"] = float(self.fell_back)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        moments: dict[str, Any] = {}
        for optimiser in self.optimisers:
            for name, p in self.trainable.items():
                if p in optimiser.state:
                    moments[name] = {k: v.detach().clone() for k, v in optimiser.state[p].items()}
        return {
            "step": self.step_count,
            "trainable": {name: p.detach().clone() for name, p in self.trainable.items()},
            "initial": dict(self.initial),
            "adam": moments,
            "initial_monitors": None if self.initial_monitors is None else dict(self.initial_monitors),
            "paused": sorted(self.paused),
            "fell_back": int(self.fell_back),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where :meth:`state_dict` was taken."""
        for name in self.trainable.keys() ^ state["trainable"].keys():
            raise ManyoneError(f"the saved state and the model disagree about the trainable parameter {name!r}")
        with torch.no_grad():
            for name, p in self.trainable.items():
                p.copy_(state["trainable"][name])
                self.initial[name] = state["initial"][name].to(p).clone()
        for optimiser in self.optimisers:
            optimiser.state.clear()
            members = {id(p) for group in optimiser.param_groups for p in group["params"]}
            for name, p in self.trainable.items():
                if id(p) in members and name in state["adam"]:
                    saved = state["adam"][name]
                    optimiser.state[p] = {
                        k: v.clone() if k == "step" else v.to(p).clone() for k, v in saved.items()
                    }  # Adam counts on the CPU
        self.step_count = int(state["step"])
        self.initial_monitors = None if state["initial_monitors"] is None else dict(state["initial_monitors"])
        self._final_monitors = None
        self.paused, self.fell_back = set(state["paused"]), bool(state["fell_back"])

    def export(self, folder: Path) -> None:
        """Writes the adapted model's artefact tensors and configuration."""
        tensors, config = cast(Any, self.model).state_for_artefact()
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(plain_tensors(tensors), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1))

    # -- parts -------------------------------------------------------------------------------------------------------

    def _update(
        self, optimiser: torch.optim.Optimizer, batches: Mapping[str, tuple[Inputs, Tensor | None]], rate: float
    ) -> dict[str, float]:
        """Gradients, task by task or of all tasks in one pass, then one Adam step."""
        for p in self.trainable.values():
            p.grad = None
        active = [t for t in self.tasks if t not in self.paused]
        metrics, total = {}, 0.0
        with self._within("adaptation_step", self.step_count):
            together = self._in_one_pass([batches[t][0] for t in active])
            for names in [active] if together else [[t] for t in active]:
                parts = [batches[t][0] for t in names]
                with self._autocast():
                    feature = self._features(parts[0] if len(parts) == 1 else concatenate(parts))
                    pieces = feature.split([count(part) for part in parts])
                    logits = {t: self._logits(t, piece) for t, piece in zip(names, pieces)}
                    losses = [objective_value(self.objective, z, batches[t][1]) for t, z in logits.items()]
                self._backward(torch.stack(losses).sum(), feature)
                total += sum(float(loss.detach()) for loss in losses)
                for task, values in logits.items():
                    metrics[f"entropy/{task}"] = float(entropy(values.detach()))
                    metrics[f"marginal_entropy/{task}"] = float(marginal_entropy(values.detach()))
        if self.fabric is not None and self.fabric.world_size > 1:
            for p in self.trainable.values():
                if p.grad is not None:
                    p.grad = self.fabric.all_reduce(p.grad, reduce_op="mean")
            total = float(self.fabric.all_reduce(torch.tensor(total), reduce_op="mean"))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return {"loss": total, **metrics}

    def _within(self, context: str, *arguments: int) -> AbstractContextManager[Any]:
        """The model's own context manager of that name, if it has one."""
        return getattr(self.model, context)(*arguments) if hasattr(self.model, context) else nullcontext()

    def _in_one_pass(self, parts: list[Inputs]) -> bool:
        """Whether the tasks' batches are so small that one pass over all of them is cheaper than one pass each.

        Nothing may mix samples then: routing by batch means routing by one task's batch.
        """
        images = [p for p in parts if isinstance(p, Tensor)]
        alike = len(images) == len(parts) > 1 and len({p.shape[1:] for p in images}) == 1
        return alike and getattr(self.model, "routing", None) != "batch" and sum(p.numel() for p in images) <= ONE_PASS

    def _autocast(self) -> AbstractContextManager[Any]:
        return self.fabric.autocast() if self.fabric is not None else nullcontext()

    def _features(self, inputs: Inputs) -> Tensor:
        return features_of(self.model, inputs, lambda model, batch: model(batch))

    def _logits(self, task: str, feature: Tensor) -> Tensor:
        """[n, classes] of one task's features."""
        logits = self.heads[task](feature)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(feature):
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ManyoneError(
                f"task {task!r}: the head makes {shape} of features {list(feature.shape)}; logits are "
                f"[{len(feature)}, classes]: pool tokens in the head, as in lambda f: linear(f.mean(1))"
            )
        return logits.float()

    def _backward(self, loss: Tensor, feature: Tensor) -> None:
        """In two steps, so that nothing that heads are made of gets a gradient."""
        if not feature.requires_grad:
            raise ManyoneError("the model's output does not depend on the parameters that require gradients")
        grad = torch.autograd.grad(loss, feature, allow_unused=True)[0] if loss.requires_grad else None
        if grad is None:
            raise ManyoneError("the heads' logits do not depend on the features, so nothing can be adapted")
        if self.fabric is not None:
            self.fabric.backward(feature, gradient=grad)
        else:
            feature.backward(grad)

    @torch.no_grad()
    def monitors(self) -> dict[str, float]:
        """Entropy, marginal entropy and criterion of every task on its fixed subset, and the criterion's mean."""
        self.model.eval()
        metrics: dict[str, float] = {}
        criteria = []
        with self._within("merged_once"):
            for task in self.tasks:
                parts = []
                for part in self.sources[task].fixed_parts(self.device):
                    with self._autocast():
                        parts.append(self._logits(task, self._features(part)))
                logits = torch.cat(parts)
                metrics[f"monitor/entropy/{task}"] = float(entropy(logits))
                metrics[f"monitor/marginal_entropy/{task}"] = float(marginal_entropy(logits))
                value = float(objective_value(self.criterion, logits, self.sources[task].fixed_expert(self.device)))
                metrics[f"monitor/criterion/{task}"] = value
                criteria.append(value)
        metrics["criterion"] = sum(criteria) / len(criteria)
        return metrics

    def pause_collapsed(self, monitors: Mapping[str, float]) -> None:
        """Pauses tasks whose marginal entropy has collapsed by ``monitors``; those that recovered go on."""
        assert self.initial_monitors is not None
        for task in self.tasks:
            key = f"monitor/marginal_entropy/{task}"
            if monitors[key] < GUARD * self.initial_monitors[key]:
                self.paused.add(task)
            else:
                self.paused.discard(task)
        if len(self.paused) == len(self.tasks):
            self.paused.clear()  # nothing would move any more; the fallback judges at the end

    def _fall_back(self) -> float:
        """Restores the initialisation when the criterion ended worse (or not finite); 1.0 if it did."""
        assert self.initial_monitors is not None
        self._final_monitors = self.monitors()
        if not self._final_monitors["criterion"] <= self.initial_monitors["criterion"]:
            with torch.no_grad():
                for name, p in self.trainable.items():
                    p.copy_(self.initial[name])
            self.fell_back = True
            self._final_monitors = dict(self.initial_monitors)
        return float(self.fell_back)


def _to(head: Any, device: torch.device) -> Any:
    """``head`` on ``device``; a module of the caller's stays where it is, and what inference mode made is copied."""
    if isinstance(head, nn.Module):
        held = [*head.parameters(), *head.buffers()]
        strange = any(value.device != device or value.is_inference() for value in held)
        return copy.deepcopy(head).to(device) if strange else head
    if isinstance(head, Head) and not isinstance(head, OwnLogits) and head.weight.is_inference():
        head = Head(head.weight.clone(), None if head.bias is None else head.bias.clone(), head.scale, head.normalise)
    return head.to(device) if hasattr(head, "to") else head


def _check_trainable(model: nn.Module) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise ManyoneError("the model has no parameter that requires a gradient, so there is nothing to adapt")
    if any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        raise ManyoneError("the model was made under torch.inference_mode and cannot be trained: make it outside")


def _check_options(
    heads: Mapping[str, Any],
    inputs: Mapping[str, Any],
    objective: str,
    expert_logits: Mapping[str, Tensor] | None,
    schedule: str,
    steps: int,
    lr: float,
) -> None:
    if not inputs:
        raise ManyoneError("adaptation needs the unlabelled inputs of at least one task")
    for task in inputs:
        if task not in heads:
            raise ManyoneError(f"task {task!r} has inputs but no head; heads exist for {', '.join(heads) or 'none'}")
    if objective not in OBJECTIVES:
        raise ManyoneError(f"unknown objective {objective!r}: use {', '.join(OBJECTIVES)}")
    if objective == "expert-kl" and (expert_logits is None or set(inputs) - set(expert_logits)):
        raise ManyoneError("objective 'expert-kl' needs expert_logits for every task")
    if schedule not in ("constant", "cosine"):
        raise ManyoneError(f"unknown schedule {schedule!r}: use constant or cosine")
    if steps < 1 or lr <= 0:
        raise ManyoneError(f"adaptation needs steps >= 1 and lr > 0, got steps={steps} and lr={lr}")
