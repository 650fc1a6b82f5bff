"""A film of one episode, as GIF or MP4.

MuJoCo draws through OpenGL: :mod:`manyone.envs.single.opengl` finds the one that works.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.engine.files import part_beside, writing
from manyone.envs.single import make as build
from manyone.envs.single import opengl
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Arena, BatchedPolicy, Episode, EpisodeResult

UPSIDE_DOWN = ("corner2", "corner3")  # Meta-World's cameras that are mounted the wrong way up


def record(
    policy: BatchedPolicy,
    episode: Episode,
    path: str | Path,
    fps: int = 25,
    *,
    horizon: int | None = None,
    stop_at_success: bool = False,
    every: int = 2,
    size: int = 320,
    camera: str | None = None,
) -> EpisodeResult:
    """Plays ``episode`` and writes a film of it to ``path`` (.gif or .mp4); the same course as in ``rollout``.

    ``every``-th step becomes a square picture of ``size`` pixels, shown at ``fps`` pictures a second. ``camera`` is one
    of the model's (default: a view of the table from the front for Meta-World, the model's own elsewhere).
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ManyoneError(f"{path}: a film's file name must end in .gif or .mp4")
    if every < 1 or fps < 1 or size < 16:
        raise ManyoneError(f"every {every}, fps {fps}, size {size}: must be at least 1, 1 and 16")
    iio = _imageio(path)
    options: dict[str, Any] = {"render_mode": "rgb_array", "width": size, "height": size}
    if camera is None and build.kind(episode.task) in ("metaworld", "ml1"):
        camera = "corner2"
    if camera is not None:
        options["camera_name"] = camera
    with opengl.environment(), Arena([episode.task], 1, 0, simulator=options) as arena:
        film = _Film(policy, arena, every, upside_down=camera in UPSIDE_DOWN)
        (result,) = arena.rollout(film, [episode], horizon=horizon, stop_at_success=stop_at_success)
    with writing(path), part_beside(path) as part:
        if path.suffix == ".gif":
            iio.imwrite(part / path.name, np.stack(film.pictures), duration=1000 / fps, loop=0)
        else:
            iio.imwrite(part / path.name, np.stack(film.pictures), fps=fps, macro_block_size=1)
        (part / path.name).replace(path)
    return result


class _Film:
    """A policy that takes a picture before it hands its work to another."""

    def __init__(self, policy: BatchedPolicy, arena: Arena, every: int, *, upside_down: bool) -> None:
        self.policy, self.arena, self.every, self.upside_down = policy, arena, every, upside_down
        self.pictures: list[np.ndarray] = []
        self.steps = 0

    def start(self, episodes: Any) -> None:
        self.policy.start(episodes)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> Any:
        if self.steps == 0:
            self._take()
        return self.policy.act(slots, observations)

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self.policy.reward(slots, rewards)
        self.steps += 1
        if self.steps % self.every == 0:
            self._take()

    def episode_info(self, slot: int) -> dict[str, Any]:
        tell = getattr(self.policy, "episode_info", None)
        return {} if tell is None else dict(tell(slot))

    def _take(self) -> None:
        try:
            picture = self.arena.picture()
        except Exception as problem:  # each OpenGL binding has its own way to fail
            raise opengl.refusal(problem) from problem
        self.pictures.append(picture[::-1, ::-1] if self.upside_down else picture)


def _imageio(path: Path) -> Any:
    if path.suffix == ".mp4":
        need("imageio_ffmpeg", f"{path}: .mp4 (unlike .gif)", "pip install imageio-ffmpeg")
    return need("imageio.v3", "a film", "policies")
