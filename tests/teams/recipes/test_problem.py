"""How much a run evaluates: within a share of its training, what is asked for first of all at the end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamSpec
from manyone.teams.recipes.options import CommFormerOptions, IndependentOptions
from manyone.teams.recipes.problem import plan_evaluations


def spec_of(horizon: int, agents: int = 2) -> TeamSpec:
    return TeamSpec("any", agents, 3, 5, horizon=horizon)


def test_long_episodes_do_not_make_evaluation_outweigh_training():
    options = IndependentOptions(env="rware:rware-tiny-2ag-v2", envs=32, length=50, iterations=200)
    plan = plan_evaluations(options, spec_of(500))  # 11 evaluations of 200 such episodes are 1.1 million steps
    assert plan.steps <= 0.35 * 320_000
    assert (plan.every, plan.times) == (0, 1)
    assert plan.episodes == 192  # six of all 32 copies, and one for the film


def test_what_fits_is_left_as_it_was_asked_for():
    options = CommFormerOptions()  # predator-prey of five
    plan = plan_evaluations(options, spec_of(20, 5))
    assert (plan.every, plan.episodes, plan.times) == (options.evaluate_every, options.eval_episodes, 11)
    assert plan.points == (0, 1, 2, 3, 4)
    everything = plan_evaluations(
        IndependentOptions(iterations=200, envs=32, length=50, evaluate_every=20, evaluate_share=10.0), spec_of(500)
    )
    assert (everything.every, everything.episodes, everything.times) == (20, 200, 11)


SIZES = st.integers(1, 60)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow to draw
@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 30), st.integers(2, 300), st.floats(0, 2), st.booleans(), SIZES)
def test_the_plan_stays_within_the_share_or_is_one_round_of_all_copies(
    envs, length, iterations, horizon, every, episodes, share, film, agents
):
    options = CommFormerOptions(
        env="relay", envs=envs, length=length, iterations=iterations, evaluate_every=every, eval_episodes=episodes,
        evaluate_share=share, film=film,
    )  # fmt: skip
    plan = plan_evaluations(options, spec_of(horizon, agents))
    copies = min(envs, episodes)
    allowed = max(share * envs * length * iterations, 10_000)
    least = (1 + film) * copies * horizon
    assert plan.steps <= max(allowed, least)
    assert 1 <= plan.episodes <= episodes
    assert plan.every == 0 or plan.every >= every
    made = {0, *range(plan.every, iterations, plan.every)} if plan.every else set()
    assert plan.times == len(made) + 1
    rounds = [-(-count // copies) for count in [plan.episodes] * plan.times + [plan.point_episodes] * len(plan.points)]
    assert plan.steps == (sum(rounds) + film + plan.random) * copies * horizon


def test_a_dry_run_counts_the_steps_of_evaluation(manyone):
    words = ("--env", "predator-prey:predators=2,limit=500", "--envs", "32", "--length", "10", "--iterations", "100")
    code, out, err = manyone("run", "ippo", *words, "--dry-run")
    assert code == 0, err
    assert "evaluation: 1 times 32 greedy episodes: at most 32,000 steps, 100% of training's" in out
    code, out, err = manyone("run", "ippo", *words, "--evaluate-share", "40", "--dry-run")
    assert "evaluation: 11 times 200 greedy episodes, one every 10 iterations: at most 1,264,000 steps" in out


@pytest.mark.parametrize("share", ["0", "0.1"])
def test_a_run_plays_no_more_than_its_plan_says(manyone, monkeypatch, share):
    steps: dict[int, int] = {}
    kept = {}

    def counting(name, batch, **options):
        env = make_team(name, batch, **options)
        kept[id(env)], step = env, env.step

        def counted(actions):
            steps[id(env)] = steps.get(id(env), 0) + env.batch
            return step(actions)

        env.step = counted
        return env

    monkeypatch.setattr("manyone.teams.recipes.problem.make_team", counting)
    code, out, err = manyone(
        "run", "commformer", "--env", "predator-prey:predators=3,limit=40", "--envs", "16", "--length", "10",
        "--iterations", "50", "--eval-episodes", "64", "--width", "8", "--epochs", "1", "--graph", "random",
        "--evaluate-share", share, "--out", "r",
    )  # fmt: skip
    assert code == 0, err
    assert "evaluation: " in out
    training = 16 * 10 * 50
    assert training in steps.values()
    assert sum(steps.values()) - training <= 10_000
