"""Reading a claims file (TOML): every problem is one line that names the file, the claim and the key.

``[suites]`` may give names to lists of suites; ``"@name"`` in a claim's ``tests`` stands for all of that list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from manyone.claims.claims import SCALES, Claim, Claims, Comparison, Gate, Method, Metric, Paper, Published, Side
from manyone.claims.rows import SCORE
from manyone.engine.documents import parse_toml, read_text, sound
from manyone.errors import ManyoneError

_TEXT, _NUMBER = "text", "number"
_FORMER_TAG = re.compile(r"^\[(?:mem|abs|pilot|derived)\](?: of )?")  # how sources of version 0.1 began
_LARGEST = 16 << 20  # bytes
_PUBLISHED_KEYS = {
    "setting": _TEXT,
    "source": _TEXT,
    "family": _TEXT,
    "left": _NUMBER,
    "right": _NUMBER,
    "unit": _TEXT,
    "text": _TEXT,
    "verified": "boolean",
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
    "needs": "list",
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
    "short": _TEXT,
    "score": _TEXT,
    "unit": _TEXT,
    "subject": _TEXT,
    "families": _TEXT,
    "conditions": "table",
    "metrics": "table",
    "papers": "table",
    "methods": "table",
    "claims": "list",
    "gates": "list",
    "suites": "table",
}
_GATE_KEYS = {
    "id": _TEXT,
    "short": _TEXT,
    "statement": _TEXT,
    "side": "table",
    "metric": _TEXT,
    "condition": _TEXT,
    "low": _NUMBER,
    "high": _NUMBER,
    "low_on": "table",
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


def _suites(names: Any, groups: Mapping[str, Sequence[str]], where: str) -> tuple[str, ...]:
    """A list of suites' names, with those of every "@group" in its place."""
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ManyoneError(f"{where} must be a list of suite names")
    found: list[str] = []
    for name in names:
        if name.startswith("@") and name[1:] not in groups:
            raise ManyoneError(f"{where} names {name!r}, which [suites] does not list")
        found += groups[name[1:]] if name.startswith("@") else [name]
    return tuple(found)


def _claim(
    data: Any,
    methods: Mapping[str, Method],
    papers: Mapping[str, Paper],
    groups: Mapping[str, Sequence[str]],
    score: str,
    families: str,
    where: str,
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
    data["needs"] = tuple(data.get("needs", ()))
    published = tuple(_published(entry, families, f"{where}: published") for entry in data.get("published", []))
    right = data["right"] if several else [data["right"]]
    data["left"] = _side(data["left"], methods, f"{where}: left")
    data["right"] = tuple(_side(r, methods, f"{where}: right") for r in right)
    if several:
        data["reference"] = _side(data["reference"], methods, f"{where}: reference")
    data["tests"] = {scale: _suites(names, groups, f"{where}: key 'tests.{scale}'") for scale, names in tests.items()}
    return Claim(**(data | {"published": published}))


def _published(data: Any, families: str, where: str) -> Published:
    entry = dict(_check(data, _PUBLISHED_KEYS, ["setting", "source"], where))
    if entry.pop("from_memory", False):  # the word of version 0.1, which the folders of its studies hold
        entry["verified"] = False
    entry["source"] = _FORMER_TAG.sub("", entry["source"]) or "this project"
    figures = Published(**entry)
    if figures.left is None and figures.right is None and not figures.text:
        raise ManyoneError(f"{where}: give 'left' and 'right', or 'text'")
    if families and figures.left is not None and figures.right is not None and not figures.family:
        raise ManyoneError(f"{where}: key 'family' must name the one family of {families} of both figures")
    return figures


def _gate(data: Any, methods: Mapping[str, Method], score: str, where: str) -> Gate:
    data = dict(_check(data, _GATE_KEYS, ["id", "short", "statement", "side"], where))
    where = f"{where.rsplit(': ', 1)[0]}: gate {data['id']!r}"
    if not {"low", "high"} & data.keys():
        raise ManyoneError(f"{where}: give 'low', 'high' or both")
    low_on = data.get("low_on", {})
    _check(low_on, dict.fromkeys(low_on, _NUMBER), [], f"{where}: low_on")
    data["side"] = _side(data["side"], methods, f"{where}: side")
    return Gate(**({"metric": score} | data))


def _known_needs(claims: Sequence[Claim], gates: Sequence[Gate], where: str) -> None:
    """Every need is a gate, or a claim that itself needs no claim."""
    plain = {g.id for g in gates}
    known = plain | {c.id for c in claims if set(c.needs) <= plain}
    for claim in claims:
        for need in claim.needs:
            if need not in known:
                raise ManyoneError(
                    f"{where}: claim {claim.id!r}: key 'needs' names {need!r}, which is neither one of [[gates]] nor "
                    "a claim whose own needs are gates"
                )


def load_claims(path: Path) -> Claims:
    """Reads and checks a claims file; every problem is one line that names the file, the claim and the key."""
    return parse_claims(read_text(path, "the claims file", largest=_LARGEST), str(path))


def parse_claims(text: str, where: str) -> Claims:
    """The claims in ``text``; ``where`` opens every error message."""
    with sound(where, "a claims file"):
        return _parsed(parse_toml(text, where), where)


def _parsed(data: dict[str, Any], where: str) -> Claims:
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
    groups = {name: _suites(names, {}, f"{where}: suites {name!r}") for name, names in data.get("suites", {}).items()}
    claims = [
        _claim(c, methods, papers, groups, score, families, f"{where}: claim number {k}")
        for k, c in enumerate(data["claims"], 1)
    ]
    gates = [_gate(g, methods, score, f"{where}: gate number {k}") for k, g in enumerate(data.get("gates", []), 1)]
    _known_needs(claims, gates, where)
    seen: set[str] = {g.id for g in gates}
    for claim in claims:
        if claim.id in seen:
            raise ManyoneError(f"{where}: claim {claim.id!r}: key 'id' is used twice")
        seen.add(claim.id)
    words = {key: data[key] for key in ("short", "score", "unit", "subject", "families", "conditions") if key in data}
    _check(words.get("conditions", {}), _CONDITIONS_KEYS, [], f"{where}: conditions")
    return Claims(data["field"], tuple(claims), tuple(gates), papers, methods, metrics=metrics, **words)
