"""The page of the catalogue is what its script makes."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "earth_catalogue_page.py"


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.page()
    assert script.PAGE.read_text(encoding="utf-8") == made, "python scripts/earth_catalogue_page.py"
    assert made.count("\n| `") >= 102 + 78
    assert "| DOFA | 80.63 | 59.58 |" in made
    assert "| tt_terramind_v1_base, all | 95.5 | 73.9 |" in made
    assert "99.46" in made  # CROMA on EuroSAT, of the models' papers
