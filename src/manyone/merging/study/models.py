"""The models of the merging study: every arm on one problem, made once and shared by the rows that need it.

Scaling coefficients are chosen on the validation split; adaptation sees the unlabelled test inputs, as in the papers,
unless the settings say otherwise.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from manyone.data.images.corruptions import corrupt
from manyone.data.tasks import Inputs, Split, Task, count, take
from manyone.merging.adaptation.objectives import entropy
from manyone.merging.measures import accuracies, features, parameter_counts, share_right
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.merging.recipes.build import Built, Known, merged
from manyone.merging.recipes.problem import Problem
from manyone.merging.study.settings import Setting, arms
from manyone.merging.surgery.model import Surgery
from manyone.nets import call
from manyone.recipes.arm import Arm

ENTROPIES = ("entropy", "marginal_entropy")
SHARED = {("average", ""), ("task-arithmetic", ""), ("task-arithmetic", "tuned"), ("ties", ""), ("ties", "tuned"),
          ("adamerging", ""), ("wemoe", ""), ("e-wemoe", "")}  # fmt: skip
"""Arms that several rows need; of the others nothing is kept."""

LADDER = (("pretrained", ""), ("task-arithmetic", "tuned"), ("expert", ""))
"""What adaptation starts from, between the base and what it should come near: every step should be surer."""

Curve = list[dict[str, float]]
Made = tuple[Any, dict[str, float]]


def fit(built: Built) -> tuple[dict[str, float], Curve]:
    """Trains to the end; the learner's last metrics, and the mean entropies at about 25 of the steps."""
    curve = []
    every = max(1, built.steps // 25)
    for step in range(1, built.steps + 1):
        metrics = built.learner.step()
        if step == 1 or step % every == 0:
            means = {k: [v for n, v in metrics.items() if n.startswith(f"{k}/")] for k in ENTROPIES}
            curve.append({"step": float(step)} | {k: sum(v) / len(v) for k, v in means.items() if v})
    return dict(built.learner.evaluate()), curve


@dataclass
class _Features:
    """Features of one model by task and split, and the CPU seconds that they took."""

    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    seconds: float = 0.0


class SeedStudy:
    """All methods for one (suite, seed, condition). Models that several rows share are made once."""

    def __init__(self, problem: Problem, seed: int, setting: Setting, condition: str = "clean") -> None:
        self.clean, self.seed, self.setting, self.condition = problem, seed, setting, condition
        self.merged = tuple(problem.experts)
        self.curves: dict[str, Curve] = {}
        self._made: dict[tuple[str, str], Made] = {}
        self._costs: list[tuple[weakref.ref[Any], float]] = []
        self._features: list[tuple[weakref.ref[Any], _Features]] = []

    # -- data ---------------------------------------------------------------------------------------------------------

    @cached_property
    def problem(self) -> Problem:
        """The problem under this study's corruption: what is adapted on and scored of the merged tasks."""
        if self.condition in ("clean", "unseen"):
            return self.clean
        tasks = {t: self._corrupted(self.clean.tasks[t]) for t in self.merged}
        return replace(self.clean, tasks={**self.clean.tasks, **tasks})

    def _corrupted(self, task: Task) -> Task:
        changed: dict[str, Any] = {}
        for name in dict.fromkeys(("test", self.setting.adapt_split)):
            part = task.split(name).take(slice(0, self.setting.test_limit))
            assert isinstance(part.inputs, Tensor)  # only image suites name corruptions
            inputs = corrupt(part.inputs, self.condition, self.setting.severity, seed=self.seed)
            changed[name] = Split(inputs, part.labels)
        return replace(task, **changed)

    @cached_property
    def test(self) -> dict[str, Split]:
        """Test splits of the tasks that are scored: the merged ones, or the others under condition ``unseen``."""
        names = [t for t in self.problem.tasks if (t in self.merged) != (self.condition == "unseen")]
        return {t: self._limited(t, "test") for t in names}

    @cached_property
    def validation(self) -> dict[str, Split]:
        """Clean labelled validation splits of the merged tasks, for lambda alone."""
        return self.clean.splits("val", self.setting.val_limit)

    def _limited(self, task: str, split: str) -> Split:
        part = self.problem.tasks[task].split(split)
        return part.take(slice(0, self.setting.test_limit)) if len(part) > self.setting.test_limit else part

    # -- models -------------------------------------------------------------------------------------------------------

    @cached_property
    def arms(self) -> dict[tuple[str, str], Arm]:
        """The suite's arms by method and variant."""
        return {(arm.method, arm.variant): arm for arm in arms("", self.problem.name)}

    def make(self, method: str, variant: str = "") -> Made:
        """The model of an arm, and what its training reported."""
        known = self._made.get((method, variant))
        if known is not None:
            return known
        arm = self.arms[method, variant]
        if arm.recipe in ("surgery", "surgery-v2"):
            made = self._surgery(arm)
        elif variant == "tuned":
            made = self._tuned(arm)
        elif arm.recipe in ("adamerging", "concrete", "wemoe", "e-wemoe"):
            made = self._adapted(arm)
        else:
            made = (merged(arm.options(seed=self.seed), self.problem), {})
        if (method, variant) in SHARED:
            self._made[method, variant] = made
        return made

    def _tuned(self, arm: Arm) -> Made:
        """The best of the lambda grid by mean validation accuracy, and its lambda.

        The method is linear in lambda, so two merges give the whole grid; the winner is then merged by itself.
        """
        base = self.problem.encoder.state_dict()
        full = merged(arm.options(seed=self.seed, scale=1.0), self.problem).state_dict()
        best = (-1.0, 0.0)
        for scale in self.setting.scales:
            between = {n: v.lerp(full[n], scale) if v.is_floating_point() else v for n, v in base.items()}
            scores = accuracies(self.problem.with_weights(between), self.problem.heads, self.validation)
            score = sum(scores.values()) / len(scores)
            if score > best[0]:
                best = (score, scale)
        return merged(arm.options(seed=self.seed, scale=best[1]), self.problem), {"scale": best[1]}

    def _adapted(self, arm: Arm) -> Made:
        """Test-time adaptation; every method of it starts from the same task arithmetic."""
        options = arm.options(seed=self.seed, scale=self.make("task-arithmetic", "tuned")[1]["scale"])
        known = Known(expert_features=self._taught) if options.objective == "expert-kl" else None
        built = arm.build(options, self.problem, known)
        metrics, curve = fit(built)
        self.curves[f"{arm.method} {arm.variant}".rstrip()] = curve
        return built.network(), metrics

    def _surgery(self, arm: Arm) -> Made:
        """Trained corrections on top of another arm's model; ``shared_cpu_s`` is the time of earlier passes."""
        under = self.make(arm.variant)[0]
        first = arm.recipe == "surgery"
        shared = self._known(under).seconds + (self._known(self.each_expert).seconds if first else 0.0)
        known = Known(
            self.experts,
            expert_features=self._taught if first else None,
            merged_features={t: self.features(under, t, self.setting.adapt_split) for t in self.merged},
        )
        built = arm.build(arm.options(seed=self.seed), self.problem, under, known)
        before = {f"before/{k}": v for k, v in built.learner.bias_before.items()}
        metrics, _ = fit(built)
        return built.network(), before | metrics | {"shared_cpu_s": shared}

    @cached_property
    def experts(self) -> dict[str, nn.Module]:
        """The experts as modules."""
        return {t: self.problem.expert(t) for t in self.merged}

    @cached_property
    def each_expert(self) -> Callable[[Inputs, str], Tensor]:
        """The experts as one model that is told the task: features by the task's own expert."""
        return lambda inputs, task: call(self.experts[task], inputs)

    @property
    def _taught(self) -> dict[str, Tensor]:
        """The experts' features of the unlabelled inputs: what surgery and the KL objective learn from."""
        return {t: self.features(self.each_expert, t, self.setting.adapt_split) for t in self.merged}

    # -- what is read off models --------------------------------------------------------------------------------------

    def features(self, model: Any, task: str, split: str) -> Tensor:
        """Features [n, d] of this study's samples of a split, computed once for each model.

        The model must be finished, and route by sample if it routes. Its rows, and surgery on top of it, share them.
        """
        known = self._known(model)
        if (task, split) not in known.values:
            started = time.process_time()
            inputs = self._limited(task, split).inputs
            known.values[task, split] = features(model, inputs, task, batch_size=64)
            known.seconds += time.process_time() - started
        return known.values[task, split]

    def _known(self, model: Any) -> _Features:
        known = next((found for made, found in self._features if made() is model), None)
        if known is None:
            known = _Features()
            self._features.append((weakref.ref(model), known))
        return known

    def scores(self, model: Any) -> dict[str, float]:
        """Accuracy on every task of :attr:`test`, with what :meth:`features` knows already."""
        result = {}
        for task, split in self.test.items():
            if isinstance(model, Surgery):
                feature = model.correct(self.features(model.merged, task, "test"), task)
            else:
                feature = self.features(model, task, "test")
            result[task] = share_right(self.problem.heads[task], feature, split.labels)
        return result

    def entropies(self, model: Any) -> dict[str, float]:
        """Mean entropy of the predictions on every merged task's unlabelled inputs, in nats."""
        heads = self.problem.heads
        return {t: float(entropy(heads[t](self.features(model, t, self.setting.adapt_split)))) for t in self.merged}

    def regime(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Whether adaptation by certainty can operate; ``scores`` are those of the model that it starts from.

        ``ladder_base`` and ``ladder_expert``: shares of the tasks in which that model is surer than the base, and the
        expert surer than it; ``lowest_task``: its lowest score.
        """
        merged = self.make(*LADDER[1])[0]
        base, start, expert = (self.entropies(m) for m in (self.clean.encoder, merged, self.each_expert))
        tasks = len(self.merged)
        return {
            "ladder_base": sum(base[t] > start[t] for t in self.merged) / tasks,
            "ladder_expert": sum(start[t] > expert[t] for t in self.merged) / tasks,
            "lowest_task": min(scores.values()),
        }

    def cost_of(self, model: object, seconds: float) -> float:
        """CPU seconds that making ``model`` took, also when an earlier row has made it already."""
        known = next((cost for made, cost in self._costs if made() is model), 0.0)
        self._costs.append((weakref.ref(model), max(seconds, known)))
        return max(seconds, known)

    def mean_routing(self, model: Any, samples: int = 48) -> dict[str, list[list[float]]]:
        """Mean routing weights (blocks x experts) on the test inputs of every task."""
        result = {}
        for task, split in self.test.items():
            part = take(split.inputs, slice(0, min(samples, count(split.inputs))))
            result[task] = model.routing_weights(part).mean(0).tolist()
        return result

    def sizes(self, model: Any) -> dict[str, float]:
        """Trainable and stored numbers of a model; for WEMoE also what the experts' task vectors take."""
        if isinstance(model, WeightEnsemblingMoE):
            counts = model.parameter_counts()
            return {
                "trainable_parameters": counts["trainable"],
                "stored_parameters": counts["non_zero"],
                "stored_expert_parameters": model.stored_expert_parameters(),
            }
        if not isinstance(model, nn.Module):
            one = sum(v.numel() for v in self.problem.encoder.state_dict().values() if v.is_floating_point())
            return {"trainable_parameters": 0, "stored_parameters": one * len(self.merged)}
        counts = parameter_counts(model)
        corrections = getattr(model, "corrections", None)
        trainable = sum(p.numel() for p in corrections.parameters()) if isinstance(corrections, nn.Module) else 0
        return {"trainable_parameters": trainable, "stored_parameters": counts["stored"]}
