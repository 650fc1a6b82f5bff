"""Returns that normalised scores count from and to: D4RL's random and expert policies, one pair a body.

    score = 100 (R - R_random) / (R_expert - R_random)        Fu et al. 2020, D4RL (arXiv 2004.07219), section 5

D4RL uses one pair for all qualities and versions of a body's data; later versions of the environment (Hopper-v4, -v5)
are measured against the same pair, so that scores of all of them can be laid side by side.

Public names: ``REFERENCES``, ``reference``, ``known_reference``, ``normalised_score``.
"""

from __future__ import annotations

import math
import re
from typing import overload

import numpy as np

from manyone.errors import ManyoneError

REFERENCES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}
"""Body -> returns of a random and of an expert policy (``infos.py`` of D4RL's repository)."""

_BODY = rf"(?P<body>{'|'.join(REFERENCES)})"
_QUALITY = r"(random|simple|medium|expert|(medium|full)[-_]replay|medium[-_]expert)"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(gym:)?{_BODY}(-v\d+)?",  # gym:Hopper-v5, Hopper-v4, hopper
        rf"(d4rl[-_:/])?{_BODY}[-_]{_QUALITY}(-v\d+)?(\.hdf5|\.h5)?",  # hopper-medium-v2, hopper_medium_replay-v2.hdf5
        rf"mujoco/{_BODY}/[^/]+",  # mujoco/hopper/expert-v0: Minari
        rf"mujoco-{_BODY}-{_QUALITY}(@.+)?",  # the data sets that are made here
    )
)


def reference(name: str) -> tuple[float, float]:
    """Returns of a random and of an expert policy in the environment or data set ``name``.

    Any version of an environment (``gym:Hopper-v5``, ``Hopper-v4``), the names of D4RL (``hopper-medium-v2``), of
    Minari (``mujoco/hopper/expert-v0``) and of the sets made here. :class:`ManyoneError` where nothing is known.
    """
    found = known_reference(name)
    if found is None:
        raise ManyoneError(
            f"no returns of a random and an expert policy are known for {name!r}, so its scores cannot be normalised; "
            f"known are {', '.join(REFERENCES)} (any version, as they are registered); give two returns of your own"
        )
    return found


def known_reference(name: str) -> tuple[float, float] | None:
    """As :func:`reference`; None where nothing is known.

    Keyword arguments make another environment of it (``gym:Hopper-v5?ctrl_cost_weight=0.1``): nothing is known then.
    """
    match = next((found for form in _FORMS if (found := form.fullmatch(name))), None)
    return REFERENCES[match["body"].lower()] if match else None


@overload
def normalised_score(returns: float, name: str | tuple[float, float]) -> float: ...
@overload
def normalised_score(returns: np.ndarray, name: str | tuple[float, float]) -> np.ndarray: ...
def normalised_score(returns: float | np.ndarray, name: str | tuple[float, float]) -> float | np.ndarray:
    """100 (R - R_random) / (R_expert - R_random) of undiscounted ``returns`` (a number, or an array of any shape).

    ``name`` as for :func:`reference`, or the pair (R_random, R_expert) itself.
    """
    low, high = reference(name) if isinstance(name, str) else name
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ManyoneError(f"returns {low} of a random and {high} of an expert policy: must be finite and rise")
    return 100 * (returns - low) / (high - low)
