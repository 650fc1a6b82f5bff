"""A film shows the same episode as a roll-out; where nothing can be drawn the error says what to set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("imageio")

import imageio.v3 as iio

from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Arena, Episode, rollout
from manyone.evaluation.video import record


class Still:
    def start(self, episodes: Sequence[Episode]) -> None:
        pass

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.full((len(slots), 6), 0.1)

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        pass


def test_film_has_a_picture_every_other_step_and_the_same_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shade = iter(range(0, 250, 25))

    def picture(self: Arena) -> np.ndarray:  # drawing itself needs OpenGL, which a test machine may not have
        return np.full((16, 16, 3), next(shade), np.uint8)

    monkeypatch.setattr(Arena, "picture", picture)
    monkeypatch.delenv("DISPLAY", raising=False)
    episode = Episode("cheetah-dir:0", 0, 0, 5)
    played = record(Still(), episode, tmp_path / "films" / "run.gif", 20, horizon=6)
    assert [played] == rollout(Still(), [episode], horizon=6)
    frames = iio.imread(tmp_path / "films" / "run.gif")
    assert [int(f.mean()) for f in frames] == [0, 25, 50, 75]  # the start and after 2, 4 and 6 steps
    assert iio.immeta(tmp_path / "films" / "run.gif")["duration"] == 50
    assert [p.name for p in (tmp_path / "films").iterdir()] == ["run.gif"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Gymnasium's half-made viewer
def test_without_opengl_the_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    with pytest.raises(ManyoneError, match=r"MUJOCO_GL is nothing.*set it to egl"):
        record(Still(), Episode("cheetah-dir:0"), tmp_path / "run.gif", horizon=2)
    assert list(tmp_path.iterdir()) == []


def test_other_file_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManyoneError, match=r"\.gif or \.mp4"):
        record(Still(), Episode("cheetah-dir:0"), tmp_path / "run.avi")
