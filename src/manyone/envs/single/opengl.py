"""Which OpenGL draws on this machine: MuJoCo's pictures need one, and each binding has its own way to fail.

``MUJOCO_GL`` names one: ``glfw`` (a display), ``egl`` (none needed; a GPU, or Mesa in software) or ``osmesa`` (Mesa in
software). Where it is not set, each is tried in a process of its own: an OpenGL library that was loaded once decides
what the others can do in that process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from manyone.engine.extras import need
from manyone.engine.modules import python
from manyone.errors import ManyoneError

_PROBE = """
import importlib, sys
import mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
_SECONDS = 60.0
"""A library that has not drawn by then (a display that does not answer) does not draw."""
ADVICE = "set it to egl or osmesa before Python starts, with libegl1 or libosmesa6 installed, or to glfw with a display"
"""How OpenGL comes to work."""


def working() -> str | None:
    """The first of glfw (with a display), egl and osmesa that draws here, or ``MUJOCO_GL`` if it does; else None."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    given = os.environ.get("MUJOCO_GL", "").lower()
    if given:
        candidates: tuple[str, ...] = (given,) if given in ("glfw", "egl", "osmesa") else ()
    elif sys.platform == "linux":
        candidates = (*(("glfw",) if display else ()), "egl", "osmesa")
    else:
        candidates = ("glfw",)
    return _first(candidates, os.environ.get("PYOPENGL_PLATFORM", ""))


@functools.lru_cache
def _first(candidates: tuple[str, ...], platform: str) -> str | None:
    """``platform``: what PyOpenGL is bound to already in this process, and with it in the probes'."""
    return next((name for name in candidates if _draws(name)), None)


def _draws(name: str) -> bool:
    command = python("-c", _PROBE, name)
    try:
        done = subprocess.run(
            command, env=os.environ | {"MUJOCO_GL": name}, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """``MUJOCO_GL`` as :func:`working` says, for Gymnasium, which reads it when it draws for the first time."""
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        yield
        return
    os.environ["MUJOCO_GL"] = working() or "egl"  # where nothing works: what the error message tells to install
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]


@contextlib.contextmanager
def context(name: str, size: int) -> Iterator[Any]:
    """MuJoCo's own OpenGL context of the library ``name``, current within the block."""
    made = need(f"mujoco.{name}", "a picture", "policies").GLContext(size, size)
    try:
        made.make_current()
        yield made
    finally:
        made.free()


def refusal(problem: BaseException) -> ManyoneError:
    """What to do where drawing failed with ``problem``."""
    name = os.environ.get("MUJOCO_GL", "not set")
    kind = type(problem).__name__
    return ManyoneError(f"cannot draw: OpenGL does not work here (MUJOCO_GL is {name}; {kind}); {ADVICE}")
