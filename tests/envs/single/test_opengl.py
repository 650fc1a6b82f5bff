"""The OpenGL that draws is found without touching this process; where none does, that is the answer."""

from __future__ import annotations

import os
import sys

import pytest

pytest.importorskip("mujoco")

from manyone.envs.single import opengl


def test_what_cannot_draw_is_found_out_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")  # PyOpenGL is bound to one for good: mujoco.osmesa refuses it
    before = set(sys.modules)
    assert opengl.working() is None
    assert not {name for name in set(sys.modules) - before if name.startswith(("OpenGL", "mujoco.osmesa"))}


def test_an_unknown_name_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    assert opengl.working() is None
    assert "MUJOCO_GL is nothing; KeyError" in str(opengl.refusal(KeyError()))


def test_the_choice_holds_for_the_block_alone_and_leaves_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with opengl.environment():
        assert os.environ["MUJOCO_GL"] == "glfw"
    assert os.environ["MUJOCO_GL"] == "glfw"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(opengl, "working", lambda: None)
    monkeypatch.setattr(sys, "platform", "linux")
    with opengl.environment():
        assert os.environ["MUJOCO_GL"] == "egl"
    assert "MUJOCO_GL" not in os.environ
