"""How a distillation runs, in parts."""

from __future__ import annotations

import pytest

from manyone.behavior.recipes.run import log_every


@pytest.mark.parametrize("sets", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("steps", [1, 400, 1000, 1500, 20_000, 50_000])
def test_every_set_is_among_the_lines(steps, sets):
    every = log_every(steps, sets)
    turns = {(step - 1) % sets for step in range(every, steps * sets + 1, every)}
    assert len(turns) == min(sets, steps * sets // every)
    assert steps * sets // every <= 2000
