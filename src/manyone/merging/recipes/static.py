"""Static merging from the command line: ``manyone run task-arithmetic --base B --experts E1 E2 ... --out DIR``.

One options class per method. ``DIR/model/`` is a Hugging Face folder when the base is one, else a folder with
``model.safetensors``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.engine.progress import Progress
from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Split, check

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.merging.static.plan import Plan
    from manyone.merging.static.stream import Method


@dataclass(kw_only=True)
class MergeOptions(CommonOptions):
    """What all static merges share."""

    method: ClassVar[str]

    suite: str | None = None
    """Merge the experts of a suite of real tasks (mini6, images, text, ...) and score the result, instead of --base
    and --experts."""
    base: str | None = None
    """The common pre-trained model: a .safetensors file, a Hugging Face folder, or a .pt/.bin file of tensors."""
    experts: tuple[str, ...] = ()
    """The models fine-tuned from it, two or more, in the same forms; also PEFT LoRA adapter folders."""
    exclude: tuple[str, ...] = ()
    """Regular expressions of tensor names to leave as in the base, such as classifier heads: '^classifier'."""
    max_shard_size: str = "5GB"
    """Largest size of one output file, for example 5GB or 500MB; a larger model is split with an index."""
    threads: int = 0
    """Threads; 0 means as many as torch uses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("threads", self.threads, self.threads >= 0, "0 or more")

    def arguments(self) -> dict[str, Any]:
        """This method's own arguments for :func:`manyone.merging.static.methods.merge`."""
        return {}

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Accuracy per task of the merged model of a suite."""
        from manyone.merging.recipes.run_static import score_run

        if self.suite is None:
            raise ManyoneError(f"{run.path} merged files without data: only runs with --suite can be evaluated")
        return score_run(self.suite, self.seed, run, split)

    def prepared(self) -> tuple[Plan, Method]:
        """The models opened and matched, the options checked; no values are read."""
        from manyone.merging.static.methods import prepare

        if self.base is None and not self.experts:
            raise ManyoneError(f"{self.method}: nothing to merge: give --base and --experts, or --suite")
        if self.base is None or not self.experts:
            lacking = "--base" if self.base is None else "--experts"
            raise ManyoneError(f"{self.method}: {lacking} missing: name the base model and the models to merge")
        return prepare(self.method, self.base, self.experts, exclude=self.exclude, **self.arguments())

    def run(self, run: RunFolder) -> None:
        """Merges into ``run.path / "model"``; with ``dry_run`` prints the plan instead."""
        if self.suite is not None:
            from manyone.merging.recipes.run_static import merge_suite

            merge_suite(self, run)
            return
        plan, method = self.prepared()
        self.finish(run, plan, method)

    def finish(self, run: RunFolder, plan: Plan, method: Method, config: Mapping[str, Any] | None = None) -> None:
        """Carries out (or, with ``dry_run``, describes) a prepared merge."""
        from manyone.merging.static.estimate import describe
        from manyone.merging.static.methods import execute

        if self.dry_run:
            print(describe(plan, method, run.path / "model"))
            return
        began = time.perf_counter()
        with Progress(self.method, unit="parameters") as bar:
            execute(
                plan,
                method,
                out=run.path / "model",
                max_shard_size=self.max_shard_size,
                threads=self.threads or None,
                progress=bar.update,
                config=config,
                before=lambda: _make_room(run),
            )
        metrics = {
            "experts": len(plan.experts),
            "tensors_merged": len(plan.merged),
            "tensors_copied": len(plan.copied),
            "tensors_dropped": len(plan.dropped),
            "elements": plan.elements,
            "notes": plan.notes,
            "time": {"seconds": round(time.perf_counter() - began, 3)},
        }
        run.log(0, "final", metrics)
        for note in plan.notes:
            print(note)


def _make_room(run: RunFolder) -> None:
    import shutil

    run.ensure()
    if (run.path / "model").exists():  # an earlier attempt of this same run that stopped before it was marked finished
        shutil.rmtree(run.path / "model")


def _torch_device(name: str) -> str:
    """Where matrices are factored: a CUDA device if there is one or it is named, else the CPU (float64 is needed)."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ManyoneError(f"--device {name}: no CUDA device is available here")
    return "cpu" if name == "mps" else name


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

    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale}


@dataclass(kw_only=True)
class TiesOptions(MergeOptions):
    """TIES (Yadav et al., 2023): trim the task vectors, elect a sign per element, add what agrees."""

    method: ClassVar[str] = "ties"

    density: float = 0.2
    """Share of each task vector's entries that survive the trim, in (0, 1]."""
    scale: float = 0.3
    """Weight of the merged task vector."""
    merge: Literal["sum", "mean"] = "sum"
    """Add the entries that agree with the elected sign, or average them."""
    scope: Literal["model", "tensor"] = "model"
    """Trim over the whole model (the paper) or within each tensor (mergekit)."""

    def arguments(self) -> dict[str, Any]:
        return {"density": self.density, "scale": self.scale, "merge": self.merge, "scope": self.scope}


@dataclass(kw_only=True)
class DareOptions(MergeOptions):
    """DARE (Yu et al., 2024): drop entries of the task vectors at random, rescale the rest, then add or run TIES."""

    method: ClassVar[str] = "dare"

    drop: float = 0.5
    """Probability that an entry is dropped, in [0, 1)."""
    scale: float = 0.3
    """Weight of the (merged) task vectors."""
    then: Literal["task-arithmetic", "ties"] = "task-arithmetic"
    """How the thinned task vectors are combined."""
    density: float = 0.2
    """For --then ties: share of entries that survive its trim, in (0, 1]; 1 for sign election alone."""
    merge: Literal["sum", "mean"] = "sum"
    """For --then ties: add or average the agreeing entries."""

    def arguments(self) -> dict[str, Any]:
        names = ("drop", "scale", "then", "density", "merge", "seed")
        return {name: getattr(self, name) for name in names}


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

    def arguments(self) -> dict[str, Any]:
        return {"t": self.t, "space": self.space, "scale": self.scale}


@dataclass(kw_only=True)
class FisherOptions(MergeOptions):
    """Fisher-weighted averaging (Matena & Raffel, 2022)."""

    method: ClassVar[str] = "fisher"

    fishers: tuple[str, ...] = ()
    """Files with the experts' diagonal Fishers under the tensors' names, one per expert, in the same order."""
    floor: float = 1e-6
    """Smallest Fisher value, after division by the norm; above 0."""
    normalize: bool = True
    """Divide each expert's Fisher by its norm over the model, so that no expert outweighs the others by scale."""

    def arguments(self) -> dict[str, Any]:
        if not self.fishers and self.suite is None:
            raise ManyoneError("fisher: --fishers missing: give one file of diagonal Fishers per expert")
        return {"fishers": self.fishers, "floor": self.floor, "normalize": self.normalize}


@dataclass(kw_only=True)
class RegMeanOptions(MergeOptions):
    """RegMean (Jin et al., 2023): least squares per linear layer from the Gram matrices of its inputs."""

    method: ClassVar[str] = "regmean"

    grams: tuple[str, ...] = ()
    """Files with X^T X of every linear layer under the name of its weight, one per expert, in the same order."""
    ratio: float = 0.95
    """Factor on the off-diagonal entries of the Gram matrices, in [0, 1]."""

    def arguments(self) -> dict[str, Any]:
        if not self.grams and self.suite is None:
            raise ManyoneError("regmean: --grams missing: give one file of Gram matrices per expert")
        return {"grams": self.grams, "ratio": self.ratio, "device": _torch_device(self.device)}


@dataclass(kw_only=True)
class ModelStockOptions(MergeOptions):
    """Model Stock (Jang et al., 2024): between base and average, by the angle between the task vectors."""

    method: ClassVar[str] = "model-stock"


@dataclass(kw_only=True)
class TsvMOptions(MergeOptions):
    """TSV-M (Gargiulo et al., 2025): leading singular vectors of all task vectors, made orthogonal."""

    method: ClassVar[str] = "tsv-m"

    scale: float = 1.0
    """Weight of the merged task vector."""

    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale, "device": _torch_device(self.device)}


@dataclass(kw_only=True)
class IsoCOptions(TsvMOptions):
    """Iso-C (Marczak et al., 2025): the summed task vectors with a flat spectrum."""

    method: ClassVar[str] = "iso-c"


@dataclass(kw_only=True)
class IsoCtsOptions(TsvMOptions):
    """Iso-CTS (Marczak et al., 2025): Iso-C with part of the directions taken from single experts."""

    method: ClassVar[str] = "iso-cts"

    common: float = 0.8
    """Share of the directions that the sum of the task vectors provides, in (0, 1]."""

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"common": self.common}


@dataclass(kw_only=True)
class MergekitOptions(MergeOptions):
    """Runs a mergekit YAML recipe (linear, slerp, task_arithmetic, ties, dare_linear, dare_ties, model_stock)."""

    method: ClassVar[str] = "mergekit"

    recipe: Path | None = None
    """The YAML file; relative model paths in it are taken from the current folder, then from the file's folder."""

    def prepared(self) -> tuple[Plan, Method]:
        return self._read()[:2]

    def run(self, run: RunFolder) -> None:
        plan, method, config = self._read()
        self.finish(run, plan, method, config)

    def _read(self) -> tuple[Plan, Method, dict[str, Any]]:
        from manyone.merging.static.mergekit import prepare_recipe

        if self.recipe is None:
            raise ManyoneError("mergekit: --recipe missing: name the YAML file")
        if self.base is not None or self.experts:
            raise ManyoneError("mergekit: the models are named in the recipe; leave out --base and --experts")
        return prepare_recipe(self.recipe, exclude=self.exclude, seed=self.seed)
