"""Small offline data whose best policy is known."""

from __future__ import annotations

import pytest
import torch

from manyone.behavior.data import BehaviorData


def behavior(states, actions, rewards, following, terminals, episode, *, choices=0, has_next=None):
    """A ``BehaviorData`` of plain tensors, standardised already."""
    n, width = states.shape
    starts = torch.zeros(int(episode.max()) + 1).index_add_(0, episode, rewards.float())
    ones = torch.ones(actions.shape[1])
    return BehaviorData(
        name="tiny",
        environment=None,
        states=states.float(),
        actions=actions.float(),
        rewards=rewards.float(),
        next_states=following.float(),
        has_next=torch.ones(n, dtype=torch.bool) if has_next is None else has_next,
        terminals=terminals,
        episode=episode,
        returns=starts[episode],
        mean=torch.zeros(width),
        deviation=torch.ones(width),
        low=None if choices else -ones,
        high=None if choices else ones,
        choices=choices,
        horizon=10,
        digest="0" * 64,
    )


def random_data(n=40, states=3, actions=2, choices=0, seed=0):
    """Any numbers, in episodes of five steps of which every other one ends in a terminal state."""
    g = torch.Generator().manual_seed(seed)
    episode = torch.arange(n) // 5
    terminals = (torch.arange(n) % 10) == 4
    moves = torch.randn(n, actions, generator=g).tanh()
    if choices:
        moves = torch.nn.functional.one_hot(torch.randint(choices, (n,), generator=g), choices)
    s, after = torch.randn(2, n, states, generator=g)
    return behavior(s, moves, torch.randn(n, generator=g), after, terminals, episode, choices=choices)


def bandit(n=2000, choices=0, seed=0):
    """Contextual, one step: the best action is sign(s) / 2 (or, of two choices, 1 where s > 0); recorded at random."""
    g = torch.Generator().manual_seed(seed)
    s = torch.randn(n, 1, generator=g)
    best = s.sign() / 2
    if choices:
        chosen = torch.randint(2, (n,), generator=g)
        actions, rewards = torch.nn.functional.one_hot(chosen, 2), (chosen == (s[:, 0] > 0)).float()
    else:
        actions = torch.rand(n, 1, generator=g) * 2 - 1
        rewards = 1 - (actions - best)[:, 0].square()
    done = torch.ones(n, dtype=torch.bool)
    return behavior(s, actions, rewards, s, done, torch.arange(n), choices=choices)


def chain(n=2000, choices=0, seed=0):
    """Five places on a line; right of the last one there are 10, left of the first 1, then the episode ends.

    Going right is best from everywhere although left is nearer from the second place: only who looks ahead learns it.
    ``choices`` 2: left or right. Continuous: a > 0 goes right, otherwise left.
    """
    g = torch.Generator().manual_seed(seed)
    rows, episode, place, number = [], 0, 2, 0
    while len(rows) < n or number:
        a = float(torch.rand((), generator=g)) * 2 - 1
        after = place + (1 if a > 0 else -1)
        over = after in (-1, 5)
        rows.append((place, a, 10.0 if after == 5 else 1.0 if after == -1 else 0.0, after, over, episode))
        number += 1
        place = after
        if over:
            episode, place, number = episode + 1, int(torch.randint(5, (), generator=g)), 0
    place, a, r, after, over, episode = (torch.tensor(column) for column in zip(*rows))
    actions = torch.nn.functional.one_hot((a > 0).long(), 2) if choices else a[:, None]
    states, following = (torch.nn.functional.one_hot(x.clamp(0, 4).long(), 5) for x in (place, after))
    return behavior(states, actions, r, following, over, episode, choices=choices)


@pytest.fixture
def tiny():
    """The makers of this file by name."""
    return {"random": random_data, "bandit": bandit, "chain": chain, "behavior": behavior}
