"""The report as one self-contained HTML page: no script, no network, light and dark, phone and paper."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone import __version__
from manyone.errors import ManyoneError
from manyone.report import sections
from manyone.report.runs import runs_context
from manyone.report.study import Study

_TOC = {
    "claims": "Claims",
    "heat": "Accuracy",
    "conditions": "Corruptions and unseen tasks",
    "granularity": "Routing granularity",
    "routing": "Routing weights",
    "bias": "Representation bias",
    "costs": "Cost",
    "curves": "Adaptation",
    "suites": "Data",
}
_IDS = {"heat": "accuracy", "costs": "cost", "suites": "data"}


def render(study: Study) -> str:
    """The page of a study; equal studies give equal text."""
    found = study.findings()
    context: dict[str, Any] = {
        "title": study.title,
        "scale": study.scale,
        "made": study.made,
        "notes": list(study.notes),
        "summary": sections.summary(study, found),
        "claims": sections.claim_rows(study, found),
        "reach": f"{sections.strip_reach(found):g}",
        "heat": sections.heat_maps(study),
        "conditions": sections.condition_tables(study),
        "granularity": sections.granularity_tables(study),
        "routing": sections.routing_grids(study),
        "bias": sections.bias_groups(study),
        "costs": sections.cost_groups(study),
        "curves": sections.curve_groups(study),
        "suites": list(study.suites),
        "configs": [(name, sections.flatten(config)) for name, config in study.configs.items()],
        "commands": list(study.commands),
        "environment": list(study.environment.items()),
    }
    toc = [(_IDS.get(key, key), name) for key, name in _TOC.items() if context[key]]
    if context["configs"] or context["commands"] or context["environment"]:
        toc.append(("repeat", "Repeat it"))
    return _set("study.html.j2", context | {"toc": [("summary", "In short"), *toc]})


def write(path: Path, study: Study) -> Path:
    """Writes the page of ``study`` to ``path`` in one step (a reader never sees half a page)."""
    return _write(path, render(study))


def run_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Writes one page for one or more ordinary runs: results side by side, curves, configuration."""
    context = runs_context(run_folders)
    return _write(out, _set("runs.html.j2", context))


def _set(template: str, context: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manyone.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(version=__version__, **context)


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what could not be written may not be there
            temporary.unlink()
        raise ManyoneError(f"{path}: cannot write the report: {error.strerror or error}") from error
    return path
