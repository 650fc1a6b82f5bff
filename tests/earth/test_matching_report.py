"""The report on a sensor and a model of the catalogue."""

import pytest
from tests.earth.sensors.bands import L7, S2

from manyone.data.rasters.bands import Band
from manyone.earth.catalogue_spec import model_spec
from manyone.earth.matching_report import match_report
from manyone.earth.sensors.layer import plan
from manyone.earth.sensors.options import LayerOptions
from manyone.errors import ManyoneError


def test_landsat_7_to_prithvi():
    report = match_report("landsat-7", "prithvi2")
    assert [row["band"].split()[0] for row in report.rows] == ["B1", "B2", "B3", "B4", "B5", "B7"]
    assert report.rows[0]["Δλ nm"] == pytest.approx(483 - 490)
    assert report.missing == ()
    assert [name.split()[0] for name in report.unused] == ["B6", "B8"]
    assert (report.model, report.unit) == ("prithvi2", "refl_dn")
    assert {(bar.name, bar.partner) for bar in report.bars if bar.side == "source"} >= {("B1", "B02"), ("B8", "")}


def test_what_is_missing_is_named():
    report = match_report(L7, "croma")
    assert set(report.missing) >= {"B1 coastal", "B5 rededge1", "B9 watervapor"}
    assert [row["band"] for row in report.rows].count("MISSING") == len(report.missing)
    assert any("publishes no mean" in note for note in report.notes)


def test_the_modality_that_fits_is_taken():
    assert match_report("sentinel-1", "terramind").modality == "radar"
    assert match_report("sentinel-2", "terramind").modality == "optical"
    assert match_report("naip", "clay").modality == "naip"
    assert match_report("sentinel-2", "clay").modality == "sentinel-2"
    assert match_report("landsat-7", "clay").modality == "any"  # not naip, whose four slots it fills
    assert match_report(L7, "croma").modality == "optical"


def test_models_of_any_bands_get_what_has_a_wavelength():
    report = match_report((*S2, Band("DEM", "dem")), "dofa")
    assert len(report.rows) == 13
    assert report.unused == ("DEM dem",)
    assert any("needs wavelength" in note for note in report.notes)


def test_hyperspectral_bands_are_sums():
    many = tuple(Band(f"b{i}", "", 400 + 10.0 * i, 10.0) for i in range(200))
    report = match_report(many, "prithvi2")
    assert all(row["band"].endswith("bands") for row in report.rows)
    assert report.unused == ()


def test_what_is_not_known_is_told():
    with pytest.raises(ManyoneError, match="unknown sensor"):
        match_report("sentinel-9000", "prithvi2")
    with pytest.raises(ManyoneError, match="unknown model"):
        match_report("sentinel-2", "prithvi99")
    with pytest.raises(ManyoneError, match="rsgpt: its input bands are not in the catalogue"):
        match_report("sentinel-2", "rsgpt")


def test_an_entry_becomes_a_specification_that_the_sensor_layer_takes():
    spec = model_spec("prithvi2", width=1024)
    assert (spec.unit, spec.size, spec.frames, spec.width) == ("refl_dn", 224, (1, 4), 1024)
    made = plan(S2, spec, LayerOptions(normalise="model"))
    assert [b.mean for b in made.slots] == [1087, 1342, 1433, 2734, 1958, 1363]
    assert model_spec("dofa").needs == {"wavelength"}
    assert [b.common for b in model_spec("terramind", "radar").slots] == ["vv", "vh"]
    with pytest.raises(ManyoneError, match="modality 'sonar' of terramind: must be one of optical"):
        model_spec("terramind", "sonar")
