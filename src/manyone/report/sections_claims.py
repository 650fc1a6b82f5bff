"""What the page says of claims: the figure of all of them, and the table with rule, sources and verdict of each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from manyone.claims.claims import Claim, Finding, Paper, Published, Verdict
from manyone.claims.numbers import LABELS, after, difference, plain, with_interval
from manyone.claims.study import Study
from manyone.report.sections import CSS, MARKS
from manyone.report.strips import Axis, axis_for, in_points, measured, scale, strip

_ADDRESS = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})|\b((?:github\.com|openreview\.net|alphaxiv\.org)/[\w./?=~-]*[\w=/])")


def linked(text: str) -> Markup:
    """``text`` with its arXiv numbers and its addresses of a few well-known places as links."""

    def link(found: re.Match[str]) -> str:
        place = f"arxiv.org/abs/{found[1]}" if found[1] else found[2]
        shown = f"arXiv:{found[1]}" if found[1] else found[2]
        return f'<a href="https://{place}" rel="noreferrer">{shown}</a>'

    return Markup(_ADDRESS.sub(link, str(escape(text))))


def by_claim(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    """The findings of each claim, in the order of the claims file."""
    groups: dict[str, list[Finding]] = {}
    for f in found:
        groups.setdefault(f.claim.id, []).append(f)
    return groups


def axes(study: Study, found: Sequence[Finding]) -> dict[str, Axis]:
    """The axis of each claim: one for all differences in points, one of its own for any other."""
    groups = by_claim(found)
    numbers = {name: [m for f in of_it if (m := measured(study, f))] for name, of_it in groups.items()}
    points = [name for name, of_it in groups.items() if in_points(study, of_it[0].claim)]
    shared = axis_for(m for name in points for m in numbers[name])
    return {name: shared if name in points else axis_for(of_it, centred=True) for name, of_it in numbers.items()}


# --- the figure of all claims ----------------------------------------------------------------------------------------


def panels(study: Study, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """The study's part of the figure: the claims in points on their common axis, then those with an axis each."""
    of_claim = axes(study, found)
    drawn: list[dict[str, Any]] = []
    for points in (True, False):
        groups = [g for g in by_claim(found).values() if in_points(study, g[0].claim) == points]
        if not groups:
            continue
        own = "Other measures, each claim on an axis of its own" if drawn else "Each claim on an axis of its own"
        title = "Differences in points" if points else own
        rows = [_group(study, group, of_claim[group[0].claim.id], points) for group in groups]
        numbers = scale(of_claim[groups[0][0].claim.id]) if points else ""
        drawn.append({"title": title, "scale": numbers, "claims": rows})
    return drawn


def _group(study: Study, group: Sequence[Finding], axis: Axis, points: bool) -> dict[str, Any]:
    claim = group[0].claim
    rows = [_verdict(f) | {"strip": _strip(study, f, axis, points), "text": _brief(study, f)} for f in group]
    return {"id": claim.id, "short": claim.short, "statement": claim.statement, "rows": rows}


def _strip(study: Study, f: Finding, axis: Axis, marked: bool = False) -> Markup | str:
    shown = measured(study, f)
    return "" if shown is None else strip(shown, axis, marked=marked)


def _verdict(f: Finding) -> dict[str, Any]:
    return {"suite": f.suite, "verdict": f.verdict, "css": CSS[f.verdict], "mark": MARKS[f.verdict]}


def _brief(study: Study, f: Finding) -> str:
    """The finding in a few characters, beside its strip."""
    if f.estimate is None:
        return "not measured"
    if f.claim.comparison == "at_most_ratio":
        return f"ratio {plain('', f.estimate.value)}, at most {f.claim.ratio:.3g}"
    said = difference(study.claims.unit_of(f.claim.metric), f.estimate).replace(
        " (one seed: no interval)", " (one seed)"
    )
    if in_points(study, f.claim):
        return said.replace(" points", "")
    return f"{label_of(study, f.claim.metric)} {said}"


def label_of(study: Study, metric: str) -> str:
    """What the page calls ``metric``."""
    known = study.claims.metrics.get(metric)
    return known.label if known else LABELS.get(metric, metric)


def gate_rows(study: Study) -> list[dict[str, Any]]:
    """What claims need before they are judged: the range and what was measured, a row for each gate and suite."""
    rows = []
    for p in study.passages():
        unit, (low, high) = p.gate.unit, p.gate.range_on(p.suite)
        ends = [f"at least {plain(unit, low)}{after(unit)}"] if math.isfinite(low) else []
        ends += [f"at most {plain(unit, high)}{after(unit)}"] if math.isfinite(high) else []
        verdict: Verdict = "not tested" if p.passes is None else "holds" if p.passes else "does not hold"
        words = {"not tested": "not measured", "holds": "passes", "does not hold": "fails"}[verdict]
        rows.append(
            {
                "statement": p.gate.statement,
                "suite": p.suite,
                "range": ", ".join(ends),
                "value": "–" if p.value is None else f"{plain(unit, p.value.value)}{after(unit)}",
                "badge": {"css": CSS[verdict], "mark": MARKS[verdict], "verdict": words},
            }
        )
    return rows


# --- the table of claims ---------------------------------------------------------------------------------------------


def claim_rows(study: Study, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One row per claim with its findings on every suite."""
    groups, of_claim = by_claim(found), axes(study, found)
    return [
        {
            "id": claim.id,
            "statement": claim.statement,
            "paper": _paper(study, claim),
            "note": claim.note,
            "rule": rule_text(study, claim),
            "published": _by_source(claim, study.claims.families),
            "findings": [
                _verdict(f) | {"text": measured_text(study, f), "strip": _strip(study, f, of_claim[claim.id])}
                for f in groups[claim.id]
            ],
        }
        for claim in study.claims.claims
        if claim.id in groups
    ]


def papers(study: Study, found: Sequence[Finding]) -> list[Markup]:
    """The papers whose claims were tested, in full, with their arXiv numbers as links."""
    cited = {f.claim.paper for f in found}
    return [_citation(p, f"{p.title}, ") for name, p in study.claims.papers.items() if name in cited]


def _citation(paper: Paper, title: str) -> Markup:
    where = f"{paper.venue} {paper.year}" if paper.venue != "arXiv" else str(paper.year)
    return linked(f"{title}{where}" + (f", arXiv {paper.arxiv}" if paper.arxiv else ""))


def _paper(study: Study, claim: Claim) -> Markup:
    """The citation in short; its title stands above the table where its arXiv number tells which paper it is."""
    paper = study.claims.papers.get(claim.paper)
    if paper is None:
        return Markup("No published claim")
    return _citation(paper, "" if paper.arxiv else f"{paper.title}, ")


def _by_source(claim: Claim, families: str) -> list[dict[str, Any]]:
    """Published figures under the source that they share."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for p in claim.published:
        groups.setdefault((p.source, p.verified), []).append(published_text(p, families))
    return [
        {"figures": figures, "source": linked(source), "verified": verified}
        for (source, verified), figures in groups.items()
    ]


def published_text(p: Published, families: str) -> str:
    """``72.2 against 68.0 % (CLIP ViT-B/32, Hugging Face checkpoints)``."""
    where = f"{p.setting}, {p.family} {families}".rstrip() if p.family else p.setting
    if p.left is None and p.right is None:
        return f"{p.text} ({where})"
    unit = " %" if p.unit == "%" else f" {p.unit}".rstrip()
    shown = [f"{v:g}" if p.unit != "%" else f"{v:.1f}" for v in (p.left, p.right) if v is not None]
    half = "" if len(shown) == 2 else "; the left side alone" if p.right is None else "; the right side alone"
    return f"{' against '.join(shown)}{unit} ({where}{half})" + (f". {p.text}" if p.text else "")


def rule_text(study: Study, claim: Claim) -> str:
    """What the verdict compares, in words."""
    own = study.claims.unit_of(claim.metric)
    unit = (lambda m: f"{100 * m:g} points") if own == "%" else (lambda m: f"{m:g}{after(own)}")
    return {
        "greater": "difference above 0",
        "less": "difference below 0",
        "at_least": f"difference at least {unit(-claim.margin) if claim.margin else '0'}".replace("-", "−"),
        "within": f"difference between −{unit(claim.margin)} and +{unit(claim.margin)}",
        "at_most_ratio": f"ratio at most {claim.ratio:.4g}",
        "closest_to": "nearer to the reference than every competitor",
    }[claim.comparison]


def measured_text(study: Study, f: Finding) -> str:
    """Both sides and what the rule looked at."""
    if f.estimate is None or f.left is None or f.right is None or f.rival is None:
        return f.reason
    claim, metric = f.claim, f.claim.metric
    unit = study.claims.unit_of(metric)
    names = study.claims.name(claim.left.method, claim.left.variant), study.claims.name(f.rival.method, f.rival.variant)
    left, right = with_interval(unit, f.left), with_interval(unit, f.right)
    if names[0] == names[1]:
        names = (f"{names[0]}, after", "before") if metric.startswith("bias") else names
    text = f"{names[0]} {left}{after(unit)}, {names[1]} {right}{after(unit)}"
    if claim.comparison == "at_most_ratio":
        text += f"; ratio {plain('', f.estimate.value)}"
    elif claim.comparison == "closest_to":
        text += f"; nearer than the strongest competitor by {difference(unit, f.estimate)}"
    else:
        text += f"; difference {difference(unit, f.estimate)}"
    if f.verdict == "within noise" and math.isfinite(half := f.estimate.half_width) and half > 0:
        size = "a ratio" if claim.comparison == "at_most_ratio" else "a difference"
        text += f"; with this spread {size} of {plain(unit, half)}{after(unit)} or more would have shown"
    return text + (f" ({f.reason})" if f.reason else "")
