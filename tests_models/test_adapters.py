"""Adapters of other libraries with random weights (property 13): shapes, finite, deterministic, alone as in a batch.

No network is used. Large models are built, run once on one or two images and let go.
"""

from __future__ import annotations

import pytest
import torch

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.libraries.slots import sentinel1, sentinel2
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

S2 = sentinel2()
SIX = sentinel2(["B2", "B3", "B4", "B8A", "B11", "B12"])
MODELS = [  # id, bands, (height, width), width of a vector, grid of the last map
    ("timm:vit_tiny_patch16_224", SIX, (64, 96), 192, (4, 6)),
    ("timm:vit_small_patch14_dinov2", None, (56, 70), 384, (4, 5)),
    ("timm:vit_small_patch16_dinov3", None, (64, 96), 384, (4, 6)),
    ("timm:resnet18", S2, (64, 96), 512, (2, 3)),
    ("timm:resnet50", S2, (64, 64), 2048, (2, 2)),
    ("timm:convnext_tiny", SIX, (64, 96), 768, (2, 3)),
    ("timm:convnextv2_atto", SIX, (64, 64), 320, (2, 2)),
    ("timm:swin_tiny_patch4_window7_224", None, (224, 224), 768, (7, 7)),
    ("torchgeo:resnet18", S2, (64, 96), 512, (2, 3)),
    ("torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO", None, (64, 64), 2048, (2, 2)),
    ("torchgeo:ResNet50_Weights.SENTINEL1_ALL_MOCO", None, (64, 64), 2048, (2, 2)),
    ("torchgeo:ResNet18_Weights.SENTINEL2_RGB_SECO", None, (64, 64), 512, (2, 2)),
    ("torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO", None, (64, 96), 384, (4, 6)),
    ("torchgeo:ViTSmall16_Weights.LANDSAT_OLI_SR_MOCO", None, (64, 64), 384, (4, 4)),
    ("torchgeo:Swin_V2_B_Weights.SENTINEL2_SI_MS_SATLAS", None, (64, 96), 1024, (2, 3)),
    ("torchgeo:dofa_small_patch16_224", None, (224, 224), 384, (14, 14)),
    ("torchgeo:DOFABase16_Weights.DOFA_MAE", None, (224, 224), 768, (14, 14)),
    ("torchgeo:croma_base", None, (120, 120), 768, (15, 15)),
    ("torchgeo:croma_base", sentinel1(), (120, 120), 768, (15, 15)),
    ("torchgeo:scalemae_large_patch16", None, (224, 224), 1024, (14, 14)),
    ("torchgeo:copernicusfm_base", None, (224, 224), 768, (14, 14)),
    ("torchgeo:panopticon_vitb14", None, (224, 224), 768, (16, 16)),
    ("terratorch:prithvi_eo_tiny", None, (64, 96), 256, (4, 6)),
    ("terratorch:prithvi_eo_v2_tiny_tl", None, (64, 96), 192, (4, 6)),
    ("terratorch:prithvi_eo_v1_100", None, (64, 64), 768, (4, 4)),
    ("terratorch:prithvi_eo_v2_300_tl", None, (64, 64), 1024, (4, 4)),
    ("terratorch:terramind_v1_tiny", None, (224, 224), 192, (14, 14)),
    ("terratorch:terramind_v1_base", None, (224, 224), 768, (14, 14)),
    ("terratorch:timm_clay_v1_base", None, (256, 256), 768, (32, 32)),
    ("terratorch:convnextv2_atto", None, (64, 96), 320, (2, 3)),
    ("open_clip:ViT-B-32", None, (224, 224), 768, (7, 7)),
    ("open_clip:RemoteCLIP-ViT-B-32", None, (224, 224), 768, (7, 7)),
    ("open_clip:RemoteCLIP-RN50", None, (224, 224), 2048, (7, 7)),
]


def context_of(bands: tuple[Band, ...], count: int) -> Context:
    nan = float("nan")
    return Context(
        wavelengths_nm=torch.tensor([b.center_nm or nan for b in bands]),
        bandwidths_nm=torch.tensor([b.fwhm_nm or nan for b in bands]),
        bands=bands, gsd_m=10.0, time=torch.full((count, 1), 19_000.0), lonlat=torch.full((count, 2), 12.0),
    )  # fmt: skip


NAMES = [f"{m[0]}-{len(m[1] or ())}" for m in MODELS]


@pytest.mark.parametrize(("id", "bands", "size", "width", "grid"), MODELS, ids=NAMES)
def test_the_contract_is_kept(id, bands, size, width, grid):
    encoder = load_encoder(id, "random", bands=bands)
    slots = encoder.spec.slots or SIX
    pixels = torch.randn(2, len(slots), *size, generator=torch.Generator().manual_seed(0))
    maps, vectors = encoder.features(pixels, context_of(slots, 2))
    assert len(maps) == len(encoder.spec.layers) == 4
    assert tuple(maps[-1].shape[2:]) == grid
    assert maps[-1].shape[1] == width == encoder.spec.width
    assert encoder.spec.pooling in vectors
    assert {"mean", "max"} <= vectors.keys()
    one_maps, one = encoder.features(pixels[1:], context_of(slots, 1))
    for pooling, found in vectors.items():
        assert found.shape == (2, width)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(one[pooling], found[1:], atol=1e-5, rtol=1e-4)
        assert (found[0] - found[1]).abs().max() > 0, "the same for any image"
    for found, alone in zip(maps, one_maps, strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(alone, found[1:], atol=1e-5, rtol=1e-4)
    again = encoder.features(pixels[1:], context_of(slots, 1))
    assert all(torch.equal(a, b) for a, b in zip(again.maps, one_maps, strict=True))


@pytest.mark.parametrize("id", ["torchgeo:dofa_small_patch16_224", "torchgeo:panopticon_vitb14"])
def test_the_order_of_bands_does_not_matter_to_models_of_any_bands(id):
    encoder, order = load_encoder(id, "random"), [3, 0, 5, 1, 4, 2]
    x = torch.randn(1, 6, 224, 224)
    one = encoder.vectors(x, context_of(SIX, 1))["mean"]
    other = encoder.vectors(x[:, order], context_of(tuple(SIX[k] for k in order), 1))["mean"]
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_doubling_the_bands_changes_dofa():
    encoder, x = load_encoder("torchgeo:dofa_small_patch16_224", "random"), torch.randn(1, 6, 224, 224)
    one = encoder.vectors(x, context_of(SIX, 1))["mean"]
    two = encoder.vectors(x.repeat(1, 2, 1, 1), context_of(SIX * 2, 1))["mean"]
    assert (one - two).norm() > 0.05 * one.norm()


def test_scale_maes_positions_follow_the_ground_sampling_distance():
    from torchgeo.models.scale_mae import get_2d_sincos_pos_embed_with_resolution as positions

    wide = positions(64, 7, torch.tensor([1.0])).view(7, 7, 64)
    narrow = positions(64, 4, torch.tensor([2.0])).view(4, 4, 64)
    assert torch.equal(narrow, wide[::2, ::2])


def test_cromas_bias_is_symmetric_and_falls_with_distance():
    bias = load_encoder("torchgeo:croma_base", "random").network.attn_bias[0]
    assert torch.equal(bias, bias.transpose(1, 2))
    assert bias.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert bias.max() <= 0
    slopes = -bias[:, 0, 1]
    assert (slopes[1:] < slopes[:-1]).all()


def test_prithvi_takes_several_dates_with_and_without_their_times():
    encoder = load_encoder("terratorch:prithvi_eo_v2_tiny_tl", "random")
    x = torch.randn(2, 3, 6, 64, 64)
    times = torch.tensor([[18_000.0, 18_100, 18_300]] * 2)
    context = Context(gsd_m=30, time=times, lonlat=torch.tensor([[10.0, 50.0]] * 2))
    told = encoder.features(x, context)
    assert told.maps[-1].shape == (2, 192, 4, 4)
    assert (told.vectors["mean"] - encoder.vectors(x, Context())["mean"]).abs().max() > 1e-4
    alone = encoder.features(x[:, :1], Context(time=times[:, :1]))
    torch.testing.assert_close(alone.vectors["mean"], encoder.vectors(x[:, 0], Context(time=times[:, :1]))["mean"])


def test_slots_say_what_a_checkpoint_was_trained_on():
    moco = load_encoder("torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO", "random").spec
    assert [b.name for b in moco.slots] == [b.name for b in S2]
    assert {(b.unit, b.mean, b.std) for b in moco.slots} == {("refl_dn", 0.0, 10_000.0)}
    satlas = load_encoder("torchgeo:Swin_V2_B_Weights.SENTINEL2_SI_MS_SATLAS", "random").spec
    assert [(b.name, b.unit, b.std) for b in satlas.slots][2:4] == [("B2", "dn8", 255.0), ("B5", "refl_dn", 8160.0)]
    prithvi = load_encoder("terratorch:prithvi_eo_tiny", "random").spec
    assert [b.name for b in prithvi.slots] == ["B2", "B3", "B4", "B8A", "B11", "B12"]


def test_clip_compares_images_with_texts():
    clip = load_encoder("open_clip:ViT-B-32", "random")
    images, texts = clip.embed_images(torch.randn(3, 3, 224, 224)), clip.embed_texts(["a forest", "a river"])
    assert (images @ texts.T).shape == (3, 2)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    assert clip.scale > 1


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("timm:resnet18", "weights='random'"),
        ("torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO", "weights='random'"),
        ("torchgeo:resnet50", "sets of weights: name one of them"),
        ("torchgeo:dofa_small_patch16_224", "0 sets of weights"),
        ("torchgeo:unet", "not among the encoders"),
        ("torchgeo:ResNet50_Weights.NOTHING", "no weights of this torchgeo"),
        ("terratorch:prithvi_eo_v2_300", "weights='random'"),
        ("terratorch:dofa_base_patch16_224", "use torchgeo:NAME"),
        ("terratorch:terramind_v1_base_tim", "no encoder of terratorch"),
        ("open_clip:ViT-B-32", "name one"),
        ("open_clip:RemoteCLIP-ViT-B-32", "weights='random'"),
        ("timm:resnet1234567", "no model of timm"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(id, message):
    with pytest.raises(ManyoneError, match=message) as problem:
        load_encoder(id)
    assert "\n" not in str(problem.value)


def test_weights_of_a_file_are_loaded_strictly(tmp_path):
    first = load_encoder("timm:resnet18", "random", seed=1)
    torch.save(first.network.state_dict(), tmp_path / "weights.pth")
    assert load_encoder("timm:resnet18", tmp_path / "weights.pth").digest() == first.digest()
    with pytest.raises(ManyoneError, match="weights of another model"):
        load_encoder("timm:resnet34", tmp_path / "weights.pth")
