"""The eye sees what MuJoCo's camera sees; shapes, arcs and bars are where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from manyone.envs.single.sketch import NEGATIVE, POSITIVE, Eye, Shape, draw_torque, sketch, strip

SIDE = Eye(np.array([0.5, 0.0, 1.0]), 4.0, 90.0, 0.0, 45.0, 200)


def near(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """[k, 2]: x and y of the pixels that have about this colour."""
    apart = np.abs(np.asarray(picture, np.int64) - colour).sum(-1)
    y, x = np.nonzero(apart < 30)
    return np.stack([x, y], 1)


@pytest.mark.parametrize(("azimuth", "elevation"), [(90.0, 0.0), (120.0, -25.0), (90.0, -89.0), (-40.0, 30.0)])
def test_the_eye_is_mujoco_s_free_camera(azimuth: float, elevation: float) -> None:
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    camera, scene = mujoco.MjvCamera(), mujoco.MjvScene(model, 10)
    eye = Eye(np.array([0.3, -0.2, 0.9]), 3.0, azimuth, elevation, model.vis.global_.fovy, 100)
    camera.lookat[:], camera.distance = eye.lookat, eye.distance
    camera.azimuth, camera.elevation = azimuth, elevation
    everything = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(model, mujoco.MjData(model), mujoco.MjvOption(), None, camera, everything, scene)
    theirs = (scene.camera[0].pos + scene.camera[1].pos) / 2  # a pair of eyes
    right, up, forward = eye.axes
    np.testing.assert_allclose(scene.camera[0].forward, forward, atol=1e-5)
    np.testing.assert_allclose(scene.camera[0].up, up, atol=1e-5)
    np.testing.assert_allclose(eye.lookat - eye.distance * forward, theirs, atol=1e-5)
    np.testing.assert_allclose(eye.pixels(eye.lookat), [50, 50])
    top = theirs + forward + up * np.tan(np.radians(eye.field / 2))  # at the edge of the field of view
    np.testing.assert_allclose(eye.pixels(top + 0.1 * right)[1], 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["sphere", "capsule", "cylinder", "box", "ellipsoid"])
def test_a_shape_covers_its_place_and_no_more(kind: str) -> None:
    colour = (200, 30, 30)
    shape = Shape(kind, np.array([0.8, 0.0, 1.2]), np.eye(3), np.array([0.1, 0.3, 0.2]), colour)
    found = near(sketch(SIDE, [shape], floor=0.0), colour)
    reach = {
        "sphere": (0.1, 0.1),
        "capsule": (0.1, 0.4),
        "cylinder": (0.1, 0.3),
        "box": (0.1, 0.2),
        "ellipsoid": (0.1, 0.2),
    }
    wide, high = (2 * r * SIDE.focal / 4 for r in reach[kind])
    size = found.max(0) - found.min(0)
    assert size[0] == pytest.approx(wide, abs=6)
    assert size[1] == pytest.approx(high, abs=6)
    np.testing.assert_allclose(found.mean(0), SIDE.pixels(shape.at), atol=2)


def test_the_nearer_shape_hides_the_farther() -> None:
    ball = [Shape("sphere", np.array([0.5, y, 1.0]), np.eye(3), np.full(3, 0.2), c)
            for y, c in ((0.0, (250, 0, 0)), (1.0, (0, 250, 0)))]  # fmt: skip
    for order in (ball, ball[::-1]):
        assert sketch(SIDE, order, None).getpixel((100, 100)) == (250, 0, 0)


def test_a_floor_is_below_the_horizon_and_unseen_from_beneath() -> None:
    floor = np.asarray(sketch(SIDE, [], 0.0))
    assert (floor[:90] == floor[0, 0]).all()
    assert not (floor[190] == floor[0, 0]).all()
    assert len(np.unique(np.asarray(sketch(SIDE, [], 1.5)).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_an_arc_goes_the_way_of_the_torque(turn: float) -> None:
    towards_eye = np.array([0.0, -1.0, 0.0])  # about it, positive turns are counter-clockwise in the picture
    limb = np.array([0.0, 0.0, -1.0])
    ends = {}
    for share, colour in ((0.5, POSITIVE), (-0.5, NEGATIVE)):
        picture = Image.new("RGB", (200, 200), (255, 255, 255))
        draw_torque(ImageDraw.Draw(picture), SIDE, SIDE.lookat, towards_eye, limb, 0.5, share, turn)
        ends[share] = near(picture, colour).mean(0) - 100
        other = NEGATIVE if share > 0 else POSITIVE
        assert not len(near(picture, other))
    # from below: counter-clockwise is to the right
    assert ends[0.5][0] * turn > 10
    assert ends[-0.5][0] * turn < -10
    blank = Image.new("RGB", (200, 200), (255, 255, 255))
    draw_torque(ImageDraw.Draw(blank), SIDE, SIDE.lookat, towards_eye, limb, 0.5, 0.0, turn)
    assert (np.asarray(blank) == 255).all()


@pytest.mark.parametrize("count", [3, 17])
def test_bars_have_the_action_s_side_and_length(count: int) -> None:
    shares = [0.5, -1.0, 0.0, *([0.0] * (count - 3))]
    picture = strip([f"joint {k}" for k in range(count)], shares, 400, 2)
    up, down = near(picture, POSITIVE), near(picture, NEGATIVE)
    along = 0 if count == 3 else 1  # bars lie, or stand
    sizes = [np.ptp(found[:, along]) for found in (up, down)]
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=4)
    if count == 3:
        assert up[:, 0].min() > down[:, 0].min()
    else:
        assert up[:, 1].max() <= down[:, 1].min() + 2
    same = strip([f"joint {k}" for k in range(count)], [0.5, -1.7, *([0.0] * (count - 2))], 400, 2)
    assert same.size == picture.size
    assert 0 < len(down) - len(near(same, NEGATIVE)) < len(down) / 4  # a notch: beyond the bounds
