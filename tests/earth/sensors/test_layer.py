"""The sensor layer as a whole: rsfm.md section 9, properties 2 and 7, and what it says of doubtful inputs."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from tests.earth.sensors.bands import L7, PRITHVI, S2, S2_12

from manyone.data.rasters.bands import Band
from manyone.earth.sensors.layer import fit, plan
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.spec import ModelSpec
from manyone.errors import ManyoneError

MEANS, STDS = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0), (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
SLOTS = tuple(replace(b, mean=m, std=s) for b, m, s in zip(PRITHVI, MEANS, STDS, strict=True))
SPEC = ModelSpec("prithvi2", SLOTS, 1024, unit="refl_dn", size=32, patch=16, frames=(1, 4))
ONE = replace(SPEC, frames=(1, 1))
ANY = ModelSpec("any", None, 64, unit="refl", needs=frozenset({"wavelength"}))


def pixels(bands, *, size=32, n=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, len(bands), size, size, generator=g) * 4000 + 100


def test_model_statistics_in_the_models_unit():
    x = pixels(S2)
    out, context = plan(S2, ONE, LayerOptions(normalise="model")).apply(x, gsd_m=10.0)
    wanted = (x[:, [1, 2, 3, 8, 11, 12]] - torch.tensor(MEANS)[:, None, None]) / torch.tensor(STDS)[:, None, None]
    torch.testing.assert_close(out, wanted)
    assert out.dtype == torch.float32
    assert context.gsd_m == 10.0
    assert context.wavelengths_nm.tolist() == pytest.approx([492.4, 559.8, 664.6, 864.7, 1613.7, 2202.4])


def test_reflectance_and_offset_counts_give_the_same_input():
    x = pixels(S2)
    options = LayerOptions(normalise="model")
    plain = plan(S2, ONE, options).apply(x)[0]
    for unit, other in (("refl", x / 10_000), ("refl_dn_off", x + 1000)):
        bands = [replace(b, unit=unit) for b in S2]
        torch.testing.assert_close(plan(bands, ONE, options).apply(other)[0], plain, rtol=1e-4, atol=1e-4)


def test_zero_after_normalisation_is_slicing_the_weights():
    """Property 2: exact, in float32."""
    source = tuple(b for b in S2 if b.name not in ("B8", "B8A", "B11"))
    x = pixels(source)
    kernel = torch.randn(16, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    mean, _ = plan(source, ONE, LayerOptions(missing="mean", normalise="model")).apply(x)
    sliced, context = plan(source, ONE, LayerOptions(missing="slice", normalise="model")).apply(x)
    kept = context.more["slots"]
    assert kept.tolist() == [0, 1, 2, 5]
    assert (mean[:, [3, 4]] == 0).all()
    assert torch.equal(mean[:, kept], sliced)
    whole = F.conv2d(mean.double(), kernel.double(), stride=4)
    part = F.conv2d(sliced.double(), kernel[:, kept].double(), stride=4)
    assert (whole - part).abs().max() < 1e-12
    dense = F.unfold(mean, 4, stride=4).reshape(2, 6, 16, -1)
    # the same sum with and without its zero terms: no difference at all
    assert torch.equal(
        sum(dense[:, c, :, :].mul(kernel[0, c].flatten()[:, None]).sum(1) for c in range(6)),
        sum(dense[:, c, :, :].mul(kernel[0, c].flatten()[:, None]).sum(1) for c in kept.tolist()),
    )


def test_invalid_pixels_are_zero_and_do_not_count():
    bands = [replace(b, nodata=-9999.0) for b in S2]
    x = pixels(S2)
    x[:, :, :4] = -9999.0
    x[0, 3, 10, 10] = torch.nan
    made = fit(plan(bands, ONE), [(x, None)])
    out, context = made.apply(x)
    assert (out[:, :, :4] == 0).all()
    assert out[0, 2, 10, 10] == 0
    assert out[0, 1, 10, 10] != 0
    assert not context.more["valid"][:, :, :4].any()
    seen = x[:, 3, 4:]
    assert made.statistics.mean[2] == pytest.approx(float(seen[~seen.isnan()].double().mean()))
    clean = fit(plan(S2, ONE), [(x[:, :, 12:], None)])
    assert clean.statistics.count == (2 * 20 * 32,) * 6


def test_the_train_split_gives_zero_mean_and_unit_std():
    x = pixels(S2, n=6)
    made = fit(plan(S2, ONE), [(x[:3], None), (x[3:], None)])
    out, context = made.apply(x)
    rows, lines = made.check(out, context)
    assert [r.mean for r in rows] == pytest.approx([0] * 6, abs=1e-5)
    assert [r.std for r in rows] == pytest.approx([1] * 6, abs=1e-5)
    assert lines == []
    low = fit(plan(S2, ONE, LayerOptions(normalise="minmax")), [(x, None)]).apply(x)[0]
    assert (float(low.min()), float(low.max())) == (0.0, 1.0)


def test_a_wrong_unit_is_told_after_normalisation():
    """Pitfall 1: reflectances given to a model of counts, or counts taken for reflectances."""
    x = pixels(S2)
    wrong = plan([replace(b, unit="refl") for b in S2], ONE, LayerOptions(normalise="model"))
    lines = wrong.check(*wrong.apply(x))[1]
    assert len(lines) == 6
    assert "slot B02 blue: mean" in lines[0]
    small = plan(S2, ONE, LayerOptions(normalise="model"))
    assert "a wrong unit" in small.check(*small.apply(x / 10_000))[1][0]


def test_a_forgotten_offset_is_told_and_is_a_tenth_of_reflectance():
    """Property 7."""
    x = pixels(S2) + 1000
    forgot = plan(S2, ANY, LayerOptions(normalise="none"))
    right = plan([replace(b, unit="refl_dn_off") for b in S2], ANY, LayerOptions(normalise="none"))
    torch.testing.assert_close(forgot.apply(x)[0] - right.apply(x)[0], torch.full_like(x, 0.1), rtol=0, atol=1e-6)
    assert any("declare refl_dn_off" in note for note in fit(forgot, [(x, None)]).notes)
    assert not any("offset" in note or "refl_dn_off" in note for note in fit(right, [(x, None)]).notes)
    twice = fit(right, [(x - 1000 - 600, None)])
    assert any("without the offset they are refl_dn" in note for note in twice.notes)


def test_a_guess_is_named_and_a_missing_unit_is_refused():
    bands = [replace(b, unit=None) for b in S2]
    with pytest.raises(ManyoneError, match="is not declared"):
        plan(bands, ONE)
    guessed = plan(bands, ONE, maxima=[4000.0] * 13)
    assert any("guessed to be refl_dn" in line for line in guessed.report())
    assert all(b.unit == "refl_dn" for b in guessed.source)
    with pytest.raises(ManyoneError):  # the bands disagree
        plan(bands, ONE, maxima=[4000.0] * 6 + [0.5] * 7)
    assert plan(bands, ONE, LayerOptions(unit="refl")).source[0].unit == "refl"


def test_swapped_bands_are_told():
    swapped = list(S2)
    swapped[1], swapped[3] = replace(S2[1], common="red"), replace(S2[3], common="blue")
    notes = plan(swapped, ONE).notes
    assert len(notes) == 2
    assert "B2 is called red but its centre, 492.4 nm, is that of blue" in notes[0]
    assert plan(S2, ONE).notes == ()


def test_a_model_of_counts_refuses_radar():
    radar = (Band("VV", "vv", unit="db"),)
    with pytest.raises(ManyoneError, match="no band for the slots"):
        plan(radar, ONE)
    slot = ModelSpec("odd", (Band("VV", "vv", unit="refl"),), 8)
    with pytest.raises(ManyoneError, match="band VV for slot VV of odd: "):
        plan(radar, slot)


def test_pictures_of_eight_bits_are_told_from_reflectances():
    rgb = tuple(Band(b.name, b.common, b.center_nm, b.fwhm_nm, unit="dn8") for b in (S2[3], S2[2], S2[1]))
    picture = ModelSpec("rgb", rgb, 8, unit="dn8")
    assert plan(rgb, picture).notes == ()
    doubts = plan(rgb, replace(picture, slots=tuple(replace(b, unit="refl") for b in rgb))).notes
    assert any("dn8 is not a reflectance" in note for note in doubts)
    assert any("dn8 is not a reflectance" in note for note in plan(S2, picture).notes)


def test_statistics_that_are_not_published_are_not_made_up():
    spec = replace(ONE, slots=PRITHVI)
    with pytest.raises(ManyoneError, match="no published mean and std for B02"):
        plan(S2, spec, LayerOptions(normalise="model"))
    with pytest.raises(ManyoneError, match="use fit"):
        plan(S2, spec).apply(pixels(S2))


def test_any_band_models_get_the_bands_they_can_place():
    bands = (*S2[:4], Band("DEM", "dem", unit="metre"), Band("VV", "vv", unit="db"))
    made = plan(bands, ANY, LayerOptions(normalise="none"))
    out, context = made.apply(pixels(bands))
    assert [b.name for b in context.bands] == ["B1", "B2", "B3", "B4", "VV"]
    assert [b.unit for b in made.slots] == ["refl"] * 4 + ["db"]
    assert out[:, :4].max() < 1
    assert out[:, 4].min() >= 100
    assert any("DEM" in note for note in made.notes)


def test_nearest_and_interp_fill_from_their_neighbours():
    spec = ModelSpec("s2", S2_12, 8, unit="refl_dn")
    x = pixels(L7)
    near = plan(L7, spec, LayerOptions(missing="nearest", normalise="none")).apply(x)[0]
    assert torch.equal(near[:, 0], x[:, 0])
    inter = plan(L7, spec, LayerOptions(missing="interp", normalise="none"))
    share = (704.1 - 662) / (835 - 662)
    torch.testing.assert_close(inter.apply(x)[0][:, 4], (1 - share) * x[:, 2] + share * x[:, 3])
    hole = torch.ones_like(x, dtype=torch.bool)
    hole[:, 3, 0, 0] = False
    out, context = inter.apply(x, hole)
    assert not context.more["valid"][:, 4, 0, 0].any()
    assert context.more["valid"][:, 3, 0, 0].all()
    assert (out[:, 4, 0, 0] == 0).all()


def test_hyperspectral_sensors_are_resampled():
    many = [Band(f"b{i}", "", 400 + i * 10.0, 10.0, unit="refl") for i in range(200)]
    made = plan(many, ONE, LayerOptions(normalise="none"))
    flat = made.apply(torch.full((1, 200, 32, 32), 0.25))[0]
    torch.testing.assert_close(flat, torch.full_like(flat, 2500.0))
    assert any("resampled" in line for line in made.report())


def test_series_and_single_dates():
    x = torch.stack([pixels(S2, seed=s) for s in range(6)], 1)
    time = torch.tensor([[5.0, 4, 3, 2, 1, 0]] * 2)
    options = LayerOptions(normalise="none")
    out, context = plan(S2, SPEC, options).apply(x, time=time)
    assert out.shape == (2, 4, 6, 32, 32)
    assert context.time.tolist() == [[0, 2, 3, 5]] * 2
    assert torch.equal(out[:, 0, 0], x[:, 5, 1])
    single = plan(S2, ONE, options).apply(x, time=time)[0]
    assert single.shape == (2, 6, 6, 32, 32)  # date by date, for the caller to merge
    assert plan(S2, SPEC, options).apply(x[:, 0])[0].shape == (2, 1, 6, 32, 32)
    padded = plan(S2, replace(SPEC, frames=(3, 3)), options).apply(x[:, :2])[1].more["padded"]
    assert padded.tolist() == [[False, False, True]] * 2


def test_size_and_ground_distance():
    x = pixels(S2, size=16)
    out, context = plan(S2, ONE, LayerOptions(normalise="none")).apply(x, gsd_m=10.0)
    assert out.shape[-2:] == (32, 32)
    assert context.gsd_m == 5.0
    cropped, context = plan(S2, ONE, LayerOptions(normalise="none", size=8, fit="crop")).apply(x, gsd_m=10.0)
    assert cropped.shape[-2:] == (8, 8)
    assert context.gsd_m == 10.0
    assert torch.equal(cropped[:, 0], x[:, 1, 4:12, 4:12])


def test_the_key_changes_with_every_decision():
    base = plan(S2, ONE)
    assert base.key() == plan(S2, ONE).key()
    assert hash(base) == hash(plan(S2, ONE))
    others = [
        LayerOptions(missing="nearest"), LayerOptions(limit=0.9), LayerOptions(normalise="model"),
        LayerOptions(fit="crop"), LayerOptions(size=64), LayerOptions(frames=1), LayerOptions(unit="refl"),
    ]  # fmt: skip
    assert len(others) == len(fields(LayerOptions))
    made = [plan(S2, ONE, o) for o in others]
    made += [fit(base, [(pixels(S2), None)]), plan((*S2[:-1], replace(S2[-1], fwhm_nm=170)), ONE)]
    made += [plan(S2, replace(ONE, size=64)), plan([replace(b, unit="refl") for b in S2], ONE)]
    keys = {p.key() for p in made} | {base.key()}
    assert len(keys) == len(made) + 1


def test_wrong_shapes_and_options_are_told():
    made = plan(S2, ONE, LayerOptions(normalise="none"))
    with pytest.raises(ManyoneError, match="C = 13"):
        made.apply(torch.zeros(1, 12, 8, 8))
    with pytest.raises(ManyoneError, match="valid: shape"):
        made.apply(torch.zeros(1, 13, 8, 8), torch.ones(1, 9, 9, dtype=torch.bool))
    with pytest.raises(ManyoneError, match="missing 'zero': must be one of error, mean"):
        LayerOptions(missing="zero")
    with pytest.raises(ManyoneError, match="drop"):
        plan(S2[:3], ONE, LayerOptions(missing="drop"))


def test_a_copied_band_is_as_far_from_its_mean_as_the_band_that_it_copies():
    slots = (Band("a", "red", 660, 30, unit="refl"), Band("b", "nir", 860, 30, unit="refl"),
             Band("c", "watervapor", 945, 20, unit="refl"), Band("d", "swir1", 1610, 90, unit="refl"))  # fmt: skip
    spec = ModelSpec("four", slots, 4)
    draws = torch.Generator().manual_seed(0)
    means = torch.tensor([0.1, 0.4, 0.02, 0.3]).view(4, 1, 1)  # where the atmosphere absorbs, next to nothing is left
    train = means + 0.01 * torch.randn(6, 4, 8, 8, generator=draws)
    own = fit(plan(slots, spec, LayerOptions()), [(train, None)])
    lacking = (slots[0], slots[1], slots[3])
    seen = train[:, [0, 1, 3]].clone()
    seen[0, :, 0, 0] = float("nan")
    for policy in ("nearest", "interp"):
        made = replace(plan(lacking, spec, LayerOptions(missing=policy)), statistics=own.statistics)
        x, context = made.apply(seen)
        z = own.apply(train)[0]
        share = (945 - 860) / (1610 - 860) if policy == "interp" else 0.0
        expected = (1 - share) * z[:, 1] + share * z[:, 3]
        expected[0, 0, 0] = 0
        assert torch.allclose(x[:, 2], expected, atol=1e-4)
        assert x[:, 2].abs().max() < 6
        assert not context.more["valid"][0, 2, 0, 0]
        assert made.key() != replace(made, mixes=()).key()
