"""Claims as data, and the rule that turns rows of results into a verdict.

A claims file (TOML) states what papers claim, what they published and which comparison would test it. The verdict is a
pure function of paired differences over seeds: with I the two-sided 95 % t-interval and A the set of values that the
claim allows,

    holds            I lies inside A
    does not hold    I and A have no point in common
    within noise     anything else
    not tested       rows are missing
    not in its regime   one of the claim's ``needs`` does not hold on this suite, whatever I is

Allowed sets A: ``greater`` L - R in (0, inf); ``less`` L - R in (-inf, 0); ``at_least`` L - R in [-margin, inf);
``within`` L - R in [-margin, margin]; ``at_most_ratio`` L / R in (-inf, ratio]; ``closest_to`` for every competitor
R_j, |R_j - E| - |L - E| in (0, inf), where E is the reference. Nobody writes a verdict by hand.

A method is judged only where its mechanism can operate. A *gate* states such a condition as a range for one figure's
mean over seeds; a claim ``needs`` gates, or other claims of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Literal, get_args

from manyone.claims.numbers import unit_of
from manyone.claims.rows import SCORE, Results
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, t_interval

Comparison = Literal["greater", "less", "at_least", "within", "at_most_ratio", "closest_to"]
Verdict = Literal["holds", "within noise", "does not hold", "not in its regime", "not tested"]
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
    """Figures as printed (``unit`` "%" unless said), all of one checkpoint family, or a statement in words.

    ``verified``: a public page was found that prints this. Nothing published decides a verdict, verified or not.
    """

    setting: str
    source: str
    family: str = ""
    left: float | None = None
    right: float | None = None
    unit: str = "%"
    text: str = ""
    verified: bool = True


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
class Gate:
    """A condition under which a mechanism can operate: a figure's mean over seeds lies in [``low``, ``high``].

    ``low_on`` has other lower ends for single suites.
    """

    id: str
    short: str
    statement: str
    side: Side
    metric: str
    low: float = -math.inf
    high: float = math.inf
    low_on: Mapping[str, float] = dataclass_field(default_factory=dict)
    condition: str = "clean"

    def range_on(self, suite: str) -> tuple[float, float]:
        """(low, high) on ``suite``."""
        return self.low_on.get(suite, self.low), self.high


@dataclass(frozen=True)
class Passage:
    """One gate on one suite: what was measured, and whether it lies in the gate's range; None without rows."""

    gate: Gate
    suite: str
    value: Interval | None
    passes: bool | None


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
    needs: tuple[str, ...] = ()
    """Ids of gates and claims that must hold on a suite before this claim is judged there."""
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

    ``short`` is what contents and tables call the field. ``score`` is what the rows' figures per task are ("accuracy",
    "success"), ``unit`` how they are written: "%" means fractions shown times 100. ``subject`` is what a method makes.
    """

    field: str = ""
    claims: tuple[Claim, ...] = ()
    gates: tuple[Gate, ...] = ()
    papers: Mapping[str, Paper] = dataclass_field(default_factory=dict)
    methods: Mapping[str, Method] = dataclass_field(default_factory=dict)
    score: str = SCORE
    unit: str = "%"
    subject: str = "method"
    families: str = ""
    """What published figures come in families of ("checkpoints"); then every comparison names its one family."""
    metrics: Mapping[str, Metric] = dataclass_field(default_factory=dict)
    short: str = ""
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
    found = [examine(claims, c, results, suite) for c in claims.claims for suite in c.tests.get(scale, ())]
    passed = {(p.gate.id, p.suite): p for p in passages(claims, results, scale)}
    verdicts = {(f.claim.id, f.suite): f.verdict for f in found}
    return [_in_regime(f, passed, verdicts) for f in found]


def passages(claims: Claims, results: Results, scale: str) -> list[Passage]:
    """Every gate on every suite where a claim that needs it is tested at ``scale``."""
    found = []
    for gate in claims.gates:
        suites = [s for c in claims.claims if gate.id in c.needs for s in c.tests.get(scale, ())]
        for suite in dict.fromkeys(suites):
            side, (low, high) = gate.side, gate.range_on(suite)
            values = results.values(suite, side.method, side.variant, gate.metric, gate.condition)
            value = t_interval([values[s] for s in sorted(values)]) if values else None
            found.append(Passage(gate, suite, value, None if value is None else low <= value.value <= high))
    return found


def _in_regime(
    f: Finding, passed: Mapping[tuple[str, str], Passage], verdicts: Mapping[tuple[str, str], Verdict]
) -> Finding:
    """The finding, or the same figures as "not in its regime" where something that its claim needs does not hold."""
    lacking = []
    for need in f.claim.needs:
        passage, verdict_there = passed.get((need, f.suite)), verdicts.get((need, f.suite))
        if (passage is not None and passage.passes is False) or verdict_there in ("within noise", "does not hold"):
            lacking.append(passage.gate.short if passage is not None else need)
    if not lacking or f.verdict == "not tested":
        return f
    return replace(f, verdict="not in its regime", reason="; ".join([*lacking, *([f.reason] if f.reason else [])]))


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
