"""mergekit's YAML recipes, for the methods that both projects have, with the meaning that mergekit gives them.

``linear`` (weighted mean), ``slerp``, ``task_arithmetic``, ``ties``, ``dare_linear``, ``dare_ties``, ``model_stock``,
with ``weight``, ``density``, ``t``, ``normalize``, ``rescale`` and ``lambda``, per model and for all, as numbers, as
gradients over the layers or under name filters. Two meanings differ from this project's own methods of the same names,
and recipes get mergekit's: ``ties`` trims every tensor by itself (``scope="tensor"``), while TIES as published trims
over the whole model; and with ``normalize`` (the default for ``ties``) the agreeing entries are divided by the sum of
their weights. ``density`` of the DARE methods is the share that is kept, 1 - p. The random drops are this project's (by
seed), so they are not mergekit's drops. Where agreeing and opposing entries cancel exactly, mergekit elects plus, and
this project the majority of all signs. Anything else in a recipe is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyone.engine.documents import read_yaml, sound
from manyone.errors import ManyoneError
from manyone.merging.static.elementwise import FromGram, SignElection, model_stock_rule, slerp_rule
from manyone.merging.static.files import hf_config
from manyone.merging.static.layers import TABLE
from manyone.merging.static.linear import Linear
from manyone.merging.static.plan import Plan, make_plan
from manyone.merging.static.stream import Method
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.open import StrPath, open_checkpoint
from manyone.weights.tensor_info import DType, dtype_of

_TOP = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "name"}
_PARAMETERS = {
    "linear": {"weight", "normalize"},
    "slerp": {"t"},
    "task_arithmetic": {"weight", "normalize", "lambda"},
    "ties": {"weight", "density", "normalize", "lambda"},
    "dare_linear": {"weight", "density", "normalize", "rescale", "lambda"},
    "dare_ties": {"weight", "density", "normalize", "rescale", "lambda"},
    "model_stock": set(),
}
_IGNORED = {"int8_mask"}  # how mergekit stores a mask: no effect on the result
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def prepare_recipe(path: StrPath, *, exclude: Sequence[str] = (), seed: int = 0) -> tuple[Plan, Method, dict[str, Any]]:
    """The plan and method that the recipe at ``path`` describes, and the entries of config.json that it changes."""
    path = Path(path)
    recipe = _load(path)
    with sound(path, "a recipe that can be read"):
        return _prepared(path, recipe, exclude, seed)


def _prepared(
    path: Path, recipe: Mapping[str, Any], exclude: Sequence[str], seed: int
) -> tuple[Plan, Method, dict[str, Any]]:
    method = recipe["merge_method"]
    sources = _sources(path, recipe, method)
    base_name = recipe.get("base_model")
    cache: dict[str, Checkpoint] = {}

    def model(name: object) -> Checkpoint:
        if not isinstance(name, str):
            raise ManyoneError(f"{path}: model {name!r} is not supported, write a path")
        if name not in cache:
            cache[name] = _open(path, name)
        return cache[name]

    if base_name is None and method != "linear":
        raise ManyoneError(f"{path}: merge_method {method} needs a base_model")
    if method == "slerp":
        sources = [s for s in sources if s["model"] == base_name] + [s for s in sources if s["model"] != base_name]
        if sources and sources[0]["model"] != base_name:
            sources.insert(0, {"model": base_name})
        if len(sources) != 2:
            raise ManyoneError(
                f"{path}: slerp takes the base_model and one other model, this recipe has {len(sources)}"
            )
    elif method != "linear":
        sources = [s for s in sources if s["model"] != base_name]
    if not sources:
        raise ManyoneError(f"{path}: no models to merge")
    base = model(base_name if base_name is not None else sources[0]["model"])
    plan = make_plan(base, [model(s["model"]) for s in sources], exclude)
    _check_layers(path, recipe, plan)
    dtype, config = _dtype(path, recipe, base)
    if dtype is not None and plan.joined is not None and plan.joined.single:
        raise ManyoneError(
            f"{path}: dtype {dtype}: a model folder of manyone keeps the types that it has: leave it out"
        )
    reader = _Parameters(path, method, recipe.get("parameters") or {}, sources, plan)
    how = {"method": f"mergekit {method}", "options": {}}
    return replace(plan, dtype=dtype, how=how), _method(path, method, reader, len(sources), seed), config


def _method(path: Path, method: str, read: _Parameters, count: int, seed: int) -> Method:
    def weights(name: str) -> list[float]:
        return [read("weight", name, i) for i in range(count)]

    if method == "model_stock":
        return FromGram(model_stock_rule, "task-vectors")
    if method == "slerp":
        return _Slerp(read)
    normalize = bool(read("normalize", "", None, method in ("linear", "ties")))
    if method == "linear":

        def mean(name: str) -> tuple[float, list[float]]:
            values = weights(name)
            total = sum(values) if normalize else 1.0
            if abs(total) < 1e-8:
                raise ManyoneError(f"{path}: the weights of {name} sum to zero and cannot be normalised")
            return 0.0, [value / total for value in values]

        return Linear(mean)
    if method == "task_arithmetic":

        def sum_(name: str) -> tuple[float, list[float]]:
            values = weights(name)
            total = sum(values) if normalize and abs(sum(values)) >= 1e-8 else 1.0
            values = [read("lambda", name, None, 1.0) * value / total for value in values]
            return 1 - sum(values), values

        return Linear(sum_)

    def density(name: str) -> list[float]:
        return [read("density", name, i, 1.0) for i in range(count)]

    dare = method.startswith("dare")
    return SignElection(
        lambda name: read("lambda", name, None, 1.0),
        density=None if dare else density,
        scope="tensor",
        drop=(lambda name: [1 - value for value in density(name)]) if dare else None,
        rescale=bool(read("rescale", "", None, True)),
        elect=method != "dare_linear",
        weights=weights,
        normalize=normalize,
        seed=seed,
    )


class _Slerp(FromGram):
    """SLERP between two models with an interpolation factor that may differ by tensor."""

    def __init__(self, read: _Parameters) -> None:
        super().__init__(slerp_rule(0.5), "weights")
        self.coefficients = lambda name: slerp_rule(read("t", name, None))(self.grams[name])


class _Parameters:
    """Values of parameters for a tensor: the model's own, else the recipe's, else the default."""

    def __init__(
        self, path: Path, method: str, common: Mapping[str, Any], sources: Sequence[Mapping[str, Any]], plan: Plan
    ) -> None:
        self.path, self.common = path, common
        self.own = [source.get("parameters") or {} for source in sources]
        for values in [common, *self.own]:
            unknown = [name for name in values if name not in _PARAMETERS[method] | _IGNORED]
            if unknown:
                raise ManyoneError(f"{path}: parameter {unknown[0]!r} of {method} is not supported")
        layers = [int(found[1]) for name in plan.base if (found := _LAYER.search(name))]
        self._last = max(layers, default=0)
        for name in plan.merged:  # every value is evaluated once now, so that a mistake stops before anything is read
            for parameter in sorted(_PARAMETERS[method]):
                for i in range(len(sources)):
                    self(parameter, name, i, 0.0 if parameter not in ("weight", "t") else None)

    def __call__(self, parameter: str, name: str, model: int | None, default: float | bool | None = None) -> float:
        places = ([self.own[model]] if model is not None else []) + [self.common]
        for values in places:
            if parameter in values:
                value = self._value(parameter, values[parameter], name)
                if value is not None:
                    return value
        if default is None:
            raise ManyoneError(f"{self.path}: parameter {parameter!r} is missing" + (f" for {name}" if name else ""))
        return float(default)

    def _value(self, parameter: str, setting: Any, name: str) -> float | None:
        if isinstance(setting, bool | int | float):
            value = float(setting)
            allowed = 0 < value <= 1 if parameter == "density" else 0 <= value <= 1 if parameter == "t" else True
            if not allowed:
                raise ManyoneError(f"{self.path}: {parameter} {value:g} is outside its range up to 1")
            return value
        if isinstance(setting, list) and setting and all(isinstance(v, int | float) for v in setting):
            place = self._depth(name) * (len(setting) - 1)
            left = int(place)
            right = min(left + 1, len(setting) - 1)
            return self._value(parameter, (1 - place + left) * setting[left] + (place - left) * setting[right], name)
        if isinstance(setting, dict):
            setting = [setting]
        if isinstance(setting, list) and all(isinstance(v, dict) and v.keys() <= {"filter", "value"} for v in setting):
            for condition in setting:
                wanted = condition.get("filter")
                if wanted in (None, "*") or wanted in name:
                    return self._value(parameter, condition.get("value"), name)
            return None
        raise ManyoneError(f"{self.path}: parameter {parameter!r} has a value that is not supported: {setting!r}")

    def _depth(self, name: str) -> float:
        """0 for the first layer and what comes before it (embeddings), 1 for the last and what comes after."""
        found = _LAYER.search(name)
        if found:
            return int(found[1]) / self._last if self._last else 1.0
        owner = name.split(".")[-2] if "." in name else name
        return 0.0 if "embed" in name or (TABLE.search(owner) and owner != "lm_head") else 1.0


def _load(path: Path) -> dict[str, Any]:
    recipe = read_yaml(path, aliases=True)
    if not isinstance(recipe, dict) or "merge_method" not in recipe:
        raise ManyoneError(f"{path}: not a mergekit recipe (it has no merge_method)")
    unknown = sorted(str(key) for key in recipe if key not in _TOP)
    if "tokenizer_source" in unknown and recipe["tokenizer_source"] in ("base", recipe.get("base_model")):
        unknown.remove("tokenizer_source")  # the base's tokenizer is what the output gets
    if unknown:
        raise ManyoneError(f"{path}: not supported: {', '.join(unknown)}")
    if str(recipe["merge_method"]) not in _PARAMETERS:
        raise ManyoneError(
            f"{path}: merge_method {recipe['merge_method']!r} is not supported; supported are {', '.join(_PARAMETERS)}"
        )
    return recipe


def _sources(path: Path, recipe: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """The models with their parameters, from ``models`` or from a single slice over all layers."""
    if ("models" in recipe) == ("slices" in recipe):
        raise ManyoneError(f"{path}: needs either models or slices")
    sources = recipe.get("models")
    allowed = {"model", "parameters"}
    if "slices" in recipe:
        slices = recipe["slices"]
        if not isinstance(slices, list) or len(slices) != 1 or set(slices[0]) - {"sources"}:
            raise ManyoneError(f"{path}: slices are supported only as one slice with nothing but sources")
        sources, allowed = slices[0].get("sources"), allowed | {"layer_range"}
    if not isinstance(sources, list) or not all(isinstance(s, dict) and "model" in s for s in sources):
        raise ManyoneError(f"{path}: the list of models is not readable")
    for source in sources:
        unknown = sorted(set(source) - allowed)
        if unknown:
            raise ManyoneError(f"{path}: not supported for model {source['model']}: {', '.join(unknown)}")
    return [dict(source) for source in sources]


def _check_layers(path: Path, recipe: Mapping[str, Any], plan: Plan) -> None:
    """A slice must cover all layers: this project merges whole models and does not restack layers."""
    if "slices" not in recipe:
        return
    layers = 1 + max((int(found[1]) for name in plan.base if (found := _LAYER.search(name))), default=-1)
    for source in recipe["slices"][0]["sources"]:
        if source.get("layer_range") not in (None, [0, layers]):
            raise ManyoneError(
                f"{path}: layer_range {source['layer_range']} of {source['model']} is not supported, "
                f"only all layers are: [0, {layers}]"
            )


def _dtype(path: Path, recipe: Mapping[str, Any], base: Checkpoint) -> tuple[DType | None, dict[str, Any]]:
    """The output's dtype and what config.json has to say about it."""
    name = recipe.get("out_dtype") or recipe.get("dtype")
    if name is None:
        return None, {}
    if name not in _DTYPES:
        raise ManyoneError(f"{path}: dtype {name!r} is not supported; use {', '.join(_DTYPES)}")
    file = base.folder / "config.json" if base.folder else None
    if file is None:
        return dtype_of(name), {}
    key = "dtype" if "dtype" in hf_config(file) else "torch_dtype"
    return dtype_of(name), {key: name}


def _open(recipe: Path, name: str) -> Checkpoint:
    """A model as recipes name it: a path (from here or beside the recipe), or ``base+adapter`` with a LoRA adapter."""
    model, _, adapter = name.partition("+")

    def found(text: str) -> str | Path:
        beside = recipe.parent / text
        return beside if not Path(text).exists() and beside.exists() else text

    opened = open_checkpoint(found(model))
    return open_checkpoint(found(adapter), opened) if adapter else opened
