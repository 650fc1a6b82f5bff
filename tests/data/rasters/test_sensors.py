"""Sensors by name and from a user's file; what is wrong in a file is one line that names the place."""

import numpy as np
import pytest

from manyone.data.rasters.sensors import as_sensor, find_sensor, read_sensor, sensors
from manyone.engine.documents import parse_yaml, read_yaml
from manyone.errors import ManyoneError


def test_thirteen_sensors_with_bands_where_such_bands_can_be():
    known = sensors()
    assert len(known) == len({s.id for s in known}) == 13
    for sensor in known:
        assert sensor.bands
        assert sensor.confidence in ("high", "medium", "low")
        assert len({b.name for b in sensor.bands}) == len(sensor.bands)
        for band in sensor.bands:
            assert band.sensor == sensor.id
            assert band.kind == "radar" or band.kind == "thermal" or 300 <= band.center_nm <= 2600


@pytest.mark.parametrize(
    ("word", "sensor"),
    [("S2", "sentinel-2"), ("sentinel_2 L2A", "sentinel-2"), ("landsat-7", "landsat-7-etm+"), ("l7", "landsat-7-etm+"),
     ("Landsat 8", "landsat-8/9-oli-tirs"), ("l9", "landsat-8/9-oli-tirs"), ("WorldView-3", "worldview-2/3"),
     ("hls", "hls"), ("landsat-mss", "landsat-mss")],
)  # fmt: skip
def test_aliases(word, sensor):
    assert find_sensor(word).id == sensor


def test_no_alias_names_two_sensors():
    words = [w.lower() for s in sensors() for w in (s.id, *s.aliases)]
    assert len(words) == len(set(words))


def test_unknown_sensors_are_answered_with_near_names():
    with pytest.raises(ManyoneError, match="unknown sensor 'sentinel-22': did you mean sentinel-2"):
        find_sensor("sentinel-22")
    with pytest.raises(ManyoneError, match=r"known are sentinel-2, .*or a YAML file"):
        find_sensor("qqqqqq")


def test_indian_pines_follows_the_linear_rule():
    bands = find_sensor("aviris-indian-pines-200").bands
    gone = {*range(104, 109), *range(150, 164), 220}
    numbers = [i for i in range(1, 221) if i not in gone]
    assert [b.name for b in bands] == [f"B{i}" for i in numbers]
    np.testing.assert_allclose([b.center_nm for b in bands], [400 + (i - 1) * 2100 / 219 for i in numbers])


def test_bands_by_operators_and_common_names():
    l8 = find_sensor("l8")
    assert l8.band("swir1").name == "B6"
    assert [b.name for b in l8.pick(("red", "B2"), "refl_dn")] == ["B4", "B2"]
    assert {b.unit for b in l8.pick(("red", "B2"), "refl_dn")} == {"refl_dn"}
    with pytest.raises(ManyoneError, match=r"no band 'B99'; known are B1 \(coastal\)"):
        l8.band("B99")


def test_a_sensor_of_ones_own(tmp_path):
    file = tmp_path / "camera.yaml"
    file.write_text(
        "name: my camera\nunit: refl\nbands:\n"
        "  - {name: 1, common: green, center_nm: 550, fwhm_nm: 40}\n"
        "  - {name: T, common: tir, center_nm: 11000, unit: kelvin, gsd_m: 0.5}\n"
    )
    sensor = as_sensor(file)
    assert (sensor.id, sensor.name) == ("camera", "my camera")
    assert [(b.name, b.unit, b.kind) for b in sensor.bands] == [("1", "refl", "optical"), ("T", "kelvin", "thermal")]
    assert as_sensor(sensor) is sensor


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bands: []", "bands: is a list of 0; must be a list of 1 to 2048"),
        ("bands: 3", "bands: is a number; must be a list"),
        ("- 1", "is a list|must be a mapping"),
        ("bnds: [{name: a}]", "unknown key 'bnds'; known are name, aliases"),
        ("bands: [{common: red}]", "band 1: has no name"),
        ("bands: [{name: a, center_nm: red}]", r"band 1 \(a\): center_nm: 'red' must be a number above 0"),
        ("bands: [{name: a, center_nm: -5}]", "center_nm: -5 must be a number above 0"),
        ("bands: [{name: a, center_nm: .nan}]", "center_nm: nan must be a number"),
        ("bands: [{name: a, gsd_m: true}]", "gsd_m: True must be a number"),
        ("bands: [{name: a, unit: percent}]", "unit 'percent': must be one of refl, refl_dn"),
        ("bands: [{name: a}, {name: a}]", "two bands are called 'a'"),
        ("bands: [{name: a, wave: 3}]", "unknown key 'wave'"),
        ("bands: [{name: a, orbit: up}]", "orbit 'up' must be ascending or descending"),
        ("bands: [{name: a", "line 1: not YAML"),
        ("a: &x [1]\nbands: [*x, *x]", "uses YAML aliases"),
        ("bands: !!python/object/apply:os.system ['true']", "not YAML"),
        ("[" * 20000, "nested more than 32 deep"),
        ("- " * 20000, "nested more than 32 deep"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ManyoneError, match=message) as error:
        read_sensor(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_limits_of_yaml_files(tmp_path):
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * 600_000)
    with pytest.raises(ManyoneError, match=r"600,000 bytes are more than the 524,288"):
        read_yaml(file)
    with pytest.raises(ManyoneError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ManyoneError, match="not UTF-8"):
        read_yaml(file)
    assert parse_yaml("a: [1, 2.5, x]", "here") == {"a": [1, 2.5, "x"]}
