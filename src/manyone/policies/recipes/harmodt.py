"""``manyone run harmodt``, ``harmodt-r``, ``harmodt-m``: one masked sub-network a task over shared weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.policies.recipes.options import TransformerOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.recipes.options import Split, check

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.policies.harmodt.learner import PolicyLearner
    from manyone.policies.tasks import PolicyData


@dataclass(kw_only=True)
class SequenceOptions(TransformerOptions):
    """A decision transformer on the data of many tasks: what dense and masked recipes share."""

    METHOD: ClassVar[str] = "mt-dt"
    """The learner's name of the method (``manyone.policies.harmodt.variants``)."""

    @property
    def method(self) -> str:
        """The learner's name of the method, options considered."""
        return self.METHOD

    def policy_data(self, problem: PolicyProblem) -> PolicyData:
        """The problem's data as the network trains on it."""
        from manyone.engine.fabric import make_fabric
        from manyone.policies.harmodt.variants import method
        from manyone.policies.tasks import PolicyData

        assert self.context is not None
        return PolicyData(
            problem.data,
            self.context,
            self.prompt if method(self.method).prompt else 0,
            target_quantile=self.target_quantile,
            device=make_fabric(self.device, self.precision).device,
            **self.data_options(),
        )

    def data_options(self) -> dict[str, Any]:
        """What a recipe changes in how data are normalised."""
        return {}

    def learner_options(self) -> dict[str, Any]:
        """What a recipe adds to the learner's arguments."""
        return {}

    def learner(
        self, problem: PolicyProblem, seeds: Sequence[int] | None = None, evaluate: Any = None, **changes: Any
    ) -> PolicyLearner:
        """The untrained learner; with ``seeds`` as many networks side by side."""
        from manyone.policies.harmodt.learner import PolicyLearner
        from manyone.policies.harmodt.variants import build_model

        data = self.policy_data(problem)
        members = [self.seed] if seeds is None else list(seeds)
        shape = self.shape() | {"max_timestep": problem.longest}
        models = [build_model(self.method, data, seed=s, **shape) for s in members]
        arguments = self.learner_arguments(len(data)) | {"method": self.method} | self.learner_options() | changes
        return PolicyLearner(models, data, seed=members, evaluate=evaluate, **arguments)

    def learner_arguments(self, tasks: int) -> dict[str, Any]:
        """The learner's arguments that all recipes share."""
        assert self.tasks_per_step is not None
        names = ("steps", "batch_size", "lr", "weight_decay", "warmup", "schedule", "clip")
        return {name: getattr(self, name) for name in names} | {"tasks_per_step": min(self.tasks_per_step, tasks)}

    def run(self, run: RunFolder) -> None:
        """Makes or reads the data, trains, evaluates and exports."""
        from manyone.policies.recipes import run as policy_run

        policy_run.run_recipe(self, run)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Success and return per task of the newest checkpoint; test: held-out goals, train: goals of the data."""
        from manyone.policies.recipes import run as policy_run

        return policy_run.evaluate_recipe(self, run, split)


@dataclass(kw_only=True)
class FrozenOptions(SequenceOptions):
    """HarmoDT-R: a random mask a task, kept for ever."""

    METHOD: ClassVar[str] = "harmodt-r"

    sparsity: float = 0.2
    """Share of the maskable weights that a mask leaves out; from 0 to below 1."""
    mask_init: Literal["erk", "uniform"] = "erk"
    """Density of each tensor in the random masks: by the Erdős–Rényi kernel, or the same for all."""
    shared_init: bool = False
    """Begin with one mask for all tasks."""
    mask_scope: Literal["blocks_weights_only", "blocks", "all"] = "blocks_weights_only"
    """Which tensors masks reach: the blocks' two-dimensional weights, all of the blocks' tensors, or all tensors."""
    moment_policy: Literal["shared", "freeze_masked"] = "shared"
    """Adam moments of masked entries decay, as in the published code, or stay as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("sparsity", self.sparsity, 0 <= self.sparsity < 1, "from 0 to below 1")

    def learner_options(self) -> dict[str, Any]:
        return {
            "sparsity": self.sparsity,
            "mask_init": self.mask_init,
            "shared_init": self.shared_init or None,
            "mask_scope": self.mask_scope,
            "moment_policy": self.moment_policy,
        }


@dataclass(kw_only=True)
class Options(FrozenOptions):
    """HarmoDT-F (Hu et al., ICML 2024): task masks that exchange weights by gradient agreement and importance."""

    METHOD: ClassVar[str] = "harmodt"

    mask_every: int | None = None
    """t_m, steps between mask updates; 1 or more. Preset: 100; paper 500."""
    eta_min: int = 0
    """Fewest weights that a mask exchanges in an update; 0 or more."""
    eta_max: int = 100
    """Most weights that a mask exchanges in an update, at least --eta-min."""
    swap_schedule: Literal["bump", "decay"] = "bump"
    """Number exchanged over time: eta_min, eta_max, eta_min (the published code), or from eta_max to eta_min."""
    importance: Literal["fisher", "magnitude", "none"] = "fisher"
    """Importance score: squared gradients (HarmoDT-F), weights' magnitude (HarmoDT-M), or none."""
    gamma: float = 10.0
    """Weight of the agreement score in the harmony score; 0 or more."""
    ranking: Literal["global", "quota", "z-score"] = "global"
    """Compare scores over all maskable weights, within each tensor for its share, or standardised in each tensor."""
    ema_decay: float = 0.0
    """Smoothing of the tasks' gradients over mask updates; from 0 to below 1."""
    update: Literal["corrected", "random", "official"] = "corrected"
    """Mask update: by dense gradients; at random, as a control; or as the published code does it, mistakes included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("mask_every", self.mask_every, self.mask_every is not None and self.mask_every >= 1, "1 or more")
        check("eta_min", self.eta_min, 0 <= self.eta_min <= self.eta_max, f"from 0 to --eta-max {self.eta_max}")
        check("gamma", self.gamma, self.gamma >= 0, "0 or more")
        check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "from 0 to below 1")

    def learner_options(self) -> dict[str, Any]:
        names = ("mask_every", "eta_min", "eta_max", "swap_schedule", "importance", "gamma", "ranking", "ema_decay")
        return super().learner_options() | {n: getattr(self, n) for n in (*names, "update")}


@dataclass(kw_only=True)
class MagnitudeOptions(Options):
    """HarmoDT-M: HarmoDT with the weights' magnitude as importance."""

    importance: Literal["fisher", "magnitude", "none"] = "magnitude"
    """Importance score: squared gradients (HarmoDT-F), weights' magnitude (HarmoDT-M), or none."""
