"""Static merging: many fine-tuned models become one model of the same size, once, without data.

theta_0 is the common base, theta_i the experts, tau_i = theta_i - theta_0. Every method works the same on files
(streamed, a few megabytes of memory whatever the size and number of the models) and on state dicts::

    merged = task_arithmetic(base, [expert_1, expert_2], scale=0.3)                     # state dicts in, state dict out
    merge("ties", "base/", ["a/", "b/"], out="merged", density=0.2, scale=0.3)    # folders in, folder out

Models may be state dicts, ``Checkpoint`` objects or paths (see :func:`manyone.weights.open.open_checkpoint`).
The output has the base's names, shapes and dtypes. ``exclude`` takes regular expressions of tensors that stay as they
are in the base, such as classifier heads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from manyone.errors import ManyoneError
from manyone.merging.static.files import model_folder
from manyone.merging.static.linear import Linear, task_arithmetic_coefficients
from manyone.merging.static.plan import Plan, make_plan
from manyone.merging.static.stream import MemorySink, Method, Progress, run_merge
from manyone.weights.checkpoint import Checkpoint, Weights, as_checkpoint
from manyone.weights.open import StrPath, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

Model: TypeAlias = "Weights | StrPath"
Models: TypeAlias = "Sequence[Model]"


def _average(count: int) -> Method:
    return Linear(lambda name: (0.0, [1 / count] * count))


def _task_arithmetic(count: int, scale: float = 0.3) -> Method:
    return Linear(task_arithmetic_coefficients(count, scale))


def _ties(
    count: int,
    density: float = 0.2,
    scale: float = 0.3,
    merge: Literal["sum", "mean"] = "sum",
    scope: Literal["model", "tensor"] = "model",
) -> Method:
    from manyone.merging.static.elementwise import SignElection

    _within("density", density, 0 < density <= 1, "in (0, 1]")
    _within("merge", merge, merge in ("sum", "mean"), "sum or mean")
    _within("scope", scope, scope in ("model", "tensor"), "model or tensor")
    trim = (lambda name: [density] * count) if density < 1 else None
    return SignElection(lambda name: scale, density=trim, scope=scope, merge=merge)


def _dare(
    count: int,
    drop: float = 0.5,
    scale: float = 0.3,
    then: Literal["task-arithmetic", "ties"] = "task-arithmetic",
    density: float = 0.2,
    merge: Literal["sum", "mean"] = "sum",
    seed: int = 0,
) -> Method:
    from manyone.merging.static.elementwise import SignElection

    _within("drop", drop, 0 <= drop < 1, "in [0, 1)")
    _within("then", then, then in ("task-arithmetic", "ties"), "task-arithmetic or ties")
    _within("density", density, 0 < density <= 1, "in (0, 1]")
    _within("merge", merge, merge in ("sum", "mean"), "sum or mean")
    ties = then == "ties"
    return SignElection(
        lambda name: scale,
        density=(lambda name: [density] * count) if ties and density < 1 else None,
        drop=lambda name: [drop] * count,
        elect=ties,
        merge=merge if ties else "sum",
        seed=seed,
    )


def _slerp(
    count: int, t: float = 0.5, space: Literal["weights", "task-vectors"] = "weights", scale: float = 1.0
) -> Method:
    from manyone.merging.static.elementwise import FromGram, on_task_vectors, slerp_rule

    _within("experts", count, count >= 2, "at least 2 for SLERP")
    _within("space", space, space in ("weights", "task-vectors"), "weights or task-vectors")
    _within("scale", scale, scale == 1.0 or space == "task-vectors", "1 unless space is task-vectors")
    rule = slerp_rule(t)
    return FromGram(on_task_vectors(rule, scale) if space == "task-vectors" else rule, space)


def _fisher(count: int, fishers: Models, floor: float = 1e-6, normalize: bool = True) -> Method:
    from manyone.merging.static.fisher import Fisher

    _within("floor", floor, floor > 0, "positive")
    return Fisher(_open_all(fishers, None, "Fisher"), floor, normalize)


def _regmean(count: int, grams: Models, ratio: float = 0.95, device: str = "cpu") -> Method:
    from manyone.merging.static.matrix import RegMean

    _within("ratio", ratio, 0 <= ratio <= 1, "in [0, 1]")
    return RegMean(_open_all(grams, None, "Gram matrices"), ratio, device)


def _model_stock(count: int) -> Method:
    from manyone.merging.static.elementwise import FromGram, model_stock_rule

    _within("experts", count, count >= 2, "at least 2 for Model Stock")
    return FromGram(model_stock_rule, "task-vectors")


def _tsv_m(count: int, scale: float = 1.0, device: str = "cpu") -> Method:
    from manyone.merging.static.matrix import TSVM

    return TSVM(scale, device)


def _iso_c(count: int, scale: float = 1.0, device: str = "cpu") -> Method:
    from manyone.merging.static.matrix import IsoC

    return IsoC(scale, device)


def _iso_cts(count: int, scale: float = 1.0, common: float = 0.8, device: str = "cpu") -> Method:
    from manyone.merging.static.matrix import IsoCTS

    _within("common", common, 0 < common <= 1, "in (0, 1]")
    return IsoCTS(scale, common, device)


METHODS: dict[str, Callable[..., Method]] = {
    "average": _average,
    "task-arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare": _dare,
    "slerp": _slerp,
    "fisher": _fisher,
    "regmean": _regmean,
    "model-stock": _model_stock,
    "tsv-m": _tsv_m,
    "iso-c": _iso_c,
    "iso-cts": _iso_cts,
}


def prepare(
    method: str, base: Model, experts: Models, *, exclude: Sequence[str] = (), **options: Any
) -> tuple[Plan, Method]:
    """Opens the models, matches their tensors and checks the options: all that can fail before values are read."""
    if method not in METHODS:
        raise ManyoneError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    opened = open_model(base, "base")
    plan = make_plan(opened, _open_all(experts, opened, "expert"), exclude)
    return plan, METHODS[method](len(plan.experts), **options)


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
    **options: Any,
) -> dict[str, Tensor] | None:
    """Merges with the method called ``method`` (a key of ``METHODS``; ``options`` are those of its function below).

    ``out`` None: returns a state dict. Otherwise writes the folder ``out``: the weights (in shards of at most
    ``max_shard_size``, e.g. "5GB") and, when the base is a Hugging Face folder, its configuration and tokenizer.
    ``progress`` is called with (elements done, elements in all). Raises ``ManyoneError`` and leaves nothing behind.
    """
    plan, chosen = prepare(method, base, experts, exclude=exclude, **options)
    return execute(plan, chosen, out=out, max_shard_size=max_shard_size, threads=threads, progress=progress)


def execute(
    plan: Plan,
    method: Method,
    *,
    out: StrPath | None = None,
    max_shard_size: str | int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    config: Mapping[str, Any] | None = None,
    before: Callable[[], object] | None = None,
) -> dict[str, Tensor] | None:
    """Runs a prepared merge; ``config`` holds entries of config.json to change, ``before`` is called once everything is
    merged and before anything appears under ``out``."""
    if out is None:
        memory = MemorySink(plan)
        run_merge(plan, method, memory, threads=threads, progress=progress)
        names = list(plan.base)
        kept = memory.tensors | {a: memory.tensors[b] for a, b in plan.aliases.items() if b in memory.tensors}
        return {name: kept[name] for name in names if name in kept}
    with model_folder(plan, out, max_shard_size=max_shard_size, config=config, before=before) as writer:
        run_merge(plan, method, writer, threads=threads, progress=progress)
    return None


def open_model(model: Model, label: str, base: Checkpoint | None = None) -> Checkpoint:
    """A path, state dict or ``Checkpoint`` as a ``Checkpoint``; LoRA adapters are merged into ``base``."""
    return as_checkpoint(model, label) if isinstance(model, Mapping) else open_checkpoint(model, base)


def _open_all(models: Models, base: Checkpoint | None, word: str) -> list[Checkpoint]:
    if isinstance(models, str | os.PathLike | Mapping):
        raise ManyoneError(f"{word}: give a list of models, not a single one")
    return [open_model(model, f"{word} {i + 1}", base) for i, model in enumerate(models)]


def _within(option: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ManyoneError(f"{option} = {value}: must be {allowed}")


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
