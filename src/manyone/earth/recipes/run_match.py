"""How ``earth-match`` runs: which band feeds which slot, as a table and a drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping

from manyone.claims.figure import Figure, save_figures
from manyone.data.rasters.sensors import as_sensor
from manyone.earth.matching_report import MatchReport, match_report
from manyone.earth.recipes.options import MatchOptions
from manyone.earth.recipes.results import results_of
from manyone.engine.files import write_atomic
from manyone.engine.run import RunFolder
from manyone.recipes.options import Split
from manyone.recipes.running import print_table
from manyone.report.html import run_report

RESULT = "match.json"
SECTION = "Bands"


def run(options: MatchOptions, build: None, folder: RunFolder) -> None:
    """Pairs, prints and writes."""
    found = match_report(as_sensor(options.sensor), options.model, options.limit)
    folder.ensure()
    plain = {"source": found.source, "model": found.model, "modality": found.modality, "rows": list(found.rows),
             "missing": list(found.missing), "unused": list(found.unused), "unit": found.unit,
             "notes": list(found.notes)}  # fmt: skip
    write_atomic(folder.path / RESULT, (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode())
    save_figures(folder.path / "figures.json", figures_of(found))
    folder.log(0, "final", _metrics(found))
    folder.close()
    run_report([folder.path], folder.path / "report.html")
    columns = list(found.rows[0]) if found.rows else []
    print_table(columns, [[_cell(row.get(c)) for c in columns] for row in found.rows])
    print(f"{found.model} wants {found.unit or 'a unit that is not published'}")
    print(f"missing: {', '.join(found.missing) or 'none'}")
    print(f"unused: {', '.join(found.unused) or 'none'}")
    for note in found.notes:
        print(f"note: {note}")


def plan(options: MatchOptions, build: None, folder: RunFolder) -> list[str]:
    """Both sides and how many slots there are."""
    found = match_report(as_sensor(options.sensor), options.model, options.limit)
    return [f"{options.sensor} -> {found.model} ({found.modality}): {len(found.rows)} slots"]


def evaluate(options: MatchOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Counts of slots and bands."""
    found = results_of(folder, RESULT, split)
    filled = len(found["rows"]) - len(found["missing"])
    return {"slots": len(found["rows"]), "filled": filled, "unused bands": len(found["unused"])}


def figures_of(found: MatchReport) -> list[Figure]:
    """The table, and both sides' bands along the wavelength: a bar as wide as the band, partners on one height."""
    columns = list(dict.fromkeys(name for row in found.rows for name in row))
    table = Figure("table", f"{found.source} to {found.model}",
                   {"columns": columns, "rows": [[_cell(row.get(c)) for c in columns] for row in found.rows]},
                   f"Slots of {found.model} ({found.modality}) and the band that feeds each. Unused: "
                   f"{', '.join(found.unused) or 'none'}. {' '.join(found.notes)}", SECTION)  # fmt: skip
    series = {}
    for bar in found.bars:
        if bar.center_nm > 3000:
            continue  # thermal and radar would leave the rest no room
        half = (bar.fwhm_nm or 10.0) / 2
        height = 1.0 if bar.side == "slot" else 0.0
        series[f"{bar.side} {bar.name}"] = {"x": [bar.center_nm - half, bar.center_nm + half], "y": [height, height],
                                            "group": bar.side}  # fmt: skip
        if bar.side == "slot" and bar.partner:
            other = next((b for b in found.bars if b.side == "source" and b.name == bar.partner), None)
            if other is not None:
                series[f"{bar.name} from {bar.partner}"] = {"x": [other.center_nm, bar.center_nm], "y": [0.0, 1.0],
                                                            "group": "pair"}  # fmt: skip
    drawn = [table]
    if series:
        drawn.append(Figure("lines", "Bands by wavelength", {"series": series, "x_label": "wavelength, nm"},
                            "Below the sensor's bands, above the model's slots, each as wide as it is; a line joins a "
                            "band with the slot that it feeds.", SECTION))  # fmt: skip
    return drawn


def _metrics(found: MatchReport) -> dict[str, float]:
    filled = len(found.rows) - len(found.missing)
    return {"slots": float(len(found.rows)), "filled": float(filled), "unused_bands": float(len(found.unused))}


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
