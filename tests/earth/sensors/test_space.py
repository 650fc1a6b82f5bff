"""Resizing, crops and windows."""

import pytest
import torch

from manyone.earth.sensors.space import crop, gsd_after, overlap_average, resize, resize_target, windows
from manyone.errors import ManyoneError


def test_invalid_pixels_do_not_reach_their_neighbours():
    x, valid = torch.full((1, 1, 16, 16), 5.0), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    x[..., :8], valid[..., :8] = 0.0, False
    out, ok = resize(x, valid, 8)
    torch.testing.assert_close(out[ok], torch.full_like(out[ok], 5.0))
    assert not ok[..., :3].any()
    assert ok[..., 5:].all()
    assert (out[~ok] == 0).all()


def test_halving_keeps_the_mean_and_the_same_size_changes_nothing():
    x = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(x, dtype=torch.bool)
    assert resize(x, valid, 32)[0] is x
    torch.testing.assert_close(resize(x, valid, 16)[0].mean(), x.mean(), rtol=0.02, atol=0)


def test_targets_keep_their_classes():
    target = torch.tensor([[0, 255], [7, 3]], dtype=torch.uint8)
    out = resize_target(target, 6)
    assert out.dtype == torch.uint8
    assert out.unique().tolist() == [0, 3, 7, 255]
    assert torch.equal(resize_target(out, 2), target)


def test_crops_are_central_or_drawn():
    x = torch.arange(49).reshape(7, 7)
    assert crop(x, 3)[0, 0] == 16
    drawn = {int(crop(x, 3, torch.Generator().manual_seed(s))[0, 0]) for s in range(20)}
    assert len(drawn) > 5
    with pytest.raises(ManyoneError, match="size 8"):
        crop(x, 8)


def test_a_resized_pixel_is_larger_on_the_ground():
    assert gsd_after(10.0, 64, 224) == pytest.approx(10 * 64 / 224)
    assert gsd_after(None, 64, 224) is None


@pytest.mark.parametrize(("shape", "stride"), [((20, 20), 8), ((17, 23), 5), ((8, 9), 8)])
def test_averaged_windows_give_the_scene_back(shape, stride):
    scene = torch.rand(3, *shape)
    places = windows(shape, 8, stride)
    tiles = [scene[:, p.row : p.row + 8, p.column : p.column + 8] for p in places]
    torch.testing.assert_close(overlap_average(tiles, places, shape), scene)
    with pytest.raises(ManyoneError, match="stride 9"):
        windows(shape, 8, 9)
