"""The catalogue: rsfm.md section 9, property 17, and the questions that it answers."""

import copy
import subprocess
import sys
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest

from manyone.earth import catalogue_check
from manyone.earth.catalogue import (
    catalogue,
    data_sets,
    find_model,
    is_model,
    listed,
    models,
    raw,
    taxonomy,
    weight_files,
)
from manyone.earth.catalogue_check import check
from manyone.errors import ManyoneError


def ids(**asked):
    return {m.id for m in models(**asked).models}


def test_the_shipped_catalogue_is_sound():
    assert check() == []


def test_everything_is_there():
    assert (len(catalogue()), len(listed()), len(weight_files()), len(data_sets())) == (102, 91, 136, 78)
    assert set(taxonomy()) == {"VFM", "VLM", "LLM", "Generative", "Other"}
    with pytest.raises(FrozenInstanceError):
        find_model("dofa").id = "other"


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda d: d["models"][0].pop("source"), "models rsp: source is missing"),
        (lambda d: d["models"][0].update(confidence="sure"), "models rsp: confidence is 'sure', must be one of high"),
        (lambda d: d["models"][1].update(id="rsp"), "models rsp: id is there twice"),
        (lambda d: d["models"][0].update(year="2022"), "models rsp: year is '2022', must be int"),
        (lambda d: d["models"][0].update(licence="MIT"), "models rsp: licence is no key of this section"),
        (lambda d: d["models"][0].update(license="Beerware"), "licences 'Beerware': what it allows is not said"),
        (lambda d: d["slots"].update(nobody=[]), "slots nobody: no model has this id"),
        (lambda d: d["slots"]["prithvi2"][0].update(mean=[1.0]), "slots prithvi2/optical: mean has 1 numbers for 6"),
        (lambda d: d["slots"]["prithvi2"][0].update(bands=["B99"] * 6), "slots prithvi2/optical: bands names B99"),
        (lambda d: d["slots"]["prithvi2"][0].update(unit="dn"), "slots prithvi2/optical: unit is 'dn'"),
        (lambda d: d["slots"]["prithvi2"][0].update(sensor="mars"), "slots prithvi2/optical: sensor: unknown sensor"),
        (lambda d: d["slots"]["satmae"][0].update(groups=[4, 4]), "slots satmae/optical: groups have 8 bands of 10"),
        (lambda d: d["loaders"]["dofa"][0].update(enums=["DOFFA*"]), "loaders dofa: enums 'DOFFA*' names no weight"),
        (lambda d: d["loaders"]["dofa"][0].pop("call"), "loaders dofa: call is missing"),
        (lambda d: d["figures_of"]["dofa"].update(pangaea=["DOFFA"]), "figures_of dofa: pangaea has no row 'DOFFA'"),
        (lambda d: d["aliases"].update(x="y"), "aliases x: no model y"),
        (lambda d: d["results"]["pangaea"].pop("source"), "results pangaea: source is missing"),
        (lambda d: d.pop("datasets"), "datasets: the section is missing"),
    ],
)
def test_a_problem_is_named_with_entry_and_key(spoil, line):
    data = copy.deepcopy(dict(raw()))
    spoil(data)
    assert any(problem.startswith(line) for problem in check(data)), check(data)


def test_weight_files_resolve_or_are_marked_as_newer(monkeypatch):
    """With a torchgeo that knows one of them: the rest that no loader marks is named."""

    members = SimpleNamespace(__members__={"DOFA_MAE": 1})
    installed = SimpleNamespace(DOFABase16_Weights=members)
    monkeypatch.setattr(catalogue_check.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(catalogue_check, "need", lambda *_: installed)
    problems = check()
    assert not any("DOFABase16_Weights" in p for p in problems)
    assert any(p.startswith("torchgeo_weights DOFALarge16_Weights.DOFA_MAE: the installed torchgeo") for p in problems)
    assert not any("Tessera" in p or "OlmoEarth" in p for p in problems)


def test_sensors_are_understood_through_the_entries_words():
    s2 = ids(sensor="sentinel-2")
    assert {"prithvi2", "dofa", "terramind", "satmae", "seco", "copernicusfm", "clay"} <= s2
    assert not {"scalemae", "gfm", "aurora", "surya", "geollm"} & s2
    assert {"ssl4eo-l", "clay", "dofa"} <= ids(sensor="landsat-7")
    assert "prithvi2" not in ids(sensor="landsat-7")
    assert "mmearth" not in ids(sensor="sentinel-1")  # radar is what it predicts
    assert {"scalemae", "remoteclip"} <= ids(sensor="naip") & ids(sensor="rgb")
    assert {"hypersigma", "spectralearth"} <= ids(sensor="hyperspectral")
    with pytest.raises(ManyoneError, match="unknown sensor 'sentinel-22'"):
        models(sensor="sentinel-22")


def test_loadable_models_have_a_library_that_builds_them():
    found = ids(loadable=True)
    assert {"prithvi2", "dofa", "remoteclip", "geoclip", "imagestats"} <= found
    assert not {"skysense", "alphaearth", "pangu"} & found
    assert [loader.call for loader in find_model("prithvi2").loaders] == ["prithvi_eo_v2_300_tl"]
    assert [loader.library for loader in find_model("dofa").loaders] == ["torchgeo", "terratorch"]


def test_unknown_licences_are_left_out_and_counted():
    free, all_ = models(commercial=True), models()
    assert all(m.commercial == "yes" for m in free.models)
    assert not {"satmae", "scalemae", "dinov3", "olmoearth", "skysense"} & {m.id for m in free.models}
    unknown = sum(m.commercial == "unknown" for m in all_.models)
    assert unknown == sum(m.license in ("unknown", "CC-BY-4.0 data") for m in all_.models)
    assert f"{unknown} left out, licence unknown" in free.notes
    assert all_.notes == ()


def test_categories_and_words():
    assert ids(category="vfm") > ids(category="vfm.mim") > {"dofa"}
    assert ids(text="Wavelength-conditioned hyper-network") == {"dofa"}
    assert ids(sensor="sentinel-2", loadable=True, commercial=True, category="vfm.hybrid") == {
        "croma", "terramind", "deo",
    }  # fmt: skip
    with pytest.raises(ManyoneError, match=r"unknown category 'vfm.mimm'; did you mean 'vfm.mim'"):
        models(category="vfm.mimm")


def test_models_go_by_the_names_that_users_type():
    assert find_model("Prithvi-EO-2").id == find_model("prithvi2").id == "prithvi2"
    assert find_model("scale-mae").id == "scalemae"
    assert is_model("DOFA")
    assert not is_model("sentinel-2")
    with pytest.raises(ManyoneError, match="unknown model 'prithvi3'; did you mean 'prithvi"):
        find_model("prithvi3")
    with pytest.raises(ManyoneError, match="manyone ls earth-models"):
        find_model("xyzzy")


def test_slots_carry_bands_units_and_statistics():
    slots = find_model("prithvi2").slots[0]
    assert [b.common for b in slots.bands] == ["blue", "green", "red", "nir_narrow", "swir1", "swir2"]
    assert (slots.bands[0].unit, slots.bands[0].mean, slots.bands[0].std) == ("refl_dn", 1087, 2248)
    assert (slots.size, slots.patch, slots.frames, slots.sensor) == (224, 16, (1, 4), slots.bands[0].sensor)
    assert find_model("dofa").slots[0].bands is None
    assert find_model("croma").slots[0].bands[0].mean is None  # not published: not made up
    assert len(find_model("ssl4eo-l").weight_files) == 30


def test_the_catalogue_needs_no_torch():
    code = (
        "import sys\nfrom manyone.earth import catalogue, catalogue_check, published, matching_report\n"
        "catalogue.models(); published.tables(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
