"""Options of the static merges; beyond what all share they are the parameters of the methods' rules.

See :data:`manyone.merging.static.methods.METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from manyone.recipes.options import CommonOptions, Places, Range, With


@dataclass(kw_only=True)
class MergeOptions(CommonOptions):
    """What all static merges share."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--base base --experts expert-a expert-b --out merged", "--suite mini6")

    method: ClassVar[str]
    on_device: ClassVar[bool] = False  # whether the method's rule takes a device

    precision: Literal["32-true"] = "32-true"
    """Static merges compute in float32, or float64 where the files do; each tensor keeps the type of its file."""
    suite: str | None = None
    """Merge the experts of a suite of real tasks (mini6, images, text, earth, ...) and score the result, instead of
    --base and --experts."""
    base: Annotated[str | None, Places()] = None
    """The common pre-trained model: a .safetensors file, a Hugging Face folder, or a .pt/.bin file of tensors."""
    experts: Annotated[tuple[str, ...], Places()] = ()
    """The models fine-tuned from it, two or more, in the same forms; also PEFT LoRA adapter folders."""
    exclude: tuple[str, ...] = ()
    """Regular expressions of tensor names to leave as in the base, such as classifier heads: '^classifier'."""
    max_shard_size: str = "5GB"
    """Largest size of one output file, for example 5GB or 500MB; a larger model is split with an index."""
    threads: Annotated[int, Range(0)] = 0
    """Threads; 0 means as many as torch uses."""
    measure: bool = True
    """Say how far experts and result lie from the base, by layer, and the angles between the experts."""


@dataclass(kw_only=True)
class AverageOptions(MergeOptions):
    """Weight averaging: the mean of the experts."""

    method: ClassVar[str] = "average"


@dataclass(kw_only=True)
class TaskArithmeticOptions(MergeOptions):
    """Task arithmetic (Ilharco et al., 2023): base + scale * sum of the task vectors."""

    method: ClassVar[str] = "task-arithmetic"

    scale: float = 0.3
    """Weight of every task vector; 0 gives the base, 1/N the average; 0.3 is customary for 8 tasks."""


@dataclass(kw_only=True)
class TiesOptions(MergeOptions):
    """TIES (Yadav et al., 2023): trim the task vectors, elect a sign per element, add what agrees."""

    method: ClassVar[str] = "ties"

    density: Annotated[float, Range(0, 1, closed="right")] = 0.2
    """Share of each task vector's entries that survive the trim."""
    scale: float = 0.3
    """Weight of the merged task vector."""
    merge: Literal["sum", "mean"] = "sum"
    """Add the entries that agree with the elected sign, or average them."""
    scope: Literal["model", "tensor"] = "model"
    """Trim over the whole model (the paper) or within each tensor (mergekit)."""


@dataclass(kw_only=True)
class DareOptions(MergeOptions):
    """DARE (Yu et al., 2024): drop entries of the task vectors at random, rescale the rest, then add or run TIES."""

    method: ClassVar[str] = "dare"

    drop: Annotated[float, Range(0, 1, closed="left")] = 0.5
    """Probability that an entry is dropped."""
    scale: float = 0.3
    """Weight of the (merged) task vectors."""
    then: Literal["task-arithmetic", "ties"] = "task-arithmetic"
    """How the thinned task vectors are combined."""
    density: Annotated[float, Range(0, 1, closed="right"), With("then=ties")] = 0.2
    """For --then ties: share of entries that survive its trim; 1 for sign election alone."""
    merge: Annotated[Literal["sum", "mean"], With("then=ties")] = "sum"
    """For --then ties: add or average the agreeing entries."""


@dataclass(kw_only=True)
class SlerpOptions(MergeOptions):
    """Spherical interpolation, tensor by tensor, between two experts (or folded over more)."""

    method: ClassVar[str] = "slerp"

    t: float = 0.5
    """0 gives the first expert, 1 the second; with more than two experts all count the same and t is not used."""
    space: Literal["weights", "task-vectors"] = "weights"
    """Interpolate the weights, or the differences to the base."""
    scale: float = 1.0
    """Weight of the merged task vector; only for --space task-vectors."""


@dataclass(kw_only=True)
class FisherOptions(MergeOptions):
    """Fisher-weighted averaging (Matena & Raffel, 2022)."""

    method: ClassVar[str] = "fisher"

    fishers: tuple[str, ...] = ()
    """Files with the experts' diagonal Fishers under the tensors' names, one per expert, in the same order."""
    floor: Annotated[float, Range(0, closed="neither")] = 1e-6
    """Smallest Fisher value, after division by the norm."""
    normalize: bool = True
    """Divide each expert's Fisher by its norm over the model, so that no expert outweighs the others by scale."""
    examples: Annotated[int, Range(1), With("suite")] = 256
    """With --suite: labelled training examples per task behind the Fishers."""


@dataclass(kw_only=True)
class RegMeanOptions(MergeOptions):
    """RegMean (Jin et al., 2023): least squares per linear layer from the Gram matrices of its inputs."""

    method: ClassVar[str] = "regmean"
    on_device: ClassVar[bool] = True

    grams: tuple[str, ...] = ()
    """Files with X^T X of every linear layer under the name of its weight, one per expert, in the same order."""
    ratio: Annotated[float, Range(0, 1)] = 0.95
    """Factor on the off-diagonal entries of the Gram matrices."""
    examples: Annotated[int, Range(1), With("suite")] = 256
    """With --suite: training examples per task behind the Gram matrices."""


@dataclass(kw_only=True)
class ModelStockOptions(MergeOptions):
    """Model Stock (Jang et al., 2024): between base and average, by the angle between the task vectors."""

    method: ClassVar[str] = "model-stock"


@dataclass(kw_only=True)
class TsvMOptions(MergeOptions):
    """TSV-M (Gargiulo et al., 2025): leading singular vectors of all task vectors, made orthogonal."""

    method: ClassVar[str] = "tsv-m"
    on_device: ClassVar[bool] = True

    scale: float = 1.0
    """Weight of the merged task vector."""


@dataclass(kw_only=True)
class IsoCOptions(TsvMOptions):
    """Iso-C (Marczak et al., 2025): the summed task vectors with a flat spectrum."""

    method: ClassVar[str] = "iso-c"


@dataclass(kw_only=True)
class IsoCtsOptions(TsvMOptions):
    """Iso-CTS (Marczak et al., 2025): Iso-C with part of the directions taken from single experts."""

    method: ClassVar[str] = "iso-cts"

    common: Annotated[float, Range(0, 1, closed="right")] = 0.8
    """Share of the directions that the sum of the task vectors provides."""


@dataclass(kw_only=True)
class MergekitOptions(MergeOptions):
    """Runs a mergekit YAML recipe, with all of mergekit 0.1.5's methods, slices and tokenisers."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--recipe recipe.yaml --out merged", "--recipe recipe.yaml --dry-run")

    method: ClassVar[str] = "mergekit"

    recipe: Annotated[Path | None, Places()] = None
    """The YAML file; relative model paths in it are taken from the current folder, then from the file's folder."""
