"""What a static merge tells of itself: in the terminal, in the run's metrics and, as figures, on its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from manyone.claims.figure import Figure, save_figures
from manyone.engine.card import loading_lines
from manyone.engine.run import RunFolder
from manyone.merging.static.movement import RESULT, Movement
from manyone.recipes.running import print_table

_SECTION = "What moved"
_ROWS = 12  # layers that the terminal shows, each or with its neighbours
_BARS = 40  # layers that the page shows
_WIDE = 5  # experts whose columns a terminal has room for
_DIGITS = 6  # of what is logged: sums over threads come in any order, and the last digits with it


def tell_movement(movement: Movement, base: str, folder: RunFolder) -> None:
    """Prints, logs and draws ``movement`` away from the model called ``base``; nothing where nothing moved."""
    if not movement.layers or not (movement.experts or any(movement.relative())):
        return
    folder.log(0, "movement", logged(movement))
    save_figures(folder.path / "figures.json", figures(movement, base))
    _print_vectors(movement, base)
    _print_layers(movement)


def print_loading(folder: RunFolder) -> None:
    """Says where the model is and how it is opened."""
    home = folder.path / "model"
    print(f"model: {home}")
    for line in loading_lines(home):
        print(f"  {line}")


def logged(movement: Movement) -> dict[str, object]:
    """The line of the run's metrics: norms, cosines of pairs, and by layer the result's relative movement."""
    names, cosines, base = movement.names, movement.cosines(), movement.base_norm()
    pairs = {f"{a}, {b}": cosines[i][j] for i, a in enumerate(names) for j, b in enumerate(names) if i < j}
    found: dict[str, Mapping[str, float | None]] = {
        "norm": dict(zip(names, movement.norms())),
        "relative_norm": {name: _share(norm, base) for name, norm in zip(names, movement.norms())},
        "cosine": pairs,
        "relative_movement": dict(zip(movement.layers, movement.relative())),
    }
    rounded = {
        what: {name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in values.items()}
        for what, values in found.items()
    }
    return {"sampled": movement.sampled, **rounded}


def figures(movement: Movement, base: str) -> Iterator[Figure]:
    """Norms, cosines, and movement by layer: of the result as bars, of the experts as a table."""
    names, norms = movement.names, movement.norms()
    about = (
        " Of large tensors a part was measured: numbers are usually good to a few per cent." if movement.sampled else ""
    )
    yield Figure(
        "bars",
        "Length of the task vectors",
        {"names": list(names), "values": [_share(norm, movement.base_norm()) for norm in norms], "unit": "%"},
        f"||expert - base|| in % of ||base||, over all that is merged; {RESULT}: of the result. The base is {base}."
        + about,
        _SECTION,
    )
    if movement.experts:
        yield Figure(
            "matrix",
            "Cosines between task vectors",
            {"rows": list(names), "columns": list(names), "values": movement.cosines(), "reach": 1.0},
            "0: the experts changed other directions and hardly disturb each other; above 0 they agree, below 0 one "
            f"undoes the other. {RESULT}: the change that the result has of the base.",
            _SECTION,
        )
    grouped = movement.grouped(_BARS)
    yield Figure(
        "bars",
        "How far each layer moved",
        {"names": list(grouped.layers), "values": grouped.relative(), "unit": "%"},
        f"||result - base|| in % of ||base||, layer by layer; what lies outside the layers by its role.{about}",
        _SECTION,
    )
    if len(movement.experts) > 1:
        shares = [grouped.relative(k) for k in range(len(names))]
        yield Figure(
            "matrix",
            "How far each expert moved each layer",
            {"rows": list(grouped.layers), "columns": list(names), "values": [*map(list, zip(*shares))], "unit": "%"},
            "||expert - base|| in % of ||base||, layer by layer.",
            _SECTION,
        )


def _print_vectors(movement: Movement, base: str) -> None:
    names, norms, cosines = movement.names, movement.norms(), movement.cosines()
    few = len(movement.experts) <= _WIDE
    about = ", measured on a part of each large tensor" if movement.sampled else ""
    print(f"task vectors: what each model changed of {base}{about}")
    rows = []
    for i, name in enumerate(names):
        others = {other: c for j, other in enumerate(movement.experts) if j != i and (c := cosines[i][j]) is not None}
        if few:
            told = ["1" if j == i else _cosine(cosines[i][j]) for j in range(len(movement.experts))]
        else:
            nearest = max(others, key=lambda other: others[other], default="")
            told = [_cosine(_mean(others)), f"{nearest} {_cosine(others.get(nearest))}"]
        rows.append((name, f"{norms[i]:.4g}", _percent(_share(norms[i], movement.base_norm())), *told))
    columns = [f"cos {name}" for name in movement.experts] if few else ["mean cos", "nearest expert"]
    print_table(("", "norm", "% of base", *columns), rows[:-1], rows[-1])


def _print_layers(movement: Movement) -> None:
    grouped = movement.grouped(_ROWS)
    few = len(movement.experts) <= _WIDE
    shares = [grouped.relative(k) for k in range(len(movement.experts))]
    print("movement by layer: change in % of the base's norm")
    rows = []
    for k, (layer, moved) in enumerate(zip(grouped.layers, grouped.relative())):
        own = [share[k] for share in shares]
        told = own if few else [min(own), max(own)]
        rows.append((layer, _percent(moved), *map(_percent, told)))
    columns = movement.experts if few else ("least expert", "most expert")
    print_table(("layer", RESULT, *columns), rows)


def _share(norm: float, base: float) -> float:
    return norm / base if base > 0 else 0.0


def _mean(values: Mapping[str, float]) -> float | None:
    return math.fsum(values.values()) / len(values) if values else None


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2) or 0.0:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if share >= 1e-4 or not share else f"{100 * share:.2g}"
