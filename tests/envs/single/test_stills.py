"""A still shows the state that the observation holds, by OpenGL or without, however extreme the state is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

from manyone.envs.single import opengl
from manyone.envs.single.make import make_env
from manyone.envs.single.sketch import NEGATIVE, POSITIVE
from manyone.envs.single.stills import still, stills
from manyone.errors import ManyoneError

WIDTHS = {"gym:Hopper-v5": 11, "gym:HalfCheetah-v5": 17, "gym:Walker2d-v5": 17, "gym:Swimmer-v5": 8,
          "gym:InvertedPendulum-v5": 4, "gym:Ant-v5": 27, "gym:Humanoid-v5": 45, "cheetah-vel:3": 17}  # fmt: skip
"""Positions and velocities in an observation of each."""
HOPPER = np.array([1.25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], float)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No OpenGL: what a machine without it shows."""
    monkeypatch.setattr(opengl, "working", lambda: None)


def body(picture: np.ndarray) -> np.ndarray:
    """[k, 2]: x and y of the pixels of Hopper, brown."""
    red, green, blue = np.asarray(picture, np.int64).transpose(2, 0, 1)
    y, x = np.nonzero((red > green + 10) & (green > blue + 10))
    return np.stack([x, y], 1)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("task", WIDTHS)
def test_bodies_are_drawn_from_what_they_observe(task: str) -> None:
    env = make_env(task)
    first, _ = env.reset(seed=0)
    env.close()
    moved = first.copy()
    moved[1 if task == "gym:InvertedPendulum-v5" else 2] += 0.6  # an angle
    found = stills(task, np.stack([first, moved, first]), size=96)
    assert [p.shape for p in found.pictures] == [(96, 96, 3)] * 3
    assert np.array_equal(found.pictures[0], found.pictures[2])
    assert (found.pictures[0] != found.pictures[1]).any(-1).sum() > 40
    assert found.clipped == (False,) * 3
    assert "Pillow" in found.drawn_by
    # the state is enough: what follows it in the observation is not looked at
    (short,) = stills(task, first[None, : WIDTHS[task]], size=96).pictures
    assert np.array_equal(short, found.pictures[0])


def test_a_body_that_lies_is_wide_and_one_that_stands_is_high(monkeypatch: pytest.MonkeyPatch) -> None:
    lying = HOPPER.copy()
    lying[1] = np.pi / 2
    ways = [lambda: None] + ([opengl.working] if opengl.working() else [])
    for way in ways:
        with monkeypatch.context() as patch:
            patch.setattr(opengl, "working", way)
            found = stills("gym:Hopper-v5", np.stack([HOPPER, lying]))
        assert ("rendered by MuJoCo" in found.drawn_by) == (way() is not None)
        standing, flat = (np.ptp(body(p), axis=0) for p in found.pictures)
        assert standing[1] > 2 * standing[0]
        assert flat[0] > 2 * flat[1]


@pytest.mark.usefixtures("plain")
def test_actions_are_bars_and_arcs_in_the_colour_of_their_sign() -> None:
    def colours(picture: np.ndarray) -> tuple[int, int]:
        blue, orange = (int((np.abs(picture.astype(int) - c).sum(-1) < 40).sum()) for c in (POSITIVE, NEGATIVE))
        return blue, orange

    none = still("gym:Hopper-v5", HOPPER)
    up, down = (still("gym:Hopper-v5", HOPPER, np.full(3, a)) for a in (0.8, -0.8))
    assert up.shape == down.shape
    assert up.shape[0] > none.shape[0] == none.shape[1] == 200
    assert colours(none) == (0, 0)
    assert colours(up)[0] > 300 > colours(up)[1] == 0
    assert colours(down)[1] > 300 > colours(down)[0] == 0
    assert colours(up[:200])[0] > 60  # arcs at the joints, beside the bars below
    # units are the environment's: of InvertedPendulum's 3 N m, 1.5 are half the bar
    bars = [still("gym:InvertedPendulum-v5", np.zeros(4), [a])[200:] for a in (3.0, 1.5)]
    full, half = (colours(b)[0] for b in bars)
    assert half == pytest.approx(full / 2, rel=0.15)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("task", ["gym:Hopper-v5", "gym:Ant-v5", "gym:InvertedPendulum-v5"])
def test_extreme_states_are_drawn_and_said_to_be(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into a file here
    rng = np.random.default_rng(0)
    far = np.concatenate([10.0 ** rng.uniform(2, 12, (3, WIDTHS[task])), np.zeros((1, WIDTHS[task]))])
    found = stills(task, far, size=96)
    assert found.clipped[:3] == (True,) * 3
    assert all(len(np.unique(p.reshape(-1, 3), axis=0)) > 20 for p in found.pictures)  # a body, not a blank
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("plain")
def test_what_cannot_be_drawn_is_refused_in_a_line() -> None:
    with pytest.raises(ManyoneError, match=r"gym:InvertedDoublePendulum-v5: its observations do not hold"):
        still("gym:InvertedDoublePendulum-v5", np.zeros(9))
    with pytest.raises(ManyoneError, match="observations of width 12: its own have 11"):
        still("gym:Hopper-v5", np.zeros(12))
    with pytest.raises(ManyoneError, match=r"finite observations \[n, S\]"):
        still("gym:Hopper-v5", np.full(11, np.nan))
    with pytest.raises(ManyoneError, match=r"actions of \[1, 2\]: stills need finite ones, \[1, 3\]"):
        still("gym:Hopper-v5", HOPPER, [0, 1])
    with pytest.raises(ManyoneError, match="size 10"):
        still("gym:Hopper-v5", HOPPER, size=10)


def test_classic_control_is_drawn_by_gymnasium() -> None:
    pytest.importorskip("pygame")
    angles = np.array([0.0, 2.0])
    found = stills("gym:Pendulum-v1", np.stack([np.cos(angles), np.sin(angles), [0, 0]], 1), size=80)
    assert found.drawn_by == "drawn by Gymnasium"
    assert [p.shape for p in found.pictures] == [(80, 80, 3)] * 2
    dark = [np.nonzero((p.min(-1) < 120) & (p[..., 0] > 150))[0].mean() for p in found.pictures]
    assert dark[0] < dark[1] - 10  # upright above, turned by 2 radians below the middle
    with pytest.raises(ManyoneError, match="width 4: its own have 3"):
        still("gym:Pendulum-v1", np.zeros(4))
    with_action = still("gym:Pendulum-v1", [1, 0, 0], [2.0], size=80)
    assert np.array_equal(with_action[:80], found.pictures[0])
    assert (np.abs(with_action[80:].astype(int) - POSITIVE).sum(-1) < 40).any()


def test_discrete_actions_have_a_bar_each() -> None:
    pytest.importorskip("pygame")
    found = stills("gym:CartPole-v1", np.array([[0, 0, 0.1, 0], [0, 0, -0.3, 0]]), np.array([[0.2, 0.8], [1, 0]]), 120)
    bars = [p[80:] for p in found.pictures]
    blue = [(np.abs(b.astype(int) - POSITIVE).sum(-1) < 40) for b in bars]
    rows = [[int(part.sum()) for part in np.array_split(b[: b.shape[0] // 2 * 2], 2)] for b in blue]
    assert rows[0][1] > 3 * rows[0][0] > 0
    assert rows[1][0] > 0 == rows[1][1]
