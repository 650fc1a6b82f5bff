"""``manyone run surgery`` and ``surgery-v2``: task-specific corrections on top of any merged model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyone.errors import ManyoneError
from manyone.merging.recipes.options import AdaptiveOptions
from manyone.recipes.options import check

if TYPE_CHECKING:
    from torch import nn

    from manyone.merging.recipes.problem import Problem

STATIC = ("average", "task-arithmetic", "ties", "tsv-m", "iso-c", "iso-cts", "model-stock")


@dataclass(kw_only=True)
class Options(AdaptiveOptions):
    """Surgery (Yang et al., ICML 2024): a low-rank correction of the merged model's final feature, for each task."""

    on: str = "task-arithmetic"
    """The merged model: average, task-arithmetic, ties, tsv-m, iso-c, iso-cts, model-stock, or the folder of a
    finished run on the same experts (WEMoE, AdaMerging ...)."""
    scale: float = 0.3
    """Coefficient lambda of task-arithmetic and ties."""
    rank: int = 16
    """Rank of the corrections; 1 or more. 2 x width x rank parameters for every task and corrected place."""
    iterations: int = 500
    """Iterations over all tasks, two mini-batches a task each."""
    lr: float = 1e-3
    """Adam's learning rate; above 0."""
    loss: Literal["l1", "l2"] = "l1"
    """Distance to the expert's representation."""
    online: bool = False
    """One pass, one input at a time, every input used once; --iterations is then the number of inputs."""
    shared_stale_adam: bool = False
    """One optimiser for all tasks with zero-filled gradients, as the published script ran under PyTorch 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("rank", self.rank, self.rank >= 1, "1 or more")
        check("iterations", self.iterations, self.iterations >= 1, "1 or more")
        check("lr", self.lr, self.lr > 0, "above 0")
        if self.on not in STATIC and not (Path(self.on) / "model" / "config.json").is_file():
            raise ManyoneError(f"--on {self.on}: use {', '.join(STATIC)}, or the folder of a finished merging run")

    def planned_steps(self) -> int:
        return self.iterations

    def merged(self, problem: Problem) -> nn.Module:
        """The model to be corrected."""
        if self.on in STATIC:
            options = {"scale": self.scale} if self.on in ("task-arithmetic", "ties") else {}
            return problem.merged(self.on, **options)
        from manyone.merging.artefact import load

        loaded = load(Path(self.on) / "model")
        if set(loaded.tasks) != set(problem.experts):
            raise ManyoneError(
                f"--on {self.on}: that model serves {', '.join(loaded.tasks)}, but the experts here are for "
                f"{', '.join(problem.experts)}"
            )
        return loaded.network

    def corrections(self, problem: Problem, merged: nn.Module) -> nn.Module:
        """The untrained surgery on ``merged``."""
        from manyone.merging.surgery.model import Surgery

        return Surgery(merged, problem.width, list(problem.experts), rank=self.rank, seed=self.seed)

    def learner(self, problem: Problem) -> tuple[Any, nn.Module]:
        from manyone.engine.fabric import make_fabric
        from manyone.merging.surgery.learner import SurgeryLearner

        device = make_fabric(self.device, self.precision).device
        model: Any = self.corrections(problem, self.merged(problem).to(device))
        learner = SurgeryLearner(
            model,
            {t: problem.expert(t).to(device) for t in problem.experts},
            self.unlabelled(problem),
            lr=self.lr,
            iterations=self.iterations,
            batch_size=self.batch_size,
            loss=self.loss,
            shared_stale_adam=self.shared_stale_adam,
            online=self.online,
            seed=self.seed,
        )
        return learner, model


@dataclass(kw_only=True)
class DeepOptions(Options):
    """SurgeryV2 (Yang et al., 2024): a correction after every block, for every token, and of the final feature."""

    iterations: int = 500
    """Iterations over all tasks, two mini-batches a task each."""
    blocks: str | None = None
    """Regular expression of the blocks' module names; by default the model's largest list of equal blocks."""

    def corrections(self, problem: Problem, merged: nn.Module) -> nn.Module:
        from manyone.merging.surgery.model import SurgeryV2, hidden_widths

        sample = next(iter(self.unlabelled(problem).values()))
        return SurgeryV2(
            merged,
            problem.width,
            hidden_widths(merged, sample, self.blocks),
            list(problem.experts),
            rank=self.rank,
            blocks=self.blocks,
            seed=self.seed,
        )
