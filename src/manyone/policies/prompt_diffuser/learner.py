"""Prompt Diffuser as one training: a generator of prompts over all training tasks, then one for each new task.

Hu et al., "Prompt Tuning with Diffusion for Few-Shot Pre-trained Policy Generalization" (arXiv 2411.01168). The policy
is pre-trained and frozen before (stage 0, recipe prompt-dt)::

    stage 1    phi on the training tasks in turn, their prompt pools and windows              steps 1 .. I1
    stage 2    from the averaged phi, a copy for each new task on its few episodes alone,
               all tasks at once                                                              steps I1 + 1 .. I1 + I2

Either stage may be left out: stage 2 alone starts from nothing (the control that sees no other task) or from an earlier
run's stage 1; stage 1 alone is zero-shot: conditions are then the (g, t) of the tails of the best three episodes of all
training tasks, our protocol, as the paper names none. Public names: :class:`PromptDiffuserLearner`, :data:`VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.nets.memory import keep_freed_memory
from manyone.policies.harmodt.layout import Layout
from manyone.policies.prompt_diffuser.acting import PromptedPolicy, PromptGenerator, save_prompted
from manyone.policies.prompt_diffuser.figures import guidance_figure, prompt_figures
from manyone.policies.prompt_diffuser.model import Limits, PromptDiffuser
from manyone.policies.prompt_diffuser.prompts import FewShots, PromptPool, unseen_table
from manyone.policies.prompt_diffuser.training import DiffuserTraining, Recipe
from manyone.policies.prompt_tuning.acting import AdaptedPolicy
from manyone.policies.prompt_tuning.trained import Acting
from manyone.policies.protocol import History, effort_of
from manyone.policies.tasks import TaskTable

VARIANTS = ("", "stage-1", "zero-shot", "before")
"""Ways to act: as trained; with the prompts of stage 1; without anything of the new tasks; with their real prompts."""
_BEST = 3
"""Episodes of all training tasks whose tails are the conditions of zero-shot prompts."""


class PromptDiffuserLearner:
    """Trains ``diffuser`` for the policy of ``shots``, the few episodes of M new tasks; a policy's learner.

    ``training``: data of the training tasks, for stage 1 of ``steps`` steps on ``tasks_per_step`` tasks each; None:
    there is no stage 1, and stage 2 of ``adapt_steps`` starts from ``base``, an earlier stage 1, or from nothing.
    ``recipe`` and ``adapt_recipe``: how either stage trains. ``zero_shot``: the policy is judged without the new tasks'
    data. ``evaluate`` is called with the learner and gives metrics.
    """

    def __init__(
        self,
        diffuser: PromptDiffuser,
        shots: FewShots,
        training: FewShots | None = None,
        *,
        steps: int = 1000,
        adapt_steps: int = 150,
        tasks_per_step: int = 1,
        recipe: Recipe | None = None,
        adapt_recipe: Recipe | None = None,
        base: PromptGenerator | None = None,
        zero_shot: bool = False,
        seed: int = 0,
        evaluate: Callable[[PromptDiffuserLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        if shots.pool is None:
            raise ManyoneError("the policy reads no prompts: give one of recipe prompt-dt")
        if diffuser.length != shots.pool.length:
            raise ManyoneError(f"the policy's prompts have {shots.pool.length} steps, the diffuser's {diffuser.length}")
        if zero_shot and adapt_steps:
            raise ManyoneError(f"adapt_steps = {adapt_steps}: zero-shot is without adaptation, so must be 0")
        if zero_shot and training is None and base is None:
            raise ManyoneError("zero-shot needs a stage 1: data of training tasks, or an earlier run's")
        if zero_shot and diffuser.context:
            raise ManyoneError("a context is made of the new task's episodes: there is none in zero-shot")
        self.diffuser, self.shots, self.training, self.base = diffuser, shots, training, base
        self.first_steps, self.adapt_steps, self.tasks_per_step = (
            (steps if training else 0),
            adapt_steps,
            tasks_per_step,
        )
        self.recipe = recipe or Recipe()
        self.adapt_recipe = adapt_recipe or replace(self.recipe, ema_decay=0.95)
        self.zero_shot, self.seed, self.evaluator, self.iteration = zero_shot, seed, evaluate, 0
        if diffuser.mean.device.type == "cpu":
            keep_freed_memory()
        self.layout = Layout(diffuser, ())
        fresh = self.layout.pack(dict(diffuser.named_parameters())).unsqueeze(0)
        diffuser.requires_grad_(False)
        self.first: DiffuserTraining | None = None
        self.second: DiffuserTraining | None = None
        if training is not None:
            assert training.pool is not None
            diffuser.fit(training.pool)
            self.first = DiffuserTraining(
                diffuser, training, self.recipe, fresh, diffuser.fitted, seed=seed, purpose="stage 1"
            )
        elif base is not None:
            for name, value in diffuser.statistics().items():
                value.copy_(base.diffuser.statistics()[name])
            fresh = self.layout.pack({name: value[0] for name, value in base.weights.items()}).unsqueeze(0)
        else:
            diffuser.fit(shots.pool)
        self._start = fresh

    @property
    def total(self) -> int:
        """Steps of both stages."""
        return self.first_steps + self.adapt_steps

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One update, in the stage that is due."""
        if self.iteration < self.first_steps:
            assert self.first is not None
            assert self.training is not None
            count = len(self.training)
            at_once = min(self.tasks_per_step, count)
            tasks = [(self.iteration * at_once + j) % count for j in range(at_once)]
            metrics = self.first.step(tasks) | {"stage": 1.0}
        else:
            if self.second is None:
                self.second = self._second()
            metrics = self.second.step() | {"stage": 2.0}
        self.iteration += 1
        return metrics

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        return {} if self.evaluator is None else dict(self.evaluator(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "iteration": self.iteration,
            "first": None if self.first is None else self.first.state_dict(),
            "second": None if self.second is None else self.second.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if (state["first"] is None) != (self.first is None):
            raise ManyoneError("the saved state is of a training with other stages")
        if self.first is not None:
            self.first.load_state_dict(state["first"])
        self.second = None
        if state["second"] is not None:
            self.second = self._second()
            self.second.load_state_dict(state["second"])
        self.iteration = int(state["iteration"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact: policy, tasks, their generator, and stage 1 for later tasks."""
        policy = self.prompted()
        info = {"method": "prompt-diffuser", "seed": self.seed, "steps": self.iteration, "zero_shot": self.zero_shot,
                "statistics": {} if self.zero_shot else self.shots.statistics}  # fmt: skip
        base = None
        if self.first is not None or self.base is not None:
            base = self._generator(self._stage_1(), self.diffuser.fitted, self._best_conditions())
        save_prompted(folder, self.shots.model, policy.table, policy.generator, base=base, info=info)

    # ---- a policy's learner ---------------------------------------------------------------------------------------

    def before(self) -> AdaptedPolicy:
        """The frozen policy behind the new tasks' real prompts, episodes taking them in turn."""
        assert self.shots.pool is not None
        return AdaptedPolicy(self.shots.model, self.shots.table, Acting({}, self.shots.pool.stacked()))

    def policy(self, variant: str = "") -> PromptedPolicy | AdaptedPolicy:
        """The policy as it is now; ``variant`` is one of :data:`VARIANTS`."""
        if variant not in VARIANTS:
            raise ManyoneError(f"variant {variant!r}: must be one of {', '.join(repr(v) for v in VARIANTS)}")
        if variant == "before":
            return self.before()
        return self.prompted(variant)

    def prompted(self, variant: str = "") -> PromptedPolicy:
        """The policy behind generated prompts."""
        if variant == "zero-shot" or (not variant and self.zero_shot):
            generator = self._generator(self._stage_1(), self.diffuser.fitted, self._best_conditions())
            return PromptedPolicy(self.shots.model, self._unseen_table(), generator, seed=self.seed)
        adapted = self.second is not None and not variant
        weights = self.second.average.values[0] if adapted and self.second is not None else self._stage_1()
        assert self.shots.pool is not None
        generator = self._generator(weights, self._new_limits(), self.shots.pool, self._contexts(weights))
        return PromptedPolicy(self.shots.model, self.shots.table, generator, seed=self.seed)

    def effort(self) -> dict[str, float]:
        """Updates of a new task's generator, and the steps of data that it was adapted with."""
        updates = 0 if self.second is None else self.second.iteration
        guided = -(-updates // self.adapt_recipe.guidance_every) if self.adapt_recipe.guides else 0
        samples = effort_of(self.shots.data, guided, len(self.shots), self.adapt_recipe.guidance_batch)
        return {"updates": float(updates), "samples_per_task": samples["samples_per_task"]}

    def sizes(self) -> dict[str, float]:
        """Trained parameters of a task, those of the frozen policy, and bytes that a further task adds."""
        own = float(self.layout.total)
        frozen = float(sum(value.numel() for value in self.shots.model.parameters()))
        return {"trainable_parameters": own, "frozen_parameters": frozen, "bytes_per_task": 4 * own}

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """How far the two gradients agreed over time, and generated prompts beside real ones."""
        yield from guidance_figure(history, self.first_steps)
        if not self.zero_shot and self.shots.pool is not None:
            yield from prompt_figures(policy.generator, self.shots.pool, self.shots.names, self.seed)

    # ---- its parts ------------------------------------------------------------------------------------------------

    def _second(self) -> DiffuserTraining:
        """Stage 2 at its beginning: a copy of stage 1's averaged weights for each new task."""
        point = self._stage_1().repeat(len(self.shots), 1)
        return DiffuserTraining(
            self.diffuser, self.shots, self.adapt_recipe, point, self._new_limits(), seed=self.seed, purpose="stage 2"
        )

    def _stage_1(self) -> Tensor:
        return self._start if self.first is None else self.first.average.values[0]

    def _new_limits(self) -> Limits:
        """The range of the training tasks' prompts, widened to each new task's own."""
        assert self.shots.pool is not None
        own = self.diffuser.limits([self.shots.pool.task(task) for task in range(len(self.shots))])
        return own.widened(self.diffuser.fitted)

    def _contexts(self, weights: Tensor) -> Tensor | None:
        """The encoding of each new task's episodes, all steps of them, under its own weights [M or 1, P]."""
        if not self.diffuser.context:
            return None
        found = []
        with torch.no_grad():
            for task in range(len(self.shots)):
                row = min(task, len(weights) - 1)
                own = self.layout.views(weights[row : row + 1])
                found.append(self.diffuser.encode(own, self.shots.every_transition(task).unsqueeze(0)))
        return torch.cat(found)

    def _generator(
        self, weights: Tensor, limits: Limits, conditions: PromptPool, context: Tensor | None = None
    ) -> PromptGenerator:
        named = self.layout.views(weights)
        if len(weights) == 1:
            named = {name: value.unsqueeze(0) for name, value in named.items()}
        named = {name: value.detach().clone() for name, value in named.items()}
        return PromptGenerator(self.diffuser, self.shots.names, named, limits, conditions, context)

    def _best_conditions(self) -> PromptPool:
        """The (g, t) of the tails of the best episodes over all training tasks, as one task's pool."""
        if self.training is None:
            assert self.base is not None
            return self.base.conditions
        assert self.training.pool is not None
        return self.training.pool.best_of_all(_BEST)

    def _unseen_table(self) -> TaskTable:
        """What is known of the new tasks without their data."""
        if self.training is not None:
            return unseen_table(self.training.table, self.shots.names)
        return unseen_table(self.shots.known, self.shots.names)
