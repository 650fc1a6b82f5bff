"""What recipe prompt-diffuser trains: the untrained learner that its options describe, for a problem with a policy.

``evaluate`` is called with the learner and gives metrics (:class:`manyone.policies.recipes.run.Evaluator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.prompt_diffuser.acting import read_base
from manyone.policies.prompt_diffuser.learner import PromptDiffuserLearner
from manyone.policies.prompt_diffuser.model import PromptDiffuser
from manyone.policies.prompt_diffuser.training import Recipe
from manyone.policies.recipes.adaptation import AdaptationProblem, new_shots, training_shots
from manyone.policies.recipes.options_prompt import DiffuserOptions

Evaluate = Callable[[Any], Mapping[str, Any]] | None


def prompt_diffuser(o: DiffuserOptions, problem: AdaptationProblem, evaluate: Evaluate = None) -> PromptDiffuserLearner:
    """Prompt Diffuser: stage 1 where there are training tasks, else from the policy's own earlier stage 1, if any."""
    base = None if o.no_stage1 or problem.training is not None else read_base(problem.frozen)
    new = new_shots(o, problem)
    if base is not None:
        diffuser = PromptDiffuser(**base.diffuser.config()).to(new.table.mean.device)
    else:
        diffuser = _diffuser(o, problem)
    training = training_shots(o, problem) if problem.training is not None and not o.no_stage1 else None
    if training is None and base is None and not o.adapt_steps:
        raise ManyoneError("--adapt-steps 0 without training tasks: there is nothing to train; give --suite or --data")
    first = _recipe(o, o.ema, o.guidance_every)
    return PromptDiffuserLearner(
        diffuser,
        new,
        training,
        steps=o.steps,
        adapt_steps=o.adapt_steps,
        tasks_per_step=o.stage1_tasks,
        recipe=first,
        adapt_recipe=_recipe(o, o.adapt_ema, o.adapt_guidance_every),
        base=base,
        zero_shot=o.zero_shot,
        seed=o.seed,
        evaluate=evaluate,
    )


def _diffuser(o: DiffuserOptions, problem: AdaptationProblem) -> PromptDiffuser:
    policy = problem.frozen.model
    if not isinstance(policy, DecisionTransformer) or not policy.prompt:
        raise ManyoneError("the policy reads no prompts: give one of recipe prompt-dt")
    device = next(policy.parameters()).device
    return PromptDiffuser(
        policy.state_dim, policy.action_dim, policy.prompt, problem.horizon, layout=o.layout, steps=o.diffusion_steps,
        schedule=o.noise, prediction=o.prediction, sampler=o.sampler, embedding=o.embedding, width=o.denoiser_width,
        layers=o.denoiser_layers,
        reward=not o.no_reward, context=o.context_width if o.condition == "rtg_time_context" else 0,
        clip=o.clip or "quantiles", seed=o.seed,
    ).to(device)  # fmt: skip


def _recipe(o: DiffuserOptions, ema: float, every: int) -> Recipe:
    projection = {
        "kind": o.projection, "granularity": o.granularity, "space": o.subspace, "history": o.subspace_history,
        "energy": o.subspace_energy, "refresh": o.subspace_refresh,
    }  # fmt: skip
    return Recipe(o.losses, o.guidance_weight, projection, o.guidance, every, o.guidance_batch,
                  o.batch_size, o.lr, ema)  # fmt: skip
