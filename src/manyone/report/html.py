"""The report as one self-contained HTML page: no script, no network, light and dark, phone and paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone import __version__
from manyone.claims.numbers import after
from manyone.claims.study import Report, Study
from manyone.engine.files import part_beside
from manyone.errors import ManyoneError
from manyone.report import sections, sections_figures, sections_models
from manyone.report.runs import runs_context

_TOC = {
    "claims": "Claims",
    "heat": "",
    "conditions": "",
    "costs": "Cost",
    "measures": "Measures",
    "suites": "Data",
}
_IDS = {"heat": "scores", "costs": "cost", "suites": "data"}


def render(page: Study | Report) -> str:
    """The page of a study, or of several with a chapter each; equal studies give equal text."""
    studies = (page,) if isinstance(page, Study) else page.studies
    several = len(studies) > 1
    chapters = [_chapter(s, f"{s.field}-" if several else "", 3 if several else 2) for s in studies]
    only = chapters[0] if len(chapters) == 1 else None
    days = list(dict.fromkeys(s.made for s in studies if s.made))
    context = {
        "title": page.title if several or only is None else only["title"],
        "scale": ", ".join(dict.fromkeys(s.scale for s in studies)),
        "made": " and ".join(days),
        "score_words": only["score_words"] if only else "",
        "overview": chapters if several else [],
        "verdicts": list(sections.MARKS),
        "chapters": chapters,
        "toc": only["toc"] if only else [],
    }
    return _set("study.html.j2", context)


def _chapter(study: Study, prefix: str, top: int) -> dict[str, Any]:
    """One study, set; ``prefix`` opens its ids and ``top`` is the level of its headings."""
    from markupsafe import Markup

    claims, found = study.claims, study.findings()
    unit = after(claims.unit)
    title = claims.conditions.get("title", "Conditions")
    context: dict[str, Any] = {
        "pre": prefix,
        "top": top,
        "score": claims.score,
        "unit": unit,
        "score_in": f"{claims.score} in{unit}" if unit else claims.score,
        "subject": claims.subject,
        "bounds": sections.has_bounds(study),
        "notes": list(study.notes),
        "summary": sections.summary(study, found),
        "claims": sections.claim_rows(study, found),
        "reach": f"{sections.strip_reach(study, found):g}",
        "strips": sections.has_strips(study, found),
        "heat": sections.heat_maps(study),
        "conditions": sections.condition_tables(study),
        "conditions_title": title,
        "conditions_text": claims.conditions.get("text", ""),
        "costs": sections_models.cost_groups(study),
        "measures": sections_figures.measure_tables(study),
        "figures": sections_figures.figure_sections(study.figures),
        "suites": list(study.suites),
        "configs": [(name, sections.flatten(config)) for name, config in study.configs.items()],
        "commands": list(study.commands),
        "environment": list(study.environment.items()),
    }
    names = _TOC | {"heat": claims.score.capitalize(), "conditions": title}
    toc = [(_IDS.get(key, key), name) for key, name in names.items() if context[key]]
    at = len(toc) - bool(context["suites"])
    toc[at:at] = [(section["id"], section["title"]) for section in context["figures"]]
    if context["configs"] or context["commands"] or context["environment"]:
        toc.append(("repeat", "Repeat it"))
    return {
        "id": study.field,
        "title": study.title,
        "score_words": f"{claims.score.capitalize()} is in{unit}" if unit and context["heat"] else "",
        "toc": [(prefix + name, words) for name, words in [("summary", "In short"), *toc]],
        "counts": sections.counts(found),
        "tests": len(found),
        "content": Markup(_set("chapter.html.j2", context)),
    }


def write(path: Path, study: Study | Report) -> Path:
    """Writes the page of ``study`` to ``path`` in one step (a reader never sees half a page)."""
    return _write(path, render(study))


def run_report(run_folders: Sequence[Path], out: Path) -> Path:
    """Writes one page for one or more ordinary runs: results side by side, curves, configuration.

    The folder of a study (see :mod:`manyone.claims.study`) gives that study's page again; it stands alone.
    """
    studies = [f for f in run_folders if (f / "study.json").is_file()]
    if studies and len(run_folders) > 1:
        raise ManyoneError(f"{studies[0]} is a study and has a page of its own: report on it alone")
    if studies:
        return write(out, Report.load(studies[0]))
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
    try:
        with part_beside(path) as part:
            (part / path.name).write_text(text, encoding="utf-8")
            (part / path.name).replace(path)
    except OSError as error:
        raise ManyoneError(f"{path}: cannot write the report: {error.strerror or error}") from error
    return path
