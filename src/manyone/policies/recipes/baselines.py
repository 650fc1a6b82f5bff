"""``manyone run mt-dt``, ``prompt-dt``, ``id-token-dt``, ``mtbc``, ``task-dt``: what masks are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.policies.recipes.harmodt import SequenceOptions
from manyone.policies.recipes.options import PolicyOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.recipes.options import Split, check

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.policies.baselines.each_task import EachTask
    from manyone.policies.baselines.mtbc import CloningLearner


@dataclass(kw_only=True)
class MultiTaskOptions(SequenceOptions):
    """MT-DT: one dense decision transformer for all tasks, without prompt and without id."""

    METHOD: ClassVar[str] = "mt-dt"

    no_id: bool = False
    """Nothing may tell the task: statistics of the states, scale and target of the returns are pooled over tasks."""

    def data_options(self) -> dict[str, Any]:
        return {"normalisation": "pooled", "scale": "pooled", "target": "pooled"} if self.no_id else {}


@dataclass(kw_only=True)
class PromptOptions(SequenceOptions):
    """Prompt-DT (Xu et al., ICML 2022): MT-DT behind a prompt, the tail of one of the task's best episodes."""

    METHOD: ClassVar[str] = "prompt-dt"

    surgery: Literal["none", "pcgrad", "cagrad", "gradnorm"] = "none"
    """Combine the gradients of the tasks of a step by PCGrad, CAGrad or GradNorm's weights instead of their mean."""

    @property
    def method(self) -> str:
        return self.METHOD if self.surgery == "none" else self.surgery

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.tasks_per_step is not None
        several = self.surgery == "none" or self.tasks_per_step >= 2
        check("tasks_per_step", self.tasks_per_step, several, f"2 or more with --surgery {self.surgery}")


@dataclass(kw_only=True)
class IdTokenOptions(SequenceOptions):
    """MT-DT with a learned first token for each task: what knowing the task is worth without masks."""

    METHOD: ClassVar[str] = "id-token"


@dataclass(kw_only=True)
class CloningOptions(PolicyOptions):
    """MTBC: behaviour cloning with one multilayer perceptron on the state and a one-hot id."""

    width: int | None = 256
    """Width of the hidden layers; 1 or more."""
    layers: int | None = 3
    """Hidden layers; 1 or more."""
    warmup: int | None = 0
    """Steps of linear warm-up of the learning rate; 0 or more."""
    schedule: Literal["cosine", "constant"] | None = None
    """Learning rate after the warm-up. Preset: cosine; paper constant."""
    weight_decay: float | None = None
    """AdamW's weight decay; 0 or more. Preset: 0.0001."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "layers"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("warmup", "weight_decay"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")

    def learner(self, problem: PolicyProblem, evaluate: Any = None) -> CloningLearner:
        """The untrained learner; a step takes ``batch_size`` samples of every task."""
        from manyone.engine.fabric import make_fabric
        from manyone.policies.baselines.cloning import CloningNetwork
        from manyone.policies.baselines.mtbc import CloningLearner
        from manyone.policies.tasks import PolicyData

        device = make_fabric(self.device, self.precision).device
        data = PolicyData(problem.data, 1, device=device)
        shape: dict[str, Any] = {"width": self.width, "layers": self.layers}
        network = CloningNetwork(data.state_dim, data.action_dim, len(data), seed=self.seed, **shape)
        names = ("steps", "batch_size", "lr", "weight_decay", "warmup", "schedule")
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names}
        return CloningLearner(network.to(device), data, seed=self.seed, evaluate=evaluate, **arguments)

    def run(self, run: RunFolder) -> None:
        """Makes or reads the data, trains, evaluates and exports."""
        from manyone.policies.recipes import run as policy_run

        policy_run.run_recipe(self, run)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Success and return per task of the newest checkpoint; test: held-out goals, train: goals of the data."""
        from manyone.policies.recipes import run as policy_run

        return policy_run.evaluate_recipe(self, run, split)


@dataclass(kw_only=True)
class SingleTaskOptions(SequenceOptions):
    """Per-task DT: one decision transformer a task, each trained with its share of the steps."""

    METHOD: ClassVar[str] = "mt-dt"

    def learner(  # type: ignore[override]
        self, problem: PolicyProblem, seeds: Sequence[int] | None = None, evaluate: Any = None, **changes: Any
    ) -> EachTask:
        """The untrained learner of all tasks."""
        from manyone.policies.baselines.each_task import EachTask

        assert self.steps is not None
        assert self.tasks_per_step is not None
        count = len(problem.data)
        at_once = min(self.tasks_per_step, count)
        share = max(1, -(-self.steps * at_once // count))
        learners = [
            super(SingleTaskOptions, self).learner(
                PolicyProblem(one.name, (one,), problem.horizon), seeds, steps=share, **changes
            )
            for one in problem.data
        ]
        return EachTask(learners, at_once=at_once, evaluate=evaluate)
