"""The gradient through the inner training: all modes agree, with the plain formulation and with finite differences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.reference import obd
from torch import Tensor, nn

from manyone.behavior.derivatives import by_autograd, by_hand
from manyone.behavior.inner import InnerLoop, MetaGradient, meta_gradient, train_students
from manyone.behavior.students.network import ModuleStudent, Student, StudentSpec, make_student
from manyone.errors import ManyoneError

S, A, N, B = 5, 3, 7, 9
MLP = StudentSpec(width=8)
SPECS = {
    **{f"mlp-{layers}": StudentSpec(layers=layers, width=8) for layers in range(2, 7)},
    "residual": StudentSpec("residual", width=8),
    "softmax": StudentSpec(layers=3, width=8, output="softmax"),
    "residual-softmax": StudentSpec("residual", width=8, output="softmax"),
    "plain-tanh": StudentSpec(layers=3, width=8, gaussian=False),
}
MODES = ("unrolled", "stored", "recompute", "segments", "auto")


def small_module() -> nn.Module:
    """Smooth, and of layers that the networks by hand do not have."""
    return nn.Sequential(nn.Linear(S, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, A), nn.Tanh())


class Case:
    """A student with random weights, a synthetic set, and an outer loss on other states."""

    def __init__(self, student: Student, members: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        self.student, self.members, self.dtype = student, members, dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = {
            name: (value + 0.1 * self.draw(*value.shape).float()).to(dtype)
            for name, value in student.init(range(members)).items()
        }
        self.states, self.actions = self.draw(N, S), self.draw(N, A).tanh()
        if isinstance(student, ModuleStudent) or student.spec.output == "tanh":
            self.target = self.draw(B, A).tanh()
        else:
            self.actions, self.target = self.draw(N, A).softmax(1), self.draw(B, A).softmax(1)
        self.outer_states = self.draw(B, S)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def outer(self, weights: Mapping[str, Tensor]) -> Tensor:
        return (self.student.forward(weights, self.outer_states) - self.target).square().mean()

    def gradient(self, inner: InnerLoop, **changed: Any) -> MetaGradient:
        given = {"weights": self.weights, "states": self.states, "actions": self.actions, "rates": True, **changed}
        outer = given.pop("outer", self.outer)
        weights, states, actions = (given.pop(name) for name in ("weights", "states", "actions"))
        return meta_gradient(self.student, weights, states, actions, outer, inner, **given)


def network_case(name: str, members: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Case:
    student = ModuleStudent(small_module, S, A) if name == "module" else make_student(SPECS[name], S, A)
    return Case(student, members, dtype, seed)


def close(found: MetaGradient, wanted: MetaGradient, tolerance: float) -> None:
    """Equal to within ``tolerance`` of the largest entry."""
    for field in ("loss", "states", "actions", "lr", "momentum"):
        a, b = getattr(found, field), getattr(wanted, field)
        assert (a - b).abs().max() <= tolerance * b.abs().max(), field
    for name, value in wanted.weights.items():
        torch.testing.assert_close(found.weights[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", [*SPECS, "module"])
def test_all_modes_agree(name, members, momentum):
    case = network_case(name, members)
    inner = InnerLoop(steps=5, lr=0.3, momentum=momentum, mode="unrolled")
    wanted = case.gradient(inner)
    assert wanted.states.abs().max() > 1e-4
    for mode in MODES[1:]:
        close(case.gradient(replace(inner, mode=mode)), wanted, 1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["mlp-2", "mlp-4", "residual", "softmax", "module"])
def test_all_modes_agree_in_float32(name, momentum):
    """On a training that does not blow rounding up, as autograd's own against float64 shows."""
    case = network_case(name, 3, torch.float32, seed=2)
    inner = InnerLoop(steps=5, lr=0.1, momentum=momentum, mode="unrolled")
    wanted = case.gradient(inner)
    assert wanted.states.dtype == torch.float32
    for mode in MODES[1:]:
        close(case.gradient(replace(inner, mode=mode)), wanted, 1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", SPECS)
def test_it_is_what_plain_autograd_gives_for_one_student(name, momentum):
    case, spec = network_case(name), SPECS[name]
    plain = obd.network(spec.kind, spec.output, spec.layers, A)
    weights = [value[0] for value in case.weights.values()]

    def outer(trained: list[Tensor]) -> Tensor:
        return ((plain(trained, case.outer_states, None) - case.target) ** 2).mean()

    found = case.gradient(InnerLoop(steps=4, lr=0.3, momentum=momentum))
    wanted = obd.unrolled(plain, weights, case.states, case.actions, outer, 4, 0.3, momentum)
    for a, b in zip((found.loss, found.states, found.actions, found.lr, found.momentum), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    trained = obd.train(plain, weights, case.states, case.actions, 4, 0.3, momentum)
    for a, b in zip(found.weights.values(), trained, strict=True):
        torch.testing.assert_close(a[0], b, rtol=1e-10, atol=1e-12)


def differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """Central finite differences of a scalar function by every entry of ``at``."""
    found = torch.empty_like(at)
    for place in range(at.numel()):
        ends = []
        for sign in (1, -1):
            moved = at.clone()
            moved.view(-1)[place] += sign * step
            ends.append(function(moved))
        found.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["mlp-2", "mlp-4", "mlp-6", "residual", "softmax", "module"])
def test_finite_differences(name, momentum):
    """Property 2 of the method: T = 4, width 8, to 1e-5."""
    case = network_case(name, 2, seed=1)
    inner = InnerLoop(steps=4, lr=0.3, momentum=momentum)
    found = case.gradient(inner)

    def loss(states: Tensor, actions: Tensor, loop: InnerLoop) -> Tensor:
        return case.outer(train_students(case.student, case.weights, states, actions, loop))

    def close_to(value: Tensor, wanted: Tensor) -> None:
        assert (value - wanted).abs().max() <= 1e-5 * max(wanted.abs().max(), 1e-3)

    # a step so small that no ReLU of any inner step turns over within it: there H jumps
    close_to(found.states, differences(lambda s: loss(s, case.actions, inner), case.states))
    close_to(found.actions, differences(lambda a: loss(case.states, a, inner), case.actions))

    def by_lr(value: Tensor) -> Tensor:
        return loss(case.states, case.actions, replace(inner, lr=float(value)))

    def by_momentum(value: Tensor) -> Tensor:
        return loss(case.states, case.actions, replace(inner, momentum=float(value)))

    close_to(found.lr, differences(by_lr, torch.tensor(0.3, dtype=torch.float64)))
    if momentum:  # 0 is the end of its range
        close_to(found.momentum, differences(by_momentum, torch.tensor(0.9, dtype=torch.float64)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mlp-3", "module"])
def test_no_steps_no_gradient(name, mode):
    case = network_case(name, 2)
    found = case.gradient(InnerLoop(steps=0, mode=mode))
    assert found.loss == case.outer(case.weights)
    for value in (found.states, found.actions, found.lr, found.momentum):
        assert not value.any()
    for key, value in case.weights.items():
        assert found.weights[key].equal(value)


@pytest.mark.parametrize("mode", MODES)
def test_one_step_of_a_linear_student_in_closed_form(mode):
    """w_1 = w_0 - 2 alpha / (N A) S'(S w_0 - A), and dH/dA = 2 alpha / (N A) S dH/dw_1."""
    case = Case(ModuleStudent(lambda: nn.Linear(S, A, bias=False), S, A))
    found = case.gradient(InnerLoop(steps=1, lr=0.4, mode=mode))
    first = case.weights["weight"][0].T
    wanted = obd.linear_step(first, case.states, case.actions, 0.4).requires_grad_()
    torch.testing.assert_close(found.weights["weight"][0].T, wanted.detach(), rtol=1e-12, atol=1e-14)
    loss = ((case.outer_states @ wanted - case.target) ** 2).mean()
    (by_weights,) = torch.autograd.grad(loss, wanted)
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.actions, 2 * 0.4 / (N * A) * case.states @ by_weights, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["mlp-4", "residual", "module"])
def test_the_order_of_the_pairs_does_not_matter(name):
    case = network_case(name, 2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    inner = InnerLoop(steps=4, lr=0.3, momentum=0.5)
    found, moved = case.gradient(inner), case.gradient(inner, states=case.states[order], actions=case.actions[order])
    torch.testing.assert_close(moved.states, found.states[order], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(moved.actions, found.actions[order], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["mlp-4", "softmax", "module"])
def test_every_pair_twice_trains_the_same_student(name):
    """The loss is a mean; each copy gets half of the gradient."""
    case, inner = network_case(name, 2), InnerLoop(steps=4, lr=0.3)
    states, actions = case.states.repeat(2, 1), case.actions.repeat(2, 1)
    found, doubled = case.gradient(inner), case.gradient(inner, states=states, actions=actions)
    for key, value in found.weights.items():
        torch.testing.assert_close(doubled.weights[key], value, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(2 * doubled.states, found.states.repeat(2, 1), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(2 * doubled.actions, found.actions.repeat(2, 1), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mlp-4", "module"])
def test_students_side_by_side_are_the_mean_of_single_ones(name, mode):
    case, inner = network_case(name, 3), InnerLoop(steps=4, lr=0.3, momentum=0.9, mode=mode)
    found = case.gradient(inner)
    single = [case.gradient(inner, weights={n: v[k : k + 1] for n, v in case.weights.items()}) for k in range(3)]
    for field in ("loss", "states", "actions", "lr", "momentum"):
        mean = torch.stack([getattr(one, field) for one in single]).mean(0)
        torch.testing.assert_close(getattr(found, field), mean, rtol=1e-9, atol=1e-14)
    for key, value in found.weights.items():
        torch.testing.assert_close(value, torch.cat([one.weights[key] for one in single]), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("spec", [StudentSpec(layers=3, width=8), StudentSpec("residual", width=8)])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_students_that_draw_their_actions(spec, members, momentum):
    """Stored noise: the modes agree, with the plain formulation too, and the head for log-deviations learns."""
    case, steps = Case(make_student(spec, S, A), members), 4
    noise, last = case.draw(steps, members, N, A), case.draw(members, B, A)

    def outer(weights: Mapping[str, Tensor]) -> Tensor:
        return (case.student.forward(weights, case.outer_states, last) - case.target).square().mean()

    inner = InnerLoop(steps=steps, lr=0.3, momentum=momentum, mode="unrolled")
    wanted = case.gradient(inner, outer=outer, noise=noise)
    for mode in MODES[1:]:
        close(case.gradient(replace(inner, mode=mode), outer=outer, noise=noise), wanted, 1e-10)
    for name in ("log_std_scale", "log_std_offset"):
        assert (wanted.weights[name] != case.weights[name]).all()

    plain = obd.network(spec.kind, spec.output, spec.layers, A)
    results = []
    for k in range(members):

        def own(trained: list[Tensor], k: int = k) -> Tensor:
            return ((plain(trained, case.outer_states, last[k]) - case.target) ** 2).mean()

        weights = [value[k] for value in case.weights.values()]
        results.append(obd.unrolled(plain, weights, case.states, case.actions, own, steps, 0.3, momentum, noise[:, k]))
    for place, field in enumerate(("loss", "states", "actions", "lr", "momentum")):
        mean = torch.stack([one[place] for one in results]).mean(0)
        torch.testing.assert_close(getattr(wanted, field), mean, rtol=1e-9, atol=1e-13)


def test_noise_drawn_anew_on_the_way_back_gives_another_gradient():
    """What the authors' program does: not the gradient of the training that was run."""
    case, plain = Case(make_student(MLP, S, A)), obd.network("mlp", "tanh", 4, A)
    noise, other = case.draw(4, N, A), case.draw(4, N, A)
    weights = [value[0] for value in case.weights.values()]

    def outer(trained: list[Tensor]) -> Tensor:
        return ((plain(trained, case.outer_states, None) - case.target) ** 2).mean()

    found = case.gradient(InnerLoop(steps=4, lr=0.3, momentum=0.5, mode="recompute"), noise=noise)
    back = partial(obd.recompute, plain, weights, case.states, case.actions, outer, 4, 0.3, 0.5, noise)
    same, anew = back(noise), back(other)
    torch.testing.assert_close(found.states, same[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.actions, same[1], rtol=1e-9, atol=1e-13)
    assert (found.states - anew[0]).norm() > 0.1 * found.states.norm()


def test_noise_shared_by_the_members():
    case = Case(make_student(MLP, S, A), 3)
    noise = case.draw(4, N, A)
    for mode in ("stored", "unrolled"):
        inner = InnerLoop(steps=4, lr=0.3, mode=mode)
        each = noise.unsqueeze(1).expand(-1, 3, -1, -1)
        close(case.gradient(inner, noise=noise), case.gradient(inner, noise=each), 1e-12)


@pytest.mark.parametrize("name", ["mlp-4", "residual", "softmax", "module"])
def test_each_member_may_have_a_set_of_its_own(name):
    case, inner = network_case(name, 3), InnerLoop(steps=4, lr=0.3, momentum=0.9)
    states, actions = case.draw(3, N, S), case.draw(3, N, A)
    found = train_students(case.student, case.weights, states, actions, inner)
    for k in range(3):
        own = {key: value[k : k + 1] for key, value in case.weights.items()}
        alone = train_students(case.student, own, states[k], actions[k], inner)
        for key, value in alone.items():
            torch.testing.assert_close(found[key][k], value[0], rtol=1e-10, atol=1e-13)


def test_buffers_are_used_again_and_nothing_of_them_is_left_over():
    case, other = network_case("mlp-4", 2), Case(make_student(MLP, S, A), 2, seed=5)
    inner = InnerLoop(steps=5, lr=0.3, momentum=0.9, mode="segments")
    first = case.gradient(inner)
    changed = {"weights": other.weights, "states": other.states, "actions": other.actions}
    between = case.gradient(inner, **changed)
    assert not between.states.equal(first.states)

    def fails(weights: Mapping[str, Tensor]) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        case.gradient(inner, outer=fails)
    again = case.gradient(inner)
    for field in ("loss", "states", "actions", "lr", "momentum"):
        assert getattr(again, field).equal(getattr(first, field)), field


def test_threads_share_a_student():
    case, inner = network_case("mlp-4", 2), InnerLoop(steps=20, lr=0.3, mode="stored")
    sets = [(case.draw(N, S), case.draw(N, A)) for _ in range(4)]
    wanted = [case.gradient(inner, states=states, actions=actions) for states, actions in sets]
    found: dict[int, MetaGradient] = {}

    def work(place: int) -> None:
        for _ in range(5):
            found[place] = case.gradient(inner, states=sets[place][0], actions=sets[place][1])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[place].states.equal(one.states) for place, one in enumerate(wanted))


@pytest.mark.parametrize("module", [False, True])
def test_auto_takes_what_fits_into_the_memory(module, monkeypatch):
    case = network_case("module" if module else "mlp-4", 2)
    where, lengths = by_autograd if module else by_hand, []
    real = where.meta_gradient

    def spy(*args: Any, every: int, **words: Any) -> MetaGradient:
        lengths.append(every)
        return real(*args, every=every, **words)

    monkeypatch.setattr(where, "meta_gradient", spy)
    weights = sum(value.nbytes for value in case.weights.values()) / 2**30
    step = by_autograd.memory_of_a_step(case.student.forward, case.weights, case.states, case.actions, None) / 2**30
    for memory in (1.0, 16 * weights + 2 * step, weights):
        case.gradient(InnerLoop(steps=16, lr=0.1, memory=memory))
    assert lengths == [16, 1, 4]


def test_what_does_not_fit_is_said_in_one_line():
    case = network_case("mlp-3", 2)
    inner = InnerLoop(steps=2)
    for changed, what in (
        ({"states": case.states[:, :2]}, "student needs"),
        ({"actions": case.actions[:3]}, "student needs"),
        ({"states": case.states[:0], "actions": case.actions[:0]}, "at least 1"),
        ({"noise": case.draw(3, N, A)}, "noise"),
        ({"weights": {**case.weights, "layers.0.bias": case.weights["layers.0.bias"][:, :4]}}, "layers.0.bias"),
        ({"states": case.states.expand(2, -1, -1), "actions": case.actions.expand(2, -1, -1)}, "a set is"),
        ({"outer": lambda w: w["layers.0.bias"]}, "scalar"),
    ):
        with pytest.raises(ManyoneError, match=what) as found:
            case.gradient(inner, **changed)
        assert "\n" not in str(found.value)
    for words in ({"steps": -1}, {"steps": 1.5}, {"lr": -0.1}, {"lr": float("nan")}, {"momentum": 1.0},
                  {"mode": "fast"}, {"memory": 0}):  # fmt: skip
        with pytest.raises(ManyoneError, match=str(*words.values())):
            InnerLoop(**words)


def test_a_training_that_diverges_is_an_error():
    case = network_case("mlp-4", 1, torch.float32)
    with pytest.raises(ManyoneError, match="lower the inner lr"):
        case.gradient(InnerLoop(steps=20, lr=1e30))
