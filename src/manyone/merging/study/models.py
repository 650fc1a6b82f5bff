"""The models of the merging study: every method on one problem, made once and shared by the rows that need it.

Scaling coefficients are chosen on the validation split; adaptation sees the unlabelled test inputs, as in the papers,
unless the settings say otherwise.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from manyone.merging.recipes.problem import Problem
from manyone.merging.study.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from manyone.data.tasks import Inputs, Split


ENTROPIES = ("entropy", "marginal_entropy")


@dataclass
class _Features:
    """Features of one model by task and split, and the CPU seconds that they took."""

    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    seconds: float = 0.0


class SeedStudy:
    """All methods for one (suite, seed, condition). Models that several rows share are made once."""

    def __init__(self, problem: Problem, seed: int, settings: Settings, condition: str = "clean") -> None:
        self.problem, self.seed, self.settings, self.condition = problem, seed, settings, condition
        self.merged = tuple(problem.experts)
        self.curves: dict[str, list[dict[str, float]]] = {}
        self._splits: dict[tuple[str, str], Split] = {}
        self._costs: list[tuple[weakref.ref[Any], float]] = []
        self._features: list[tuple[weakref.ref[Any], _Features]] = []

    # -- data ---------------------------------------------------------------------------------------------------------

    def _limited(self, task: str, split: str) -> Split:
        """The first samples of a split, under this study's corruption; made once."""
        if (task, split) not in self._splits:
            part = self.problem.tasks[task].split(split)
            part = part.take(slice(0, self.settings.test_limit)) if len(part) > self.settings.test_limit else part
            if self.condition not in ("clean", "unseen"):
                from torch import Tensor

                from manyone.data.images.corruptions import corrupt
                from manyone.data.tasks import Split

                assert isinstance(part.inputs, Tensor)  # only image suites name corruptions
                inputs = corrupt(part.inputs, self.condition, self.settings.severity, seed=self.seed)
                part = Split(inputs, part.labels)
            self._splits[task, split] = part
        return self._splits[task, split]

    @cached_property
    def test(self) -> dict[str, Split]:
        """Test splits of the tasks that are scored: the merged ones, or the others under condition ``unseen``."""
        names = [t for t in self.problem.tasks if (t in self.merged) != (self.condition == "unseen")]
        return {t: self._limited(t, "test") for t in names}

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
        return {t: self._limited(t, self.settings.adapt_split).inputs for t in self.merged}

    # -- models -------------------------------------------------------------------------------------------------------

    def static(self, method: str, **options: Any) -> nn.Module:
        """The encoder with statically merged weights."""
        return self.problem.merged(method, **options)

    def tuned(self, method: str, **options: Any) -> tuple[nn.Module, float]:
        """The best of the lambda grid by mean validation accuracy, and its lambda.

        ``method`` is linear in lambda, so two merges give the whole grid; the winner is then merged by itself.
        """
        from manyone.merging.measures import accuracies

        base, full = self.problem.encoder.state_dict(), self.static(method, scale=1.0, **options).state_dict()
        best = (-1.0, 0.0)
        for scale in self.settings.scales:
            between = {n: v.lerp(full[n], scale) if v.is_floating_point() else v for n, v in base.items()}
            scores = accuracies(self.problem.with_weights(between), self.problem.heads, self.validation)
            score = sum(scores.values()) / len(scores)
            if score > best[0]:
                best = (score, scale)
        return self.static(method, scale=best[1], **options), best[1]

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
    def taught(self) -> dict[str, Tensor]:
        """The experts' features of the unlabelled inputs: what surgery and the KL objective learn from."""
        return {t: self.features(self.each_expert, t, self.settings.adapt_split) for t in self.merged}

    @cached_property
    def expert_logits(self) -> dict[str, Tensor]:
        """The experts' own predictions on the unlabelled inputs (for the KL objective)."""
        return {t: self.problem.heads[t].to("cpu")(feature) for t, feature in self.taught.items()}

    def adapt(self, model: nn.Module, label: str, *, objective: Any, lr: float, steps: int) -> dict[str, float]:
        """Test-time adaptation of ``model`` in place; returns the learner's last metrics."""
        from manyone.merging.adaptation.learner import AdaptationLearner

        learner = AdaptationLearner(
            model,
            {t: self.problem.heads[t] for t in self.merged},
            self.unlabelled,
            objective=objective,
            lr=lr,
            steps=steps,
            batch_size=self.settings.batch_size,
            monitor_samples=self.settings.monitor_samples,
            seed=self.seed,
            expert_logits=self.expert_logits if objective == "expert-kl" else None,
        )
        curve = []
        every = max(1, steps // 25)
        for step in range(1, steps + 1):
            metrics = learner.step()
            if step == 1 or step % every == 0:
                means = {k: [v for n, v in metrics.items() if n.startswith(f"{k}/")] for k in ENTROPIES}
                curve.append({"step": float(step)} | {k: sum(v) / len(v) for k, v in means.items() if v})
        self.curves[label] = curve
        return dict(learner.evaluate())

    @cached_property
    def adamerging(self) -> tuple[nn.Module, dict[str, float]]:
        return self.make_adamerging()

    def make_adamerging(self, **options: Any) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.adaptation.adamerging import AdaMerging

        model = AdaMerging(self.problem.encoder, self.problem.expert_list, **options)
        metrics = self.adapt(
            model, "adamerging", objective="entropy", lr=self.settings.ada_lr, steps=self.settings.ada_steps
        )
        return self.problem.with_weights(model.merged_weights()), metrics

    def make_concrete(self, adamerging: bool) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.adaptation.concrete import ConcreteMerging

        model = ConcreteMerging(self.problem.encoder, self.problem.expert_list, adamerging=adamerging, seed=self.seed)
        metrics = self.adapt(
            model, "concrete", objective="entropy", lr=self.settings.ada_lr, steps=self.settings.concrete_steps
        )
        return self.problem.with_weights(model.merged_weights()), metrics

    def make_wemoe(self, objective: str, efficient: bool) -> tuple[nn.Module, dict[str, float]]:
        from manyone.merging.moe.wemoe import WeightEnsemblingMoE

        model = WeightEnsemblingMoE(
            self.problem.encoder,
            self.problem.expert_list,
            scale=self.task_arithmetic_tuned[1],
            prune_ratio=0.9 if efficient else 0.0,
            shared_router=efficient,
            seed=self.seed,
        )
        label = ("e-wemoe" if efficient else "wemoe") + ("" if objective == "entropy" else f" {objective}")
        s = self.settings
        return model, self.adapt(model, label, objective=objective, lr=s.moe_lr, steps=s.moe_steps)

    @cached_property
    def wemoe(self) -> tuple[nn.Module, dict[str, float]]:
        return self.make_wemoe("entropy", efficient=False)

    @cached_property
    def e_wemoe(self) -> tuple[nn.Module, dict[str, float]]:
        return self.make_wemoe("entropy", efficient=True)

    def surgery(self, merged: nn.Module, version: int) -> tuple[nn.Module, dict[str, float]]:
        """Trained corrections on top of ``merged``; ``shared_cpu_s`` of the metrics is the time of earlier passes."""
        from manyone.merging.surgery.learner import SurgeryLearner
        from manyone.merging.surgery.model import Surgery, SurgeryV2, hidden_widths

        s = self.settings
        shared = self._known(merged).seconds + (self._known(self.each_expert).seconds if version == 1 else 0.0)
        width = self.problem.width
        model: nn.Module
        if version == 1:
            model, iterations = Surgery(merged, width, self.merged, rank=s.rank, seed=self.seed), s.surgery_iterations
        else:
            hidden = hidden_widths(merged, next(iter(self.unlabelled.values())))
            model = SurgeryV2(merged, width, hidden, self.merged, rank=s.rank, seed=self.seed)
            iterations = s.v2_iterations
        learner = SurgeryLearner(
            model,
            self.experts,
            self.unlabelled,
            iterations=iterations,
            batch_size=s.batch_size,
            expert_features=self.taught if version == 1 else None,
            merged_features={t: self.features(merged, t, s.adapt_split) for t in self.merged},
            seed=self.seed,
        )
        before = {f"before/{k}": v for k, v in learner.bias_before.items()}
        for _ in range(iterations):
            learner.step()
        return model, before | dict(learner.evaluate()) | {"shared_cpu_s": shared}

    def make_fisher(self) -> nn.Module:
        """Fisher merging, from labelled training examples."""
        from manyone.merging.static.statistics import fisher

        n = self.settings.statistics_samples
        fishers = [
            fisher(m, self.problem.heads[t], self.problem.tasks[t].train, examples=n, seed=self.seed)
            for t, m in self.experts.items()
        ]
        return self.static("fisher", fishers=fishers)

    def make_regmean(self) -> nn.Module:
        """RegMean, from unlabelled training inputs."""
        from manyone.merging.static.statistics import grams

        n = self.settings.statistics_samples
        collected = [
            grams(m, self.problem.tasks[t].train.inputs, examples=n, seed=self.seed) for t, m in self.experts.items()
        ]
        return self.static("regmean", grams=collected)

    # -- what is read off models --------------------------------------------------------------------------------------

    def features(self, model: Any, task: str, split: str) -> Tensor:
        """Features [n, d] of this study's samples of a split, computed once for each model.

        The model must be finished, and route by sample if it routes. Its rows, and surgery on top of it, share them.
        """
        from manyone.merging.measures import features

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
        from manyone.merging.measures import share_right
        from manyone.merging.surgery.model import Surgery

        result = {}
        for task, split in self.test.items():
            if isinstance(model, Surgery):
                feature = model.correct(self.features(model.merged, task, "test"), task)
            else:
                feature = self.features(model, task, "test")
            result[task] = share_right(self.problem.heads[task], feature, split.labels)
        return result

    @cached_property
    def each_expert(self) -> Callable[[Inputs, str], Tensor]:
        """The experts as one model that is told the task: features by the task's own expert."""
        from manyone.nets import call

        return lambda inputs, task: call(self.experts[task], inputs)

    def cost_of(self, model: object, seconds: float) -> float:
        """CPU seconds that making ``model`` took, also when an earlier row has made it already."""
        known = next((cost for made, cost in self._costs if made() is model), 0.0)
        self._costs.append((weakref.ref(model), max(seconds, known)))
        return max(seconds, known)

    def mean_routing(self, model: Any, samples: int = 48) -> dict[str, list[list[float]]]:
        """Mean routing weights (blocks x experts) on the test inputs of every task."""
        from manyone.data.tasks import count, take

        result = {}
        for task, split in self.test.items():
            part = take(split.inputs, slice(0, min(samples, count(split.inputs))))
            result[task] = model.routing_weights(part).mean(0).tolist()
        return result

    def sizes(self, model: Any, method: str) -> dict[str, float]:
        """Trainable and stored numbers of a model; for WEMoE also what the experts' task vectors take."""
        from torch import nn

        from manyone.merging.measures import parameter_counts
        from manyone.merging.moe.mixed_linear import MixedLinear
        from manyone.merging.moe.wemoe import WeightEnsemblingMoE

        one = sum(v.numel() for v in self.problem.encoder.state_dict().values() if v.is_floating_point())
        if isinstance(model, WeightEnsemblingMoE):
            counts = model.parameter_counts()
            layers = [m for m in model.encoder.modules() if isinstance(m, MixedLinear)]
            kept = sum(int(m.stack.member(i).count_nonzero()) for m in layers for i in range(1, m.stack.shape[0]))
            return {
                "trainable_parameters": counts["trainable"],
                "stored_parameters": counts["non_zero"],
                "stored_expert_parameters": kept,
            }
        if not isinstance(model, nn.Module):
            return {"trainable_parameters": 0, "stored_parameters": one * len(self.merged)}
        counts = parameter_counts(model)
        corrections = getattr(model, "corrections", None)
        trainable = sum(p.numel() for p in corrections.parameters()) if isinstance(corrections, nn.Module) else 0
        return {"trainable_parameters": trainable, "stored_parameters": counts["stored"]}
