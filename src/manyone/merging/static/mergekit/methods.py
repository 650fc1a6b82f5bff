"""Recipes' methods by name: their parameters with scope and default, which models they take, and what computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.elementwise import NearSwap, SignElection
from manyone.merging.static.linear import Linear
from manyone.merging.static.mergekit.settings import Parameter, Settings
from manyone.merging.static.spherical import (
    PerTensorGram,
    barycentre,
    interpolation,
    karcher_mean,
    mean_cosine,
    stock_ratio,
)
from manyone.merging.static.stream import Method
from manyone.merging.static.whole import (
    RAM,
    SCE,
    ImportanceFusion,
    RowWise,
    Thinned,
    breadcrumbs,
    interpolated_rows,
    magprune,
    same_l1,
    stock_rows,
    trimmed,
)


@dataclass(frozen=True)
class Given:
    """What a method is made of: its settings for the tensors ``names``, and how the models stand to each other."""

    where: str
    method: str
    read: Settings
    names: Sequence[str]
    based: bool
    """Whether one of the slice's models is the base."""
    seed: int

    def weights(self, name: str) -> list[float]:
        """The experts' weights for a tensor."""
        return self.read.each("weight", name)


@dataclass(frozen=True)
class Recipe:
    """``base`` is "ignored" (a model like the others), "optional" or "required"; ``models`` are the fewest and the
    most of a slice: of all, or where ``besides`` says so, besides the base."""

    parameters: Mapping[str, Parameter]
    build: Callable[[Given], Method]
    base: str = "required"
    models: tuple[int, int | None] = (1, None)
    besides: bool = True


def _mean(given: Given) -> Method:
    def coefficients(name: str) -> tuple[float, list[float]]:
        values = given.weights(name)
        total = sum(values) if given.read.common("normalize", name) else 1.0
        if abs(total) < 1e-8:
            raise ManyoneError(
                f"{given.where}: the weights of {name} sum to zero and cannot be normalised; change a weight, or write "
                "normalize: false"
            )
        return 0.0, [value / total for value in values]

    for name in given.names:
        coefficients(name)
    return Linear(coefficients)


def _passthrough(given: Given) -> Method:
    def coefficients(name: str) -> tuple[float, list[float]]:
        return 0.0, [1.0 if value is None else value for value in given.read.each("scale", name)]

    return Linear(coefficients)


def _slerp(given: Given) -> Method:
    def rule(name: str, gram: Tensor) -> tuple[float, Sequence[float]]:
        t = given.read.common("t", name)
        return 0.0, interpolation(gram, t, floor=1e-8, linear=lambda cosine: abs(cosine) > 0.9995)

    return PerTensorGram(rule, "weights")


def _space(given: Given) -> str:
    return "task-vectors" if given.based else "weights"


def _nuslerp(given: Given) -> Method:
    def t(name: str) -> float:
        first, second = given.weights(name)
        return 0.5 if abs(first + second) < 1e-6 else second / (first + second)

    def rule(name: str, gram: Tensor) -> tuple[float, Sequence[float]]:
        return 0.0, interpolation(gram, t(name), floor=1e-7, linear=lambda cosine: 1 - cosine**2 <= 1e-16)

    def rows(name: str, pair: list[Tensor]) -> Tensor:
        return interpolated_rows(pair, t(name), 0 if given.read.common("nuslerp_row_wise", name) else -1)

    flat = {given.read.common("nuslerp_flatten", name) for name in given.names}
    if len(flat) > 1:
        raise ManyoneError(f"{given.where}: nuslerp_flatten must be the same for all tensors; write true or false")
    return PerTensorGram(rule, _space(given)) if flat != {False} else RowWise(rows, given.based)


def _multislerp(given: Given) -> Method:
    def shares(name: str) -> list[float]:
        values = given.weights(name)
        total = sum(values) if given.read.common("normalize_weights", name) else 1.0
        if total == 0:
            raise ManyoneError(f"{given.where}: the weights of {name} sum to zero; change a weight")
        return [value / total for value in values]

    def rule(name: str, gram: Tensor) -> tuple[float, Sequence[float]]:
        return 0.0, barycentre(gram, shares(name), given.read.common("eps", name))

    for name in given.names:
        shares(name)
    return PerTensorGram(rule, _space(given))


def _karcher(given: Given) -> Method:
    def rule(name: str, gram: Tensor) -> tuple[float, Sequence[float]]:
        return 0.0, karcher_mean(gram, given.read.common("max_iter", name), given.read.common("tol", name))

    return PerTensorGram(rule, "weights")


def _model_stock(given: Given) -> Method:
    def rule(name: str, gram: Tensor) -> tuple[float, Sequence[float]]:
        count = len(gram)
        t = float(stock_ratio(mean_cosine(gram), count))
        return 1 - t, [t / count] * count

    wise = {given.read.common("filter_wise", name) for name in given.names}
    if len(wise) > 1:
        raise ManyoneError(f"{given.where}: filter_wise must be the same for all tensors; write true or false")
    return RowWise(lambda name, taus: stock_rows(taus), True) if wise == {True} else PerTensorGram(rule, "task-vectors")


def _task_arithmetic(given: Given) -> Method:
    def coefficients(name: str) -> tuple[float, list[float]]:
        values = given.weights(name)
        total = sum(values) if given.read.common("normalize", name) and abs(sum(values)) >= 1e-8 else 1.0
        values = [given.read.common("lambda", name) * value / total for value in values]
        return 1 - sum(values), values

    return Linear(coefficients)


def _same(given: Given, parameter: str) -> bool:
    """A truth value that all tensors share: the method is another one for each of the two."""
    values = {given.read.common(parameter, name) for name in given.names}
    if len(values) > 1:
        raise ManyoneError(f"{given.where}: {parameter} must be the same for all tensors; write true or false")
    return values == {True}


def _trimmed(given: Given) -> Method:
    """TIES: streamed, unless the trimmed task vectors are to be scaled to their former length."""

    def density(name: str) -> list[float]:
        return given.read.each("density", name)

    if _same(given, "rescale"):
        return _thinned(given, lambda name, i, tau: trimmed(tau, density(name)[i]), elect=True)

    def weights(name: str) -> list[float]:
        return [weight if d > 0 else 0.0 for weight, d in zip(given.weights(name), density(name), strict=True)]

    return SignElection(
        lambda name: given.read.common("lambda", name),
        density=density,
        scope="tensor",
        weights=weights,
        normalize=_same(given, "normalize"),
        cancelled="plus",
    )


def _dropped(elect: bool) -> Callable[[Given], Method]:
    def build(given: Given) -> Method:
        return SignElection(
            lambda name: given.read.common("lambda", name),
            scope="tensor",
            drop=lambda name: [1 - min(1.0, max(0.0, value)) for value in given.read.each("density", name)],
            rescale=_same(given, "rescale"),
            elect=elect,
            weights=given.weights,
            normalize=_same(given, "normalize"),
            cancelled="plus",
            seed=given.seed,
        )

    return build


def _thinned(given: Given, thin: Callable[[str, int, Tensor], Tensor], elect: bool) -> Method:
    rescale = _same(given, "rescale")

    def scaled(name: str, i: int, tau: Tensor) -> Tensor:
        thinned = thin(name, i, tau)
        return same_l1(thinned, tau) if rescale else thinned

    scale, normalize = (lambda name: given.read.common("lambda", name)), _same(given, "normalize")
    return Thinned(scaled, given.weights, scale=scale, elect=elect, normalize=normalize)


def _breadcrumbs(elect: bool) -> Callable[[Given], Method]:
    def build(given: Given) -> Method:
        def thin(name: str, i: int, tau: Tensor) -> Tensor:
            return breadcrumbs(tau, given.read.each("density", name)[i], given.read.each("gamma", name)[i])

        return _thinned(given, thin, elect)

    return build


def _della(elect: bool) -> Callable[[Given], Method]:
    def build(given: Given) -> Method:
        def pairs(name: str) -> list[tuple[float, float]]:
            return list(zip(given.read.each("density", name), given.read.each("epsilon", name), strict=True))

        for name in given.names:
            for density, epsilon in pairs(name):
                if 0 < density < 1 and not (density + epsilon < 1 and density - epsilon > 0):
                    raise ManyoneError(
                        f"{given.where}: density {density:g} and epsilon {epsilon:g} of {name}: density - epsilon and "
                        "density + epsilon must lie between 0 and 1; make epsilon smaller"
                    )

        def thin(name: str, i: int, tau: Tensor) -> Tensor:
            return magprune(tau, *pairs(name)[i], seed=given.seed, expert=i, name=name)

        return _thinned(given, thin, elect)

    return build


def _nearswap(given: Given) -> Method:
    return NearSwap(lambda name: given.read.common("t", name))


def _sce(given: Given) -> Method:
    return SCE(lambda name: given.read.common("select_topk", name))


def _ram(given: Given) -> Method:
    return RAM(lambda name: given.read.common("epsilon", name), None)


def _ram_plus(given: Given) -> Method:
    def boost(name: str) -> tuple[float, float]:
        return given.read.common("r", name), given.read.common("alpha", name)

    return RAM(lambda name: given.read.common("epsilon", name), boost)


def _all(kind: type, default: Any) -> Parameter:
    return Parameter(kind, "all", default)


_WEIGHT = Parameter(float, "expert")
_STORED = {"int8_mask": _all(bool, False)}  # how mergekit stores a mask: without effect on the result


def _arithmetic(normalize: bool, rescale: bool, **more: float) -> dict[str, Parameter]:
    """The parameters of all that adds task vectors."""
    return {
        "weight": _WEIGHT,
        "density": Parameter(float, "expert", 1.0),
        **{name: Parameter(float, "expert", default) for name, default in more.items()},
        "normalize": _all(bool, normalize),
        "rescale": _all(bool, rescale),
        "lambda": _all(float, 1.0),
        **_STORED,
    }


_T = {"t": Parameter(float, "all")}
_PAIR: Any = {"models": (2, 2), "besides": False}

RECIPES: dict[str, Recipe] = {
    "linear": Recipe(
        {"weight": Parameter(float, "model"), "normalize": _all(bool, True)}, _mean, "ignored", besides=False
    ),
    "passthrough": Recipe({"scale": Parameter(float, "model", None)}, _passthrough, "ignored", (1, 1), False),
    "slerp": Recipe(_T, _slerp, **_PAIR),
    "nuslerp": Recipe(
        {"weight": _WEIGHT, "nuslerp_row_wise": _all(bool, False), "nuslerp_flatten": _all(bool, True)},
        _nuslerp,
        "optional",
        (2, 2),
    ),
    "multislerp": Recipe(
        {"weight": _WEIGHT, "normalize_weights": _all(bool, True), "eps": _all(float, 1e-8)}, _multislerp, "optional"
    ),
    "karcher": Recipe({"max_iter": _all(int, 10), "tol": _all(float, 1e-5)}, _karcher, "ignored", besides=False),
    "model_stock": Recipe({"filter_wise": _all(bool, False)}, _model_stock, models=(2, None)),
    "task_arithmetic": Recipe(_arithmetic(False, False), _task_arithmetic),
    "ties": Recipe(_arithmetic(True, False), _trimmed),
    "dare_linear": Recipe(_arithmetic(False, True), _dropped(elect=False)),
    "dare_ties": Recipe(_arithmetic(False, True), _dropped(elect=True)),
    "breadcrumbs": Recipe(_arithmetic(False, False, gamma=0.01), _breadcrumbs(elect=False)),
    "breadcrumbs_ties": Recipe(_arithmetic(False, False, gamma=0.01), _breadcrumbs(elect=True)),
    "della": Recipe(_arithmetic(True, True, epsilon=0.15), _della(elect=True)),
    "della_linear": Recipe(_arithmetic(False, True, epsilon=0.15), _della(elect=False)),
    "sce": Recipe({"select_topk": _all(float, 1.0), **_STORED}, _sce),
    "arcee_fusion": Recipe({}, lambda given: ImportanceFusion(), **_PAIR),
    "nearswap": Recipe(_T, _nearswap, **_PAIR),
    "ram": Recipe({"epsilon": _all(float, 1e-5)}, _ram),
    "ramplus_tl": Recipe({"r": _all(float, 0.1), "alpha": _all(float, 0.2), "epsilon": _all(float, 1e-5)}, _ram_plus),
}
"""mergekit's methods by the names that recipes give them."""
