from dataclasses import replace

import numpy as np
import pytest
from tests.behavior.students.conftest import distilled_set, frame
from tests.reference.students import module, play

from manyone.behavior.evaluate import Evaluator, StudentScores, architectures, evaluate_matrix, evaluate_students
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.students.policies import StudentPolicies
from manyone.behavior.students.training import train
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import t_interval
from manyone.evaluation.rollouts import paired_episodes

HOPPER = "gym:Hopper-v5"


@pytest.fixture(scope="module")
def hopper():
    pytest.importorskip("mujoco")
    return distilled_set(frame(HOPPER, 11, 3, horizon=40, reference=(-20.0, 3234.0)), seed=2)


def test_students_and_episodes_are_averaged_apart():
    """Property 13 of the specification: which of the two spreads it was is not hidden by one mean."""
    between = StudentScores(np.repeat([[10.0], [20.0], [30.0]], 4, 1), np.ones((3, 4), int), frame())
    assert (between.mean, between.between, between.within) == (20, 10, 0)
    within = StudentScores(np.repeat([[0.0, 20.0, 40.0]], 5, 0), np.ones((5, 3), int), frame())
    assert (within.mean, within.between, within.within) == (20, 0, 20)
    found = within.metrics()
    assert (found["students_spread"], found["episodes_spread"]) == (0, 20)
    assert found["return_low"] == found["return_high"] == 20  # over students, who are all alike
    rng = np.random.default_rng(0)
    mixed = StudentScores(rng.normal(size=(6, 7)), np.ones((6, 7), int), frame())
    assert mixed.between == pytest.approx(np.std([np.mean(row) for row in mixed.returns], ddof=1))
    assert mixed.within == pytest.approx(np.mean([np.std(row, ddof=1) for row in mixed.returns]))
    interval = t_interval([float(np.mean(row)) for row in mixed.returns])
    assert mixed.metrics()["return_low"] == pytest.approx(interval.low)


def test_one_student_s_interval_is_over_its_episodes():
    one = StudentScores(np.array([[1.0, 2.0, 6.0]]), np.ones((1, 3), int), frame())
    interval = t_interval([1.0, 2.0, 6.0])
    assert (one.between, one.metrics()["return_high"]) == (0, pytest.approx(interval.high))
    once = StudentScores(np.array([[1.0]]), np.ones((1, 1), int), frame()).metrics()
    assert (once["episodes_spread"], "return_low" in once) == (0, False)


def test_scores_go_from_random_to_expert():
    known = frame(reference=(-20.0, 80.0))
    found = StudentScores(np.array([[-20.0, 80.0], [30.0, 30.0]]), np.ones((2, 2), int), known).metrics()
    assert found["normalised"] == 0.5
    assert found["normalised_low"] <= 0.5 <= found["normalised_high"]
    assert "normalised" not in StudentScores(np.zeros((2, 2)), np.ones((2, 2), int), frame()).metrics()


def test_students_in_lock_step_play_what_each_plays_alone(hopper):
    policies = train(hopper, 3)
    with Evaluator(hopper.frame, episodes=4, students=2, seed=5) as evaluator:
        scores = evaluator(policies)
        assert evaluator(policies).returns.tolist() == scores.returns.tolist()
    assert scores.returns.shape == scores.lengths.shape == (3, 4)
    assert len(set(scores.lengths.ravel().tolist())) > 1, "some episodes end before others"
    own = hopper.frame
    for member in range(3):
        alone = module(policies.weights, member, 3)
        for place, episode in enumerate(paired_episodes([HOPPER], 4, seed=5)):
            found = play(alone, own.mean, own.deviation, "Hopper-v5", episode.seed, own.horizon)
            assert scores.returns[member, place] == pytest.approx(found[0], rel=1e-3)
            assert scores.lengths[member, place] == found[1]


def test_an_ensemble_of_equal_students_scores_as_the_student_does(hopper):
    """Property 11 of the specification, over whole episodes and to the last bit."""
    one = train(hopper, [3])
    with Evaluator(hopper.frame, episodes=5, students=1, seed=1) as evaluator:
        alone = evaluator(one).returns
        assert alone.tolist() == evaluator.ensemble(one).returns.tolist()
        for copies in (2, 10):
            weights = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in one.weights.items()}
            equal = StudentPolicies(one.frame, one.spec, weights)
            assert evaluator.ensemble(equal).returns.tolist() == alone.tolist()
        assert evaluator.ensemble(train(hopper, [3, 4])).returns.tolist() != alone.tolist()


def test_a_set_is_evaluated_by_fresh_students(hopper):
    found = evaluate_students(hopper, 3, students=[8, 9], seed=2)
    again = evaluate_students(train(hopper, [8, 9]), 3, seed=2)
    assert found.students.returns.tolist() == again.students.returns.tolist()
    assert found.ensemble.returns.shape == (1, 3)
    assert found.students.metrics()["normalised"] == pytest.approx((found.students.mean + 20) / 3254)
    with pytest.raises(ManyoneError, match="walks: no environment to act in"):
        evaluate_students(replace(hopper, frame=replace(hopper.frame, environment=None)), 1)


def test_sizes_architectures_and_optimisers_are_crossed(hopper):
    specs = architectures(StudentSpec(width=8))
    assert [(s.kind, s.layers, s.width) for s in specs.values()] == [
        *(("mlp", layers, 8) for layers in (2, 3, 4, 5, 6)),
        ("residual", 4, 8),
    ]
    sets = {"12": hopper, "4": replace(hopper, states=hopper.states[:4], actions=hopper.actions[:4])}
    with Evaluator(hopper.frame, episodes=2, students=2) as evaluator:
        few = {name: specs[name] for name in ("2 layers", "residual")}
        found = evaluate_matrix(sets, evaluator, students=2, specs=few, optimisers=("sgd", "adam"))
        assert list(found) == [(a, b, c) for a in sets for b in few for c in ("sgd", "adam")]
        assert len({scores.mean for scores in found.values()}) == len(found), "each cell is students of its own"
        own = evaluate_matrix(sets, evaluator, students=2)
        assert list(own) == [("12", "own", "sgd"), ("4", "own", "sgd")]
        assert own["12", "own", "sgd"].returns.tolist() == evaluator(train(hopper, 2)).returns.tolist()
