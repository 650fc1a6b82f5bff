"""``manyone run adamerging`` and ``concrete``: learned merging coefficients and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manyone.merging.recipes.options import TestTimeOptions

if TYPE_CHECKING:
    from torch import nn

    from manyone.merging.recipes.problem import Problem


@dataclass(kw_only=True)
class Options(TestTimeOptions):
    """AdaMerging (Yang et al., ICLR 2024): coefficients per task or per task and tensor, learned without labels."""

    granularity: Literal["layer", "task"] = "layer"
    """One coefficient per expert and tensor, or one per expert."""
    plus_plus: bool = False
    """AdaMerging++: task vectors trimmed and sign-elected as in TIES first."""
    clamp: bool = False
    """Clamp coefficients to [0, 1] in the forward pass, as the authors' code does (clamped ones stop learning)."""

    def build(self, problem: Problem) -> nn.Module:
        from manyone.merging.adaptation.adamerging import AdaMerging

        return AdaMerging(
            problem.encoder,
            problem.expert_list,
            granularity=self.granularity,
            plus_plus=self.plus_plus,
            scale=self.scale,
            clamp=self.clamp,
        )

    def network(self, problem: Problem, model: nn.Module) -> nn.Module:
        return problem.with_weights(model.merged_weights())  # type: ignore[operator]


@dataclass(kw_only=True)
class ConcreteOptions(TestTimeOptions):
    """Concrete subspace merging (Tang et al., 2023): a learned mask, shared by all experts, on the task vectors."""

    adaptive: bool = True
    """Learn AdaMerging's coefficients as well (Concrete AdaMerging), or only the mask (Concrete task arithmetic)."""

    def build(self, problem: Problem) -> nn.Module:
        from manyone.merging.adaptation.concrete import ConcreteMerging

        return ConcreteMerging(
            problem.encoder, problem.expert_list, scale=self.scale, adamerging=self.adaptive, seed=self.seed
        )

    def network(self, problem: Problem, model: nn.Module) -> nn.Module:
        return problem.with_weights(model.merged_weights())  # type: ignore[operator]
