"""Options of the recipes that know their tasks' data: adaptation, surgery, and the training of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, Split, With, check

Objective = Literal["entropy", "information-maximisation", "expert-kl"]


@dataclass(kw_only=True)
class ProblemOptions(CommonOptions):
    """What is merged: a suite of real tasks, or a user's own checkpoints and data."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--suite mini6 --out runs/first",
        "--base base --experts a b --tasks pets=data/pets signs=data/signs --out runs/mine",
    )

    suite: str | None = None
    """Suite of real tasks whose experts are trained once and cached: mini6, images, text, earth, fixture (or ta8,
    from the hub). Instead of --base, --experts and --tasks."""
    base: Annotated[Path | None, Places()] = None
    """Hugging Face folder (or hub id) of the common base model."""
    experts: Annotated[tuple[Path, ...], Places()] = ()
    """Hugging Face folders (or hub ids) of the fine-tuned experts: classifiers, or causal language models."""
    tasks: Annotated[tuple[str, ...], Places()] = ()
    """Data of each expert's task, in the experts' order, as NAME=PLACE: an image folder, a CSV or JSONL file of texts,
    or a data set of the `datasets` library."""
    limit: Annotated[int, Range(1)] = 1000
    """Most samples per task and split that are adapted on and evaluated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.base is not None or bool(self.experts) or bool(self.tasks)
        if self.suite is None and not own:
            raise ManyoneError("nothing to merge: give --suite NAME, or --base, --experts and --tasks")
        if self.suite is not None and own:
            raise ManyoneError("--suite brings its own base, experts and tasks: leave --base, --experts, --tasks out")
        if own and (self.base is None or not self.experts or not self.tasks):
            raise ManyoneError("your own checkpoints need all of --base, --experts and --tasks")


@dataclass(kw_only=True)
class AdaptiveOptions(ProblemOptions):
    """Options of everything that trains on the tasks' unlabelled inputs."""

    adapt_split: Split = "test"
    """Unlabelled inputs that adaptation sees: test (the papers' transductive setting), val or train (deployable)."""
    batch_size: Annotated[int, Range(1)] = 16
    """Unlabelled inputs per task and step."""
    evaluate_every: Annotated[int, Range(0)] = 0
    """Steps between evaluations on labelled test data while adapting; 0: only at the end."""
    checkpoint_every: Annotated[int, Range(0)] = 25
    """Steps between checkpoints; 0: only at the end."""


@dataclass(kw_only=True)
class TestTimeOptions(AdaptiveOptions):
    """Test-time adaptation of whatever a model leaves trainable."""

    scale: float = 0.3
    """Task-arithmetic coefficient lambda of the initialisation (about 1/N when 0.3 is worse than averaging)."""
    objective: Objective = "entropy"
    """Minimised on unlabelled inputs: entropy (the papers), information-maximisation (entropy minus marginal entropy,
    guards against collapse), expert-kl (KL to the experts' predictions; our extension, needs the experts)."""
    steps: Annotated[int, Range(1)] = 1000
    """Adam steps; each takes one batch of every task."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the steps."""
    fallback: bool = True
    """Restore the initialisation when adaptation ended worse by its own unlabelled criterion, and say so."""
    monitor_samples: Annotated[int, Range(1), With("fallback")] = 256
    """Unlabelled inputs per task that decide whether adaptation ended worse than it began."""


@dataclass(kw_only=True)
class AdaMergingOptions(TestTimeOptions):
    """AdaMerging (Yang et al., ICLR 2024): coefficients per task or per task and tensor, learned without labels."""

    granularity: Literal["layer", "task"] = "layer"
    """One coefficient per expert and tensor, or one per expert."""
    plus_plus: bool = False
    """AdaMerging++: task vectors trimmed and sign-elected as in TIES first."""
    clamp: bool = False
    """Clamp coefficients to [0, 1] in the forward pass, as the authors' code does (clamped ones stop learning)."""


@dataclass(kw_only=True)
class ConcreteOptions(TestTimeOptions):
    """Concrete subspace merging (Tang et al., 2023): a learned mask, shared by all experts, on the task vectors."""

    adaptive: bool = True
    """Learn AdaMerging's coefficients as well (Concrete AdaMerging), or only the mask (Concrete task arithmetic)."""


@dataclass(kw_only=True)
class WEMoEOptions(TestTimeOptions):
    """WEMoE (Tang et al., ICML 2024): critical modules are merged anew for every input by trained routers."""

    steps: Annotated[int, Range(1)] = 200
    """Adam steps; each takes one batch of every task. The papers take 1000; most of the gain is there after 200."""
    critical: tuple[str, ...] = ("mlp",)
    """Modules that are merged per input: a role (mlp, attention) or regular expressions on module names."""
    router_layers: Literal[0, 1, 2] = 2
    """Layers of each router; 0 learns constant weights, which fold into an ordinary model."""
    routing: Literal["sample", "batch", "prompt"] = "sample"
    """Merge for every sample, or once for every batch with its mean routing weights (as published evaluations do; a
    batch of one task then tells the router its task), or once for every prompt of a causal language model (ours)."""
    prune_ratio: Annotated[float, Range(0, 1)] = 0.0
    """Share of every critical task-vector tensor that is dropped by magnitude."""
    shared_router: bool = False
    """One router for all blocks."""
    position_code: bool = False
    """Give routers a code of the block's number."""
    gate_prune_ratio: Annotated[float, Range(0, 1)] = 0.0
    """Share of the trained routers' weights that is dropped by magnitude."""


@dataclass(kw_only=True)
class EWEMoEOptions(WEMoEOptions):
    """E-WEMoE (Shen et al., 2024): WEMoE with magnitude-pruned task vectors and one shared router."""

    prune_ratio: Annotated[float, Range(0, 1)] = 0.9
    """Share of every critical task-vector tensor that is dropped by magnitude."""
    shared_router: bool = True
    """One router for all blocks."""


@dataclass(kw_only=True)
class SurgeryOptions(AdaptiveOptions):
    """Surgery (Yang et al., ICML 2024): a low-rank correction of the merged model's final feature, for each task."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--suite images --on runs/wemoe",
        "--base base --experts a b --tasks pets=data/pets signs=data/signs --out runs/mine",
    )
    ALIASES: ClassVar[Mapping[str, str]] = {"iterations": "steps"}
    RENAMED: ClassVar[Mapping[str, str]] = {"iterations": "steps"}

    precision: Literal["32-true"] = "32-true"
    """Corrections are trained in float32."""
    on: Annotated[str, Places(names=True)] = "task-arithmetic"
    """The merged model: average, task-arithmetic, ties, tsv-m, iso-c, iso-cts, model-stock, or the folder of a
    finished run on the same experts (WEMoE, AdaMerging ...)."""
    scale: Annotated[float, With("on=task-arithmetic", "on=ties")] = 0.3
    """Coefficient lambda of task-arithmetic and ties."""
    rank: Annotated[int, Range(1)] = 16
    """Rank of the corrections: 2 x width x rank parameters for every task and corrected place."""
    steps: Annotated[int, Range(1)] = 500
    """Steps, each over two mini-batches of every task."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Adam's learning rate."""
    loss: Literal["l1", "l2"] = "l1"
    """Distance to the expert's representation."""
    online: bool = False
    """One pass, one input at a time, every input used once; --steps is then the number of inputs."""
    shared_stale_adam: bool = False
    """One optimiser for all tasks with zero-filled gradients, as the published script ran under PyTorch 1."""


@dataclass(kw_only=True)
class SurgeryV2Options(SurgeryOptions):
    """SurgeryV2 (Yang et al., 2024): a correction after every block, for every token, and of the final feature."""

    blocks: str | None = None
    """Regular expression of the blocks' module names; by default the model's largest list of equal blocks."""


@dataclass(kw_only=True)
class ExpertsOptions(CommonOptions):
    """Trains (or takes from the cache) the experts of a suite; ``model/`` is the bundle that merging recipes read.

    A finished bundle goes into the cache under a name made of data, protocol and seed. The same call again takes it
    from there and says so; what an interrupted training had finished is not trained twice.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--suite images", "--suite mini6 --seed 1")

    suite: str = "mini6"
    """The suite of tasks: mini6, images, text, earth or fixture (manyone ls data)."""
    lr: Annotated[float | None, Range(0, closed="neither")] = None
    """Peak learning rate of the fine-tuning. Default: the suite's protocol."""
    steps: Annotated[int | None, Range(1)] = None
    """Optimisation steps per expert. Default: the suite's protocol."""
    cached: bool = True
    """Take a finished bundle, or single finished experts, from the cache; off trains everything anew."""
    checkpoint_every: Annotated[int, Range(0)] = 100
    """Steps between checkpoints; 0: at the end only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: experts are trained in float32")
