"""Students: shapes, the published initialisation, and the same outputs and derivatives as plain modules."""

from __future__ import annotations

import math

import pytest
import torch
from tests.reference import obd
from torch import nn

from manyone.behavior.students.network import (
    ModuleStudent,
    StudentSpec,
    make_student,
    orthogonal,
)
from manyone.errors import ManyoneError

SPECS = [
    *(StudentSpec(layers=layers, width=16) for layers in range(2, 7)),
    StudentSpec("residual", width=16),
    StudentSpec(width=16, output="softmax"),
    StudentSpec(width=16, gaussian=False),
]


def test_the_published_size():
    student = make_student(StudentSpec(width=256), 17, 6)
    assert student.parameter_count() == 139_278
    assert sum(value.numel() for value in student.init([0]).values()) == 139_278


@pytest.mark.parametrize("spec", SPECS)
def test_initial_weights(spec):
    student = make_student(spec, 5, 3)
    weights = student.init([4, 1, 9])
    for name, value in weights.items():
        if name.endswith("weight"):
            small = value @ value.mT if value.shape[1] <= value.shape[2] else value.mT @ value
            assert (small - 2 * torch.eye(small.shape[1])).abs().max() < 1e-5, name
        elif name.endswith("bias"):
            assert not value.any()
    assert ("log_std_scale" in weights) == student.gaussian
    if student.gaussian:
        assert weights["log_std_scale"].eq(1).all()
        assert weights["log_std_offset"].eq(-1).all()


def test_a_member_depends_on_its_seed_alone():
    student = make_student(StudentSpec(width=16), 5, 3)
    several, alone = student.init([4, 1, 9]), student.init([9])
    for name, value in alone.items():
        assert value[0].equal(several[name][2])
    assert not several["layers.1.weight"][0].equal(several["layers.1.weight"][1])
    module = ModuleStudent(lambda: nn.Linear(5, 3), 5, 3)
    before = torch.get_rng_state()
    assert module.init([9])["weight"][0].equal(module.init([4, 9])["weight"][1])
    assert torch.get_rng_state().equal(before)


def test_orthogonal_matrices_are_uniform():
    """The trace of a uniform orthogonal matrix has mean 0 and variance 1, det is 1 or -1 alike, entries have 1/n."""
    drawn = torch.randn(20_000, 3, 3, generator=torch.Generator().manual_seed(0))
    found = orthogonal(drawn)
    trace = found.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 0.03
    assert abs(trace.var() - 1) < 0.05
    assert abs(torch.linalg.det(found).mean()) < 0.03
    assert (found.square().mean(0) - 1 / 3).abs().max() < 0.01
    assert found.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("spec", [StudentSpec(width=128), StudentSpec("residual", width=128)])
def test_at_first_outputs_have_the_scale_of_the_state(spec):
    """Orthogonal maps times sqrt 2 keep the mean square through a ReLU; biases are 0."""
    student = make_student(spec, 11, 3)
    weights, states = student.init(range(8)), torch.randn(200, 11, generator=torch.Generator().manual_seed(0))
    mean = student.forward(weights, states).atanh()
    torch.testing.assert_close(student.forward(weights, 2 * states).atanh(), 2 * mean, rtol=1e-3, atol=1e-4)
    # W'W of the last map is 2 / 128 on each of its directions
    ratio = (mean.square().sum(2).mean() / states.square().sum(1).mean() / (2 * 3 / 128)).item()
    assert 0.7 < ratio < (1.4 if spec.kind == "mlp" else 4.5)
    assert student.forward(weights, 100 * states).abs().max() <= 1
    assert student.forward(weights, states).abs().max() < 1


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shared", [True, False])
def test_outputs_and_derivatives(spec, shared):
    """Against one member after another; derivatives by weights and states, once and twice."""
    student, generator = make_student(spec, 5, 3), torch.Generator().manual_seed(1)
    weights = {
        n: (v + 0.1 * torch.randn(v.shape, generator=generator)).double() for n, v in student.init([0, 1]).items()
    }
    states = torch.randn(*(() if shared else (2,)), 7, 5, generator=generator, dtype=torch.float64)
    noises = [None, torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)] if student.gaussian else [None]
    plain = obd.network(spec.kind, spec.output, spec.layers, 3)
    inputs = [value.requires_grad_() for value in (states, *weights.values())]
    for noise in noises:
        members = []
        for k in range(2):
            own = [value[k] for value in weights.values()]
            members.append(plain(own, states if shared else states[k], None if noise is None else noise[k]))
        wanted = torch.stack(members)
        results = [wanted, student.forward(weights, states, noise), student.plain(weights, states, noise)]
        once, twice = [], []
        for out in results:
            found = torch.autograd.grad(
                out.square().sum(), inputs, create_graph=True, allow_unused=True, materialize_grads=True
            )
            once.append(torch.cat([value.flatten() for value in found]))
            again = torch.autograd.grad(once[-1].pow(3).sum(), inputs, allow_unused=True, materialize_grads=True)
            twice.append(torch.cat([value.flatten() for value in again]))
        first = torch.autograd.grad(student.forward(weights, states, noise).square().sum(), inputs, allow_unused=True,
                                    materialize_grads=True)  # fmt: skip
        once.append(torch.cat([value.flatten() for value in first]))
        for group in (results, once, twice):
            for value in group[1:]:
                torch.testing.assert_close(value, group[0], rtol=1e-10, atol=1e-11)


def test_probabilities():
    student = make_student(StudentSpec(width=16, output="softmax"), 5, 3)
    found = student.forward(student.init([0, 1]), torch.randn(7, 5))
    assert found.shape == (2, 7, 3)
    assert (found > 0).all()
    torch.testing.assert_close(found.sum(2), torch.ones(2, 7))


def test_log_deviations_are_clamped():
    student = make_student(StudentSpec(width=16), 5, 3)
    weights, states = student.init([0]), torch.zeros(7, 5)
    noise = torch.full((7, 3), 1e-2)
    weights["log_std_offset"].fill_(50.0)
    torch.testing.assert_close(
        student.forward(weights, states, noise), torch.full((1, 7, 3), math.tanh(1e-2 * math.exp(2)))
    )
    weights["log_std_offset"].fill_(-1.0)
    torch.testing.assert_close(
        student.forward(weights, states, noise), torch.full((1, 7, 3), math.tanh(1e-2 * math.exp(-1)))
    )


def test_any_module():
    """With a buffer, dropout that is off, and noise as the second argument."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.drop = nn.Linear(5, 3), nn.Dropout(0.5)
            self.register_buffer("shift", torch.tensor(0.25))

        def forward(self, states, noise=None):
            out = self.drop(self.map(states)) + self.shift
            return torch.tanh(out if noise is None else out + noise)

    student = ModuleStudent(Own, 5, 3)
    weights, states, noise = student.init([0, 1]), torch.randn(7, 5), torch.randn(2, 7, 3)
    assert set(weights) == {"map.weight", "map.bias"}
    wanted = torch.stack([states @ weights["map.weight"][k].T + weights["map.bias"][k] + 0.25 for k in range(2)])
    torch.testing.assert_close(student.forward(weights, states), wanted.tanh())
    torch.testing.assert_close(student.forward(weights, states, noise), (wanted + noise).tanh())
    torch.testing.assert_close(student.forward(weights, states.expand(2, -1, -1)), wanted.tanh())


def test_what_is_wrong_is_said_in_one_line():
    for words, what in (
        ({"layers": 1}, "2 to 6"),
        ({"layers": 7}, "2 to 6"),
        ({"kind": "residual", "layers": 3}, "has 4"),
        ({"kind": "cnn"}, "mlp or residual"),
        ({"output": "relu"}, "tanh or softmax"),
        ({"width": 0}, "width 0"),
    ):
        with pytest.raises(ManyoneError, match=what):
            StudentSpec(**words)
    with pytest.raises(ManyoneError, match="state_dim 0"):
        make_student(StudentSpec(), 0, 3)
    student = make_student(StudentSpec(width=16, output="softmax"), 5, 3)
    with pytest.raises(ManyoneError, match="no seeds"):
        student.init([])
    with pytest.raises(ManyoneError, match="Gaussian head"):
        student.forward(student.init([0]), torch.zeros(2, 5), torch.zeros(2, 3))
    with pytest.raises(ManyoneError, match="log_std_scale"):
        student.check(student.init([0]) | {"log_std_scale": torch.ones(1)})
    with pytest.raises(ManyoneError, match=r"expected \[2, 3\]"):
        ModuleStudent(lambda: nn.Linear(5, 2), 5, 3)
    with pytest.raises(ManyoneError, match="no parameters"):
        ModuleStudent(lambda: nn.AdaptiveAvgPool1d(3), 5, 3)
