"""``manyone run wemoe`` and ``e-wemoe``: input-conditioned merging of the critical modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manyone.merging.recipes.options import TestTimeOptions
from manyone.recipes.options import check

if TYPE_CHECKING:
    from torch import nn

    from manyone.merging.recipes.problem import Problem


@dataclass(kw_only=True)
class Options(TestTimeOptions):
    """WEMoE (Tang et al., ICML 2024): critical modules are merged anew for every input by trained routers."""

    steps: int = 200
    """Adam steps; each takes one batch of every task. The papers take 1000; most of the gain is there after 200."""
    critical: tuple[str, ...] = ("mlp",)
    """Modules that are merged per input: a role (mlp, attention) or regular expressions on module names."""
    router_layers: Literal[0, 1, 2] = 2
    """Layers of each router; 0 learns constant weights, which fold into an ordinary model."""
    routing: Literal["sample", "batch"] = "sample"
    """Merge for every sample, or once for every batch with its mean routing weights (as published evaluations do; a
    batch of one task then tells the router its task)."""
    prune_ratio: float = 0.0
    """Share of every critical task-vector tensor that is dropped by magnitude; 0 to 1."""
    shared_router: bool = False
    """One router for all blocks."""
    position_code: bool = False
    """Give routers a code of the block's number."""
    gate_prune_ratio: float = 0.0
    """Share of the trained routers' weights that is dropped by magnitude; 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("prune-ratio", self.prune_ratio, 0 <= self.prune_ratio <= 1, "from 0 to 1")
        check("gate-prune-ratio", self.gate_prune_ratio, 0 <= self.gate_prune_ratio <= 1, "from 0 to 1")

    def build(self, problem: Problem) -> nn.Module:
        from manyone.merging.moe.wemoe import WeightEnsemblingMoE

        return WeightEnsemblingMoE(
            problem.encoder,
            problem.expert_list,
            scale=self.scale,
            critical=self.critical[0] if len(self.critical) == 1 else self.critical,
            router_layers=self.router_layers,
            routing=self.routing,
            prune_ratio=self.prune_ratio,
            shared_router=self.shared_router,
            position_code=self.position_code,
            seed=self.seed,
        )

    def network(self, problem: Problem, model: nn.Module) -> nn.Module:
        if not self.gate_prune_ratio:
            return model
        import copy

        pruned = copy.deepcopy(model)
        pruned.prune_routers(self.gate_prune_ratio)  # type: ignore[operator]
        return pruned


@dataclass(kw_only=True)
class EfficientOptions(Options):
    """E-WEMoE (Shen et al., 2024): WEMoE with magnitude-pruned task vectors and one shared router."""

    prune_ratio: float = 0.9
    """Share of every critical task-vector tensor that is dropped by magnitude; 0 to 1."""
    shared_router: bool = True
    """One router for all blocks."""
