"""Corruptions: repeatable image by image, stronger with severity, and of the right kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manyone.data.images.corruptions import (
    CORRUPTIONS,
    TEXT_CORRUPTIONS,
    TOKEN_CORRUPTIONS,
    corrupt,
    corrupt_texts,
    corrupt_tokens,
    strength,
)
from manyone.errors import ManyoneError


def images(n: int = 6, channels: int = 3, height: int = 28, width: int = 28) -> Tensor:
    """Smooth random patterns with structure at several scales, uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    fine = torch.rand(n, channels, height, width, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 0.8 + fine * 0.2
    return (x * 255).to(torch.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_keeps_type_and_shape_and_depends_on_the_index_alone(kind: str, channels: int) -> None:
    x = images(channels=channels)
    before = x.clone()
    whole = corrupt(x, kind, 3, seed=1)
    assert whole.dtype == torch.uint8
    assert whole.shape == x.shape
    assert not torch.equal(whole, x)
    assert torch.equal(x, before)
    assert torch.equal(corrupt(x, kind.replace("-", "_"), 3, seed=1), whole)
    assert torch.equal(corrupt(x[2:4], kind, 3, seed=1, first=2), whole[2:4])
    real = corrupt(x.float() / 255, kind, 3, seed=1)
    assert real.dtype == torch.float32
    assert 0 <= real.min() <= real.max() <= 1
    assert (real * 255 - whole.float()).abs().max() <= 1


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (64, 40), (224, 224)])
def test_severity_grows_at_every_size(kind: str, shape: tuple[int, int]) -> None:
    x = images(2, 3, *shape)
    damage = [(corrupt(x, kind, s).float() - x.float()).square().mean().item() for s in (1, 3, 5)]
    if kind == "spatter":  # water above, mud below: the colours differ, so only the ends compare
        assert damage[0] < damage[2]
    elif shape == (8, 8) and kind == "pixelate":
        assert damage[0] <= damage[1] <= damage[2]
    else:
        assert damage[0] < damage[1] < damage[2]


@pytest.mark.parametrize("kind", ["gaussian-noise", "shot-noise", "impulse-noise", "motion-blur", "spatter"])
def test_random_kinds_differ_by_seed_and_image(kind: str) -> None:
    x = images(1).repeat(2, 1, 1, 1)
    first, second = corrupt(x, kind, 3), corrupt(x, kind, 3, seed=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_kinds_do_what_they_say() -> None:
    flat = torch.full((4, 1, 28, 28), 0.5)
    for kind in ("gaussian-blur", "defocus-blur", "motion-blur", "pixelate", "contrast"):
        assert torch.allclose(corrupt(flat, kind, 5), flat, atol=1e-5), kind
    noise = corrupt(flat, "gaussian-noise", 5) - flat
    assert noise.std() == pytest.approx(strength("gaussian-noise", 5, 28), rel=0.05)
    hit = corrupt(flat, "impulse-noise", 5)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}
    assert (hit != 0.5).float().mean() == pytest.approx(strength("impulse-noise", 5, 28), rel=0.2)
    photons = strength("shot-noise", 5, 28)
    assert (corrupt(flat, "shot-noise", 5) - flat).var() == pytest.approx(0.5 / photons, rel=0.1)
    assert torch.allclose(corrupt(flat, "brightness", 1), flat + strength("brightness", 1, 28))
    x = images().float() / 255
    assert torch.allclose(corrupt(x, "contrast", 5).std((2, 3)), 0.15 * x.std((2, 3)), rtol=1e-3)
    assert torch.allclose(corrupt(x, "gaussian-blur", 5).mean(), x.mean(), atol=0.01)
    assert 0 < ((corrupt(flat, "spatter", 1) != flat).float().mean()) < 0.1


def test_strength_lies_between_the_published_tables() -> None:
    assert strength("gaussian-noise", 5, 32) == 0.10
    assert strength("gaussian-noise", 5, 16) == 0.10
    assert strength("gaussian-noise", 5, 224) == pytest.approx(0.38)
    assert 0.10 < strength("gaussian-noise", 5, 84) < 0.38


def test_bad_arguments() -> None:
    with pytest.raises(ManyoneError, match="unknown corruption 'fog'"):
        corrupt(images(), "fog")
    with pytest.raises(ManyoneError, match="severity is 6"):
        corrupt(images(), "jpeg", 6)
    with pytest.raises(ManyoneError, match=r"\[n, C, H, W\]"):
        corrupt(images()[0], "jpeg")
    with pytest.raises(ManyoneError, match="unknown text corruption"):
        corrupt_texts(["a"], "jpeg")
    with pytest.raises(ManyoneError, match="unknown token corruption"):
        corrupt_tokens({}, "jpeg")
    assert corrupt(images()[:0], "jpeg").shape == (0, 3, 28, 28)


TEXTS = [f"The quick brown fox number {i} jumps over the lazy dog, again and again!" for i in range(30)] + ["", "one"]


@pytest.mark.parametrize("kind", TEXT_CORRUPTIONS)
def test_texts(kind: str) -> None:
    whole = corrupt_texts(TEXTS, kind, 3, seed=2)
    assert whole == corrupt_texts(TEXTS, kind, 3, seed=2)
    assert whole[5:7] == corrupt_texts(TEXTS[5:7], kind, 3, seed=2, first=5)
    assert whole != corrupt_texts(TEXTS, kind, 3, seed=3)
    assert whole[-2:] == ["", "one"] or kind == "character-noise"
    changed = [sum(a != b for a, b in zip(TEXTS, corrupt_texts(TEXTS, kind, s))) for s in (1, 5)]
    assert changed[0] < changed[1] or changed == [30, 30]
    if kind == "word-drop":
        kept = sum(len(t.split()) for t in whole) / sum(len(t.split()) for t in TEXTS)
        assert kept == pytest.approx(0.8, abs=0.06)
        assert all(set(a.split()) <= set(b.split()) for a, b in zip(whole, TEXTS))


@pytest.mark.parametrize("kind", TOKEN_CORRUPTIONS)
def test_tokens(kind: str) -> None:
    lengths = torch.tensor([2, 9, 12, 1, 0, 12])
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = (torch.arange(12) + 100).expand(6, 12) * mask
    inputs = {"input_ids": ids, "attention_mask": mask}
    got = corrupt_tokens(inputs, kind, 5, seed=1)
    assert torch.equal(ids, (torch.arange(12) + 100).expand(6, 12) * mask)
    assert not torch.equal(got["input_ids"], ids)
    for row, own, length in zip(got["input_ids"], got["attention_mask"], lengths.tolist()):
        n = int(own.sum())
        tokens = row[:n].tolist()
        assert not row[n:].any()
        assert own[:n].all()
        assert set(tokens) <= set(range(100, 100 + length))
        assert n == length or kind == "token-drop"
        if length > 1:
            assert (tokens[0], tokens[-1]) == (100, 99 + length)
    part = corrupt_tokens({k: v[2:] for k, v in inputs.items()}, kind, 5, seed=1, first=2)
    assert torch.equal(part["input_ids"], got["input_ids"][2:])
