"""Every encoder that this project brings keeps the contract (property 13), and what cannot be loaded is said."""

import sys

import pytest
import torch

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.encoders.vit import VitSize
from manyone.earth.names import LEARNED, OWN, PIXELS, PLACES
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

RGB = tuple(Band(n, c, lam) for n, c, lam in [("R", "red", 665.0), ("G", "green", 560.0), ("B", "blue", 490.0)])
CONTEXT = Context(
    wavelengths_nm=torch.tensor([665.0, 560.0, 490.0]), bands=RGB, lonlat=torch.rand(5, 2, dtype=torch.float64) * 80
)


def of_batch(context, some):
    return Context(context.wavelengths_nm, bands=context.bands, lonlat=context.lonlat[some])


@pytest.mark.parametrize("id", OWN)
def test_every_encoder_keeps_the_contract(id):
    encoder = load_encoder(id, "random", bands=RGB)
    pixels = torch.randn(5, 3, 32, 40)
    vectors = encoder.vectors(pixels, CONTEXT)
    assert encoder.spec.id in (id, "vit-random", "rcf")
    assert not encoder.spec.trained
    assert encoder.spec.pooling in vectors
    for pooling, found in vectors.items():
        assert found.shape == (5, encoder.spec.width)
        assert torch.isfinite(found).all()
        assert torch.equal(found, encoder.vectors(pixels, CONTEXT)[pooling])
        one = encoder.vectors(pixels[2:3], of_batch(CONTEXT, slice(2, 3)))[pooling]
        torch.testing.assert_close(one, found[2:3], atol=1e-5, rtol=1e-5)
    if id in PLACES:
        return
    maps = encoder.maps(pixels, CONTEXT)
    assert len(maps) == max(1, len(encoder.spec.layers))
    assert maps[-1].shape[:2] == (5, encoder.spec.width)
    if id != "stats":
        patch = encoder.spec.patch
        assert maps[-1].shape[2:] == (-(-32 // patch), -(-40 // patch))
    for number, found in enumerate(maps):
        assert torch.isfinite(found).all()
        one = encoder.maps(pixels[2:3], of_batch(CONTEXT, slice(2, 3)))[number]
        torch.testing.assert_close(one, found[2:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("id", [i for i in OWN if i not in (*PIXELS, "lonlat", "xyz")])
def test_random_weights_depend_on_the_seed_alone(id):
    torch.manual_seed(int(torch.randint(1000, ())))
    one, same, other = (load_encoder(id, "random", bands=RGB, seed=s).digest() for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("id", LEARNED)
def test_learned_encoders_need_imagery(id, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    with pytest.raises(ManyoneError, match="imagery is missing"):
        load_encoder(id, bands=RGB)
    options = MaeOptions(
        size=VitSize(width=16, depth=1, heads=2), crop=8, decoder_width=8, decoder_depth=1, steps=2, batch_size=2,
        wave=id == "wave-small",
    )  # fmt: skip
    encoder = load_encoder(id, bands=RGB, imagery=[torch.randn(3, 16, 16)], options=options, progress=False)
    assert encoder.vectors(torch.randn(2, 3, 8, 8), CONTEXT)["mean"].shape == (2, encoder.spec.width)


def test_the_wave_variant_takes_other_bands_than_it_saw():
    encoder = load_encoder("wave-small", "random")
    context = Context(wavelengths_nm=torch.tensor([440.0, 865.0, 1610.0, 2200.0]))
    assert encoder.spec.slots is None
    assert encoder.maps(torch.randn(1, 4, 6, 6), context)[0].shape == (1, 128, 3, 3)


def test_efficientnet_maps_are_of_its_features():
    encoder = load_encoder("efficientnet-lite0", "random")
    image = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor([getattr(b, n) for b in encoder.spec.slots]).view(3, 1, 1) for n in ("mean", "std"))
    vectors = encoder.vectors((image - mean) / std, Context())
    torch.testing.assert_close(vectors["mean"], encoder.network.features(image), atol=1e-5, rtol=1e-4)
    assert [m.shape[1] for m in encoder.maps((image - mean) / std, Context())] == [40, 112, 1280]


def test_what_does_not_exist_is_said():
    with pytest.raises(ManyoneError, match="did you mean raw or raw3x3"):
        load_encoder("raw3")
    with pytest.raises(ManyoneError, match="has no weights of its own to read"):
        load_encoder("raw", "weights.pth")
    with pytest.raises(ManyoneError, match="name them"):
        load_encoder("vit-random")
    with pytest.raises(ManyoneError, match="reads red, green and blue"):
        load_encoder("efficientnet-lite0", "random", bands=RGB[:2])


@pytest.mark.parametrize("prefix", ["timm", "torchgeo", "terratorch", "open_clip"])
def test_a_missing_library_is_named_with_its_command(prefix, monkeypatch):
    for module in (prefix, f"{prefix}.models", f"{prefix}.registry"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ManyoneError, match=r"pip install 'manyone\[earth-models\]'"):
        load_encoder(f"{prefix}:any", "random")
