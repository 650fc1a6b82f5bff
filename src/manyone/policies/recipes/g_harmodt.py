"""``manyone run g-harmodt``: masks of groups of tasks, and a gate that infers the group when no task is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.policies.recipes.harmodt import Options as HarmoDTOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.recipes.options import check

if TYPE_CHECKING:
    from manyone.policies.g_harmodt.learner import GroupedLearner


@dataclass(kw_only=True)
class Options(HarmoDTOptions):
    """G-HarmoDT (2024): tasks grouped by their gradients share a mask, and a gate infers the group while acting.

    Nothing tells the policy its task: statistics and target are pooled, there is no prompt. What the published
    abstract leaves open is our reading.
    """

    METHOD: ClassVar[str] = "harmodt"

    groups: str = "auto"
    """Number of groups, 1 to the number of tasks; tasks: a group each; auto: the number with the best silhouette."""
    group_after: int | None = None
    """Steps before the tasks are grouped; 0 or more, below --steps. Default: a tenth of --steps."""
    first_phase: Literal["dense", "random-masks"] = "dense"
    """What is trained before: a dense network, or a frozen random mask a task."""
    clustering: Literal["k-means", "agglomerative"] = "k-means"
    """Spherical k-means++, or average linkage on 1 - cosine."""
    recluster_every: int = 0
    """Mask updates between later clusterings; 0: tasks are grouped once."""
    gate_context: int | None = None
    """Steps that the gate sees; 1 to --context. Default: --context, at most 10."""
    gate_width: int = 256
    """Width of the gate's layers; 1 or more."""
    gate_lr: float = 3e-4
    """Learning rate of the gate; above 0."""
    gate_returns: bool = False
    """Let the gate see returns-to-go, whose scale may tell the task."""
    selection: Literal["gate", "soft", "oracle", "random"] = "gate"
    """How the evaluation chooses the mask: the gate's best group, the gate's mixture of masks, the true group, or a
    random one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.steps is not None
        assert self.context is not None
        if self.group_after is None:
            self.group_after = self.steps // 10
        if self.gate_context is None:
            self.gate_context = min(10, self.context)
        check(
            "groups", self.groups, self.groups in ("auto", "tasks") or self.groups.isdigit(), "auto, tasks or a number"
        )
        check("group_after", self.group_after, 0 <= self.group_after < self.steps, f"from 0 to {self.steps - 1}")
        check("gate_context", self.gate_context, 1 <= self.gate_context <= self.context, f"from 1 to {self.context}")
        check("gate_width", self.gate_width, self.gate_width >= 1, "1 or more")
        check("gate_lr", self.gate_lr, self.gate_lr > 0, "above 0")
        check("recluster_every", self.recluster_every, self.recluster_every >= 0, "0 or more")

    def learner(  # type: ignore[override]
        self, problem: PolicyProblem, seeds: Sequence[int] | None = None, evaluate: Any = None, **changes: Any
    ) -> GroupedLearner:
        """The untrained learner of policy, groups and gate; one seed only."""
        from manyone.engine.fabric import make_fabric
        from manyone.nets.decision import DecisionTransformer
        from manyone.policies.g_harmodt.learner import GroupedLearner
        from manyone.policies.tasks import PolicyData

        if seeds is not None and len(seeds) != 1:
            raise ManyoneError("g-harmodt trains one seed at a time: its groups depend on the seed")
        seed = self.seed if seeds is None else seeds[0]
        device = make_fabric(self.device, self.precision).device
        assert self.context is not None
        data = PolicyData(
            problem.data,
            self.context,
            target_quantile=self.target_quantile,
            normalisation="pooled",
            scale="pooled",
            target="pooled",
            device=device,
        )
        shape = self.shape() | {"context": self.context, "max_timestep": problem.longest}
        model = DecisionTransformer(data.state_dim, data.action_dim, seed=seed, **shape)
        names = ("group_after", "first_phase", "clustering", "recluster_every", "gate_context", "gate_width")
        options = self.learner_arguments(len(data)) | self.learner_options()
        options |= {name: getattr(self, name) for name in (*names, "gate_lr", "gate_returns")} | changes
        return GroupedLearner(
            model.to(device),
            data,
            groups=len(data) if self.groups == "tasks" else "auto" if self.groups == "auto" else int(self.groups),
            seed=seed,
            evaluate=evaluate,
            **options,
        )
