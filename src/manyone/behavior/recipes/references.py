"""What students, policies and teachers are compared with: chance, the recorded behaviour, and what is known or played.

Public names: :func:`keep_points`, :func:`points_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manyone.behavior.artefact import Frame
from manyone.behavior.data import BehaviorData
from manyone.behavior.evaluate import Evaluator
from manyone.engine.fabric import is_writer
from manyone.engine.run import RunFolder
from manyone.evaluation.chance import RandomActions
from manyone.recipes.references import Reference, has_references, keep_references

_LAST = ("everything cloned", "teacher")
"""Of what was played, to which the way is measured; else to the expert of the known reference."""


def keep_points(folder: RunFolder, points: Iterable[Reference]) -> None:
    """Keeps the points in the run, once."""
    if is_writer() and not has_references(folder):
        keep_references(folder, points)


def points_of(
    evaluator: Evaluator,
    data: BehaviorData | None = None,
    played: Mapping[str, Mapping[str, float]] | None = None,
    end: str = "",
) -> Iterable[Reference]:
    """Random actions, the episodes of ``data``, what was ``played``, and the expert of a known reference.

    ``end`` follows the metrics' names, where a run has several sets.
    """
    frame, played = evaluator.frame, played or {}
    known = frame.reference
    chance = known[0] if known else evaluator.play(RandomActions()).mean
    yield Reference("random policy", _scores(frame, chance, end), "from")
    if data is not None:
        recorded = float(data.returns[data.first].double().mean())
        yield Reference("the data's behaviour", _scores(frame, recorded, end))
    last = next((name for name in _LAST if name in played), "")
    for name, found in played.items():
        yield Reference(name, _scores(frame, found["return"], end), "to" if name == last else "")
    if known:
        yield Reference("expert", _scores(frame, known[1], end), "" if last else "to")


def _scores(frame: Frame, returns: float, end: str) -> dict[str, float]:
    score = frame.normalised(returns)
    own = {} if score is None else {f"normalised{end}": score}
    return own | {f"return{end}": returns}
