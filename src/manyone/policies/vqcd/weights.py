"""One network's weights divided among tasks, so that what a task has learned cannot be overwritten by the next.

"Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces" (arXiv 2410.15698), section 4.2.
For each weight tensor W of two or more dimensions and tasks i = 1..I:

    masks     M_i in {0, 1}^shape(W), random;  sum_i M_i = 1,  M_i * M_j = 0        draw_masks
    forward   task i computes with M_i * W: other tasks' weights are invisible      MaskedWeights.begin, .weights
    gradient  is 0 outside M_i                                                       MaskedWeights.filter_gradients
    assembly  W = sum_i M_i * (W after task i)                                       assemble

While a task is learned the network itself holds M_i * W, so that no product is taken in the forward pass; with a
gradient of 0 and no weight decay what is outside stays 0, whatever the optimiser. The optimiser begins anew with each
task: then nothing outside the mask ever moves. One that keeps its state, or decays weights, moves what is outside;
:meth:`MaskedWeights.after_step` puts it back, and what comes of task i is the same as by assembling checkpoints of a
dense W. Ours: tensors of one dimension (biases, norms), 0.5-2 % of the parameters, are each task's own (the bank); the
paper does not mention them, and shared they would be overwritten. Of a fan-in only the mask's share is left, so that
a task's first weights are scaled by the root of the inverse share (sqrt I).

Public names: :class:`MaskedWeights`, :func:`draw_masks`, :func:`assemble`, :func:`weight_shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.masks import Shapes, TaskMasks
from manyone.randomness import generator_for

Tensors = dict[str, Tensor]
Draw = Literal["disjoint", "overlapping", "magnitude"]
OneDimensional = Literal["bank", "frozen", "shared"]


def weight_shapes(network: nn.Module) -> Shapes:
    """Names and shapes of the tensors that masks divide: the parameters of two or more dimensions."""
    return {name: tuple(value.shape) for name, value in network.named_parameters() if value.ndim >= 2}


def draw_masks(
    shapes: Mapping[str, Sequence[int]],
    tasks: int,
    seed: int,
    *,
    draw: Draw = "disjoint",
    weights: Mapping[str, Tensor] | None = None,
) -> TaskMasks:
    """A mask a task: floor or ceil of 1 / ``tasks`` of each tensor's entries; without ``overlapping`` all are taken.

    ``overlapping`` draws each task's share from all entries (an ablation: tasks overwrite each other). ``magnitude``
    gives the first task the largest of ``weights``, the second the next, and so on.
    """
    if tasks < 1:
        raise ManyoneError(f"masks of {tasks} tasks: there must be at least one")
    if draw not in get_args(Draw):
        raise ManyoneError(f"mask draw {draw!r}: must be {', '.join(get_args(Draw))}")
    if draw == "magnitude" and weights is None:
        raise ManyoneError("masks by magnitude need the weights")
    rows: list[Tensors] = [{} for _ in range(tasks)]
    for name, shape in shapes.items():
        entries = torch.arange(math.prod(shape))
        if draw == "magnitude" and weights is not None:
            entries = weights[name].detach().abs().flatten().cpu().sort(descending=True, stable=True).indices
        for task, row in enumerate(rows):
            if draw == "overlapping" or (draw == "disjoint" and task == 0):
                entries = torch.randperm(len(entries), generator=generator_for(seed, "mask", name, task))
            row[name] = _marked(entries[share_of(len(entries), task, tasks)], shape)
    return pack_masks(shapes, rows)


def share_of(size: int, number: int, count: int) -> slice:
    """Part ``number`` of ``count`` nearly equal ones of ``size`` entries: floor or ceil of size / count, all taken."""
    return slice(size * number // count, size * (number + 1) // count)


def pack_masks(shapes: Mapping[str, Sequence[int]], rows: Sequence[Mapping[str, Tensor]]) -> TaskMasks:
    """The masks ``rows``, each with a bool tensor of every name, as bits."""
    size = sum(math.prod(shape) for shape in shapes.values())
    masks = TaskMasks(shapes, torch.zeros(len(rows), -(-size // 8), dtype=torch.uint8))
    for number, row in enumerate(rows):
        masks.set(number, row)
    return masks


def _marked(entries: Tensor, shape: Sequence[int]) -> Tensor:
    """Bool of ``shape``, True at the flat ``entries``."""
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[entries] = True
    return mask.view(tuple(shape))


def assemble(base: Mapping[str, Tensor], snapshots: Mapping[int, Mapping[str, Tensor]], masks: TaskMasks) -> Tensors:
    """W = sum_i M_i * (snapshot of task i): new tensors, ``base`` where none of the ``snapshots``' masks is."""
    whole = {name: base[name].detach().clone() for name in masks.shapes}
    for task, snapshot in snapshots.items():
        for name, mask in masks.unpack(task).items():
            torch.where(mask.to(whole[name].device), snapshot[name].detach(), whole[name], out=whole[name])
    return whole


class MaskedWeights:
    """The weights of ``network``, a share for each task, and the network as the active task's.

    ``masks`` of all tasks, over :func:`weight_shapes`. ``one_dimensional``: each task has its own biases and norms
    (``bank``), all have the first task's (``frozen``), or the last that was learned has overwritten them (``shared``,
    which forgets: a control).

    :meth:`begin` a task, then after each backward pass :meth:`filter_gradients`, step the optimiser (a new one) and
    call :meth:`after_step` if it was not new or decays weights; then :meth:`end` the task.
    """

    def __init__(self, network: nn.Module, masks: TaskMasks, *, one_dimensional: OneDimensional = "bank") -> None:
        if one_dimensional not in get_args(OneDimensional):
            raise ManyoneError(f"one_dimensional {one_dimensional!r}: must be {', '.join(get_args(OneDimensional))}")
        if masks.shapes != weight_shapes(network):
            raise ManyoneError("the masks are not of this network: names or shapes of its weights differ")
        self.network, self.masks, self.one_dimensional = network, masks, one_dimensional
        self.full: Tensors = {n: p.detach().clone() for n, p in network.named_parameters() if n in masks.shapes}
        self.first: Tensors = {n: p.detach().clone() for n, p in network.named_parameters() if n not in masks.shapes}
        self.bank: dict[int, Tensors] = {}
        self.narrow: dict[int, Shapes] = {}
        self.active: int | None = None
        self._within: list[tuple[nn.Parameter, Tensor]] = []  # of the active task: each weight and its mask
        self._fixed: dict[str, nn.Parameter] = {}  # biases and norms that the active task must not change

    # --- learning -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, task: int) -> None:
        """The network becomes ``task``'s: its untrained share of the weights, scaled, and the first biases and norms.

        One that was learned before goes on from what it had.
        """
        if self.active is not None:
            raise ManyoneError(f"task {task} cannot begin: task {self.active} has not ended")
        if task in self.narrow:
            raise ManyoneError(f"task {task} was learned before the network was widened: it cannot be learned on")
        self._activate(task)
        parameters = dict(self.network.named_parameters())
        for (weight, mask), start in zip(self._within, self.full.values(), strict=True):
            share = float(mask.double().mean())
            scale = 1.0 if task in self.bank or share in (0.0, 1.0) else share**-0.5
            weight.copy_(start * scale * mask)
        for name, value in self._one_dimensional(task).items():
            parameters[name].copy_(value)

    @torch.no_grad()
    def filter_gradients(self) -> None:
        """After the backward pass: gradients outside the active mask become 0, and those of frozen biases."""
        for value, mask in self._within:
            if value.grad is not None:
                value.grad.mul_(mask)
        for value in self._fixed.values():
            if value.grad is not None:
                value.grad.zero_()

    @torch.no_grad()
    def after_step(self) -> None:
        """What an optimiser with a memory, or with weight decay, has moved outside the active mask is 0 again."""
        for value, mask in self._within:
            value.mul_(mask)
        if self._fixed:
            start = self._one_dimensional(self._task())
            for name, value in self._fixed.items():
                value.copy_(start[name])

    @torch.no_grad()
    def end(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Keeps the active task's ``values`` of all parameters (default: the network's, e.g. their moving average)."""
        task = self._task()
        if values is None:
            values = dict(self.network.named_parameters())
        self.full = assemble(self.full, {task: values}, self.masks)
        self.bank.pop(task, None)  # its place in the order is the latest now
        self.bank[task] = {name: values[name].detach().clone() for name in self.first}
        self.active, self._within, self._fixed = None, [], {}

    # --- acting -------------------------------------------------------------------------------------------------------

    def weights(self, task: int) -> Tensors:
        """All parameters with which ``task`` acts, by name: its share of the weights, zeros, its biases and norms.

        Of the active task: the network's own, as they are. Of a task from before the network was widened: the shapes
        of the network that it was learned in (``narrow``).
        """
        if task == self.active:
            return {name: value.detach() for name, value in self.network.named_parameters()}
        if task not in self.bank:
            raise ManyoneError(f"task {task} has not been learned: there are {sorted(self.bank) or 'none'}")
        masks = self.masks.unpack(task)
        corners = {name: tuple(map(slice, shape)) for name, shape in self.narrow.get(task, self.masks.shapes).items()}
        shared = {
            name: value[corners[name]] * masks[name][corners[name]].to(value.device)
            for name, value in self.full.items()
        }
        return shared | self._one_dimensional(task)

    def regrown(self, network: nn.Module, full: Mapping[str, Tensor], masks: TaskMasks) -> None:
        """The weights become ``full``, divided by ``masks`` of more tasks, and new tasks are learned in ``network``.

        With larger tensors than before, whose leading corner is what earlier tasks have (see
        :mod:`manyone.policies.vqcd.capacity`, which makes them).
        """
        if masks.shapes != self.masks.shapes:
            if self.one_dimensional != "bank":
                raise ManyoneError(f"one_dimensional {self.one_dimensional!r}: biases of two widths need a bank")
            self.narrow |= {task: self.masks.shapes for task in self.bank if task not in self.narrow}
            self.first = {n: p.detach().clone() for n, p in network.named_parameters() if n not in masks.shapes}
        self.network, self.full, self.masks = network, dict(full), masks

    def sizes(self) -> dict[str, float]:
        """``bank_bytes`` and ``mask_bytes`` that a task adds to the shared weights, and ``weights``, their number."""
        bank = sum(value.numel() * value.element_size() for value in self.first.values())
        return {
            "bank_bytes": float(bank),
            "mask_bytes": self.masks.nbytes / len(self.masks),
            "weights": float(self.masks.size),
        }

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network's parameters, which its owner keeps."""
        return {"full": dict(self.full), "bank": {str(i): dict(b) for i, b in self.bank.items()},
                "first": dict(self.first), "bits": self.masks.bits, "active": self.active,
                "narrow": {str(i): {n: list(s) for n, s in one.items()} for i, one in self.narrow.items()}}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned; the network's parameters are loaded by their owner."""
        device = next(iter(self.full.values())).device
        self.full = {name: value.to(device).clone() for name, value in state["full"].items()}
        self.first = {name: value.to(device).clone() for name, value in state["first"].items()}
        self.bank = {
            int(i): {name: value.to(device).clone() for name, value in one.items()} for i, one in state["bank"].items()
        }
        self.masks = TaskMasks(self.masks.shapes, state["bits"].clone())
        self.narrow = {int(i): {n: tuple(s) for n, s in one.items()} for i, one in state["narrow"].items()}
        self.active, self._within, self._fixed = None, [], {}
        if state["active"] is not None:
            self._activate(int(state["active"]))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _task(self) -> int:
        if self.active is None:
            raise ManyoneError("no task is being learned: begin one")
        return self.active

    def _activate(self, task: int) -> None:
        parameters, masks = dict(self.network.named_parameters()), self.masks.unpack(task)
        self._within = [(parameters[name], masks[name].to(value.device)) for name, value in self.full.items()]
        frozen = self.one_dimensional == "frozen" and bool(self.bank)
        self._fixed = {name: parameters[name] for name in self.first} if frozen else {}
        self.active = task

    def _one_dimensional(self, task: int) -> Tensors:
        """Biases and norms that ``task`` starts with, or acts with once it was learned."""
        if not self.bank:
            return self.first
        earliest, latest = next(iter(self.bank)), next(reversed(self.bank))
        if self.one_dimensional == "frozen":
            return self.bank[earliest]
        if self.one_dimensional == "shared":
            return self.bank[latest]
        return self.bank.get(task, self.first)
