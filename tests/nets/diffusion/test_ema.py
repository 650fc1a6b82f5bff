"""Moving averages: the formula, its schedule, and where it goes on."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.ema import Ema


def parameters():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, generator=draw).requires_grad_(), torch.randn(4, generator=draw).requires_grad_()]


def move(values, step):
    with torch.no_grad():
        for value in values:
            value.add_(0.1 * step)


def test_it_is_the_formula_from_its_start_every_so_many_steps():
    values = parameters()
    ema, wanted = Ema(values, 0.9, every=2, start=4), [v.detach().clone() for v in values]
    for step in range(1, 11):
        move(values, step)
        ema.update(step)
        if step % 2 == 0:
            wanted = [v.detach().clone() if step <= 4 else 0.9 * w + 0.1 * v.detach() for v, w in zip(values, wanted)]
        torch.testing.assert_close(ema.values, wanted)
    assert not any(v.requires_grad for v in ema.values)
    ema.reset()
    assert all(torch.equal(a, v) for a, v in zip(ema.values, values))


def test_a_restored_average_goes_on_as_if_it_had_never_stopped():
    values = parameters()
    one, other = Ema(values, 0.9), Ema(values, 0.9)
    for step in (1, 2):
        move(values, step)
        one.update(step)
    state = one.state_dict()
    other.load_state_dict(state)
    for step in (3, 4):
        move(values, step)
        one.update(step)
        other.update(step)
    assert all(torch.equal(a, b) for a, b in zip(one.values, other.values))
    assert not torch.equal(state["0"], one.values[0])


def test_wrong_values_are_named():
    values = parameters()
    for words, message in (({"decay": 1.0}, "decay = 1.0"), ({"decay": 0.9, "every": 0}, "every = 0"),
                           ({"decay": 0.9, "start": -1}, "start = -1")):  # fmt: skip
        with pytest.raises(ManyoneError, match=message):
            Ema(values, **words)
    state = Ema(values, 0.9).state_dict()
    for broken in ({"0": state["0"]}, state | {"0": torch.zeros(2, 3)}, state | {"2": state["1"]}):
        with pytest.raises(ManyoneError, match="saved for other parameters"):
            Ema(values, 0.9).load_state_dict(broken)
