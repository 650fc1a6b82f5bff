"""The merging study: every method on one suite and one seed, one result row each.

`manyone reproduce` runs it for several seeds and judges the claims by its rows. Scaling coefficients are chosen on the
validation split; adaptation sees the unlabelled test inputs, as in the papers, unless ``adapt_split`` says otherwise.
A study that was interrupted goes on with the rows that are missing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.recipes.problem import Problem, from_suite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from manyone.data.tasks import Inputs, Split


@dataclass(frozen=True)
class Settings:
    """How much of everything a suite gets; all counts are per seed."""

    scales: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    """Grid of lambda, searched on the validation split for every method that has one."""
    test_limit: int = 1000
    val_limit: int = 300
    batch_size: int = 16
    """Unlabelled inputs per task and step (the papers' 16)."""
    ada_steps: int = 200
    ada_lr: float = 1e-3
    moe_steps: int = 100
    moe_lr: float = 1e-3
    surgery_iterations: int = 500
    v2_iterations: int = 150
    rank: int = 16
    concrete_steps: int = 100
    statistics_samples: int = 256
    """Labelled training examples a task for Fisher and RegMean."""
    adapt_split: str = "test"
    corruptions: tuple[str, ...] = ("gaussian-noise", "motion-blur")
    corrupted_tasks: tuple[str, ...] = ()
    """Tasks that are merged and tested under corruption; all when empty."""
    severity: int = 2
    unseen: tuple[str, ...] = ()
    """Tasks that are left out of the merge and tested all the same."""
    extras: bool = True
    """Also the methods that no claim asks for (Fisher, RegMean, Concrete, other objectives, surgery on WEMoE ...)."""


SETTINGS: dict[str, Settings] = {
    "fixture": Settings(test_limit=60, val_limit=60, ada_steps=5, moe_steps=5, surgery_iterations=10, v2_iterations=3,
                        concrete_steps=3, statistics_samples=16, corruptions=("gaussian-noise",), unseen=("shoes",)),
    "mini6": Settings(test_limit=500, unseen=("optdigits", "shoes")),
    "images": Settings(
        corruptions=("gaussian-noise", "motion-blur", "impulse-noise", "contrast"),
        corrupted_tasks=("fashion", "animal", "satellite", "emoji-noto"),
        unseen=("mnist", "emoji-twemoji"),
    ),
    "text": Settings(corruptions=(), unseen=("bbc",)),
}  # fmt: skip
"""Per suite; the plain defaults serve every other suite."""


@dataclass(frozen=True)
class Row:
    """One measurement, ready for :func:`manyone.report.results.append_rows`."""

    method: str
    variant: str
    condition: str
    make: Callable[[], dict[str, Any]]


class SeedStudy:
    """All methods for one (suite, seed, condition). Models that several rows share are made once."""

    def __init__(self, problem: Problem, seed: int, settings: Settings, condition: str = "clean") -> None:
        self.problem, self.seed, self.settings, self.condition = problem, seed, settings, condition
        self.merged = tuple(problem.experts)

    # -- data ---------------------------------------------------------------------------------------------------------

    def _limited(self, task: str, split: str, limit: int) -> Split:
        part = self.problem.tasks[task].split(split)
        part = part.take(slice(0, limit)) if len(part) > limit else part
        if self.condition in ("clean", "unseen"):
            return part
        from manyone.data.corruptions import corrupt
        from manyone.data.tasks import Split

        return Split(corrupt(part.inputs, self.condition, self.settings.severity, seed=self.seed), part.labels)

    @cached_property
    def test(self) -> dict[str, Split]:
        """Test splits of the tasks that are scored: the merged ones, or the others under condition ``unseen``."""
        names = [t for t in self.problem.tasks if (t in self.merged) != (self.condition == "unseen")]
        return {t: self._limited(t, "test", self.settings.test_limit) for t in names}

    @cached_property
    def validation(self) -> dict[str, Split]:
        """Clean labelled validation splits of the merged tasks, for lambda alone."""
        result = {}
        for task in self.merged:
            split = self.problem.tasks[task].val
            result[task] = split.take(slice(0, min(len(split), self.settings.val_limit)))
        return result

    @cached_property
    def unlabelled(self) -> dict[str, Inputs]:
        """What adaptation sees of the merged tasks."""
        limit = self.settings.test_limit
        return {t: self._limited(t, self.settings.adapt_split, limit).inputs for t in self.merged}

    # -- models -------------------------------------------------------------------------------------------------------

    def static(self, method: str, **options: Any) -> nn.Module:
        """The encoder with statically merged weights."""
        from manyone.merging.static import merge

        weights = merge(method, self.problem.encoder.state_dict(), self.problem.expert_list, **options)
        return self.problem.with_weights(weights)

    def tuned(self, method: str, **options: Any) -> tuple[nn.Module, float]:
        """The best of the lambda grid by mean validation accuracy, and its lambda."""
        from manyone.merging.measures import accuracies

        best: tuple[float, float, nn.Module] | None = None
        for scale in self.settings.scales:
            model = self.static(method, scale=scale, **options)
            scores = accuracies(model, self.problem.heads, self.validation)
            score = sum(scores.values()) / len(scores)
            if best is None or score > best[0]:
                best = (score, scale, model)
        assert best is not None
        return best[2], best[1]

    @cached_property
    def average(self) -> nn.Module:
        return self.static("average")

    @cached_property
    def task_arithmetic(self) -> nn.Module:
        return self.static("task-arithmetic", scale=0.3)

    @cached_property
    def task_arithmetic_tuned(self) -> tuple[nn.Module, float]:
        return self.tuned("task-arithmetic")

    @cached_property
    def ties(self) -> nn.Module:
        return self.static("ties", scale=0.3)

    @cached_property
    def ties_tuned(self) -> tuple[nn.Module, float]:
        return self.tuned("ties")

    @cached_property
    def experts(self) -> dict[str, nn.Module]:
        return {t: self.problem.expert(t) for t in self.merged}

    @cached_property
    def expert_logits(self) -> dict[str, Tensor]:
        """The experts' own predictions on the unlabelled inputs (for the KL objective)."""
        from manyone.merging.measures import logits

        heads = self.problem.heads
        return {t: logits(m, heads[t], self.unlabelled[t], t) for t, m in self.experts.items()}

    def adapt(self, model: nn.Module, *, objective: str, lr: float, steps: int) -> dict[str, float]:
        """Test-time adaptation of ``model`` in place; returns the learner's last metrics."""
        from manyone.merging.adaptation import AdaptationLearner

        learner = AdaptationLearner(
            model,
            {t: self.problem.heads[t] for t in self.merged},
            self.unlabelled,
            objective=objective,
            lr=lr,
            steps=steps,
            batch_size=self.settings.batch_size,
            seed=self.seed,
            expert_logits=self.expert_logits if objective == "expert-kl" else None,
        )
        metrics: dict[str, float] = {}
        for _ in range(steps):
            metrics = dict(learner.step())
        return metrics | dict(learner.evaluate())

    @cached_property
    def adamerging(self) -> tuple[nn.Module, dict[str, float]]:
        return self._adamerging()

    def _adamerging(self, **options: Any) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.adamerging import AdaMerging

        model = AdaMerging(self.problem.encoder, self.problem.expert_list, **options)
        metrics = self.adapt(model, objective="entropy", lr=self.settings.ada_lr, steps=self.settings.ada_steps)
        return self.problem.with_weights(model.merged_weights()), metrics

    def _concrete(self, adaptive: bool) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.concrete import Concrete

        model = Concrete(self.problem.encoder, self.problem.expert_list, adaptive=adaptive, seed=self.seed)
        metrics = self.adapt(model, objective="entropy", lr=self.settings.ada_lr, steps=self.settings.concrete_steps)
        return self.problem.with_weights(model.merged_weights()), metrics

    def _wemoe(self, objective: str, efficient: bool) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.wemoe import WeightEnsemblingMoE

        model = WeightEnsemblingMoE(
            self.problem.encoder,
            self.problem.expert_list,
            scale=self.task_arithmetic_tuned[1],
            prune_ratio=0.9 if efficient else 0.0,
            shared_router=efficient,
            seed=self.seed,
        )
        return model, self.adapt(model, objective=objective, lr=self.settings.moe_lr, steps=self.settings.moe_steps)

    @cached_property
    def wemoe(self) -> tuple[nn.Module, dict[str, float]]:
        return self._wemoe("entropy", efficient=False)

    @cached_property
    def e_wemoe(self) -> tuple[nn.Module, dict[str, float]]:
        return self._wemoe("entropy", efficient=True)

    def surgery(self, merged: nn.Module, version: int) -> tuple[nn.Module, dict[str, float]]:
        """Trained corrections on top of ``merged``."""
        from manyone.merging.surgery import Surgery, SurgeryV2
        from manyone.merging.surgery_learner import SurgeryLearner

        s = self.settings
        width = next(iter(self.problem.heads.values())).weight.shape[1]
        model: nn.Module
        if version == 1:
            model, iterations = Surgery(merged, width, self.merged, rank=s.rank, seed=self.seed), s.surgery_iterations
        else:
            hidden = self.problem.spec.get("width", width)
            model = SurgeryV2(merged, width, hidden, self.merged, rank=s.rank, seed=self.seed)
            iterations = s.v2_iterations
        learner = SurgeryLearner(
            model, self.experts, self.unlabelled, iterations=iterations, batch_size=s.batch_size, seed=self.seed
        )
        for _ in range(iterations):
            learner.step()
        return model, dict(learner.evaluate())
