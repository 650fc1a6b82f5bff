"""From a recipe's file to a plan and a method: the models opened, their tensors matched, the settings evaluated.

What mergekit does with a recipe is what is done here, up to rounding: ``ties`` trims every tensor by itself, while TIES
as published trims over the whole model; Model Stock's ratio is not clamped; and so on. docs/mergekit.md has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from manyone.engine.documents import sound
from manyone.errors import ManyoneError
from manyone.merging.static.files import Companions, hf_config
from manyone.merging.static.mergekit.methods import RECIPES, Given
from manyone.merging.static.mergekit.restack import Group, Stacked, depth_entries, group_tensors, stacked_plan
from manyone.merging.static.mergekit.schema import Complaints, Recipe, load_recipe
from manyone.merging.static.mergekit.settings import Settings
from manyone.merging.static.mergekit.tokenizer import build_tokens, find_template, vocabulary_entries, writer
from manyone.merging.static.mergekit.vocabulary import align, check_tables
from manyone.merging.static.plan import Plan, make_plan
from manyone.merging.static.stream import Method
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.open import StrPath, open_checkpoint
from manyone.weights.tensor_info import DType, dtype_of


def prepare_recipe(path: StrPath, *, exclude: Sequence[str] = (), seed: int = 0) -> tuple[Plan, Method, Companions]:
    """The plan and method that the recipe at ``path`` describes, and what the output's folder gets besides."""
    path = Path(path)
    with sound(path, "a recipe that can be read"):
        recipe = load_recipe(path)
        if recipe.method not in RECIPES:
            raise ManyoneError(
                f"{path}: merge_method {recipe.method!r:.60} is not supported; supported are {', '.join(RECIPES)}"
            )
        return _prepared(recipe, exclude, seed)


def _prepared(recipe: Recipe, exclude: Sequence[str], seed: int) -> tuple[Plan, Method, Companions]:
    no = Complaints(recipe.path)
    _check_models(no, recipe)
    models = {name: _open(recipe.path, name) for name in recipe.models}
    folders = {name: model.folder for name, model in models.items()}
    groups = group_tensors(no, recipe.slices, recipe.whole, models)
    template = find_template(no, recipe, folders)
    tokens = tokenizer = None
    notes: list[str] = []
    if recipe.vocabulary is not None:
        tokens, tokenizer, notes = build_tokens(no, recipe, recipe.vocabulary, folders)
        groups = [align(no, group, tokens, recipe.vocabulary) for group in groups]
    else:
        for group in groups:
            check_tables(no, group)
    parts = [_part(no, recipe, group, _patterns(exclude, group, groups), seed) for group in groups]
    plan = stacked_plan([part for part, _ in parts])
    if recipe.dtype and plan.joined is not None and plan.joined.single:
        raise no.refuse("dtype", recipe.dtype, "a model folder of manyone keeps the types that it has: leave it out")
    how = {"method": f"mergekit {recipe.method}", "options": {}}
    plan = replace(plan, dtype=dtype_of(recipe.dtype) if recipe.dtype else None, notes=[*plan.notes, *notes], how=how)
    method = parts[0][1] if len(parts) == 1 else Stacked(parts)
    config = _config(recipe, plan, None if tokens is None else tokens.rows)
    return plan, method, Companions(config, writer(tokenizer, template))


def _check_models(no: Complaints, recipe: Recipe) -> None:
    """Whether every slice has the models that the method takes."""
    rule = RECIPES[recipe.method]
    least, most = rule.models
    for part in recipe.slices:
        names = [source.model for source in part.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise no.refuse(part.where, twice, "is named twice; name every model once")
        based = part.base in names
        if rule.base == "required" and part.base is None:
            raise ManyoneError(f"{no.path}: merge_method {recipe.method} needs a base_model; name one")
        if rule.base != "ignored" and part.base is not None and not based:
            raise no.refuse(part.where, part.base, "the base_model must be one of the sources; add it")
        count = len(names) - (based and rule.besides)
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            besides = " besides the base_model" if rule.besides and rule.base != "ignored" else ""
            raise ManyoneError(
                f"{no.path}: {part.where} has {count} models{besides} ({', '.join(names):.200}); {recipe.method} takes "
                f"{wanted}{besides}"
            )


def _patterns(exclude: Sequence[str], group: Group, groups: Sequence[Group]) -> list[str]:
    """The patterns that name a tensor of the group; those that name none at all belong to the first group, whose plan
    complains of them."""

    def named(pattern: str, one: Group) -> bool:
        try:
            return any(re.search(pattern, name) for model in one.models for name in model)
        except re.error:
            return one is groups[0]

    return [p for p in exclude if named(p, group) or (group is groups[0] and not any(named(p, g) for g in groups))]


def _part(no: Complaints, recipe: Recipe, group: Group, exclude: Sequence[str], seed: int) -> tuple[Plan, Method]:
    rule = RECIPES[recipe.method]
    part, leading = group.part, group.models[group.leading]
    is_base = [rule.base != "ignored" and source.model == part.base for source in part.sources]
    in_pair = rule is RECIPES["slerp"]  # the base is the first of the two
    experts = [model for model, base in zip(group.models, is_base, strict=True) if not base]
    if not experts:
        raise ManyoneError(f"{no.path}: {part.where}: nothing to merge besides the base_model; name another model")
    plan = make_plan(leading, [leading, *experts] if in_pair else experts, exclude)
    places = {name: group.places[name] for name in plan.merged}
    own = [source.own for source in part.sources]
    read = Settings(no, recipe.method, rule.parameters, own, is_base, part.common, places)
    given = Given(f"{no.path}: {part.where}", recipe.method, read, plan.merged, any(is_base), seed)
    plan = replace(plan, dtypes={} if recipe.dtype else _promoted(plan))
    return replace(plan, dtype=dtype_of(recipe.dtype) if recipe.dtype else None), rule.build(given)


def _promoted(plan: Plan) -> dict[str, DType]:
    """The dtypes of tensors of which some model has a wider one than the base."""
    found = {}
    for name in plan.merged:
        here = {model.info(name).dtype for model in [plan.base, *plan.experts]}
        if len(here) > 1:
            narrow = max(dtype.itemsize for dtype in here) < 4  # float16 and bfloat16 meet in float32
            found[name] = dtype_of("float32") if narrow else max(here, key=lambda dtype: dtype.itemsize)
    return found


def _config(recipe: Recipe, plan: Plan, rows: int | None) -> Mapping[str, object]:
    """The entries of config.json that the recipe changes."""
    file = plan.base.folder / "config.json" if plan.base.folder else None
    if file is None:
        return {}
    config = hf_config(file)
    changes: dict[str, object] = {}
    if recipe.dtype:
        changes["dtype" if "dtype" in config else "torch_dtype"] = recipe.dtype
    if not recipe.whole:
        changes |= depth_entries(config, recipe.slices)
    if rows is not None:
        changes |= vocabulary_entries({**config, **changes}, rows)
    return changes


def _open(recipe: Path, name: str) -> Checkpoint:
    """A model as recipes name it: a path (from here or beside the recipe), or ``base+adapter`` with a LoRA adapter."""
    model, _, adapter = name.partition("+")

    def found(text: str) -> str | Path:
        beside = recipe.parent / text
        return beside if not Path(text).exists() and beside.exists() else text

    opened = open_checkpoint(found(model))
    return open_checkpoint(found(adapter), opened) if adapter else opened
