"""How a distillation runs, in parts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from manyone.behavior.artefact import Frame
from manyone.behavior.recipes.references import points_of
from manyone.behavior.recipes.run import log_every


@pytest.mark.parametrize("sets", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("steps", [1, 400, 1000, 1500, 20_000, 50_000])
def test_every_set_is_among_the_lines(steps, sets):
    every = log_every(steps, sets)
    turns = {(step - 1) % sets for step in range(every, steps * sets + 1, every)}
    assert len(turns) == min(sets, steps * sets // every)
    assert steps * sets // every <= 2000


def points(data, reference, played, end=""):
    frame = replace(Frame.of(data), reference=reference)
    evaluator = SimpleNamespace(frame=frame, play=lambda policy: SimpleNamespace(mean=-7.0))
    return {one.name: one for one in points_of(evaluator, data, played, end)}


def test_the_way_of_students_goes_from_chance_to_a_clone_of_everything(data):
    recorded = float(data.returns[data.first].double().mean())
    played = {"teacher": {"return": 60.0}, "everything cloned": {"return": 50.0}}
    found = points(data, (0.0, 100.0), played, "/hopper")
    assert {name: one.end for name, one in found.items()} == {
        "random policy": "from", "the data's behaviour": "", "teacher": "", "everything cloned": "to", "expert": "",
    }  # fmt: skip
    assert found["everything cloned"].metrics == {"normalised/hopper": 0.5, "return/hopper": 50.0}
    assert found["the data's behaviour"].metrics["return/hopper"] == recorded
    assert found["random policy"].metrics["normalised/hopper"] == 0


def test_chance_is_played_where_nobody_knows_it(data):
    found = points(data, None, {})
    assert found["random policy"].metrics == {"return": -7.0}
    assert set(found) == {"random policy", "the data's behaviour"}
    assert points(data, (0.0, 100.0), {})["expert"].end == "to"
