"""Options and parts that AdaMerging, Concrete, WEMoE and E-WEMoE share: test-time adaptation by an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manyone.recipes.adaptive import AdaptiveOptions, Objective
from manyone.recipes.common import check

if TYPE_CHECKING:
    from torch import nn

    from manyone.recipes.problem import Problem


@dataclass(kw_only=True)
class TestTimeOptions(AdaptiveOptions):
    """Test-time adaptation of whatever a model leaves trainable."""

    scale: float = 0.3
    """Task-arithmetic coefficient lambda of the initialisation (about 1/N when 0.3 is worse than averaging)."""
    objective: Objective = "entropy"
    """Minimised on unlabelled inputs: entropy (the papers), information-maximisation (entropy minus marginal entropy,
    guards against collapse), expert-kl (KL to the experts' predictions; our extension, needs the experts)."""
    steps: int = 1000
    """Adam steps; each takes one batch of every task."""
    lr: float = 1e-3
    """Adam's learning rate; above 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the steps."""
    fallback: bool = True
    """Restore the initialisation when adaptation ended worse by its own unlabelled criterion, and say so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("steps", self.steps, self.steps >= 1, "1 or more")
        check("lr", self.lr, self.lr > 0, "above 0")

    def planned_steps(self) -> int:
        return self.steps

    def build(self, problem: Problem) -> nn.Module:
        """The model at its initialisation; each recipe has its own."""
        raise NotImplementedError(f"{type(self).__qualname__} builds no model")

    def learner(self, problem: Problem) -> tuple[Any, nn.Module]:
        from manyone.engine.fabric import make_fabric
        from manyone.merging.adaptation import AdaptationLearner
        from manyone.merging.measures import logits

        model = self.build(problem)
        inputs = self.unlabelled(problem)
        expert_logits = None
        if self.objective == "expert-kl":
            expert_logits = {t: logits(problem.expert(t), problem.heads[t], inputs[t], t) for t in problem.experts}
        learner = AdaptationLearner(
            model,
            {t: problem.heads[t] for t in problem.experts},
            inputs,
            objective=self.objective,
            lr=self.lr,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=self.seed,
            schedule=self.schedule,
            expert_logits=expert_logits,
            fallback=self.fallback,
            fabric=make_fabric(self.device, self.precision),
        )
        return learner, model
