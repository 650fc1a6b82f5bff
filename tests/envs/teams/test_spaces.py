"""Spaces as rows of numbers: action masks wherever they are, and what actions of every kind stand for."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from gymnasium import spaces

from manyone.envs.teams.spaces import Decoder, Encoder, acting
from manyone.errors import ManyoneError

SEEN = spaces.Box(-9, 9, (2,), np.float32)
MASK = spaces.MultiBinary(3)
VALUES, ALLOWED = np.array([1.0, -2.0], np.float32), np.array([0, 1, 1], np.int8)

WITH_MASK = {
    "observation and mask": (
        spaces.Dict(observation=SEEN, action_mask=MASK),
        {"observation": VALUES, "action_mask": ALLOWED},
        [1, -2],
    ),
    "other keys": (
        spaces.Dict(here=SEEN, action_mask=MASK, near=spaces.Discrete(3)),
        {"here": VALUES, "near": 2, "action_mask": ALLOWED},
        [1, -2, 0, 0, 1],
    ),
    "inside a dict": (
        spaces.Dict(observation=spaces.Dict(here=SEEN, action_mask=MASK), time=spaces.Box(0, 9, (1,), np.float32)),
        {"observation": {"here": VALUES, "action_mask": ALLOWED}, "time": np.array([5], np.float32)},
        [1, -2, 5],
    ),
    "inside a tuple": (
        spaces.Tuple([SEEN, spaces.Dict(action_mask=MASK, more=SEEN)]),
        (VALUES, {"action_mask": ALLOWED, "more": -VALUES}),
        [1, -2, -1, 2],
    ),
    "by another name": (
        spaces.Dict(observation=SEEN, avail_actions=MASK),
        {"observation": VALUES, "avail_actions": ALLOWED},
        [1, -2],
    ),
    "shown and not declared": (
        spaces.Dict(here=SEEN),
        {"here": VALUES, "action_mask": ALLOWED},
        [1, -2],
    ),
}


@pytest.mark.parametrize("where", WITH_MASK)
def test_a_mask_is_taken_out_wherever_it_is_and_is_no_feature(where: str) -> None:
    space, seen, features = WITH_MASK[where]
    encoder, row = Encoder(space, "agent 'a'"), np.zeros(7, np.float32)
    mask = encoder.write(seen, row)
    assert encoder.width == len(features)
    assert row.tolist() == [*features, *[0] * (7 - len(features))]
    assert mask is ALLOWED
    assert encoder.masked == (where != "shown and not declared")


def test_what_an_observation_cannot_be_is_refused_in_words() -> None:
    for space, words in (
        (spaces.Dict(action_mask=MASK), "observes nothing but action masks"),
        (spaces.Dict(a=spaces.Dict(x=SEEN, action_mask=MASK), action_mask=MASK), "observes 2 action masks"),
        (spaces.Sequence(SEEN), "no fixed width"),
    ):
        with pytest.raises(ManyoneError, match=f"agent 'a' .*{words}"):
            Encoder(space, "agent 'a'")
    with pytest.raises(
        ManyoneError, match=r"agent 'a' observed a dict of observation, action_mask; its .* shape \[2\]"
    ):
        Encoder(SEEN, "agent 'a'").write({"observation": VALUES, "action_mask": ALLOWED}, np.zeros(2))


BITS = spaces.MultiBinary(10)
PARTS = spaces.Tuple(
    [spaces.Discrete(20, start=-1), spaces.MultiDiscrete([[5, 4]], start=[[1, 0]]), spaces.MultiBinary(2)]
)
KINDS = {
    "number": (spaces.Discrete(4, start=5), [4], [3], 8),
    "few combinations": (spaces.MultiDiscrete([3, 2]), [6], [3], [1, 1]),
    "digits": (spaces.MultiDiscrete([30, 20], start=[1, -2]), [30, 20], [29, 0], [30, -2]),
    "bits": (BITS, [2] * 10, [1, 0] * 5, [1, 0] * 5),
    "whole numbers in a box": (spaces.Box(-3, np.array([4, 5]), (2,), np.int64), [8, 9], [7, 0], [4, -3]),
    "a tuple": (PARTS, [20, 5, 4, 2, 2], [0, 4, 1, 0, 1], (-1, [[5, 1]], [0, 1])),
    "a dict": (
        spaces.Dict(move=spaces.Discrete(50), say=spaces.MultiDiscrete([9])), [50, 9], [7, 8], {"move": 7, "say": [8]},
    ),
}  # fmt: skip


def plain(action):
    if isinstance(action, dict):
        return {key: plain(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(map(plain, action))
    return action.tolist() if isinstance(action, np.ndarray) else action


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_action_is_digits_and_becomes_what_its_space_holds(kind: str) -> None:
    space, digits, chosen, wanted = KINDS[kind]
    decoder = Decoder(space, "agent 'a'")
    assert list(decoder.digits) == digits
    action = decoder.decode(np.array([*chosen, 0]))  # a row may be wider
    assert plain(action) == wanted
    assert action in space
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert decoder.decode(rng.integers(0, digits)) in space


def test_floats_in_parts_are_one_continuous_action() -> None:
    space = spaces.Dict(turn=spaces.Box(-1, 1, (1,)), push=spaces.Tuple([spaces.Box(0, 5, (2,)), spaces.Box(0, 2, ())]))
    decoder = Decoder(space, "agent 'a'")
    assert (decoder.digits, decoder.low, decoder.high) == ((), (-1, 0, 0, 0), (1, 5, 5, 2))
    action = decoder.decode(np.array([-0.5, 1, 2, 1.5, 9], np.float32))
    assert action in space
    assert plain(action) == {"push": ([1, 2], 1.5), "turn": [-0.5]}


def test_actions_that_cannot_be_learnt_are_refused_in_words() -> None:
    for space, words in (
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1)]), "whole numbers and continuous entries together"),
        (spaces.Sequence(spaces.Discrete(2)), "a Sequence space"),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(3)), "a Text space"),
        (spaces.Box(-(2**60), 2**60, (1,), np.int64), "numbers of more than 65536 choices"),
        (spaces.Tuple([]), "nothing to choose"),
    ):
        with pytest.raises(ManyoneError, match=f"agent 'a' acts in .*: {words} cannot be learnt") as caught:
            Decoder(space, "agent 'a'")
        assert "\n" not in str(caught.value)
    both = [Decoder(space, "x") for space in (spaces.Discrete(2), spaces.Box(0, 1))]
    with pytest.raises(ManyoneError, match="agent 'b' has continuous actions and others discrete ones"):
        acting(both, ["agent 'a'", "agent 'b'"])


def test_masks_of_digits_are_given_side_by_side_or_one_for_each() -> None:
    digits = Decoder(spaces.MultiDiscrete([9, 8]), "agent 'a'")
    apart = np.arange(9) > 3, np.arange(8) == 2
    wanted = np.concatenate(apart)
    for mask in (wanted, wanted.astype(np.int8).tolist(), apart, list(apart), {"x": apart[0], "y": apart[1]}):
        assert np.array_equal(digits.allowed(mask), wanted)
    joint = Decoder(spaces.MultiDiscrete([3, 2]), "agent 'a'")
    both = [0, 1, 0, 1, 0, 0]
    assert joint.allowed(both).tolist() == [bool(b) for b in both], "one entry for each combination"
    for mask in ([1, 0, 1, 0, 1], ([1, 0, 1], [0, 1])):
        assert np.array_equal(np.flatnonzero(joint.allowed(mask)), [1, 5])
    square = Decoder(spaces.MultiDiscrete([2, 2]), "agent 'a'")
    assert np.flatnonzero(square.allowed(([0, 1], [1, 1]))).tolist() == [2, 3]
    for decoder, mask, words in (
        (digits, np.ones(72), "a mask of 72 entries for digits of 9, 8 choices; give one entry for each choice"),
        (digits, [0] * 9 + [1] * 8, "has no available action"),
        (joint, np.ones(7), "a mask of 7 entries for 6 actions"),
        (square, [1, 0, 1, 1], "which may be of combinations or of digits: give a tuple"),
    ):
        with pytest.raises(ManyoneError, match=f"agent 'a' .*{words}"):
            decoder.allowed(mask)
