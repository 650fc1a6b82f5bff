"""Units become one another through reflectance; what is not declared is guessed as written down, or refused."""

import numpy as np
import pytest

from manyone.data.rasters.bands import UNITS, Band
from manyone.data.rasters.sensors import find_sensor
from manyone.data.rasters.units import (
    affine,
    check_units,
    conversion_note,
    convert,
    convertible,
    extremes,
    guess_unit,
)
from manyone.errors import ManyoneError

REFL = np.linspace(0, 1.5, 5001, dtype=np.float32)


@pytest.mark.parametrize("unit", ["refl_dn", "refl_dn_off", "dn8", "dn16"])
def test_round_trips(unit):
    """Property 7 of the specification."""
    there = convert(REFL, "refl", unit)
    assert there.dtype == np.float32
    assert np.abs(convert(there, unit, "refl") - REFL).max() < 1e-6
    a, b = affine("refl", unit)
    np.testing.assert_allclose(there, a * REFL.astype(np.float64) + b, rtol=1e-6, atol=1e-3)


def test_a_forgotten_offset_is_a_tenth_of_reflectance():
    counts = np.arange(1000, 12_000, dtype=np.uint16)
    right, wrong = (convert(counts.astype(np.float64), unit, "refl") for unit in ("refl_dn_off", "refl_dn"))
    np.testing.assert_allclose(wrong - right, 0.1, atol=1e-12)


def scene(offset, unit, time=None):
    """Reflectances from 0.002 to 0.4 in 4 bands of Sentinel-2, as counts."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.002, 0.4, (4, 50, 60)) * 10_000 + offset
    return check_units(find_sensor("s2").pick(("B2", "B3", "B4", "B8"), unit), pixels, time=time)


def test_the_checker_warns_of_a_forgotten_offset():
    assert scene(0, "refl_dn") == scene(1000, "refl_dn_off") == ()
    (line,) = scene(1000, "refl_dn", time=19_100.0)
    assert "declare refl_dn_off" in line
    assert "2022-01-25" in line
    assert "2022" not in scene(1000, "refl_dn", time=18_000.0)[0]
    (line,) = scene(0, "refl_dn_off")
    assert "without the offset they are refl_dn" in line


def test_the_checker_warns_of_other_odd_values():
    bands = find_sensor("l7").pick(("B1", "B2", "B3"), "refl")
    (line,) = check_units(bands, np.random.default_rng(0).uniform(100, 9000, (3, 99)))
    assert "rather refl_dn?" in line
    dn = find_sensor("l7").pick(("B1",), "dn8")
    assert "declared dn8 and has values from -5" in check_units(dn, np.full((1, 9), -5.0))[0]
    thermal = find_sensor("l7").pick(("B6",), "kelvin")
    assert "declared kelvin" in check_units(thermal, np.full((1, 9), 25.0))[0]
    radar = find_sensor("s1").pick(("VV",), "linear_power")
    assert "decibels?" in check_units(radar, np.full((1, 9), -12.0))[0]
    reflective = find_sensor("l7").pick(("B1",), "refl_dn")
    assert "rather refl?" in check_units(reflective, np.full((1, 9), 0.3))[0]


def test_only_valid_pixels_are_looked_at():
    pixels = np.array([[1.0, 2.0, 3.0, -9999.0], [np.nan] * 4])
    low, high = extremes(pixels, np.array([[True, True, True, False], [True] * 4]))
    assert low[0] >= 1
    assert high[0] <= 3
    assert np.isnan([low[1], high[1]]).all()


def test_decibels():
    power = np.array([1.0, 0.1, 0.0, 1e-12])
    np.testing.assert_allclose(convert(power, "linear_power", "db"), [0, -10, -100, -100])
    db = np.linspace(-40, 5, 200, dtype=np.float32)
    np.testing.assert_allclose(convert(convert(db, "db", "linear_power"), "linear_power", "db"), db, atol=1e-4)


def test_what_cannot_become_something_else():
    for source in UNITS:
        for target in UNITS:
            if convertible(source, target):
                assert convert(np.array([0.5]), source, target).shape == (1,)
            else:
                with pytest.raises(ManyoneError, match=f"{source} cannot become {target}"):
                    convert(np.array([0.5]), source, target)
    assert not convertible("kelvin", "refl")
    assert not convertible("db", "refl")
    with pytest.raises(ManyoneError, match="unit 'percent': must be one of"):
        convert(np.array([1.0]), "percent", "refl")
    with pytest.raises(ManyoneError, match="cannot become"):
        affine("db", "linear_power")


def test_counts_are_said_to_be_no_reflectance():
    assert "dn8 is not a reflectance" in conversion_note("dn8", "refl")
    assert "v / 65,535" in conversion_note("refl_dn", "dn16")
    assert conversion_note("refl_dn", "refl") is None
    assert conversion_note("dn8", "dn8") is None
    assert convert(np.array([51.0]), "dn8", "refl") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("maxima", "unit"), [((1000.5, 4000), "refl_dn"), ((1000, 11), "dn8"), ((10, 0.4), "refl"), ((255, 255), "dn8")]
)
def test_guesses(maxima, unit):
    bands = [Band("a", "blue", 480), Band("b", "red", 650)]
    guess = guess_unit(bands, maxima, "here")
    assert guess.unit == unit
    assert guess.line.startswith(f"here: unit guessed to be {unit} from the largest values (a ")


def test_bands_that_disagree_are_not_guessed():
    bands = [Band("a", "blue", 480), Band("b", "red", 650), Band("t", "tir", 11_000)]
    with pytest.raises(ManyoneError, match=r"disagree \(refl_dn by a 3000; refl by b 0.5\); declare it"):
        guess_unit(bands, [3000, 0.5, 300])
    assert guess_unit(bands, [0.3, 0.5, 300]).unit == "refl"  # a temperature has no say
    assert guess_unit(bands, [0.3, np.nan, 300]).unit == "refl"
    with pytest.raises(ManyoneError, match="no reflective band has a valid pixel"):
        guess_unit(bands, [np.nan] * 3)
