"""Gymnasium environments with tuple spaces: level-based foraging, robotic warehouse, any other."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from gymnasium import spaces
from tests.envs.teams.own_parallel import Meet, Pair

from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.copies import TeamCopies
from manyone.envs.teams.tuple import TupleCopy
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

SEEN = spaces.Box(-1, 9, (2,), np.float32)
FORAGING = "lbf:Foraging-5x5-2p-1f-coop-v3"
WAREHOUSE = "rware:rware-tiny-2ag-v2"


def courses(env, steps: int, start: int = 0) -> list:
    found = []
    for step in range(start, start + steps):
        chosen = torch.randint(0, env.spec.actions, (env.batch, env.spec.agents), generator=generator_for("t", step))
        found.append(env.step(chosen))
    return found


@pytest.mark.parametrize("name", [FORAGING, WAREHOUSE])
def test_a_loaded_state_goes_on_bit_for_bit_and_workers_change_nothing(name: str) -> None:
    pytest.importorskip(name.split(":")[0].replace("lbf", "lbforaging"))
    env = make_adapter(name, 2, workers=0, limit=9)
    env.reset(5)
    courses(env, 12)
    state = env.state_dict()
    wanted = courses(env, 10, 12)
    other = make_adapter(name, 2, workers=1, limit=9)
    other.load_state_dict(state)
    for a, b in zip(wanted, courses(other, 10, 12)):
        assert torch.equal(a.observation.observations, b.observation.observations)
        assert torch.equal(a.rewards, b.rewards)
        assert torch.equal(a.done, b.done)
    picture = other.frame(1)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3, "something is drawn"
    other.close()


def test_foraging_is_solved_when_all_food_is_loaded_and_cut_off_otherwise() -> None:
    pytest.importorskip("lbforaging")
    env = make_adapter(FORAGING, 8, workers=0)
    assert (env.spec.agents, env.spec.observation_dim, env.spec.actions, env.spec.horizon) == (2, 9, 6, 50)
    seen, solved, cut = env.reset(0).observations, 0, 0
    for _ in range(50):
        out = env.step(toward_food(seen))
        seen = out.observation.observations
        assert torch.equal(out.success, out.terminated)
        assert not (out.terminated & out.truncated).any()
        assert torch.allclose(out.rewards.sum(1), out.terminated.float()), "one food: the whole reward at the end"
        solved, cut = solved + int(out.terminated.sum()), cut + int(out.truncated.sum())
    assert solved >= 8
    idle = make_adapter(FORAGING, 1, workers=0)
    idle.reset(0)
    for _ in range(50):
        out = idle.step(torch.zeros(1, 2).long())
    assert out.truncated.all()
    assert not out.success.any()


def toward_food(seen: torch.Tensor) -> torch.Tensor:
    """North 1, south 2, west 3, east 4, load 5: first the rows, then the columns, then load beside the food.

    Entries 0, 1 of an observation are the food's place, 3, 4 the agent's own.
    """
    down, right = (seen[..., k] - seen[..., 3 + k] for k in (0, 1))
    beside = down.abs() + right.abs() == 1
    moves = torch.where(down < 0, 1, torch.where(down > 0, 2, torch.where(right < 0, 3, 4)))
    sideways = (down.abs() == 1) & (right != 0)  # never onto the food's own cell
    moves = torch.where(sideways, torch.where(right < 0, 3, 4), moves)
    return torch.where(beside, 5, moves)


def test_the_warehouse_is_cut_off_at_its_limit() -> None:
    pytest.importorskip("rware")
    env = make_adapter(WAREHOUSE + ":max_steps=4", 1, workers=0)
    assert env.spec.horizon == 4
    assert not env.spec.reports_success
    env.reset(0)
    out = courses(env, 4)[-1]
    assert out.truncated.all()
    assert not out.terminated.any()


def test_another_environment_with_tuple_spaces_and_an_end_of_its_own() -> None:
    env = TeamCopies("pair", partial(TupleCopy, Pair), 2, workers=0)
    assert env.spec.horizon == 1000
    first = env.reset(0)
    assert first.observations[0, 0, 1] != first.observations[1, 0, 1]
    for _ in range(3):
        out = env.step(torch.tensor([[0, 1], [1, 1]]))
    assert out.terminated.all()
    assert out.rewards.tolist() == [[1, 3], [1, 6]]
    assert out.final.observations[:, :, 0].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(ManyoneError, match="pair cannot be drawn: there is no drawing"):
        env.frame()


class MaskedPair(Pair):
    """Agents may not repeat the last number of their action; the second agent's mask is in the info alone."""

    observation_space = spaces.Tuple([spaces.Dict(a=SEEN, action_mask=spaces.MultiBinary(92)), spaces.Dict(a=SEEN)])
    action_space = spaces.Tuple([spaces.MultiDiscrete([90, 2]), spaces.Discrete(3)])

    def reset(self, seed=None, options=None):
        self.last = 0, 0
        seen, _ = super().reset(seed=seed)
        return seen, self._told()

    def step(self, actions):
        assert actions[0] in self.action_space[0]
        self.last = int(actions[0][1]), actions[1]
        _, *rest = super().step([self.last[0], self.last[1]])
        return self._seen(), *rest[:3], self._told()

    def _seen(self):
        first, second = super()._seen()
        mask = np.ones(92, np.int8)
        mask[90 + self.last[0]] = 0
        return {"a": first, "action_mask": mask}, {"a": second}

    def _told(self):
        return {"action_mask": [None, np.arange(3) != self.last[1]]}


def test_masks_and_digits_of_tuple_spaces() -> None:
    env = TeamCopies("pair", partial(TupleCopy, MaskedPair), 1, workers=0)
    assert (env.spec.digits, env.spec.actions, env.spec.observation_dim, env.spec.masked) == ((90, 2), 92, 2, True)
    seen = env.reset(0)
    for step in range(2):
        first, second = seen.available[0].split((90, 2), -1)[1].tolist(), seen.available[0, 1, :3].tolist()
        assert first == [[step == 1, step == 0], [True, False]], "the second agent has no second digit"
        assert second == [k != (0, 2)[step] for k in range(3)]
        assert not seen.available[0, 1, 3:90].any()
        seen = env.step(torch.tensor([[[77, 1 - step], [2 - step, 0]]])).observation
    with pytest.raises(ManyoneError, match=r"action \[1 0\] is not available to agent 'agent_1'"):
        env.step(torch.tensor([[[77, 1], [1, 0]]]))


def test_what_cannot_be_used_is_refused_in_words() -> None:
    pytest.importorskip("lbforaging")
    with pytest.raises(ManyoneError, match="lbforaging has no Foraging-nothing-v3"):
        make_adapter("lbf:Foraging-nothing-v3", 1)

    def single() -> Pair:
        env = Pair()
        env.observation_space = Meet().observation_space("a")
        return env

    with pytest.raises(ManyoneError, match="its observation_space is Box"):
        TeamCopies("single", partial(TupleCopy, single), 1)
