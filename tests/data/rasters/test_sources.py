"""The real packages, where this machine has them (`manyone data get nc-landsat`): the published counts hold."""

import numpy as np
import pytest

from manyone.assets.fetch import cached
from manyone.assets.registry import ASSETS, find_asset
from manyone.data.rasters.aerial import deepforest_boxes
from manyone.data.rasters.climate import koppen
from manyone.data.rasters.names import RASTER_SETS, SCENES
from manyone.data.rasters.scenes import IGNORE, ArrayScene
from manyone.data.rasters.sources import load_scenes, load_set
from manyone.data.rasters.units import check_units
from manyone.errors import ManyoneError


def need(name):
    """Only where the package is in the cache already: tests fetch nothing."""
    source = RASTER_SETS.get(name) or SCENES[name]
    if cached(find_asset(source.asset)) is None:
        pytest.skip(f"{source.asset} is not in the cache")


def counts(labels):
    return np.bincount(labels[labels != IGNORE]).tolist()


@pytest.mark.parametrize("name", [*RASTER_SETS, *SCENES])
def test_every_set_declares_what_it_holds(name):
    need(name)
    data = load_set(name) if name in RASTER_SETS else load_scenes(name)
    assert data.name == name
    assert data.about.source
    assert data.about.licence
    for scene in getattr(data, "scenes", ()):
        pixels, valid = scene.read()
        assert pixels.shape == valid.shape == (len(scene.bands), *scene.shape)
        assert all(b.unit and (b.center_nm or b.kind == "other") for b in scene.bands)
        assert check_units(scene.bands, pixels, valid, scene.time) == ()
        assert isinstance(scene, ArrayScene)
    for scene, labels in zip(getattr(data, "scenes", ()), getattr(data, "labels", ())):
        assert labels.shape == scene.shape
        assert labels.dtype == np.uint8
        assert labels[labels != IGNORE].max() < len(data.classes)


def test_north_carolina():
    need("nc-landsat")
    data = load_set("nc-landsat")
    (scene,), (labels,) = data.scenes, data.labels
    assert [b.common for b in data.bands] == ["blue", "green", "red", "nir", "swir1", "swir2"]
    assert (scene.shape, scene.gsd_m, scene.grid.transform[0]) == ((443, 489), 28.5, 28.5)
    valid = scene.read()[1]
    assert valid[:5].all(0).sum() == 183_418
    both = valid.all(0) & (labels != IGNORE)
    assert both.sum() == 135_092
    assert counts(labels[both]) == [40_510, 500, 18_249, 9_668, 64_186, 1_785, 194]
    (points,) = load_set("nc-landsat-points").labels
    assert (points != IGNORE).sum() == 2872
    here = both & (points != IGNORE)
    assert here.sum() == 2436
    assert (points == labels)[here].mean() == pytest.approx(0.995, abs=0.001)


def test_statlog_s_official_split():
    need("statlog")
    data = load_set("statlog")
    assert data.pixels.shape == (6435, 4, 3, 3)
    train, test = data.given["train"], data.given["test"]
    assert (len(train), len(test)) == (4435, 2000)
    assert len(np.union1d(train, test)) == 6435
    # UCI's sat.trn and sat.tst: classes 1, 2, 3, 4, 5, 7
    assert np.bincount(data.targets[train]).tolist() == [1072, 479, 961, 415, 470, 1038]
    assert np.bincount(data.targets[test]).tolist() == [461, 224, 397, 211, 237, 470]
    assert data.pixels[train[0]].transpose(1, 2, 0).ravel()[:4].tolist() == [92, 115, 120, 94]
    first = [80, 102, 102, 79, 76, 102, 102, 79, 76, 102, 106, 83]  # of sat.tst
    rows = data.pixels.transpose(0, 2, 3, 1).reshape(6435, 36)[:, :12]
    assert (rows[test] == first).all(1).any()
    assert not (rows[train] == first).all(1).any()


def test_indian_pines():
    need("indian-pines")
    data = load_set("indian-pines")
    assert data.scenes[0].pixels.shape == (200, 145, 145)
    assert len(data.classes) == 16
    assert counts(data.labels[0]) == [
        46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93,
    ]  # fmt: skip
    assert (data.labels[0] != IGNORE).sum() == 10_249


def test_one_place_by_two_sensors():
    need("l7l8")
    scenes = {s.name: s for s in load_scenes("l7l8").scenes}
    l7, l8 = scenes["landsat-7"], scenes["landsat-8"]
    assert l7.shape == l8.shape == (41, 41)
    assert l7.grid == l8.grid
    assert scenes["landsat-8-pan"].shape == (82, 82)
    assert l8.time - l7.time == (2013 - 2001) * 365 + 3 - 23  # 2001-07-30 to 2013-07-07, three leap days
    pixels = {n: {b.common: x for b, x in zip(s.bands, s.read()[0])} for n, s in scenes.items()}
    for common in ("green", "red", "swir1", "swir2"):  # calibrated: two sensors, twelve years apart, near each other
        a, b = pixels["landsat-7"][common], pixels["landsat-8"][common]
        assert abs(np.median(a) - np.median(b)) < 0.04
    for name in ("landsat-7-thermal", "landsat-8-thermal"):
        kelvin = scenes[name].read()[0]
        assert 285 < kelvin.min() < kelvin.max() < 315


def test_buildings_and_crowns():
    need("sn-atlanta")
    (mask,) = load_set("sn-atlanta").labels
    assert (mask == 1).sum() == 33_818
    need("deepforest")
    data = load_set("deepforest")
    boxes = deepforest_boxes()
    assert [len(boxes[s.name].names) for s in data.scenes] == [574, 279, 61, 37]
    for scene, labels in zip(data.scenes, data.labels):
        for left, top, right, bottom in boxes[scene.name].corners[:20]:
            assert (labels[top:bottom, left:right] == 1).all()
    assert data.scenes[2].grid.crs == "EPSG:32617"


def test_spectra():
    need("spyndex")
    data = load_set("spyndex-spectra")
    assert data.pixels.shape == (120, 8, 1, 1)
    assert dict(zip(data.classes, np.bincount(data.targets).tolist())) == {"urban": 37, "vegetation": 46, "water": 37}
    red, nir = data.pixels[:, 3, 0, 0], data.pixels[:, 4, 0, 0]
    ndvi = (nir - red) / (nir + red)
    means = [ndvi[data.targets == k].mean() for k in range(3)]
    assert means[1] > means[0] > means[2]


def test_places_are_uniform_on_land():
    need("koppen")
    places = koppen()
    assert len(places) == 6000
    assert len(np.unique(places.lonlat, axis=0)) == 6000
    assert set(places.targets.tolist()) == set(range(5))
    np.testing.assert_array_equal(koppen(seed=0).lonlat, places.lonlat)
    assert not np.array_equal(koppen(seed=1).lonlat, places.lonlat)
    lon, lat = places.lonlat.T
    # about a tenth of the land is Antarctica's; equal area, not equal degrees, would give a quarter
    assert 0.06 < (lat < -60).mean() < 0.12
    sahara = (lon > 0) & (lon < 25) & (lat > 18) & (lat < 28)
    assert (places.targets[sahara] == 1).mean() > 0.95  # arid
    with pytest.raises(ManyoneError, match="n: 0 points"):
        koppen(0)


def test_names_and_assets():
    for name, source in (*RASTER_SETS.items(), *SCENES.items()):
        assert ASSETS[source.asset].kind in ("rasters", "tables"), name
    with pytest.raises(ManyoneError, match="unknown raster set 'nc-landsadt': did you mean nc-landsat"):
        load_set("nc-landsadt")
    with pytest.raises(ManyoneError, match=r"olinda has no labels.*labelled are nc-landsat"):
        load_set("olinda")
    with pytest.raises(ManyoneError, match="known are l7l8, olinda"):
        load_scenes("zzz")
