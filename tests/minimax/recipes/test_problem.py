"""What a run reports as "train" is measured on what the clients hold, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from manyone.data.tables.partitions import partition
from manyone.data.tables.tables import load_table, split_table
from manyone.errors import ManyoneError
from manyone.minimax.estimator import DistributedAUCClassifier
from manyone.minimax.recipes.build import rounds
from manyone.minimax.recipes.options import LocalSGDAOptions
from manyone.minimax.recipes.problem import PARAMETERS, load_case


def options(**words):
    return LocalSGDAOptions(**{"clients": 2, "per_client": 10, "rounds": 60, "local_steps": 20, **words})


def test_train_figures_rate_scaling_and_calibration_are_of_the_clients_rows():
    o = options(precision="64-true")
    case = load_case(o)
    learner = rounds(o, case, "local-sgda")
    for _ in range(o.rounds):
        learner.step()
    found, z = learner.evaluate(), learner.model()

    train, test = split_table(load_table(o.data, dtype=torch.float64), test=o.test, seed=o.seed)
    held = torch.cat(partition(train.labels, 2, kind="iid", seed=o.seed, per_client=10))
    x, plus = train.features[held].numpy(), train.labels[held].numpy() == 1
    p, mean, std = plus.mean(), x.mean(0), x.std(0)

    def risk(rows, plus):
        """(primal risk, AUC): F at the best alpha, from the definition."""
        rows = (rows - mean) / std
        h = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ z[:-3].numpy()
        a, b = z[-3:-1].tolist()
        wrong = (p * h * ~plus - (1 - p) * h * plus).mean()
        squares = ((1 - p) * (h - a) ** 2 * plus + p * (h - b) ** 2 * ~plus).mean()
        alpha = wrong / (p * (1 - p))
        return squares + 2 * (1 + alpha) * wrong - p * (1 - p) * alpha**2, roc_auc_score(plus, h)

    (seen, auc), (unseen, unseen_auc) = risk(x, plus), risk(test.features.numpy(), test.labels.numpy() == 1)
    assert case.problem.p == pytest.approx(p)
    assert found["train/auc"] == auc == 1.0
    assert found["test/auc"] == pytest.approx(unseen_auc)
    assert found["train/primal_risk"] == pytest.approx(seen)
    assert found["gap"] == pytest.approx(unseen - seen)
    assert found["gap"] > 0.02
    assert sorted(torch.cat(case.parts).tolist()) == list(range(20))
    assert len(case.pool()["features"]) == 20
    slope = case.config(z)["slope"]
    assert slope * float(z.abs().max()) < 100  # separable scores have no maximum of the plain likelihood


def test_all_rows_dealt_is_the_whole_training_split_in_its_order():
    o = options(per_client=None, clients=3)
    case = load_case(o)
    train, _ = split_table(load_table(o.data, dtype=torch.float64), test=o.test, seed=o.seed)
    assert torch.equal(case.train.raw.features, train.features)
    dealt = partition(train.labels, 3, kind="iid", seed=o.seed)
    assert all(torch.equal(a, b) for a, b in zip(case.parts, dealt, strict=True))


@pytest.mark.parametrize("problem", ["auc", "neyman-pearson", "group-dro"])
def test_a_class_that_no_client_holds_is_named_with_the_way_out(problem):
    with pytest.raises(ManyoneError, match=r"none of class '.*--per-client"):
        load_case(options(problem=problem, clients=1, per_client=1, data="breast-cancer"))
    load_case(options(problem="agnostic", clients=1, per_client=1))


@pytest.mark.parametrize(
    ("words", "named", "metric"),
    [
        ({}, {"start": "from", "all rows, exactly": "to"}, "test/auc"),
        ({"model": "mlp"}, {"start": "from", "all rows, one client": ""}, "test/auc"),
        ({"problem": "gan", "data": "digits"}, {"start": "from", "the training rows": "to"}, "test/frechet"),
        ({"problem": "group-dro", "data": "digits"},
         {"start": "from", "always the largest class": "", "all rows, logistic regression": ""},
         "test/worst_class_accuracy"),
        ({"problem": "neyman-pearson"}, {"start": "from", "all rows, one client": ""}, "test/detection"),
    ],
)  # fmt: skip
def test_a_model_is_compared_with_the_start_and_with_what_needs_no_clients(words, named, metric):
    case = load_case(options(per_client=None, **words))
    points = case.points()
    assert {one.name: one.end for one in points} == named
    assert all(next(iter(one.metrics)) == metric if one.metrics else one.how for one in points)


def test_the_exact_solution_has_the_least_primal_risk():
    case = load_case(options(per_client=None, precision="64-true"))
    exact = case.problem.saddle(case.train.fields())
    least = case.figures(exact, case.train)["primal_risk"]
    learner = rounds(case.options, case, "local-sgda")
    for _ in range(20):
        learner.step()
    assert least < case.figures(learner.model(), case.train)["primal_risk"]


def test_always_the_largest_class_is_scored_on_the_test_rows():
    case = load_case(options(per_client=None, problem="group-dro", data="digits"))
    largest = next(one for one in case.points() if one.name == "always the largest class").metrics
    assert largest["test/worst_class_accuracy"] == 0
    counts = torch.bincount(case.train.labels)
    assert largest["test/accuracy"] == float((case.test.labels == counts.argmax()).double().mean())


def test_the_parameters_of_the_estimator_are_those_that_it_has():
    assert tuple(DistributedAUCClassifier().get_params()) == PARAMETERS
