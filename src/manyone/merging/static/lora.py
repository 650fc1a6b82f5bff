"""LoRA out: an adapter from two models, and one adapter from many.

    extract   theta_1 - theta_0 of every linear layer as B A, the truncated singular value decomposition
    combine   sum_i c_i s_i B_i A_i as one B A: the factors side by side

For a rank r the truncation is the nearest matrix in the Frobenius norm (Eckart & Young, 1936), and what it leaves is
known exactly: |D - B A|_F^2 is the sum of the squares of the singular values beyond r. The factors share their scale,
A = sqrt(S) V^T and B = U sqrt(S), and alpha = r, so that PEFT's factor alpha / r is 1. A sum of adapters has rank
sum_i r_i at most, so putting the factors side by side loses nothing and needs no base. In memory is one layer.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.files import hf_config, new_folder
from manyone.merging.static.layers import is_linear, transposed_names
from manyone.merging.static.matrix import factoring_device
from manyone.merging.static.plan import Plan, make_plan, within
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.lora.config import adapter_config
from manyone.weights.model_config import architecture, config_beside
from manyone.weights.open import Model, StrPath, open_checkpoint, open_model
from manyone.weights.safetensors_file import SafetensorsWriter
from manyone.weights.tensor_info import DTYPES, TensorInfo

_PREFIX = "base_model.model."
_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}
"""The ends of transformers' classes, and PEFT's ``task_type``. Those of classifiers are left open: for them PEFT
expects a whole new head in the adapter, and ours has the head's change as factors like any other layer's."""
_OUTPUT = "lm_head"  # the name of the output layer in models that have no tensor of their own for it
_F32 = DTYPES["F32"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extraction:
    """What an adapter of rank ``rank`` is made of, by names: ``layers`` are factored (``transposed``: stored as
    [in, out]), ``biases`` and the modules of ``saved`` are kept exactly, ``left`` is lost."""

    base: Checkpoint
    model: Checkpoint
    rank: int
    layers: list[str]
    transposed: bool
    biases: list[str]
    saved: dict[str, list[str]]
    left: list[str]
    shared: str | None
    """A table of ``saved`` that is also the output layer's."""

    def ranks(self) -> dict[str, int]:
        """Rank of every layer: that asked for, or a smaller side of the layer."""
        return {name: min(self.rank, *self.base.info(name).shape) for name in self.layers}

    def tensors(self) -> dict[str, TensorInfo]:
        """dtype and shape of everything that is written."""
        found: dict[str, TensorInfo] = {}
        for name, rank in self.ranks().items():
            rows, columns = self.base.info(name).shape[:: -1 if self.transposed else 1]
            stem = _PREFIX + name.removesuffix(".weight")
            found[f"{stem}.lora_A.weight"] = TensorInfo(_F32, (rank, columns))
            found[f"{stem}.lora_B.weight"] = TensorInfo(_F32, (rows, rank))
        for name in self.biases:
            found[f"{_PREFIX}{name.removesuffix('.bias')}.lora_B.bias"] = TensorInfo(_F32, self.base.info(name).shape)
        for name in (name for names in self.saved.values() for name in names):
            found[_PREFIX + name] = self.model.info(name)
        if self.shared is not None:
            found[f"{_PREFIX}{_OUTPUT}.weight"] = self.model.info(self.shared)
        return found


@dataclass(frozen=True)
class Extracted:
    """``errors`` |D - B A| / |D| of every layer and ``error`` of all that changed, what is left out included."""

    errors: dict[str, float]
    error: float
    size: int


def plan_extraction(
    base: Model, model: Model, *, rank: int, others: str = "save", exclude: Sequence[str] = ()
) -> Extraction:
    """Which tensors of ``model`` differ from ``base``, and how the adapter says so.

    ``others`` "save" keeps what is no linear layer exactly: a changed bias of a factored layer in PEFT's ``lora_bias``,
    other changed modules (embeddings, norms) whole in ``modules_to_save``; "drop" leaves both out. Tensors that PEFT
    has no place for are left out in any case: those that stand beside modules of their own, such as a class token.
    """
    within("rank", rank, rank >= 1, "1 or more")
    within("others", others, others in ("save", "drop"), "save or drop")
    opened = open_model(base, "base")
    plan = make_plan(opened, [open_model(model, "model", opened)], exclude)
    target = plan.experts[0]
    changed = [name for name in plan.merged if _differs(plan, name)]
    layers = [name for name in changed if name.endswith(".weight") and is_linear(name, opened.info(name))]
    if not layers:
        raise ManyoneError(f"{target.label}: no linear layer differs from {opened.label}; there is nothing to extract")
    turned = transposed_names({name: opened.info(name) for name in opened})
    if len({name in turned for name in layers}) > 1:
        odd = next(name for name in layers if name not in turned)
        raise ManyoneError(
            f"{target.label}: {odd} is stored as [out, in] and other layers as [in, out], which one "
            f"adapter cannot say; leave it out with --exclude '{re.escape(odd)}'"
        )
    rest = [name for name in changed if name not in set(layers)]
    owners = {name.rpartition(".")[0] for name in layers}
    biased = all(f"{owner}.bias" in opened for owner in owners)
    biases = [
        n for n in rest if others == "save" and biased and n.rpartition(".")[::2] in {(o, "bias") for o in owners}
    ]
    saved: dict[str, list[str]] = {}
    for name in rest if others == "save" else ():
        owner = name.rpartition(".")[0]
        inside = [n for n in opened if n.startswith(f"{owner}.")] if owner else list(opened)
        if owner and owner not in owners and all(n.count(".") == owner.count(".") + 1 for n in inside):
            saved[owner] = [n for n in inside if n in plan.merged or n in plan.copied]
    kept = {*biases, *(n for names in saved.values() for n in names)}
    left = [name for name in rest if name not in kept]
    return Extraction(
        opened, target, rank, layers, layers[0] in turned, biases, saved, left, _shared_table(opened, saved)
    )


def extract(
    plan: Extraction,
    out: StrPath,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    before: Callable[[], object] | None = None,
) -> Extracted:
    """Writes the adapter's folder ``out`` and returns what it loses."""
    place = factoring_device(device)
    total = sum(plan.base.info(name).numel for name in plan.layers)
    done = 0
    errors: dict[str, float] = {}
    lost = moved = 0.0
    with new_folder(out, before=before) as folder:
        tensors = plan.tensors()
        writer = SafetensorsWriter(folder, tensors, metadata={"format": "pt"}, stem="adapter_model")
        try:
            for name, rank in plan.ranks().items():
                stem = _PREFIX + name.removesuffix(".weight")
                a, b, square, rest = _factors(_change(plan, name).to(place), rank, plan.transposed)
                _write(writer, f"{stem}.lora_A.weight", a)
                _write(writer, f"{stem}.lora_B.weight", b)
                errors[name] = math.sqrt(rest / square)
                lost, moved = lost + rest, moved + square
                done += plan.base.info(name).numel
                if progress is not None:
                    progress(done, total)
            for name in plan.biases:
                change = _change(plan, name)
                moved += float(change.square().sum(dtype=torch.float64))
                _write(writer, f"{_PREFIX}{name.removesuffix('.bias')}.lora_B.bias", change)
            for name in (name for names in plan.saved.values() for name in names):
                moved += float(_change(plan, name).square().sum(dtype=torch.float64))
                info = plan.model.info(name)
                writer.write(_PREFIX + name, 0, plan.model.entries[name].array(0, info.numel))
                if name == plan.shared:
                    writer.write(f"{_PREFIX}{_OUTPUT}.weight", 0, plan.model.entries[name].array(0, info.numel))
            for name in plan.left:
                square = float(_change(plan, name).square().sum(dtype=torch.float64))
                lost, moved = lost + square, moved + square
            writer.commit()
        finally:
            writer.abort()
        config = _config(_named(plan.base), {n.removesuffix(".weight"): r for n, r in plan.ranks().items()})
        config["task_type"] = _task_type(plan)
        config |= {"fan_in_fan_out": plan.transposed, "lora_bias": bool(plan.biases)}
        config |= {"modules_to_save": list(plan.saved) or None}
        if plan.shared is not None:  # PEFT parts an output layer from the table that it shares: it is saved as well
            config["modules_to_save"] = [*plan.saved, _OUTPUT]
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Extracted(errors, math.sqrt(lost / moved), sum(info.nbytes for info in tensors.values()))


def _differs(plan: Plan, name: str) -> bool:
    """Whether the model's tensor is another than the base's, chunk by chunk."""
    for _, start, stop in plan.chunks([name]):
        buffers = [np.empty(stop - start, np.float64) for _ in range(2)]
        models = (plan.base, plan.experts[0])
        one, other = (model.floats(name, start, stop, out) for model, out in zip(models, buffers, strict=True))
        if not np.isfinite(other).all():
            raise ManyoneError(f"{plan.experts[0].label}: NaN or Inf in tensor {name!r}")
        if not np.array_equal(one, other):
            return True
    return False


def _change(plan: Extraction, name: str) -> Tensor:
    info = plan.base.info(name)
    one, other = (model.read_flat(name, 0, info.numel).float() for model in (plan.base, plan.model))
    change = (other - one).view(info.shape)
    if not torch.isfinite(change).all():
        raise ManyoneError(f"{plan.base.label}: NaN or Inf in tensor {name!r}")
    return change


def _factors(change: Tensor, rank: int, transposed: bool) -> tuple[Tensor, Tensor, float, float]:
    """(A, B, |D|^2, |D - B A|^2) of D [out, in], or of [in, out] if ``transposed``."""
    left, values, right = torch.linalg.svd(change.T if transposed else change, full_matrices=False)
    squares = values.double().square()
    root = values[:rank].sqrt()
    a, b = root[:, None] * right[:rank], left[:, :rank] * root
    return a.cpu(), b.cpu(), float(squares.sum()), float(squares[rank:].sum())


def _write(writer: SafetensorsWriter, name: str, tensor: Tensor) -> None:
    writer.write(name, 0, tensor.float().contiguous().view(-1).numpy())


def _shared_table(base: Checkpoint, saved: Mapping[str, Sequence[str]]) -> str | None:
    """The saved table of tokens that is the output layer's as well, by the base's architecture and its tensors."""
    file = base.folder / "config.json" if base.folder else None
    words = hf_config(file).get("architectures") if file else None
    causal = isinstance(words, list) and any(str(word).endswith(("ForCausalLM", "LMHeadModel")) for word in words)
    if not causal or any(re.search(r"(^|\.)(lm_head|embed_out|output_layer|output)\.weight$", name) for name in base):
        return None
    tables = (f"{owner}.weight" for owner in saved if re.search(r"(^|\.)(embed_tokens|wte|word_embeddings)$", owner))
    return next(tables, None)


def _named(base: Checkpoint) -> str | None:
    """How the adapter names its base."""
    place = base.folder or base.path
    if place is None:
        return None
    if place.parent.name == "snapshots":  # models--NAME/snapshots/REVISION of the hub's cache
        return place.parents[1].name.removeprefix("models--").replace("--", "/")
    return str(place.absolute())


def _task_type(plan: Extraction) -> str | None:
    """What PEFT calls the model's task, by its class or that of the base; None where it has no name for it."""
    for model in (plan.model, plan.base):
        config = config_beside(model.folder)
        name = architecture(config) or ""
        for ending, task in _TASKS.items():
            if name.endswith(ending) and (task != "SEQ_2_SEQ_LM" or config.get("is_encoder_decoder")):
                return task
    return None


def _config(base: str | None, ranks: Mapping[str, int]) -> dict[str, Any]:
    """PEFT's adapter_config.json for factors whose product needs no further factor: alpha = r everywhere."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": list(ranks),
        "modules_to_save": None,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": False,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }


# --- many adapters --------------------------------------------------------------------------------------------------

_PAIR = re.compile(r"(?P<module>.+)\.(?P<part>lora_embedding_[AB]|lora_[AB]\.weight)")


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter: the factors' names by module, and the scale of each; ``tables`` are the base's embeddings,
    which PEFT writes beside the factors of an embedding."""

    folder: Path
    weights: Checkpoint
    pairs: dict[str, dict[str, str]]
    tables: list[str]
    scales: dict[str, float]
    base: str | None
    fan_in_fan_out: bool


def open_adapter(folder: StrPath) -> Adapter:
    """The adapter in ``folder``, if it is linear in its factors: plain LoRA, with nothing saved beside."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise ManyoneError(f"{folder}: no adapter folder (it has no adapter_config.json); name one that PEFT wrote")
    config = adapter_config(folder)
    if config.dora or config.kasa or config.init in ("pissa", "olora"):
        kind = "use_dora" if config.dora else "kasa_config" if config.kasa else f"init_lora_weights {config.init!r}"
        raise ManyoneError(
            f"{config.path}: {kind}: its change depends on the base, and only plain LoRA adds up without it; merge the "
            "adapters into the base instead (manyone run task-arithmetic)"
        )
    weights = open_checkpoint(folder / "adapter_model.safetensors")
    pairs: dict[str, dict[str, str]] = {}
    tables = [name for name in weights if name.endswith(".base_layer.weight")]
    for name in (name for name in weights if name not in tables):
        found = _PAIR.fullmatch(name)
        if found is None:
            raise ManyoneError(
                f"{folder}: {name!r} is no factor of a plain LoRA layer, and only those add up without the base; "
                "merge the adapters into the base instead (manyone run task-arithmetic)"
            )
        pairs.setdefault(found["module"], {})[found["part"].removesuffix(".weight")[-1]] = name
    scales = {}
    for module, parts in pairs.items():
        if set(parts) != {"A", "B"}:
            raise ManyoneError(f"{folder}: {module} has only one of the two LoRA matrices; the file is incomplete")
        rank = weights.info(parts["A"]).shape[0]
        if len(weights.info(parts["B"]).shape) != 2 or weights.info(parts["B"]).shape[1] != rank:
            raise ManyoneError(f"{folder}: the LoRA matrices of {module} do not fit each other")
        scales[module] = config.scale(module.removeprefix(_PREFIX), rank)
    return Adapter(folder, weights, pairs, tables, scales, config.base, config.fan_in_fan_out)


def combine(
    adapters: Sequence[StrPath],
    out: StrPath,
    *,
    weights: Sequence[float],
    before: Callable[[], object] | None = None,
) -> dict[str, int]:
    """Writes sum_i sourcei (adapter i) as one adapter, exactly; returns its rank in every module."""
    opened = check_combination(adapters, weights)
    modules = list(dict.fromkeys(module for adapter in opened for module in adapter.pairs))
    having = {module: [i for i, adapter in enumerate(opened) if module in adapter.pairs] for module in modules}
    shapes: dict[str, TensorInfo] = {}
    ranks: dict[str, int] = {}
    for module, places in having.items():
        infos = [[opened[i].weights.info(opened[i].pairs[module][part]) for part in "AB"] for i in places]
        if len({(a.shape[1:], b.shape[0]) for a, b in infos}) > 1:
            raise ManyoneError(
                f"{opened[places[-1]].folder}: {module} has another shape than in {opened[places[0]].folder}"
            )
        ranks[module.removeprefix(_PREFIX)] = rank = sum(a.shape[0] for a, _ in infos)
        names = opened[places[0]].pairs[module]
        shapes[names["A"]] = TensorInfo(_F32, (rank, *infos[0][0].shape[1:]))
        shapes[names["B"]] = TensorInfo(_F32, (infos[0][1].shape[0], rank))
    tables = {name: adapter.weights for adapter in opened for name in adapter.tables}
    shapes |= {name: source.info(name) for name, source in tables.items()}
    with new_folder(out, before=before) as folder:
        writer = SafetensorsWriter(folder, shapes, metadata={"format": "pt"}, stem="adapter_model")
        try:
            for name, source in tables.items():
                writer.write(name, 0, source.entries[name].array(0, source.info(name).numel))
            for module, places in having.items():
                names = opened[places[0]].pairs[module]
                parts = [{k: opened[i].weights.read(opened[i].pairs[module][k]).float() for k in "AB"} for i in places]
                factors = [weights[i] * opened[i].scales[module] for i in places]
                _write(writer, names["A"], torch.cat([part["A"] for part in parts]))
                _write(writer, names["B"], torch.cat([c * p["B"] for c, p in zip(factors, parts, strict=True)], dim=1))
            writer.commit()
        finally:
            writer.abort()
        bases = {adapter.base for adapter in opened}
        config = _config(bases.pop() if len(bases) == 1 else None, ranks)
        config["fan_in_fan_out"] = opened[0].fan_in_fan_out
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return ranks


def check_combination(adapters: Sequence[StrPath], weights: Sequence[float]) -> list[Adapter]:
    """The adapters opened, if they can be combined with these weights."""
    if len(weights) != len(adapters):
        raise ManyoneError(f"{len(weights)} weights for {len(adapters)} adapters; give one each, in their order")
    opened = [open_adapter(folder) for folder in adapters]
    for adapter in opened:
        if adapter.fan_in_fan_out != opened[0].fan_in_fan_out:
            raise ManyoneError(
                f"{adapter.folder}: its fan_in_fan_out differs from that of {opened[0].folder}; "
                "adapters of different kinds of layers do not add up"
            )
    first: dict[str, Adapter] = {}
    for adapter in opened:
        for name in adapter.tables:
            other = first.setdefault(name, adapter)
            if not torch.equal(adapter.weights.read(name), other.weights.read(name)):
                raise ManyoneError(
                    f"{adapter.folder}: {name} differs from that in {other.folder}: these adapters are not of one base"
                )
    return opened
