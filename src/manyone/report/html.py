"""The report as one self-contained HTML page: no network, light and dark, phone and paper, whole without its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from manyone import __version__
from manyone.claims.claims import Finding
from manyone.claims.numbers import after, duration
from manyone.claims.study import Report, Study
from manyone.engine.files import part_beside
from manyone.errors import ManyoneError
from manyone.report import sections, sections_claims, sections_figures, sections_models
from manyone.report.runs import runs_context

_TOC = {
    "gates": "What claims need",
    "claims": "Claims",
    "heat": "",
    "conditions": "",
    "costs": "Cost",
    "measures": "Measures",
    "suites": "Data",
}
_IDS = {"heat": "scores", "costs": "cost", "suites": "data"}
_FORMER_TIME = "wall time"
"""What studies of version 0.1 call the time of the last command, in their environment."""


def render(page: Study | Report) -> str:
    """The page of a study, or of several with a folded chapter each; equal studies give equal text."""
    studies = (page,) if isinstance(page, Study) else page.studies
    several = len(studies) > 1
    chapters = [_chapter(s, f"{s.field}-" if several else "", 3 if several else 2) for s in studies]
    found = [f for chapter in chapters for f in chapter["found"]]
    fields = [(c["id"], c["short"]) for c in chapters]
    opening = [("overview", "What came out")] if found else []
    context = {
        "title": page.title if several or not studies else studies[0].title,
        "scales": _scales(list(dict.fromkeys(s.scale for s in studies))),
        "heading": _heading(page),
        "several": several,
        "chapters": chapters,
        "counts": sections.counts(found),
        "tests": len(found),
        "toc": opening + (fields if several else [pair for c in chapters for pair in c["toc"]]),
        "script": _script(),
        "script_hash": _hash(_script()),
    }
    return _set("study.html.j2", context)


def _scales(own: Sequence[str]) -> list[tuple[str, str, bool]]:
    """(scale, what it means, whether the page is of it): the page's own first, then the others."""
    known = {name: (name, words, name in own) for name, words in sections.SCALES.items()}
    unknown = [(name, "is one of its own", True) for name in own if name not in known]
    return unknown + sorted(known.values(), key=lambda scale: not scale[2])


def _heading(page: Study | Report) -> str:
    """The title without the scale, which is said beside it."""
    studies = (page,) if isinstance(page, Study) else page.studies
    title = studies[0].title if len(studies) == 1 else page.title
    return title.removesuffix(f", tested at scale {studies[0].scale}") if studies else title


def _chapter(study: Study, prefix: str, top: int) -> dict[str, Any]:
    """One study, set; ``prefix`` opens its ids and ``top`` is the level of its headings.

    Among several its sections are called by the chapter's name and their own, as there is a "Claims" in each.
    """
    from markupsafe import Markup

    found = study.findings()
    within = f"{study.field}-h " if prefix else ""
    context = _content(study, found) | {"pre": prefix, "top": top, "within": within}
    return {
        "id": study.field,
        "pre": prefix,
        "short": study.short,
        "title": _heading(study),
        "facts": _facts(study, found),
        "toc": [(prefix + name, words) for name, words in _contents(study, context)],
        "found": found,
        "counts": sections.counts(found),
        "words": sections.counts_in_words(found),
        "tests": len(found),
        "panels": sections_claims.panels(study, found),
        "suites": sections.suites_of(found),
        "content": Markup(_set("chapter.html.j2", context)),
    }


def _content(study: Study, found: Sequence[Finding]) -> dict[str, Any]:
    """Every section of a chapter as data."""
    claims = study.claims
    unit = after(claims.unit)
    former = {_FORMER_TIME: "wall time of the last command"}
    return {
        "score": claims.score,
        "unit": unit,
        "score_in": f"{claims.score} in{unit}" if unit else claims.score,
        "subject": claims.subject,
        "bounds": sections.has_bounds(study),
        "notes": list(study.notes),
        "summary": sections.summary(study, found),
        "gates": sections_claims.gate_rows(study),
        "claims": sections_claims.claim_rows(study, found),
        "papers": sections_claims.papers(study, found),
        "unverified": any(not p.verified for f in found for p in f.claim.published),
        "heat": sections.heat_maps(study),
        "conditions": sections.condition_tables(study),
        "conditions_title": claims.conditions.get("title", "Conditions"),
        "conditions_text": claims.conditions.get("text", ""),
        "costs": sections_models.cost_groups(study),
        "measures": sections_figures.measure_tables(study),
        "figures": sections_figures.figure_sections(study.figures),
        "suites": list(study.suites),
        "configs": [(name, sections.flatten(config)) for name, config in study.configs.items()],
        "commands": list(study.commands),
        "environment": [(former.get(name, name), value) for name, value in study.environment.items()],
    }


def _contents(study: Study, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, words) of the chapter's sections, those that it has."""
    own: dict[str, str] = {"heat": study.claims.score.capitalize(), "conditions": context["conditions_title"]}
    toc = [(_IDS.get(key, key), own.get(key, name)) for key, name in _TOC.items() if context[key]]
    at = len(toc) - bool(context["suites"])
    toc[at:at] = [(section["id"], section["title"]) for section in context["figures"]]
    if context["configs"] or context["commands"] or context["environment"]:
        toc.append(("repeat", "Repeat it"))
    return [("summary", "In short"), *toc]


def _facts(study: Study, found: Sequence[Finding]) -> list[str]:
    """What a reader must know of the measurement, a sentence each."""
    seeds, suites = len(study.results.seeds()), study.results.suites()
    tests = f"{len(found)} tests of {len({f.claim.id for f in found})} claims on " if found else "Rows of "
    facts = [f"{tests}{', '.join(suites)} with {seeds} seed{'' if seeds == 1 else 's'}"] if suites else []
    facts += [study.made] if study.made else []
    if study.seconds is not None:
        facts.append(f"The runs that made the rows took {duration(study.seconds)} together")
    unit = after(study.claims.unit)
    if unit and any(map(study.results.scored, suites)):
        facts.append(f"{study.claims.score.capitalize()} is in{unit}")
    return facts


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


@cache
def _script() -> str:
    """The page's only script: it sorts tables and opens what a link leads into."""
    return resources.files("manyone.report").joinpath("templates/page.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What the page's content security policy calls the script, the only one that it lets run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


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
