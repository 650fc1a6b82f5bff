"""Claims as data, and the rule that turns rows of results into a verdict.

A claims file (TOML) states what papers claim, what they published and which comparison would test it. The verdict is a
pure function of paired differences over seeds: with I the two-sided 95 % t-interval and A the set of values that the
claim allows,

    holds            I lies inside A
    does not hold    I and A have no point in common
    within noise     anything else
    not tested       rows are missing

Allowed sets A: ``greater`` L - R in (0, inf); ``less`` L - R in (-inf, 0); ``at_least`` L - R in [-margin, inf);
``within`` L - R in [-margin, margin]; ``at_most_ratio`` L / R in (-inf, ratio]; ``closest_to`` for every competitor
R_j, |R_j - E| - |L - E| in (0, inf), where E is the reference. Nobody writes a verdict by hand.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal, get_args

from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, t_interval
from manyone.report.numbers import unit_of
from manyone.report.results import SCORE, Results

Comparison = Literal["greater", "less", "at_least", "within", "at_most_ratio", "closest_to"]
Verdict = Literal["holds", "within noise", "does not hold", "not tested"]
SCALES = ("smoke", "laptop", "paper")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a method, its variant and, where they differ from the claim's, metric and condition."""

    method: str
    variant: str = ""
    metric: str | None = None
    condition: str | None = None


@dataclass(frozen=True)
class Paper:
    """A citation; ``arxiv`` only where it is certain."""

    id: str
    title: str
    venue: str
    year: int
    arxiv: str = ""


@dataclass(frozen=True)
class Published:
    """Figures as printed (``unit`` "%" unless said), all of one checkpoint family, or a statement in words."""

    setting: str
    source: str
    family: str = ""
    left: float | None = None
    right: float | None = None
    unit: str = "%"
    text: str = ""
    from_memory: bool = False


@dataclass(frozen=True)
class Method:
    """How a method is called on the page; ``role`` is "bound" for rows that are no merged model."""

    id: str
    label: str
    role: str = ""
    variants: Mapping[str, str] | None = None

    def name(self, variant: str = "") -> str:
        """Label with the variant's words."""
        words = [(self.variants or {}).get(word, word) for word in variant.split("+") if word]
        if not words:
            return self.label
        return f"{self.label} {words[0]}" + (f" ({', '.join(words[1:])})" if words[1:] else "")


@dataclass(frozen=True)
class Claim:
    """One comparison; ``right`` has one side, or several competitors for ``closest_to``; ``short`` is for terminals."""

    id: str
    short: str
    statement: str
    comparison: Comparison
    left: Side
    right: tuple[Side, ...]
    tests: Mapping[str, tuple[str, ...]]
    metric: str = SCORE
    condition: str = "clean"
    margin: float = 0.0
    ratio: float = 1.0
    reference: Side | None = None
    paper: str = ""
    published: tuple[Published, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Metric:
    """How a metric of the rows is called and written; ``unit`` "%" means fractions shown times 100."""

    label: str
    unit: str = ""


@dataclass(frozen=True)
class Claims:
    """A claims file.

    ``score`` is what the rows' figures per task are ("accuracy", "success"), ``unit`` how they are written: "%" means
    fractions shown times 100. ``subject`` is what a method makes, in words.
    """

    field: str = ""
    claims: tuple[Claim, ...] = ()
    papers: Mapping[str, Paper] = dataclass_field(default_factory=dict)
    methods: Mapping[str, Method] = dataclass_field(default_factory=dict)
    score: str = SCORE
    unit: str = "%"
    subject: str = "method"
    families: str = ""
    """What published figures come in families of ("checkpoints"); then every comparison names its one family."""
    metrics: Mapping[str, Metric] = dataclass_field(default_factory=dict)
    conditions: Mapping[str, str] = dataclass_field(default_factory=dict)
    """``title`` and ``text`` of the section about conditions other than "clean"."""

    def unit_of(self, metric: str) -> str:
        """The unit of ``metric``: the score's, one that [metrics] states, or the usual one of its name."""
        if metric.partition(".")[0] == self.score:
            return self.unit
        return self.metrics[metric].unit if metric in self.metrics else unit_of(metric)

    def name(self, method: str, variant: str = "") -> str:
        """What the page calls (method, variant)."""
        return self.methods.get(method, Method(method, method)).name(variant)


@dataclass(frozen=True)
class Finding:
    """One claim tested on one suite.

    ``estimate`` is what the rule looked at; for ``closest_to`` it belongs to ``rival``, the strongest competitor.
    """

    claim: Claim
    suite: str
    verdict: Verdict
    reason: str
    estimate: Interval | None = None
    left: Interval | None = None
    right: Interval | None = None
    rival: Side | None = None


def allowed(comparison: Comparison, margin: float = 0.0, ratio: float = 1.0) -> tuple[float, float, bool]:
    """(low, high, closed): the set of values that the claim allows."""
    if comparison in ("greater", "closest_to"):
        return 0.0, math.inf, False
    if comparison == "less":
        return -math.inf, 0.0, False
    if comparison == "at_least":
        return -margin, math.inf, True
    if comparison == "within":
        return -margin, margin, True
    if comparison == "at_most_ratio":
        return -math.inf, ratio, True
    raise ValueError(f"unknown comparison {comparison!r}: use one of {', '.join(get_args(Comparison))}")


def verdict(
    comparison: Comparison, estimates: Sequence[Interval], *, margin: float = 0.0, ratio: float = 1.0
) -> Verdict:
    """The rule of this module for one interval per comparison (several only for ``closest_to``, all must hold)."""
    if not estimates:
        return "not tested"
    low, high, closed = allowed(comparison, margin, ratio)

    def inside(i: Interval) -> bool:
        if not (math.isfinite(i.low) and math.isfinite(i.high)):
            return False
        return (low <= i.low and i.high <= high) if closed else (low < i.low and i.high < high)

    def outside(i: Interval) -> bool:
        return (i.high < low or i.low > high) if closed else (i.high <= low or i.low >= high)

    if all(inside(i) for i in estimates):
        return "holds"
    return "does not hold" if any(outside(i) for i in estimates) else "within noise"


def assess(claims: Claims, results: Results, scale: str) -> list[Finding]:
    """Every claim on every suite that tests it at ``scale``."""
    if scale not in SCALES:
        raise ManyoneError(f"unknown scale {scale!r}: use {', '.join(SCALES)}")
    return [examine(claims, c, results, suite) for c in claims.claims for suite in c.tests.get(scale, ())]


def examine(claims: Claims, claim: Claim, results: Results, suite: str) -> Finding:
    """One claim on one suite."""
    sides = [claim.left, *claim.right, *([claim.reference] if claim.reference else [])]
    by_seed = []
    for side in sides:
        metric, condition = side.metric or claim.metric, side.condition or claim.condition
        values = results.values(suite, side.method, side.variant, metric, condition)
        if not values:
            what = claims.name(side.method, side.variant)
            return Finding(claim, suite, "not tested", f"no {metric} of {what} on {suite}, {condition}")
        by_seed.append(values)
    seeds = sorted(set.intersection(*(set(v) for v in by_seed)))
    if not seeds:
        return Finding(claim, suite, "not tested", f"the two sides have no seed in common on {suite}")
    columns = [[values[s] for s in seeds] for values in by_seed]
    left, rights = columns[0], columns[1 : 1 + len(claim.right)]
    if claim.comparison == "closest_to":
        target = columns[-1]
        estimates = [t_interval([abs(r - e) - abs(x - e) for x, r, e in zip(left, right, target)]) for right in rights]
    elif claim.comparison == "at_most_ratio":
        if any(r == 0 for r in rights[0]):
            return Finding(claim, suite, "not tested", f"the right side is 0 on {suite}: no ratio exists")
        estimates = [t_interval([x / r for x, r in zip(left, rights[0])])]
    else:
        estimates = [t_interval([x - r for x, r in zip(left, rights[0])])]
    decision = verdict(claim.comparison, estimates, margin=claim.margin, ratio=claim.ratio)
    worst = min(range(len(estimates)), key=lambda k: estimates[k].low if len(seeds) > 1 else estimates[k].value)
    most = max(len(v) for v in by_seed)
    notes = ["one seed gives no interval; run at least two"] if len(seeds) == 1 else []
    if len(seeds) < most:
        notes.append(f"only {len(seeds)} of {most} seeds are in all the rows compared")
    return Finding(
        claim,
        suite,
        decision,
        "; ".join(notes),
        estimates[worst],
        t_interval(left),
        t_interval(rights[worst]),
        claim.right[worst],
    )


# --- reading the file -------------------------------------------------------------------------------------------------

_TEXT, _NUMBER = "text", "number"
_PUBLISHED_KEYS = {
    "setting": _TEXT,
    "source": _TEXT,
    "family": _TEXT,
    "left": _NUMBER,
    "right": _NUMBER,
    "unit": _TEXT,
    "text": _TEXT,
    "from_memory": "boolean",
}
_CLAIM_KEYS = {
    "id": _TEXT,
    "short": _TEXT,
    "statement": _TEXT,
    "comparison": _TEXT,
    "left": "table",
    "right": "side or list",
    "reference": "table",
    "tests": "table",
    "metric": _TEXT,
    "condition": _TEXT,
    "margin": _NUMBER,
    "ratio": _NUMBER,
    "paper": _TEXT,
    "published": "list",
    "note": _TEXT,
}
_FILE_KEYS = {
    "field": _TEXT,
    "score": _TEXT,
    "unit": _TEXT,
    "subject": _TEXT,
    "families": _TEXT,
    "conditions": "table",
    "metrics": "table",
    "papers": "table",
    "methods": "table",
    "claims": "list",
}
_CONDITIONS_KEYS = {"title": _TEXT, "text": _TEXT}
_METRIC_KEYS = {"label": _TEXT, "unit": _TEXT}
_SIDE_KEYS = {"method": _TEXT, "variant": _TEXT, "metric": _TEXT, "condition": _TEXT}
_PAPER_KEYS = {"title": _TEXT, "venue": _TEXT, "year": "whole number", "arxiv": _TEXT}
_METHOD_KEYS = {"label": _TEXT, "role": _TEXT, "variants": "table"}
_KINDS: dict[str, tuple[type, ...]] = {
    _TEXT: (str,),
    _NUMBER: (int, float),
    "whole number": (int,),
    "boolean": (bool,),
    "table": (dict,),
    "list": (list,),
    "side or list": (dict, list),
}


def _check(data: Any, keys: Mapping[str, str], required: Sequence[str], where: str) -> dict[str, Any]:
    """One table of the file against its keys; the message names the file, the claim and the key."""
    if not isinstance(data, dict):
        raise ManyoneError(f"{where}: must be a table")
    for name in required:
        if name not in data:
            raise ManyoneError(f"{where}: key {name!r} is missing")
    for name, value in data.items():
        if name not in keys:
            raise ManyoneError(f"{where}: unknown key {name!r} (known: {', '.join(keys)})")
        kinds = _KINDS[keys[name]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ManyoneError(f"{where}: key {name!r} must be a {keys[name]}, got {value!r}")
    return data


def _side(data: Any, methods: Mapping[str, Method], where: str) -> Side:
    side = Side(**_check(data, _SIDE_KEYS, ["method"], where))
    if side.method not in methods:
        raise ManyoneError(f"{where}: key 'method' names {side.method!r}, which [methods] does not list")
    return side


def _claim(
    data: Any, methods: Mapping[str, Method], papers: Mapping[str, Paper], score: str, families: str, where: str
) -> Claim:
    data = dict(_check(data, _CLAIM_KEYS, ["id", "short", "statement", "comparison", "left", "right", "tests"], where))
    data.setdefault("metric", score)
    where = f"{where.rsplit(': ', 1)[0]}: claim {data['id']!r}"
    if data["comparison"] not in get_args(Comparison):
        known = ", ".join(get_args(Comparison))
        raise ManyoneError(f"{where}: key 'comparison' is {data['comparison']!r}: use one of {known}")
    if data.get("paper") and data["paper"] not in papers:
        raise ManyoneError(f"{where}: key 'paper' names {data['paper']!r}, which [papers] does not list")
    several = data["comparison"] == "closest_to"
    if several != isinstance(data["right"], list):
        wanted = "a list of competitors" if several else "one side"
        raise ManyoneError(f"{where}: key 'right' must be {wanted} for comparison {data['comparison']!r}")
    if several != ("reference" in data):
        problem = "is needed" if several else "has no meaning"
        raise ManyoneError(f"{where}: key 'reference' {problem} for comparison {data['comparison']!r}")
    for key, users in (("margin", ("at_least", "within")), ("ratio", ("at_most_ratio",))):
        if key in data and data["comparison"] not in users:
            raise ManyoneError(f"{where}: key {key!r} has no meaning for comparison {data['comparison']!r}")
    needed = {"within": "margin", "at_most_ratio": "ratio"}.get(data["comparison"])
    if needed and data.get(needed, 0) <= 0:
        raise ManyoneError(f"{where}: key {needed!r} must be given and positive, got {data.get(needed)}")
    if data.get("margin", 0) < 0:
        raise ManyoneError(f"{where}: key 'margin' must not be negative, got {data['margin']}")
    tests = _check(data["tests"], dict.fromkeys(SCALES, "list"), [], f"{where}: tests")
    for scale, suites in tests.items():
        if not suites or not all(isinstance(s, str) for s in suites):
            raise ManyoneError(f"{where}: key 'tests.{scale}' must be a list of suite names")
    published = []
    for entry in data.get("published", []):
        figures = Published(**_check(entry, _PUBLISHED_KEYS, ["setting", "source"], f"{where}: published"))
        if figures.left is None and figures.right is None and not figures.text:
            raise ManyoneError(f"{where}: published: give 'left' and 'right', or 'text'")
        if families and figures.left is not None and figures.right is not None and not figures.family:
            raise ManyoneError(
                f"{where}: published: key 'family' must name the one family of {families} of both figures"
            )
        published.append(figures)
    right = data["right"] if several else [data["right"]]
    data["left"] = _side(data["left"], methods, f"{where}: left")
    data["right"] = tuple(_side(r, methods, f"{where}: right") for r in right)
    if several:
        data["reference"] = _side(data["reference"], methods, f"{where}: reference")
    data["tests"] = {scale: tuple(suites) for scale, suites in tests.items()}
    return Claim(**(data | {"published": tuple(published)}))


def load_claims(path: Path) -> Claims:
    """Reads and checks a claims file; every problem is one line that names the file, the claim and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManyoneError(f"{path}: cannot read the claims file: {error.strerror or error}") from error
    return parse_claims(text, str(path))


def parse_claims(text: str, where: str) -> Claims:
    """The claims in ``text``; ``where`` opens every error message."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ManyoneError(f"{where}: not TOML: {error}") from error
    _check(data, _FILE_KEYS, ["field", "papers", "methods", "claims"], where)
    score = data.get("score", SCORE)
    if score in ("", "bias") or "." in score:
        raise ManyoneError(f"{where}: key 'score' is {score!r}: use one word such as 'accuracy' or 'success'")
    papers = {}
    for name, entry in data["papers"].items():
        papers[name] = Paper(name, **_check(entry, _PAPER_KEYS, ["title", "venue", "year"], f"{where}: paper {name!r}"))
    methods = {}
    for name, entry in data["methods"].items():
        methods[name] = Method(name, **_check(entry, _METHOD_KEYS, ["label"], f"{where}: method {name!r}"))
    families = data.get("families", "")
    metrics = {}
    for name, entry in data.get("metrics", {}).items():
        metrics[name] = Metric(**_check(entry, _METRIC_KEYS, ["label"], f"{where}: metric {name!r}"))
    claims = [
        _claim(c, methods, papers, score, families, f"{where}: claim number {k}")
        for k, c in enumerate(data["claims"], 1)
    ]
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise ManyoneError(f"{where}: claim {claim.id!r}: key 'id' is used twice")
        seen.add(claim.id)
    words = {key: data[key] for key in ("score", "unit", "subject", "families", "conditions") if key in data}
    _check(words.get("conditions", {}), _CONDITIONS_KEYS, [], f"{where}: conditions")
    return Claims(data["field"], tuple(claims), papers, methods, metrics=metrics, **words)
