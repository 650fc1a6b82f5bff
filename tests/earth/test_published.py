"""Published figures: each cell with its source, and the same as the tables of the specification."""

from manyone.earth.published import published, tables


def test_all_tables_are_read():
    assert set(tables()) == {
        "skyscript_zero_shot", "georsclip_zero_shot", "remoteclip_retrieval", "remoteclip_gain", "pangaea",
        "pangaea_terramind", "torchgeo_bench", "literature_compilation",
    }  # fmt: skip
    assert len(tables()["literature_compilation"].figures) == 706
    assert len(tables()["pangaea"].figures) == 14 * 11
    assert all(f.source and f.confidence and f.protocol for t in tables().values() for f in t.figures)


def test_a_cell_of_each_layout():
    (mados,) = published("dofa", "MADOS")
    assert (mados.value, mados.variant, mados.table, mados.row) == (59.58, "mIoU", "pangaea", "DOFA")
    assert "issue" in mados.source
    (biomass,) = published("croma", "biomassters")
    assert (biomass.value, biomass.variant) == (36.81, "RMSE")
    bench = {(f.row, f.variant): f.value for f in published("prithvi2", "m-eurosat")}
    assert bench["tt_prithvi_eo_v2_300", "linear, all"] == 95.4
    assert bench["tt_prithvi_eo_v2_600", "linear, all"] == 94.1
    assert [f.value for f in published("georsclip", "AID")] == [76.33]
    skyclip = {f.row: f.value for f in published("skyclip")}
    assert skyclip["SkyCLIP ViT-L/14 top30"] == 59.91


def test_a_data_set_goes_by_all_its_names():
    assert {f.data for f in published("croma", "eurosat")} == {"EuroSat", "m-eurosat", "eurosat-spatial"}
    assert {f.data for f in published("croma", "m-eurosat")} == {"m-eurosat"}
    assert published("dofa", "hlsburnscars")[0].value == 80.63
    assert published("dofa", "unheard-of") == ()
    assert published("surya") == ()
