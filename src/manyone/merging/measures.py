"""What is measured on merged models: accuracy, entropy, calibration, size, time and representation bias.

A *shared model* is one object that serves every task: an ``nn.Module`` that maps inputs to features, or (Surgery, which
needs to know the task) a module with ``needs_task = True`` or any other callable ``model(inputs, task)``. Everything
runs without gradients, in evaluation mode, in batches; text is batched by length and put back in order, which spares
most of the padding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.data.tasks import Inputs, Split, concatenate, count, take
from manyone.errors import ManyoneError
from manyone.merging.adaptation.objectives import entropy, marginal_entropy
from manyone.merging.heads import Head
from manyone.merging.outputs import features_of
from manyone.randomness import generator_for

SharedModel = nn.Module | Callable[[Inputs, Any], Tensor]


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block; every flag is put back afterwards.

    Models that merge in every forward pass (those with ``merged_once``, as AdaMerging) merge once for the whole block.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for module in training:
        module.training = False
    try:
        with ExitStack() as stack:
            for module in model.modules():
                merge_once: Any = getattr(module, "merged_once", None)
                if merge_once is not None:
                    stack.enter_context(merge_once())
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def apply(model: SharedModel, inputs: Inputs, task: str | Sequence[str]) -> Tensor:
    """Features of one batch; the task (or one task a sample) is passed on to models that need it."""
    if isinstance(model, nn.Module) and not getattr(model, "needs_task", False):
        return features_of(model, inputs)
    return model(inputs, task)


def device_of(model: object) -> torch.device:
    """The device of the model's first parameter or buffer; CPU when it has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same batch on ``device``."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: value.to(device) for name, value in inputs.items()}


def batches(inputs: Inputs, batch_size: int) -> Iterator[tuple[Tensor, Inputs]]:
    """(row indices, batch) over all of ``inputs``; text is ordered by length so that batches carry little padding."""
    n = count(inputs)
    order = torch.arange(n)
    if not isinstance(inputs, Tensor) and "attention_mask" in inputs:
        order = inputs["attention_mask"].sum(1).argsort(stable=True).cpu()
    for start in range(0, n, batch_size):
        index = order[start : start + batch_size]
        yield index, take(inputs, index)


def features(model: SharedModel, inputs: Inputs, task: str = "", *, batch_size: int = 256) -> Tensor:
    """Features [n, d] of every input, on the CPU, in the inputs' order."""
    device, rows, order = device_of(model), [], []
    with torch.no_grad(), frozen(model):
        for index, batch in batches(inputs, batch_size):
            rows.append(apply(model, to_device(batch, device), task).float().cpu())
            order.append(index)
    if not rows:
        raise ManyoneError("no inputs to compute features of: the split is empty")
    result = torch.cat(rows)
    return result[torch.cat(order).argsort()]


def logits(model: SharedModel, head: Head, inputs: Inputs, task: str = "", *, batch_size: int = 256) -> Tensor:
    """Logits [n, classes] of every input under one task's head."""
    return head.to("cpu")(features(model, inputs, task, batch_size=batch_size))


def accuracy(model: SharedModel, head: Head, split: Split, task: str = "", *, batch_size: int = 256) -> float:
    """Top-1 accuracy in [0, 1] of encoder + head on a split."""
    return share_right(head, features(model, split.inputs, task, batch_size=batch_size), split.labels)


def share_right(head: Head, feature: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1] of a head on features [n, d] that are known already."""
    return float((head.to("cpu")(feature).argmax(1) == labels.cpu()).double().mean())


def accuracies(
    model: SharedModel, heads: Mapping[str, Head], splits: Mapping[str, Split], *, batch_size: int = 256
) -> dict[str, float]:
    """Top-1 accuracy of one shared model on every task of ``splits``; batches hold one task each."""
    return {t: accuracy(model, _head(heads, t), s, t, batch_size=batch_size) for t, s in splits.items()}


def mixed_batches(
    splits: Mapping[str, Split], batch_size: int, seed: int = 0
) -> Iterator[tuple[Inputs, list[str], Tensor]]:
    """Batches drawn across tasks: (inputs, task of every sample, labels). Every sample comes exactly once.

    Routing per batch sees the task in the company that a sample keeps; in mixed batches it does not.
    """
    names = list(splits)
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(splits.values())])
    row = torch.cat([torch.arange(len(s)) for s in splits.values()])
    order = torch.randperm(len(owner), generator=generator_for(seed, "mixed batches"))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        index = index[owner[index].argsort(stable=True)]
        parts, tasks, labels = [], [], []
        for i in owner[index].unique_consecutive().tolist():
            part = splits[names[i]].take(row[index[owner[index] == i]])
            parts.append(part.inputs)
            labels.append(part.labels)
            tasks += [names[i]] * len(part)
        yield concatenate(parts), tasks, torch.cat(labels)


def mixed_accuracies(
    model: SharedModel, heads: Mapping[str, Head], splits: Mapping[str, Split], *, batch_size: int = 64, seed: int = 0
) -> dict[str, float]:
    """Top-1 accuracy per task when every batch mixes all tasks; each sample is scored by its own task's head."""
    right = dict.fromkeys(splits, 0)
    device = device_of(model)
    with torch.no_grad(), frozen(model):
        for inputs, tasks, labels in mixed_batches(splits, batch_size, seed):
            feature = apply(model, to_device(inputs, device), tasks).float().cpu()
            for task in dict.fromkeys(tasks):
                mine = torch.tensor([t == task for t in tasks])
                guess = _head(heads, task).to("cpu")(feature[mine]).argmax(1)
                right[task] += int((guess == labels[mine].cpu()).sum())
    return {t: right[t] / len(s) for t, s in splits.items()}


def _head(heads: Mapping[str, Head], task: str) -> Head:
    if task not in heads:
        raise ManyoneError(f"no head for task {task!r}: there are heads for {', '.join(heads) or 'no task'}")
    return heads[task]


def calibration_error(scores: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean over samples of |accuracy - confidence| in equal-width confidence bins."""
    confidence, guess = F.softmax(scores.double(), dim=1).max(1)
    right = (guess == labels).double()
    where = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, right - confidence)
    return float(gap.abs().sum() / len(labels))


def prediction_metrics(scores: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """Entropy and marginal entropy in nats; with labels also accuracy and calibration error, both in [0, 1]."""
    result = {"entropy": float(entropy(scores)), "marginal_entropy": float(marginal_entropy(scores))}
    if labels is not None:
        result["accuracy"] = float((scores.argmax(1) == labels).double().mean())
        result["calibration_error"] = calibration_error(scores, labels)
    return result


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """``trainable``, ``stored`` (parameters and float buffers, tied ones once) and ``nonzero`` counts of numbers."""
    seen: set[int] = set()
    stored = nonzero = 0
    for value in model.state_dict(keep_vars=True).values():
        if not isinstance(value, Tensor) or not value.is_floating_point() or id(value) in seen:
            continue
        seen.add(id(value))
        stored += value.numel()
        nonzero += int(torch.count_nonzero(value))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trainable": trainable, "stored": stored, "nonzero": nonzero}


def cost(
    model: SharedModel, inputs: Inputs, task: str = "", *, batch_size: int = 16, repeats: int = 3
) -> dict[str, float]:
    """Inference cost: ``ms_per_sample`` (wall, best of ``repeats`` passes) and ``cpu_s`` (process CPU of that pass)."""
    device = device_of(model)
    n = count(inputs)
    best = (float("inf"), 0.0)
    with torch.no_grad(), frozen(model):
        apply(model, to_device(take(inputs, slice(0, batch_size)), device), task)
        for _ in range(repeats):
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            for start in range(0, n, batch_size):
                apply(model, to_device(take(inputs, slice(start, start + batch_size)), device), task)
            _wait(device)
            best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    return {"ms_per_sample": 1000 * best[0] / n, "cpu_s": best[1]}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def feature_bias(merged: Tensor, expert: Tensor) -> float:
    """Representation bias of the Surgery paper: mean |v_merged - v_expert| over samples and features [n, d]."""
    return float((merged.double() - expert.double()).abs().mean())


def evaluate_tasks(
    model: SharedModel, heads: Mapping[str, Head], splits: Mapping[str, Split], *, batch_size: int = 256
) -> dict[str, dict[str, Any]]:
    """:func:`prediction_metrics` of every task."""
    return {
        t: prediction_metrics(logits(model, _head(heads, t), s.inputs, t, batch_size=batch_size), s.labels.cpu())
        for t, s in splits.items()
    }
