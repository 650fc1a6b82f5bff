"""``probe``: features and targets of one task in, scores out, by the name of a protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from manyone.earth.protocols.knn import knn_probe
from manyone.earth.protocols.linear import linear_probe
from manyone.earth.protocols.regression import ridge_probe
from manyone.earth.protocols.scores import Kind, Scores, kind_of
from manyone.earth.splits import Splits
from manyone.engine.words import check_keywords
from manyone.errors import ManyoneError


class Protocol(NamedTuple):
    """A way to measure frozen features."""

    takes: tuple[Kind, ...]
    """Kinds of targets."""
    run: Callable[..., Scores]
    line: str


PROTOCOLS: dict[str, Protocol] = {
    "knn5-l2": Protocol(
        ("class", "labels", "value"), partial(knn_probe, k=5, metric="l2", name="knn5-l2"), "5 nearest, L2, majority"
    ),
    "knn200-cos": Protocol(
        ("class", "labels", "value"),
        partial(knn_probe, k=200, metric="cosine", name="knn200-cos"),
        "200 nearest by cosine, weights exp(cos / 0.1)",
    ),
    "linear": Protocol(("class", "labels"), linear_probe, "logistic regression, C chosen on val, temperature scaled"),
    "ridge": Protocol(("value",), ridge_probe, "ridge regression, penalty chosen on val"),
}
"""Name -> protocol, for one vector a sample."""


def probe(features: Any, targets: np.ndarray, splits: Splits, protocol: str = "linear", **options: Any) -> Scores:
    """Scores of ``features`` [N, D] (numpy, memory-mapped or torch) on the test part of ``splits``.

    ``targets``: integers or strings [N] (classes), bool [N, K] (labels), floats [N] (numbers).
    """
    if protocol not in PROTOCOLS:
        raise ManyoneError(f"protocol: {protocol!r} is unknown; there are {', '.join(PROTOCOLS)}")
    check_keywords(f"probe, protocol {protocol}", options, PROTOCOLS[protocol].run)
    kind, entry, targets = kind_of(targets), PROTOCOLS[protocol], np.asarray(targets)
    if kind not in entry.takes:
        fits = [name for name, other in PROTOCOLS.items() if kind in other.takes]
        raise ManyoneError(
            f"protocol: {protocol!r} takes {' or '.join(entry.takes)}, not {kind}; use {', '.join(fits)}"
        )
    if len(features) != len(targets):
        raise ManyoneError(f"features: {len(features)} rows for {len(targets)} targets; give one row for each")
    return entry.run(features, targets, splits, **options)
