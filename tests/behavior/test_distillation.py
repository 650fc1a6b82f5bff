import pytest
import torch

from manyone.behavior.coresets import initial_pairs
from manyone.behavior.distillation import Distillations, DistilLearner, distil
from manyone.behavior.inner import InnerLoop, train_students
from manyone.behavior.objectives import Objective, objective_loss
from manyone.behavior.students.network import ModuleStudent, NetworkStudent, StudentSpec, make_student
from manyone.behavior.teachers.teacher import from_functions, label
from manyone.errors import ManyoneError


def teacher(data):
    """Two functions of raw observations: a policy that is not the recorded one, and values around 1."""
    if data.choices:
        return from_functions(lambda o: o[:, :3].softmax(1), lambda o, a: 1 + o[:, :3].tanh(), data)
    return from_functions(lambda o: (o[:, 1:3] - o[:, :2]).tanh(), lambda o, a: 1 + (o[:, 0] + a[:, 0]).tanh(), data)


def learner(data, objective=None, **options):
    labels = label(teacher(data), data)
    start = initial_pairs("random", data, labels, 6, 0)
    spec = StudentSpec(layers=3, width=8, output="softmax" if data.choices else "tanh")
    defaults = {"spec": spec, "inner": InnerLoop(3, 0.3), "at_once": 2, "batch_size": 16, "seed": 3}
    return DistilLearner(data, labels, objective, start=start, **(defaults | options))


def run(one, steps=4):
    metrics = [one.step() for _ in range(steps)]
    return one.states.clone(), one.actions.clone(), metrics


@pytest.mark.parametrize("objective", [Objective("dbc"), Objective("pbc"), Objective()], ids=lambda o: o.kind)
@pytest.mark.parametrize("set_", ["data", "discrete"])
def test_the_outer_loss_falls(set_, objective, request):
    one = learner(request.getfixturevalue(set_), objective, lr=0.05, batch_size=108, inner=InnerLoop(10, 1.0))
    before = quality(one)
    run(one, 60)
    assert quality(one) < 0.9 * before


def quality(one):
    """The outer loss over everything of 20 students that the distillation has not seen."""
    weights = one.student.init(range(20))
    trained = train_students(one.student, weights, one.states, one.actions, one.inner)
    return float(objective_loss(one.student.forward(trained, one.data.states), one.targets, one.weights))


def test_with_adam_the_scale_of_the_weights_changes_nothing(data):
    small, large = (run(learner(data, Objective("av-pbc", "clamped", beta), clip=1e9)) for beta in (0.02, 0.2))
    torch.testing.assert_close(small[0], large[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(small[1], large[1], atol=1e-4, rtol=1e-4)


def test_with_sgd_it_is_a_larger_step(data):
    start = learner(data, Objective()).states
    moved = []
    for beta in (0.02, 0.2):
        one = learner(data, Objective("av-pbc", "clamped", beta), outer="sgd", lr=1e-3, clip=1e9)
        moved.append(run(one, 1)[0] - start)
    torch.testing.assert_close(10 * moved[0], moved[1], atol=1e-6, rtol=1e-3)


def test_the_gradient_is_clipped_by_its_joint_norm(data):
    one = learner(data, outer="sgd", lr=1.0, clip=1e-5)
    before = one.states.clone(), one.actions.clone()
    metrics = one.step()
    moved = [now - then for now, then in zip((one.states, one.actions), before, strict=True)]
    assert metrics["clipped"] == 1
    assert metrics["gradient_norm"] > 1e-5
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1e-5, rel=0.05)
    # each group by itself would have the length 1e-5
    assert all(float(m.norm()) < 0.999e-5 for m in moved)


def test_students_are_new_at_every_step_and_the_same_for_the_same_seed(data, monkeypatch):
    first, again, other = (run(learner(data, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    drawn, init = [], NetworkStudent.init
    monkeypatch.setattr(NetworkStudent, "init", lambda self, seeds: drawn.append(init(self, seeds)) or drawn[-1])
    run(learner(data), 3)
    found = torch.cat([weights["layers.0.weight"] for weights in drawn])
    assert len(found) == 6
    assert len({tuple(student.flatten().tolist()) for student in found}) == 6, "a student came twice"


@pytest.mark.parametrize("options", [{}, {"outer": "sgd"}, {"learn_lr": True, "learn_momentum": True},
                                     {"stochastic": True}])  # fmt: skip
def test_a_restored_learner_goes_on_bit_by_bit(data, options):
    whole, broken = learner(data, **options), learner(data, **options)
    run(broken, 3)
    restored = learner(data, **options)
    restored.load_state_dict(broken.state_dict())
    run(restored, 3)
    run(whole, 6)
    for name, value in whole.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, restored.state_dict()[name]), name
    assert torch.equal(whole.distilled().states, restored.distilled().states)


def test_rates_are_learned(data):
    one = learner(data, learn_lr=True, learn_momentum=True)
    _, _, metrics = run(one, 5)
    assert metrics[-1]["inner_lr"] != pytest.approx(0.3, rel=1e-4)
    assert one.distilled().inner.lr == pytest.approx(metrics[-1]["inner_lr"])
    assert metrics[-1]["inner_momentum"] >= 0


def test_a_state_of_weight_zero_does_not_move_the_set(data):
    labels = label(teacher(data), data)
    zero = labels.values.clone()
    zero[::2] = 0
    other = labels.actions.clone()
    other[::2] = -0.5
    sets = []
    for actions in (labels.actions, other):
        one = DistilLearner(
            data, labels._replace(actions=actions, values=zero), start=initial_pairs("random", data, labels, 6, 0),
            spec=StudentSpec(layers=3, width=8), inner=InnerLoop(3, 0.3),
        )  # fmt: skip
        sets.append(run(one)[0])
    assert torch.equal(*sets)


def test_several_sets_take_turns(data, discrete):
    both = Distillations([learner(data), learner(discrete)])
    metrics = [both.step() for _ in range(6)]
    alone = learner(data)
    run(alone, 3)
    assert torch.equal(both.learners[0].states, alone.states)
    assert set(both.distilled()) == {"walks", "choices"}
    with pytest.raises(ManyoneError, match="two data sets are called walks"):
        Distillations([learner(data), learner(data)])
    assert metrics[0]["loss"] == metrics[0][f"loss/{data.name}"]


def test_in_one_call(data):
    found = distil(data, teacher(data), size=6, steps=3, spec=StudentSpec(layers=3, width=8), inner=InnerLoop(3, 0.3),
                   progress=False)  # fmt: skip
    assert found.states.shape == (6, 5)
    assert found.info["teacher"] == "own teacher"
    assert found.info["digest"] == data.digest
    student = make_student(found.spec, 5, 2)
    trained = train_students(student, student.init([1]), found.states, found.actions, found.inner)
    assert student.forward(trained, data.states).abs().max() <= 1


def test_what_does_not_fit_is_said(data, discrete):
    with pytest.raises(ManyoneError, match="students with a softmax output"):
        learner(data, spec=StudentSpec(output="softmax"))
    with pytest.raises(ManyoneError, match=r"the synthetic set starts with \[6, 4\]"):
        learner(data).__class__(data, None, Objective("dbc"), start=(torch.zeros(6, 4), torch.zeros(6, 2)))
    with pytest.raises(ManyoneError, match="av-pbc asks for a teacher's"):
        DistilLearner(data, None, start=(torch.zeros(6, 5), torch.zeros(6, 2)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 2.5}, "size 2.5: must be a whole number from 1"),
        ({"size": "8"}, "size '8': must be"),
        ({"steps": -1}, "steps -1: must be a whole number from 0"),
        ({"init": None}, "start None: "),
        ({"at_once": 0}, "at_once 0: must be a whole number from 1"),
        ({"batch_size": 0}, "batch_size 0: must be"),
        ({"lr": 0}, "lr 0: must be a number above 0"),
        ({"lr": float("inf")}, "lr inf: must be"),
        ({"clip": float("nan")}, "clip nan: must be"),
        ({"spec": ModuleStudent(lambda: torch.nn.Linear(5, 2), 5, 2)}, "a module of your own learns from them"),
        ({"inner": 5}, r"inner 5: must be an InnerLoop"),
        ({"density": torch.ones(3)}, r"density weights \[3\]: must be \[108\]"),
    ],
)
def test_wrong_options_are_said_before_anything_is_computed(data, given, words):
    with pytest.raises(ManyoneError, match=words) as problem:
        distil(data, teacher(data), **({"size": 4, "steps": 1, "progress": False} | given))
    assert "\n" not in str(problem.value)


def test_weights_beyond_all_numbers_are_said(data):
    one = learner(data)
    one.weights = torch.full((len(data),), 1e30)
    before = one.states.detach().clone()
    with pytest.raises(
        ManyoneError, match=r"the norm of the gradient is (inf|nan).*take the weights mean-one|not finite"
    ):
        one.step()
    torch.testing.assert_close(one.states.detach(), before)
