"""Pairing of bands: rsfm.md section 9, property 1, against a search through all pairings."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tests.earth.sensors.bands import L7, L8, PRITHVI, S2, S2_12

from manyone.data.rasters.bands import Band
from manyone.earth.sensors.matching import match, pair_cost
from manyone.errors import ManyoneError


def names(found):
    return [None if i is None else found.source[i].name for i in found.indices]


def test_a_sensor_fills_its_own_slots():
    for bands in (S2, L8, L7, PRITHVI):
        assert match(bands, bands).indices == tuple(range(len(bands)))


def test_permuting_the_bands_permutes_the_positions_only():
    order = np.random.default_rng(0).permutation(len(S2))
    found = match([S2[i] for i in order], PRITHVI)
    assert names(found) == names(match(S2, PRITHVI))
    assert [order[i] for i in found.indices] == list(match(S2, PRITHVI).indices)


def test_sentinel_2_feeds_prithvi_with_the_narrow_infrared():
    found = match(S2, PRITHVI)
    assert names(found) == ["B2", "B3", "B4", "B8A", "B11", "B12"]
    assert found.missing == ()
    assert [b.name for b in found.unused] == ["B1", "B5", "B6", "B7", "B8", "B9", "B10"]


def test_landsat_8_feeds_prithvi_with_bands_2_to_7():
    assert names(match(L8, PRITHVI)) == ["B2", "B3", "B4", "B5", "B6", "B7"]


def test_landsat_7_leaves_what_it_has_not():
    found = match(L7, S2_12)
    assert names(found) == [None, "B1", "B2", "B3", None, None, None, "B4", None, None, "B5", "B7"]
    assert {b.common for b in found.missing} >= {"coastal", "rededge1", "rededge2", "rededge3", "watervapor"}


@pytest.mark.parametrize("odd", [b for b in (*L7, *L8) if b.kind in ("pan", "thermal")])
def test_pan_and_thermal_never_fill_a_reflective_slot(odd):
    assert all(pair_cost(odd, slot) is None for slot in (*S2, *PRITHVI))
    assert match([odd], S2, limit=1000).indices == (None,) * len(S2)


def test_the_pairing_is_the_cheapest_of_all():
    rng = np.random.default_rng(1)
    for _ in range(20):
        source = [Band(f"s{i}", "", float(c), 60.0) for i, c in enumerate(rng.uniform(400, 600, 4))]
        slots = [Band(f"t{i}", "", float(c), 60.0) for i, c in enumerate(rng.uniform(400, 600, 3))]

        def total(choice, source=source, slots=slots):
            costs = [1.0 if s is None else pair_cost(source[s], slots[t]) for t, s in enumerate(choice)]
            return sum(costs) if all(c is not None and c <= 1 for c in costs) else np.inf

        every = [c for c in itertools.product([None, *range(4)], repeat=3)
                 if len({s for s in c if s is not None}) == sum(s is not None for s in c)]  # fmt: skip
        assert total(match(source, slots).indices) == pytest.approx(min(map(total, every)))


def test_ties_go_to_the_earlier_band():
    twins = [Band("a", "red", 650, 40), Band("b", "red", 650, 40)]
    assert match(twins, [Band("slot", "red", 660, 40)]).indices == (0,)
    assert match(twins, [Band("one", "red", 660, 40), Band("two", "red", 660, 40)]).indices == (0, 1)


def test_a_tie_of_costs_goes_to_the_nearer_band():
    wide, near = Band("wide", "red", 680, 60), Band("near", "red", 640, 20)  # 24/60 and 16/40
    slot = Band("slot", "red", 656, 60)
    assert pair_cost(wide, slot) == pytest.approx(pair_cost(near, slot))
    assert match([wide, near], [slot]).indices == (1,)


def test_a_pair_at_the_limit_is_made_and_one_beyond_is_not():
    slot = Band("slot", "red", 650, 40)
    assert match([Band("at", "red", 690, 40)], [slot]).indices == (0,)
    assert match([Band("beyond", "red", 690.5, 40)], [slot]).indices == (None,)


def test_radar_goes_by_polarisation_and_orbit():
    up, down = Band("VV-a", "vv", orbit="ascending"), Band("VV-d", "vv", orbit="descending")
    assert match([up, down, Band("VH", "vh")], [replace(down, name="t"), Band("t2", "vh")]).indices == (1, 2)
    assert match([up], [down]).indices == (None,)
    assert match([up], S2).indices == (None,) * len(S2)


def test_bands_without_a_wavelength_go_by_their_common_name():
    rgb = [Band(n, n) for n in ("red", "green", "blue")]
    assert names(match(S2, rgb)) == ["B4", "B3", "B2"]
    assert match([Band("height", "dem")], [Band("z", "dem"), Band("s", "slope")]).indices == (0, None)


def test_absorption_bands_stand_for_nothing_else():
    assert match([Band("N2", "nir2", 949, 180)], [b for b in S2 if b.name == "B9"]).indices == (None,)


def test_the_lines_name_every_slot_and_unused_band():
    lines = match(L7, S2_12).lines()
    assert len(lines) == 1 + 12 + 1
    assert "MISSING" in lines[1]
    assert "+2.2" in lines[8]
    assert "B6 tir" in lines[-1]
    assert "B8 pan" in lines[-1]


def test_mistakes_are_told():
    with pytest.raises(ManyoneError, match="limit 0"):
        match(S2, PRITHVI, limit=0)
    with pytest.raises(ManyoneError, match="B2 are named twice"):
        match([*S2, S2[1]], PRITHVI)
