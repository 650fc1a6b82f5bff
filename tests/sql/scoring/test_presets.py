"""Every rule that differs is named, once, for presets that exist."""

import re
from pathlib import Path

from manyone.sql.scoring.presets import DEVIATIONS, PRESET_NAMES, PRESETS, deviations


def test_the_table():
    assert tuple(PRESETS) == PRESET_NAMES
    assert len({d.id for d in DEVIATIONS}) == len(DEVIATIONS)
    for deviation in DEVIATIONS:
        assert deviation.presets
        assert set(deviation.presets) <= set(PRESETS)
        assert deviation.official
        assert deviation.here
        assert deviation.why


def test_what_is_undone_does_not_differ():
    ids = {d.id for d in deviations("spider-ex")}
    assert ids - {d.id for d in deviations("spider-ex", ["value-word"])} == {"value-word"}
    assert all(deviations(preset) for preset in PRESETS)


def test_the_manual_has_every_rule():
    page = (Path(__file__).parents[3] / "docs/sql-evaluation.md").read_text()
    for d in DEVIATIONS:
        presets = ", ".join(name for name in PRESET_NAMES if name in d.presets)
        assert f"| `{d.id}` | {presets} | {d.official} | {d.here} |" in page
    undone = page.partition("harm nobody:")[2].partition(".")[0]
    assert re.findall(r"`([\w-]+)`", undone) == [d.id for d in DEVIATIONS if d.optional]
