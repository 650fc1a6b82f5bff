"""What recipe prompt-tuning trains: the learner that its options describe, on the few episodes of new tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from manyone.envs.single.make import goals
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Episode, paired_episodes
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.prompt_tuning.acting import AdaptedPolicy
from manyone.policies.prompt_tuning.learner import Score, TuningLearner
from manyone.policies.prompt_tuning.trained import Acting
from manyone.policies.recipes.adaptation import AdaptationProblem, new_shots
from manyone.policies.recipes.options_tuning import TuningOptions
from manyone.policies.recipes.run import Evaluator
from manyone.policies.tasks import Steps
from manyone.randomness import seed_for

Evaluate = Callable[[Any], Mapping[str, Any]]


def tuning(o: TuningOptions, problem: AdaptationProblem, evaluate: Evaluate | None = None) -> TuningLearner:
    """The untrained learner; ``evaluate`` is called with it and, to rank by episodes, has an arena."""
    names = ("steps", "batch_size", "lr", "weight_decay", "warmup", "schedule", "clip", "windows", "rank", "bottleneck",
             "candidates", "spread", "seed")  # fmt: skip
    shots, score = new_shots(o, problem), None
    if o.method == "ranking-online":
        if not o.simulator:
            raise ManyoneError("--method ranking-online plays episodes: it cannot do without the simulator")
        if isinstance(evaluate, Evaluator):
            score = played(shots, evaluate, o.rollouts, o.seed)
    return TuningLearner(
        shots, o.method, prompts=o.prompt_count, score=score, evaluate=evaluate, **{n: getattr(o, n) for n in names}
    )


def played(shots: FewShots, evaluator: Evaluator, rollouts: int, seed: int) -> Score:
    """What prompts [M, n, K*, ...] are worth: minus the mean return of ``rollouts`` episodes of each, [M, n].

    All prompts of a task play episodes that begin alike, others at every step, at goals that data may have.
    """

    def score(prompts: Steps, step: int) -> Tensor:
        count = prompts["valid"].shape[1]
        episodes: list[Episode] = []
        for task in shots.names:
            start = seed_for(seed, "ranking", task, step) >> 32
            for one in paired_episodes([task], rollouts, goals(task, evaluation=False), start):
                episodes += [one] * count
        policy = AdaptedPolicy(shots.model, shots.table, Acting({}, prompts))
        results = evaluator.arena.rollout(
            policy, episodes, horizon=evaluator.horizon, stop_at_success=evaluator.stop, progress=_silent
        )
        returns = torch.tensor([result.return_ for result in results], dtype=torch.float64)
        return -returns.view(len(shots), rollouts, count).mean(1)

    return score


def _silent(done: int, total: int) -> None:
    """The adaptation's own progress is enough."""
