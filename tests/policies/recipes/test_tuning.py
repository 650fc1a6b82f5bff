"""The options of prompt-tuning, and the learner that its builder makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import EpisodeResult
from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.prompt_tuning.methods import METHODS
from manyone.policies.recipes import build_tuning
from manyone.policies.recipes.adaptation import AdaptationProblem
from manyone.policies.recipes.options_tuning import TuningOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.tasks import PolicyData
from manyone.recipes.options import check_switches, with_preset


def options_of(method: str = "lora", **given) -> TuningOptions:
    return with_preset(TuningOptions, {"method": method, **given})


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_defaults_of_its_own_and_what_is_given_wins(method):
    options = options_of(method)
    assert {name: getattr(options, name) for name in METHODS[method].defaults} == METHODS[method].defaults
    given = options_of(method, lr=0.5, steps=7)
    assert (given.lr, given.steps, given.batch_size) == (0.5, 7, 32)


def test_the_paper_preset_fine_tunes_as_published():
    full = options_of("full", preset="paper")
    assert (full.steps, full.lr, full.batch_size, full.windows) == (10, 1e-4, 256, "tail")
    assert (full.weight_decay, full.schedule) == (1e-4, "constant")
    assert options_of("lora", preset="paper").windows == "anywhere"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "prefix"}, "--method prefix: must be one of none, full, soft"),
        ({"method": "ranking", "candidates": 1}, "--candidates 1: must be 2 or more"),
        ({"spread": 0.0}, "--spread 0.0: must be above 0"),
        ({"lr": 0.0}, "--lr 0.0: must be above 0"),
        ({"prompt_count": 0}, "--prompt-count 0: must be 1 or more"),
    ],
)
def test_wrong_options_are_named(given, message):
    with pytest.raises(ManyoneError, match=message):
        options_of(**given)


@pytest.mark.parametrize(
    ("method", "name", "value", "switch"),
    [
        ("soft", "rank", 4, "--method lora"),
        ("lora", "bottleneck", 4, "--method adaptor"),
        ("gradient", "candidates", 4, "--method ranking or --method ranking-online"),
        ("ranking", "rollouts", 4, "--method ranking-online"),
    ],
)
def test_options_of_another_method_are_refused(method, name, value, switch):
    given = {"method": method, name: value}
    with pytest.raises(ManyoneError, match=f"does nothing without {switch}"):
        check_switches(with_preset(TuningOptions, given), given)


def problem_of(tasks) -> AdaptationProblem:
    made = tasks(4, states=2)
    data = PolicyData(made[2:], context=4, prompt=3, normalisation="pooled", scale="pooled")
    model = DecisionTransformer(2, 2, width=8, layers=1, heads=2, context=4, prompt=3, max_timestep=20)
    names = ("point-robot:2", "point-robot:7")
    new = tuple(replace(one.select(range(5)), name=name) for one, name in zip(made, names))
    return AdaptationProblem(PolicyProblem("new", new), policy=SavedPolicy(model, data.table, None, [0, 1], {}, {}))


@pytest.mark.parametrize("method", METHODS)
def test_the_builder_makes_the_learner_that_the_options_describe(tasks, method):
    options = options_of(method, prompt_count=2, seed=3, device="cpu", clip=0.5)
    learner = build_tuning.tuning(options, problem_of(tasks))
    assert (learner.method, learner.seed, learner.lr, learner.clip) == (method, 3, options.lr, 0.5)
    assert learner.steps_planned == options.steps
    assert learner.trained.starts["valid"].shape == (2, 2, 3)
    if method == "ranking-online":
        with pytest.raises(ManyoneError, match="ranks by episodes that prompts play"):
            learner.step()
    else:
        assert learner.step()["loss"] > 0


def test_an_online_ranking_needs_the_simulator(tasks):
    options = options_of("ranking-online", shots=("x=y",), policy="p", simulator=False)
    with pytest.raises(ManyoneError, match="cannot do without the simulator"):
        build_tuning.tuning(options, problem_of(tasks))


def test_prompts_are_scored_by_episodes_that_begin_alike(tasks):
    problem = problem_of(tasks)
    shots = build_tuning.new_shots(options_of(), problem)
    seen = []

    class Arena:
        """Notes the episodes; an episode's return is the sum of the prompt that it takes, and its seed's share."""

        def rollout(self, policy, episodes, *, horizon, stop_at_success, progress):
            seen.append(episodes)
            progress(1, 2)
            policy.start(episodes)
            turns, results = {}, []
            for episode in episodes:
                turn = turns[episode.task] = turns.get(episode.task, -1) + 1
                task = shots.names.index(episode.task)
                value = float(prompts["observations"][task, turn % 3].sum()) + episode.seed % 7
                results.append(EpisodeResult(episode, value, None, None, 1))
            return results

    class Evaluator:
        arena, horizon, stop = Arena(), 20, False

    best = shots.pool.best()
    prompts = {k: torch.stack([v, v * 2, v * 3], 1) if v.is_floating_point() else v.unsqueeze(1).expand(-1, 3, -1)
               for k, v in best.items() if k != "rewards"}  # fmt: skip
    score = build_tuning.played(shots, Evaluator(), 2, 5)
    found, again, later = score(prompts, 0), score(prompts, 0), score(prompts, 1)
    assert torch.equal(found, again)
    assert found.shape == (2, 3)
    for task, episodes in enumerate((seen[0][:6], seen[0][6:])):
        assert {e.task for e in episodes} == {shots.names[task]}
        starts = [e.seed for e in episodes]
        assert starts[:3] == [starts[0]] * 3
        assert starts[3:] == [starts[3]] * 3
        assert starts[0] != starts[3]
        share = sum(s % 7 for s in starts[::3]) / 2
        wanted = -(prompts["observations"][task].sum((-1, -2)).double() + share)
        torch.testing.assert_close(found[task], wanted, atol=1e-5, rtol=1e-6)
    assert [e.seed for e in seen[2]] != [e.seed for e in seen[0]]
    assert later.shape == (2, 3)
