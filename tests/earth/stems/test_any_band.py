"""Stems that take any bands: rsfm.md section 9, property 3, and their own rules."""

import pytest
import torch
import torch.nn.functional as F
from tests.reference import earth_stems as reference

from manyone.data.rasters.bands import Band
from manyone.earth.stems.channels import ChannelStem, channel_id
from manyone.earth.stems.clay import ClayStem, acquisition
from manyone.earth.stems.dynamic import CODE, RADAR_NM, DynamicStem
from manyone.earth.stems.fourier import FourierStem, Metadata, fourier_expansion, resize_kernel
from manyone.earth.stems.positions import sincos
from manyone.earth.stems.wave import WaveStem
from manyone.errors import ManyoneError

NM = torch.tensor([442.7, 492.4, 559.8, 664.6, 832.8, 1613.7, 2202.4])
WIDE = torch.tensor([21.0, 66, 36, 31, 106, 91, 175])


def images(bands=7, size=32):
    return torch.randn(2, bands, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def stems():
    wave, dofa, clay = WaveStem(8, 16), DynamicStem(16, 16), ClayStem(24, 8)
    fourier, channels = FourierStem(16, 16), ChannelStem(16, 8, inner=48, heads=4)
    return {
        "wave": wave, "dofa": dofa, "panopticon": channels,
        "clay": lambda x, nm: clay(x, nm, 10.0),
        "copernicus": lambda x, nm: fourier(x, nm, WIDE[: len(nm)] if len(nm) == 7 else WIDE.repeat(2)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["wave", "dofa", "panopticon", "clay"])
def test_the_order_of_the_bands_does_not_matter(name):
    stem, x = stems()[name], images()
    order = torch.randperm(7)
    with torch.no_grad():
        assert (stem(x, NM) - stem(x[:, order], NM[order])).abs().max() < 1e-6 * max(1, float(stem(x, NM).abs().max()))


def test_the_order_does_not_matter_with_bandwidths_either():
    stem, x, order = FourierStem(16, 16), images(), torch.randperm(7)
    with torch.no_grad():
        torch.testing.assert_close(stem(x, NM, WIDE), stem(x[:, order], NM[order], WIDE[order]), rtol=0, atol=2e-6)


def test_doubling_every_band_leaves_the_wave_stem_and_changes_dofa():
    x, both = images(), torch.cat([NM, NM])
    with torch.no_grad():
        wave, dofa = WaveStem(8, 16), DynamicStem(16, 16)
        torch.testing.assert_close(wave(torch.cat([x, x], 1), both), wave(x, NM), rtol=1e-4, atol=1e-5)
        exact, y = wave.double(), x.double()
        assert (exact(y, NM) - exact(torch.cat([y, y], 1), both)).abs().max() < 1e-12
        one = dofa(x, NM)
        assert (dofa(torch.cat([x, x], 1), both) - one).norm() / one.norm() > 0.1


def test_the_wave_stem_is_what_its_formula_says():
    stem, x = WaveStem(4, 5), images(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(stem(x, NM[:3]), reference.wave_tokens(stem, x, NM[:3]), rtol=1e-4, atol=1e-5)


def test_panopticon_is_what_its_formula_says():
    stem, x = ChannelStem(6, 4, inner=24, heads=2), images(3, 8)
    ids = torch.tensor([664.6, -1.0, -6.0])
    with torch.no_grad():
        for p in (stem.transmit, stem.receive, stem.orbit):
            p.normal_()
        torch.testing.assert_close(stem(x, ids), reference.channel_tokens(stem, x, ids), rtol=1e-4, atol=1e-5)


def test_radar_bands_have_ids_of_their_own():
    assert channel_id(Band("VV", "vv")) == -1
    assert channel_id(Band("HV", "hv")) == -4
    assert channel_id(Band("VH", "vh", orbit="ascending")) == -6
    assert channel_id(Band("HV", "hv", orbit="descending")) == -12
    assert channel_id(Band("B4", "red", 664.6)) == 664.6
    with pytest.raises(ManyoneError, match="band DEM"):
        channel_id(Band("DEM", "dem"))
    stem = ChannelStem(6, 4, inner=24, heads=2)
    with torch.no_grad():
        stem.orbit.copy_(torch.stack([torch.ones(8), 3 * torch.ones(8)]))
        table = stem.embedding(torch.tensor([-1.0, -5.0, -9.0]))
    assert table[:, -1].tolist() == [2, 1, 3]
    with pytest.raises(ManyoneError, match="-1 to -12"):
        stem(images(1, 8), torch.tensor([-13.0]))


def test_dofa_pads_by_one_pixel_and_keeps_the_count_of_tokens():
    stem = DynamicStem(8, 16)
    with torch.no_grad():
        assert stem(torch.zeros(1, 2, 224, 224), torch.tensor([RADAR_NM, RADAR_NM])).shape == (1, 196, 8)
        x = images(2)
        kernel, bias = stem.writer(sincos(NM[:2], CODE))
        assert kernel.shape == (8, 2, 16, 16)
        plain = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, bias, stride=16)
        torch.testing.assert_close(stem(x, NM[:2]), plain.flatten(2).transpose(1, 2))


def test_dofas_kernel_follows_its_rules():
    writer = DynamicStem(4, 2).writer
    codes = sincos(NM, CODE)
    with torch.no_grad():
        kernel, bias = writer(codes)
        u = codes + F.relu(writer.second(F.relu(writer.first(codes))))
        z = writer.layer(torch.cat([writer.weight_tokens, u, writer.bias_token])[None])[0]
        torch.testing.assert_close(bias, 0.01 * writer.to_bias(z[-1]))
        one = 0.01 * writer.to_kernel(z[128 + 3] + u[3]).reshape(2, 2, 4)
        torch.testing.assert_close(kernel[:, 3], one.permute(2, 0, 1))
    assert writer.to_kernel.bias[0].item() == pytest.approx(0.01)
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in writer.modules())


def test_fourier_expansions_reach_from_nanometres_to_radar():
    values = torch.tensor([442.7, 55465763.0])
    code = fourier_expansion(values, 128, 100.0, 1e9)
    assert code.dtype == torch.float32
    periods = torch.logspace(2, 9, 64, dtype=torch.float64)
    wanted = torch.sin(2 * torch.pi * values[1].double() / periods)
    torch.testing.assert_close(code[1, :64], wanted.float(), rtol=0, atol=1e-6)


def test_a_resized_kernel_sees_the_resized_image_as_before():
    kernel = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    patch = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    grown = F.interpolate(patch, size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(F.conv2d(grown, resize_kernel(kernel, 8)), F.conv2d(patch, kernel))
    assert resize_kernel(kernel, 4) is kernel
    with torch.no_grad():
        assert FourierStem(8, 16)(images(), NM, WIDE, patch=8).shape == (2, 16, 8)


def test_unknown_metadata_are_learned_each_for_itself():
    meta = Metadata(16)
    nan = float("nan")
    lonlat = torch.tensor([[10.0, 50.0], [nan, nan]])
    with torch.no_grad():
        for p in meta.unknown.values():
            p.normal_()
        both = meta(lonlat, torch.tensor([nan, 19000.0]), torch.tensor([1.0, 1.0]))
        alone = meta(lonlat[:1], torch.tensor([nan]), torch.tensor([1.0]))
        torch.testing.assert_close(both[:1], alone)
        assert torch.isfinite(both).all()
        place = meta.linear["place"](meta.unknown["place"])
        known = meta(lonlat[:1], torch.tensor([19000.0]), torch.tensor([1.0]))
        elsewhere = meta(torch.tensor([[nan, nan]]), torch.tensor([19000.0]), torch.tensor([1.0]))
        assert not torch.allclose(known, elsewhere)
        rest = meta.linear["time"](fourier_expansion(torch.tensor([19000.0]), 16, 1.0, 365.25)) + meta.linear["area"](
            fourier_expansion(torch.tensor([1.0]), 16, 1e-3, 5.1e8)
        )
        torch.testing.assert_close(elsewhere, rest + place)


def test_clay_adds_scale_time_and_place():
    stem, x = ClayStem(24, 8), images()
    with torch.no_grad():
        plain = stem(x, NM, 10.0)
        later = stem(x, NM, 10.0, torch.tensor([100.25, 200.5]), torch.tensor([[0.0, 45.0], [90.0, -45.0]]))
        assert torch.equal(plain[..., :16], later[..., :16])
        facts = acquisition(2, torch.tensor([100.25, 200.5]), torch.tensor([[0.0, 45.0], [90.0, -45.0]]))
        torch.testing.assert_close(later[..., 16:] - plain[..., 16:], facts[:, None].expand(-1, 16, -1))
        assert not torch.allclose(stem(x, NM, 20.0)[..., :16], plain[..., :16])
    assert facts[0, 2:4].tolist() == pytest.approx([1, 0], abs=1e-6)  # a quarter of a day: six in the morning
    assert facts[1, 4:6].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


@pytest.mark.parametrize("name", ["wave", "dofa", "clay"])
def test_a_band_without_a_wavelength_is_told(name):
    with pytest.raises(ManyoneError, match="a band has none"):
        stems()[name](images(2), torch.tensor([442.7, float("nan")]))
    with pytest.raises(ManyoneError, match="for 2 bands"):
        stems()[name](images(2), NM)


@pytest.mark.parametrize("name", ["wave", "dofa", "panopticon", "clay", "copernicus"])
def test_stems_train_and_have_the_same_output_for_one_and_many(name):
    stem, x = stems()[name], images()
    tokens = stem(x, NM)
    tokens.square().mean().backward()
    torch.testing.assert_close(stem(x[:1], NM), tokens[:1].detach() * 1, rtol=1e-5, atol=1e-5)
