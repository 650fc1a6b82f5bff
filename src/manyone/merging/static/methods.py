"""Static merging: many fine-tuned models become one model of the same size, once, without data.

theta_0 is the common base, theta_i the experts, tau_i = theta_i - theta_0. Every method works the same on files
(streamed, a few megabytes of memory whatever the size and number of the models) and on state dicts::

    merged = task_arithmetic(base, [expert_1, expert_2], scale=0.3)                     # state dicts in, state dict out
    merge("ties", "base/", ["a/", "b/"], out="merged", density=0.2, scale=0.3)    # folders in, folder out

Models may be modules, state dicts, ``Checkpoint`` objects or paths (see :func:`manyone.weights.open.open_checkpoint`).
The output has the base's names, shapes and dtypes. ``exclude`` takes regular expressions of tensors that stay as they
are in the base, such as classifier heads.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from manyone.engine.words import check_keywords
from manyone.errors import ManyoneError
from manyone.merging.static.doubts import doubts
from manyone.merging.static.files import Companions, model_folder
from manyone.merging.static.movement import Measure
from manyone.merging.static.plan import Plan, make_plan
from manyone.merging.static.stream import MemorySink, Method, Progress, run_merge
from manyone.weights.open import Model, Models, StrPath, open_model, open_models

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

METHODS = {
    "average": "linear:average",
    "task-arithmetic": "linear:task_arithmetic",
    "ties": "elementwise:ties",
    "dare": "elementwise:dare",
    "slerp": "elementwise:slerp",
    "model-stock": "elementwise:model_stock",
    "fisher": "fisher:fisher",
    "regmean": "matrix:regmean",
    "tsv-m": "matrix:tsv_m",
    "iso-c": "matrix:iso_c",
    "iso-cts": "matrix:iso_cts",
}
"""Name -> where its rule is. A rule is a function whose parameters, after the number of experts, are the method's
options. It is imported when it is asked for: some need PyTorch, which takes longer to import than many merges do."""


def find_rule(method: str) -> Callable[..., Method]:
    """The rule called ``method``."""
    if method not in METHODS:
        raise ManyoneError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    module, _, name = METHODS[method].partition(":")
    return getattr(importlib.import_module(f"manyone.merging.static.{module}"), name)


def rule_options(method: str, options: object) -> dict[str, Any]:
    """The attributes of ``options`` that are options of the rule called ``method``."""
    names = inspect.signature(find_rule(method)).parameters
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def prepare(
    method: str, base: Model, experts: Models, *, exclude: Sequence[str] = (), **options: Any
) -> tuple[Plan, Method]:
    """Opens the models, matches their tensors and checks the options: all that can fail before values are read."""
    rule = find_rule(method)
    check_keywords(f"merge({method!r})", options, partial(rule, 0))  # the first is the number of experts
    for name, parameter in inspect.signature(rule).parameters.items():
        number = isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
        if number and name in options and not isinstance(options[name], Real):
            raise ManyoneError(
                f"{name} = {options[name]!r:.40}: must be a number, not a {type(options[name]).__name__}"
            )
    opened = open_model(base, "base")
    plan = make_plan(opened, open_models(experts, "expert", opened), exclude)
    for doubt in doubts(method, plan, options):
        logger.warning(doubt)
    told = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return replace(plan, how={"method": method, "options": told}), rule(len(plan.experts), **options)


def merge(
    method: str,
    base: Model,
    experts: Models,
    *,
    out: StrPath | None = None,
    exclude: Sequence[str] = (),
    max_shard_size: str | int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
    **options: Any,
) -> dict[str, Tensor] | None:
    """Merges with the method called ``method`` (a key of ``METHODS``; ``options`` are those of its function below).

    ``out`` None: returns a state dict. Otherwise writes the folder ``out``: the weights (in shards of at most
    ``max_shard_size``, e.g. "5GB") and, when the base is a Hugging Face folder, its configuration and tokenizer. Of
    model folders of this project (policies, teams, ...) a model folder, in one file, that the field's ``load`` opens.
    ``progress`` is called with (elements done, elements in all); ``measure`` tells afterwards how far experts and
    result lie from the base. Raises ``ManyoneError`` and leaves nothing behind.
    """
    plan, chosen = prepare(method, base, experts, exclude=exclude, **options)
    return execute(
        plan, chosen, out=out, max_shard_size=max_shard_size, threads=threads, progress=progress, measure=measure
    )


def execute(
    plan: Plan,
    method: Method,
    *,
    out: StrPath | None = None,
    max_shard_size: str | int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
    companions: Companions | None = None,
    before: Callable[[], object] | None = None,
) -> dict[str, Tensor] | None:
    """Runs a prepared merge; ``companions`` says what the folder gets besides the base's files, ``before`` is called
    once everything is merged and before anything appears under ``out``."""
    if out is None:
        memory = MemorySink(plan)
        run_merge(plan, method, memory, threads=threads, progress=progress, measure=measure)
        names = list(plan.base)
        kept = memory.tensors | {a: memory.tensors[b] for a, b in plan.aliases.items() if b in memory.tensors}
        return {name: kept[name] for name in names if name in kept}
    with model_folder(plan, out, max_shard_size=max_shard_size, companions=companions, before=before) as writer:
        run_merge(plan, method, writer, threads=threads, progress=progress, measure=measure)
    return None


def _merged(method: str, base: Model, experts: Models, exclude: Sequence[str], **options: Any) -> dict[str, Tensor]:
    result = merge(method, base, experts, exclude=exclude, **options)
    assert result is not None
    return result


def average(base: Model, experts: Models, *, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """Weight averaging: theta_0 + mean of tau_i, which is the mean of the experts."""
    return _merged("average", base, experts, exclude)


def task_arithmetic(
    base: Model, experts: Models, scale: float = 0.3, *, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """theta_0 + scale * sum_i tau_i (Ilharco et al., 2023)."""
    return _merged("task-arithmetic", base, experts, exclude, scale=scale)


def ties(
    base: Model,
    experts: Models,
    density: float = 0.2,
    scale: float = 0.3,
    merge: Literal["sum", "mean"] = "sum",
    *,
    scope: Literal["model", "tensor"] = "model",
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """TIES (Yadav et al., 2023): trim, elect sign, disjoint merge.

    Of every tau_i the entries with |tau_i| at least its (floor(density d) + 1)-th largest magnitude over all d merged
    elements survive (``scope="tensor"``: the floor(density n)-th of each tensor of n). The elected sign is
    sign(sum_i tau_i), the majority of all signs where that is zero; entries that agree are summed, or averaged over the
    agreeing non-zero ones with ``merge="mean"``, and multiplied by ``scale``.
    """
    return _merged("ties", base, experts, exclude, density=density, scale=scale, merge=merge, scope=scope)


def dare(
    base: Model,
    experts: Models,
    drop: float = 0.5,
    scale: float = 0.3,
    *,
    then: Literal["task-arithmetic", "ties"] = "task-arithmetic",
    density: float = 0.2,
    merge: Literal["sum", "mean"] = "sum",
    seed: int = 0,
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """DARE (Yu et al., 2024): drops entries of tau_i with probability ``drop`` and divides the rest by 1 - drop; then
    task arithmetic, or TIES with ``density`` and ``merge``. Equal seeds give equal bytes."""
    options = {"drop": drop, "scale": scale, "then": then, "density": density, "merge": merge, "seed": seed}
    return _merged("dare", base, experts, exclude, **options)


def slerp(
    base: Model,
    experts: Models,
    t: float = 0.5,
    *,
    space: Literal["weights", "task-vectors"] = "weights",
    scale: float = 1.0,
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Spherical interpolation, tensor by tensor, from the first expert (t = 0) to the second (t = 1).

    With N > 2 experts they are folded in one after the other, the k-th with t = 1/k, and ``t`` is not used.
    ``space="task-vectors"`` interpolates the tau_i (whose directions really differ) and adds scale times the result to
    theta_0; with "weights" the base only gives names, dtypes and what is excluded.
    """
    return _merged("slerp", base, experts, exclude, t=t, space=space, scale=scale)


def fisher(
    base: Model,
    experts: Models,
    fishers: Models,
    *,
    floor: float = 1e-6,
    normalize: bool = True,
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """sum_i F_i theta_i / sum_i F_i (Matena & Raffel, 2022); ``fishers`` are diagonal Fishers with the experts' names,
    each divided by its norm over the model when ``normalize``, entries at least ``floor``."""
    return _merged("fisher", base, experts, exclude, fishers=fishers, floor=floor, normalize=normalize)


def regmean(
    base: Model, experts: Models, grams: Models, *, ratio: float = 0.95, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """(sum_i G_i)^-1 sum_i G_i W_i per linear layer (Jin et al., 2023).

    ``grams[i]`` maps the name of a layer's weight to X_i^T X_i [in, in]; off-diagonal entries are multiplied by
    ``ratio``; everything without a Gram matrix is averaged.
    """
    return _merged("regmean", base, experts, exclude, grams=grams, ratio=ratio)


def model_stock(base: Model, experts: Models, *, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """t mean(theta_i) + (1 - t) theta_0, t per tensor from the mean angle between the tau_i (Jang et al., 2024)."""
    return _merged("model-stock", base, experts, exclude)


def tsv_m(base: Model, experts: Models, scale: float = 1.0, *, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """Singular vectors made orthogonal across experts on linear layers (Gargiulo et al., 2025); others averaged."""
    return _merged("tsv-m", base, experts, exclude, scale=scale)


def iso_c(base: Model, experts: Models, scale: float = 1.0, *, exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """Flat spectrum of sum_i tau_i on linear layers (Marczak et al., 2025); others averaged; ``scale`` is for all."""
    return _merged("iso-c", base, experts, exclude, scale=scale)


def iso_cts(
    base: Model, experts: Models, scale: float = 1.0, common: float = 0.8, *, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Iso-C with task-specific directions in the last 1 - ``common`` of the spectrum (Marczak et al., 2025)."""
    return _merged("iso-cts", base, experts, exclude, scale=scale, common=common)
