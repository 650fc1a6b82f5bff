from dataclasses import replace

import pytest
import torch
from tests.reference.students import cloned, module
from torch import nn

from manyone.behavior import students
from manyone.behavior.cloning import SetLearner
from manyone.behavior.inner import InnerLoop
from manyone.behavior.students.network import ModuleStudent, StudentSpec, make_student
from manyone.behavior.students.policies import save_policies
from manyone.behavior.students.training import OPTIMISERS, train
from manyone.errors import ManyoneError
from manyone.randomness import seed_for


def same(first, second, **near):
    return all(torch.allclose(first.weights[name], second.weights[name], **near) for name in first.weights)


@pytest.mark.parametrize("spec", [StudentSpec(layers=2, width=8), StudentSpec("residual", 4, 8)])
@pytest.mark.parametrize(("optimiser", "lr"), [("sgd", 0.3), ("momentum", 0.03), ("adam", 3e-3), ("adamw", 3e-3)])
def test_every_optimiser_is_really_used(walks, optimiser, lr, spec):
    """Each member is what a plain module becomes under torch's own optimiser; lr is the default."""
    policies = train(walks, [4, 9], spec=spec, optimiser=optimiser)
    first = make_student(spec, 5, 2).init([4, 9])
    probes = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    found = policies.student.forward(policies.weights, probes)
    for member in range(2):
        alone = cloned(module(first, member, 2, residual=spec.kind == "residual"), walks.states, walks.actions,
                       optimiser, lr, 6)  # fmt: skip
        torch.testing.assert_close(found[member], alone(probes).detach(), atol=1e-5, rtol=1e-4)


def test_optimisers_differ_and_momentum_builds_up(walks):
    found = {name: train(walks, 1, optimiser=name) for name in OPTIMISERS}
    each = list(found.values())
    assert not any(same(a, b) for i, a in enumerate(each) for b in each[:i])
    first, plain = train(walks, 1, optimiser="momentum", steps=1), train(walks, 1, steps=1, lr=0.03)
    assert same(first, plain, atol=1e-6)  # there is none yet in the first step
    assert "Adam 0.003" in found["adam"].info["training"]
    assert "SGD 0.03, momentum 0.9" in found["momentum"].info["training"]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_member_depends_on_its_own_seed_alone(walks, optimiser):
    together, alone = (train(walks, seeds, optimiser=optimiser) for seeds in ([5, 2, 7], [2]))
    assert same(together.member(1), alone, atol=1e-6)
    assert same(train(walks, 2, optimiser=optimiser), train(walks, [0, 1], optimiser=optimiser))
    assert not same(together.member(0), together.member(1))


def test_the_set_says_how_and_the_caller_may_differ(walks):
    assert same(train(walks, 1), train(walks, 1, optimiser="sgd", lr=0.3, steps=6))
    assert same(train(walks, 1, lr=0.1, steps=9), train(replace(walks, inner=InnerLoop(9, 0.1)), 1))
    pushed = replace(walks, inner=InnerLoop(6, 0.03, 0.9))
    assert same(train(pushed, 1), train(pushed, 1, optimiser="momentum"))
    assert same(train(pushed, 1), train(walks, 1, optimiser="momentum"), atol=1e-6)
    assert train(walks, 1, steps=0).info["training"].startswith("0 full-batch steps")


def test_a_learner_of_the_set_ends_where_training_does(walks):
    learner = SetLearner(walks, students=2, seed=3)
    for _ in range(walks.inner.steps):
        learner.step()
    seeds = [seed_for(3, "student of a set", k) for k in range(2)]
    assert same(learner.policies(), train(walks, seeds), atol=1e-6)


def test_a_module_of_the_user_s_own_is_trained_and_acts(walks, tmp_path):
    own = ModuleStudent(lambda: nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 2), nn.Tanh()), 5, 2)
    for optimiser in ("sgd", "adam"):
        policies = train(walks, 3, spec=own, optimiser=optimiser)
        assert policies.actions(torch.zeros(4, 5)).shape == (3, 4, 2)
        untrained = train(walks, 3, spec=own, optimiser=optimiser, steps=0)
        target = walks.actions
        error, before = (
            (one.student.forward(one.weights, walks.states) - target).square().mean() for one in (policies, untrained)
        )
        assert error < before
    with pytest.raises(ManyoneError, match="student of your own has no artefact"):
        save_policies(tmp_path, policies)


def test_what_cannot_be_trained_is_refused_in_a_line(walks):
    for words, message in [
        ({"optimiser": "sgdm"}, "optimiser 'sgdm': must be one of sgd, momentum, adam, adamw"),
        ({"seeds": 0}, "seeds 0: give at least one"),
        ({"spec": StudentSpec(output="softmax")}, "a softmax output: the actions of walks need tanh"),
        ({"spec": make_student(StudentSpec(), 4, 2)}, "from 4 to 2 numbers: walks needs 5 and 2"),
        ({"lr": float("nan")}, "inner lr nan"),
        ({"steps": -1}, "inner steps -1"),
    ]:
        with pytest.raises(ManyoneError, match=message):
            train(walks, **words)


def test_training_has_a_public_name():
    assert students.train is train


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seeds": 2.5}, "seeds 2.5: must be a number of students, or a list of whole numbers"),
        ({"seeds": "ab"}, "seeds 'ab': must be"),
        ({"spec": "mlp"}, r"spec 'mlp': must be a StudentSpec, e.g. StudentSpec\(kind='mlp'\)"),
        ({"steps": 10**9}, "inner steps 1000000000: must be a whole number from 0 to 100000"),
        ({"lr": 1e30, "steps": 40}, "students diverged in 40 steps of SGD 1e\\+30: lower the lr"),
    ],
)
def test_wrong_arguments_and_students_that_diverge_are_said(walks, given, words):
    with pytest.raises(ManyoneError, match=words):
        train(walks, **({"seeds": 2} | given))


def test_a_module_student_is_given_what_makes_modules_of_the_right_width():
    with pytest.raises(ManyoneError, match=r"ModuleStudent of a module: give what makes one, e.g. lambda: Linear"):
        ModuleStudent(nn.Linear(5, 2), 5, 2)
    with pytest.raises(ManyoneError, match=r"does not take states \[2, 4\]: mat1 and mat2"):
        ModuleStudent(lambda: nn.Linear(5, 2), 4, 2)
