"""What adapts a frozen policy: how the policy is trained first, whose data are read, complete options of presets."""

from __future__ import annotations

import numpy as np
import pytest

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.artefact import SavedPolicy
from manyone.policies.harmodt.variants import build_model
from manyone.policies.recipes.adaptation import (
    AdaptationProblem,
    load_adaptation,
    new_shots,
    pretraining,
    training_shots,
)
from manyone.policies.recipes.options_prompt import DiffuserOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.tasks import PolicyData
from manyone.recipes.options import check_switches, with_preset


def options(**given) -> DiffuserOptions:
    return with_preset(DiffuserOptions, given)


def test_without_a_word_the_suite_is_cheetah_vel_and_with_own_shots_there_is_none():
    assert options().suite == "cheetah-vel"
    assert options(policy="p", shots=("a=b",)).suite is None
    assert (options(zero_shot=True).adapt_steps, options(zero_shot=True).eval_episodes) == (0, 16)
    paper = options(preset="paper")
    assert (paper.steps, paper.lr, paper.guidance_every, paper.guidance_weight) == (20_000, 3e-4, 1, 1.0)
    assert (paper.context, paper.prompt, paper.width, paper.layers, paper.heads) == (20, 5, 128, 3, 1)


def test_the_policy_is_trained_by_its_own_recipe_with_pooled_statistics():
    for preset, lr in (("laptop", 1e-3), ("paper", 1e-4)):
        arm = pretraining(options(preset=preset, seed=3, width=32))
        own = arm.options()
        assert arm.recipe == "prompt-dt"
        assert (own.statistics, own.seed, own.width, own.batch_size, own.lr) == ("pooled", 3, 32, 16, lr)
        assert own.steps == options(preset=preset).pretrain_steps


def test_what_does_nothing_beside_a_given_policy_is_refused():
    given = {"policy": "p", "shots": ("a=b",), "layers": 2}
    with pytest.raises(ManyoneError, match="--layers: does nothing with --policy"):
        check_switches(options(**given), given)
    check_switches(options(layers=3), {"layers": 3})


def test_windows_of_training_tasks_leave_their_prompts_out(tasks):
    made = tasks(2)
    data = PolicyData(made, context=4, prompt=3, normalisation="pooled", scale="pooled")
    model = build_model("prompt-dt", data, width=8, layers=1, heads=2)
    problem = AdaptationProblem(
        PolicyProblem("new", (made[1].select([2, 3]),), held_out=(made[1],)),
        PolicyProblem("training", tuple(made), held_out=tuple(made)),
        (made[1].select([0, 1, 4]),),
        SavedPolicy(model, data.table, None, [0, 1], {}, {}),
    )
    assert problem.horizon == max(int(one.lengths.max()) for one in made)
    given = options(policy="p", shots=("a=b",), target_return=(7.0,))
    training = training_shots(given, problem)
    assert training.pool is not None
    for task, one in enumerate(made):
        best = one.best(0.1)
        assert training.pool.count(task) == len(best)
        assert training.data.trajectories[task].episodes == one.episodes - len(best)
    everything = training_shots(options(policy="p", shots=("a=b",), hold_out="never"), problem)
    assert everything.data.trajectories[0].episodes == made[0].episodes
    shots = new_shots(given, problem)
    assert shots.pool is not None
    assert (shots.pool.count(0), shots.pool.horizon, float(shots.table.target)) == (3, problem.horizon, 7.0)


def test_own_shots_prompts_and_targets_must_fit_together(tmp_path):
    def episodes(task: str, count: int = 2) -> str:
        each = [{"observations": np.ones((9, 3)), "actions": np.zeros((9, 1)), "rewards": np.ones(9)}] * count
        folder = tmp_path / task
        if not folder.exists():
            Trajectories.from_episodes(task, each).save(folder)
        return f"{task}={folder}"

    own = {"data": (episodes("a"),), "shots": (episodes("b"),), "simulator": False, "device": "cpu"}
    problem = load_adaptation(options(**own))
    assert (problem.new.tasks, [one.episodes for one in problem.new.held_out]) == (["b"], [1])
    assert set(problem.digests(options(**own))) == {
        "--data a", "--data a, left out", "--shots, --data b", "left out of --shots, --data b"
    }  # fmt: skip
    with pytest.raises(ManyoneError, match="--prompts are of a, --shots of b: give the same"):
        load_adaptation(options(**own, prompts=(episodes("a"),)))
    with pytest.raises(ManyoneError, match="2 values of --target-return for 1 new tasks"):
        load_adaptation(options(**own, target_return=(1.0, 2.0)))
    with pytest.raises(ManyoneError, match="the policy of this run is not trained yet"):
        new_shots(options(**own), problem)
