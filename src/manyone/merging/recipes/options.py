"""What the data-driven merging recipes share: their options, the problem, the loop, evaluation and the artefact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyone.errors import ManyoneError
from manyone.merging.recipes.problem import Problem, from_folders, from_suite
from manyone.recipes.options import CommonOptions, Split, check

if TYPE_CHECKING:
    from torch import nn

    from manyone.engine.run import RunFolder

Objective = Literal["entropy", "information-maximisation", "expert-kl"]


@dataclass(kw_only=True)
class ProblemOptions(CommonOptions):
    """What is merged: a suite of real tasks, or a user's own checkpoints and data."""

    suite: str | None = None
    """Suite of real tasks whose experts are trained once and cached: mini6, images, text, fixture (or ta8, from the
    hub). Instead of --base, --experts and --tasks."""
    base: Path | None = None
    """Hugging Face folder (or hub id) of the common base model."""
    experts: tuple[Path, ...] = ()
    """Hugging Face folders (or hub ids) of the fine-tuned experts."""
    tasks: tuple[str, ...] = ()
    """Data of each expert's task, in the experts' order, as NAME=PLACE: an image folder, a CSV or JSONL file of texts,
    or a data set of the `datasets` library."""
    limit: int = 1000
    """Most samples per task and split that are adapted on and evaluated; 1 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("limit", self.limit, self.limit >= 1, "1 or more")
        own = self.base is not None or bool(self.experts) or bool(self.tasks)
        if self.suite is None and not own:
            raise ManyoneError("nothing to merge: give --suite NAME, or --base, --experts and --tasks")
        if self.suite is not None and own:
            raise ManyoneError("--suite brings its own base, experts and tasks: leave --base, --experts, --tasks out")
        if own and (self.base is None or not self.experts or not self.tasks):
            raise ManyoneError("your own checkpoints need all of --base, --experts and --tasks")

    def problem(self) -> Problem:
        """Loads (or, the first time, makes) what is merged."""
        if self.suite is not None:
            return from_suite(self.suite, self.seed)
        assert self.base is not None
        return from_folders(self.base, self.experts, self.tasks)

    def splits(self, problem: Problem, split: str) -> dict[str, Any]:
        """The labelled splits of the merged tasks, at most ``limit`` samples each."""
        parts = {t: problem.tasks[t].split(split) for t in problem.experts}
        return {t: p.take(slice(0, self.limit)) if len(p) > self.limit else p for t, p in parts.items()}


@dataclass(kw_only=True)
class AdaptiveOptions(ProblemOptions):
    """Options of everything that trains on the tasks' unlabelled inputs."""

    adapt_split: Split = "test"
    """Unlabelled inputs that adaptation sees: test (the papers' transductive setting), val or train (deployable)."""
    batch_size: int = 16
    """Unlabelled inputs per task and step; 1 or more."""
    evaluate_every: int = 0
    """Steps between evaluations on labelled test data while adapting; 0: only at the end."""
    checkpoint_every: int = 25
    """Steps between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("batch-size", self.batch_size, self.batch_size >= 1, "1 or more")
        check("evaluate-every", self.evaluate_every, self.evaluate_every >= 0, "0 or more")
        check("checkpoint-every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or more")

    def unlabelled(self, problem: Problem) -> dict[str, Any]:
        """The inputs of ``adapt_split``, without their labels."""
        return {t: s.inputs for t, s in self.splits(problem, self.adapt_split).items()}

    def learner(self, problem: Problem) -> tuple[Any, nn.Module]:
        """The learner and the model that it trains; each recipe has its own."""
        raise NotImplementedError(f"{type(self).__qualname__} has no learner")

    def network(self, problem: Problem, model: nn.Module) -> nn.Module:
        """What is evaluated and saved of the trained ``model``; most models are it themselves."""
        return model

    def planned_steps(self) -> int:
        """Steps of the loop."""
        raise NotImplementedError(f"{type(self).__qualname__} has no number of steps")

    def run(self, run: RunFolder) -> None:
        """Adapts, evaluates and saves the merged model."""
        problem = self.problem()
        learner, model = self.learner(problem)
        if self.dry_run:
            print("\n".join(plan(self, run.recipe, problem, model)))
            return
        from manyone.engine.loop import train

        final = train(
            _Whole(self, run.recipe, problem, learner, model),
            run,
            steps=self.planned_steps(),
            evaluate_every=self.evaluate_every,
            checkpoint_every=self.checkpoint_every,
            loggers=self.logger,
        )
        print_accuracies(final)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Accuracy per task of the newest checkpoint."""
        from manyone.engine.checkpoint import load_newest

        problem = self.problem()
        learner, model = self.learner(problem)
        found = load_newest(run.checkpoints)
        if found is None:
            raise ManyoneError(f"{run.path} has no checkpoint yet: manyone resume {run.path}")
        learner.load_state_dict(found[1]["learner"])
        return score(self.network(problem, model), problem, self.splits(problem, split))


class _Whole:
    """A learner with the recipe's labelled evaluation and artefact around it."""

    def __init__(self, options: AdaptiveOptions, recipe: str, problem: Problem, learner: Any, model: nn.Module) -> None:
        self.options, self.recipe, self.problem, self.learner, self.model = options, recipe, problem, learner, model
        self.test = options.splits(problem, "test")

    def step(self) -> Mapping[str, float]:
        return self.learner.step()

    def evaluate(self) -> Mapping[str, float]:
        network = self.options.network(self.problem, self.model)
        metrics = {**self.learner.evaluate(), **score(network, self.problem, self.test)}
        if metrics.get("fell_back"):
            print(
                "adaptation ended worse than it began by its own unlabelled criterion: the initialisation was restored"
            )
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)

    def export(self, folder: Path) -> None:
        save_model(folder, self.options.network(self.problem, self.model), self.problem, self.recipe, self.options)


def save_model(folder: Path, network: nn.Module, problem: Problem, recipe: str, options: ProblemOptions) -> None:
    """Writes the standard artefact."""
    from manyone.merging.artefact import save

    heads = {t: problem.heads[t] for t in problem.experts}
    classes = {t: list(problem.tasks[t].classes) for t in problem.experts}
    info = {"recipe": recipe, "problem": problem.name, "seed": options.seed, "classes": classes}
    save(folder, network, problem.spec, heads, info)


def score(network: nn.Module, problem: Problem, splits: Mapping[str, Any]) -> dict[str, float]:
    """``accuracy`` (mean over tasks) and ``accuracy/<task>``, in [0, 1]."""
    from manyone.merging.measures import accuracies

    each = accuracies(network, problem.heads, splits)
    return {"accuracy": sum(each.values()) / len(each)} | {f"accuracy/{t}": a for t, a in each.items()}


def print_accuracies(metrics: Mapping[str, float]) -> None:
    """One line a task and the mean, for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "accuracy %", box=None)
    for name, value in metrics.items():
        if name.startswith("accuracy/"):
            table.add_row(name.removeprefix("accuracy/"), f"{100 * value:.1f}")
    table.add_row("mean", f"{100 * metrics['accuracy']:.1f}", style="bold")
    Console().print(table)


def plan(options: ProblemOptions, recipe: str, problem: Problem, model: nn.Module | None) -> list[str]:
    """What a dry run prints."""
    weights = problem.encoder.state_dict()
    size = sum(v.numel() * v.element_size() for v in weights.values())
    lines = [
        f"{recipe} on {problem.name}: {len(problem.experts)} experts ({', '.join(problem.experts)})",
        f"encoder: {len(weights)} tensors, {size / 1e6:.1f} MB; with all experts in memory "
        f"{size * (1 + len(problem.experts)) / 1e6:.1f} MB",
    ]
    if model is not None:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        stored = sum(v.numel() * v.element_size() for v in model.state_dict().values())
        lines.append(f"trainable parameters: {trainable:,}; the model holds {stored / 1e6:.1f} MB")
    if isinstance(options, AdaptiveOptions):
        lines.append(
            f"adapts on the unlabelled {options.adapt_split} inputs, at most {options.limit} a task, for "
            f"{options.planned_steps()} steps of {options.batch_size} inputs a task"
        )
    lines.append("nothing was written")
    return lines


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
        from manyone.merging.adaptation.learner import AdaptationLearner
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
