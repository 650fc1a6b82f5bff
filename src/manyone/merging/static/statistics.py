"""Statistics of an expert that data-aware static mergers weigh it by: diagonal Fishers and Gram matrices.

Fisher merging (Matena & Raffel, 2022) weighs every parameter by F_i = E[(d log p(y|x) / d theta)^2]; RegMean (Jin et
al., 2023) solves every linear layer by least squares with G_i = X_i^T X_i; RegMean++ (2025) takes the X_i of a block
from the already merged blocks below it. All are means over examples or tokens in a fixed order, so equal seeds give
equal bytes. Normalisation, the Fisher's floor and the shrinking of off-diagonals are the mergers' business.

Public names: :func:`fisher`, :func:`grams`, :func:`merge_blockwise`, :func:`regmean_plus_plus`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from manyone.data.tasks import Inputs, Split, count, take
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.merging.measures import device_of, frozen, to_device
from manyone.merging.static.methods import average, regmean
from manyone.merging.surgery.model import find_block_modules
from manyone.nets import call
from manyone.randomness import generator_for

Weights = Mapping[str, Tensor]


def fisher(
    encoder: nn.Module,
    head: Head,
    split: Split,
    *,
    examples: int = 256,
    labels: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The diagonal Fisher of an encoder under a frozen head, by parameter name, fp32, unnormalised.

    Args:
        encoder: the expert; parameters that do not reach the logits get zeros.
        split: labelled examples, of which ``examples`` are drawn without replacement by ``seed``.
        labels: square the gradient at the given label; otherwise average over labels with the model's own
            probabilities (the true Fisher; as many backward passes an example as there are classes).
    """
    index = _some(len(split), examples, seed)
    device, head = device_of(encoder), head.to(device_of(encoder))
    parameters = dict(encoder.named_parameters())
    flags = {n: p.requires_grad for n, p in parameters.items()}
    total = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    with frozen(encoder):
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            for i in index.tolist():
                sample = split.take(torch.tensor([i]))
                log_p = F.log_softmax(head(call(encoder, to_device(sample.inputs, device))).float(), dim=1)[0]
                if labels:
                    terms = [(1.0, log_p[int(sample.labels[0])])]
                else:
                    terms = [(float(p), value) for p, value in zip(log_p.detach().exp(), log_p)]
                for k, (weight, value) in enumerate(terms):
                    gradients = torch.autograd.grad(
                        value, list(parameters.values()), retain_graph=k + 1 < len(terms), allow_unused=True
                    )
                    for name, gradient in zip(parameters, gradients):
                        if gradient is not None:
                            total[name].addcmul_(gradient.float(), gradient.float(), value=weight)
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(flags[name])
    return {n: (v / len(index)).cpu() for n, v in total.items()}


def grams(
    encoder: nn.Module,
    inputs: Inputs,
    *,
    examples: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    names: Sequence[str] | None = None,
    weights: Weights | None = None,
) -> dict[str, Tensor]:
    """X^T X / rows of every linear layer's input, fp32 [in, in], by the name of the layer's weight.

    Args:
        encoder: the expert. ``nn.Linear`` and the transposed ``Conv1D`` of GPT-2 count as linear layers.
        inputs: unlabelled inputs, of which ``examples`` are drawn by ``seed``; padded tokens (attention_mask 0) do not
            count where a layer reads [B, L, in].
        names: only these weights.
        weights: run the encoder with these weights instead of its own.
    """
    index = _some(count(inputs), examples, seed)
    layers = {f"{n}.weight": m for n, m in encoder.named_modules() if is_linear_layer(m)}
    if names is not None:
        layers = {n: m for n, m in layers.items() if n in set(names)}
    if not layers:
        raise ManyoneError(f"{type(encoder).__name__} has no linear layer to collect Gram matrices of")
    sums: dict[str, Tensor] = {}
    rows = dict.fromkeys(layers, 0)
    mask: Tensor | None = None

    def collect(name: str, x: Tensor) -> None:
        if mask is not None and x.ndim == 3 and x.shape[:2] == mask.shape:
            x = x[mask.bool()]
        x = x.detach().reshape(-1, x.shape[-1]).float()
        sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x
        rows[name] += len(x)

    device = device_of(encoder)
    with torch.no_grad(), frozen(encoder), _inputs_of(layers, collect):
        for start in range(0, len(index), batch_size):
            batch = to_device(take(inputs, index[start : start + batch_size]), device)
            mask = None if isinstance(batch, Tensor) else batch.get("attention_mask")
            if weights is None:
                call(encoder, batch)
            elif isinstance(batch, Tensor):
                functional_call(encoder, dict(weights), (batch,))
            else:
                functional_call(encoder, dict(weights), (), dict(batch))
    return {n: (v / max(rows[n], 1)).cpu() for n, v in sums.items()}


def merge_blockwise(
    encoder: nn.Module,
    experts: Sequence[Weights],
    inputs: Sequence[Inputs],
    merge: Callable[[Sequence[Weights], Sequence[Weights]], Weights],
    *,
    examples: int = 256,
    seed: int = 0,
    blocks: str | None = None,
) -> dict[str, Tensor]:
    """RegMean++: merges block after block, each with Gram matrices seen through the merged blocks below it.

    Args:
        encoder: carries the architecture; its own weights are not used.
        experts: the experts' weights under the encoder's names.
        inputs: unlabelled inputs of every expert's task.
        merge: (experts, Gram matrices by weight name) -> merged weights, e.g. RegMean; what has no Gram matrix is
            averaged. It is called once for each block, with the tensors of that stage only.
        blocks: which modules are blocks, as in :func:`~manyone.merging.surgery.model.find_block_modules`.
    """
    if len(experts) != len(inputs):
        raise ManyoneError(f"RegMean++ got {len(experts)} experts but the inputs of {len(inputs)} tasks")
    found = list(find_block_modules(encoder, blocks))
    owner = {n: next((i for i, b in enumerate(found) if n.startswith(f"{b}.")), None) for n in experts[0]}
    order, reached = list(experts[0]), _execution_order(encoder, inputs[0])
    first = min((reached.get(b, 0) for b in found), default=0)

    def stage_of(name: str) -> int:
        block = owner[name]
        if block is not None:
            return block + 1
        module = name.rpartition(".")[0]
        return 0 if reached.get(module, -1) < first else len(found) + 1

    merged: dict[str, Tensor] = {}
    for stage in range(len(found) + 2):
        names = [n for n in order if stage_of(n) == stage]
        if not names:
            continue
        layers = [n for n in names if is_linear_layer(_owner_module(encoder, n)) and n.endswith(".weight")]
        statistics: list[Weights] = []
        for expert, own in zip(experts, inputs):
            current = {n: merged.get(n, expert[n]) for n in order}
            statistics.append(
                grams(encoder, own, examples=examples, seed=seed, names=layers, weights=current) if layers else {}
            )
        merged |= merge([{n: e[n] for n in names} for e in experts], statistics)
    return {n: merged[n] for n in order}


def regmean_plus_plus(
    encoder: nn.Module,
    experts: Sequence[Weights],
    inputs: Sequence[Inputs],
    *,
    ratio: float = 0.95,
    examples: int = 256,
    seed: int = 0,
    blocks: str | None = None,
) -> dict[str, Tensor]:
    """RegMean block after block, see :func:`merge_blockwise`; ``ratio`` shrinks off-diagonals as in RegMean.

    ``encoder`` holds the base's weights, from which tensors that cannot be averaged (integers) are copied.
    """
    base = {n: v.detach() for n, v in encoder.state_dict().items()}

    def merge(parts: Sequence[Weights], statistics: Sequence[Weights]) -> Weights:
        own = {n: base[n] for n in parts[0]}
        return regmean(own, parts, statistics, ratio=ratio) if statistics[0] else average(own, parts)

    return merge_blockwise(encoder, experts, inputs, merge, examples=examples, seed=seed, blocks=blocks)


def is_linear_layer(module: nn.Module) -> bool:
    """Whether a module is y = x W + b: ``nn.Linear``, or transformers' ``Conv1D`` (which stores W [in, out])."""
    return isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def _owner_module(encoder: nn.Module, name: str) -> nn.Module:
    return encoder.get_submodule(name.rpartition(".")[0])


def _execution_order(encoder: nn.Module, inputs: Inputs) -> dict[str, int]:
    """When each module is first entered in a forward pass."""
    order: dict[str, int] = {}

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            order.setdefault(name, len(order))

        return hook

    handles = [m.register_forward_pre_hook(enter(n)) for n, m in encoder.named_modules()]
    try:
        with torch.no_grad(), frozen(encoder):
            call(encoder, to_device(take(inputs, slice(0, 1)), device_of(encoder)))
    finally:
        for handle in handles:
            handle.remove()
    return order


@contextmanager
def _inputs_of(layers: Mapping[str, nn.Module], collect: Callable[[str, Tensor], None]) -> Iterator[None]:
    handles = [m.register_forward_pre_hook(lambda _m, args, _n=n: collect(_n, args[0])) for n, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _some(n: int, examples: int, seed: int) -> Tensor:
    """At most ``examples`` of n rows, in ascending order."""
    if n == 0:
        raise ManyoneError("statistics need at least one example: the split is empty")
    return torch.randperm(n, generator=generator_for(seed, "statistics"))[:examples].sort().values
