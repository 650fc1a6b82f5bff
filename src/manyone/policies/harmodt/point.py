"""theta, the point at which gradients are taken, and the masks: all that a step or an exchange of masks may change.

S networks of one shape are the rows of one flat tensor, maskable entries first
(:mod:`manyone.policies.harmodt.layout`); the networks' parameters become views of it. d is the number of maskable
entries, P that of all, G the tasks at hand. Public names: :class:`MaskedPoint`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.harmodt.layout import Layout
from manyone.policies.masks import Shapes, TaskMasks
from manyone.policies.optimiser import FlatAdamW

_CACHED = 64 << 20  # bytes of unpacked masks that are kept


class MaskedPoint:
    """The weights of ``models`` with ``masks`` over the tensors ``shapes``: a set of masks a network, none if dense.

    ``assignment``: task -> mask. ``dense``: names of tensors whose masks say what may move, while the forward pass
    does not see them.
    """

    layout: Layout
    w: Tensor
    """[S, P]; with masks its first d entries are scratch: theta * M_i of the task at hand."""
    theta: Tensor
    """The maskable weights, unmasked, [S, d]; without masks a view of w."""
    smooth: Tensor | None
    """The tasks' gradients, smoothed over mask updates, [S, N, d]; None before the first."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        shapes: Shapes,
        masks: Sequence[TaskMasks],
        assignment: Sequence[int],
        dense: Collection[str] = (),
    ) -> None:
        self.layout = Layout(models[0], shapes)
        flat = torch.stack([self.layout.pack(dict(m.named_parameters())) for m in models])
        self.w = flat.requires_grad_()
        own = flat.detach()[:, : self.layout.maskable]
        self.theta = own.clone() if masks else own
        self.dense: Tensor | None = None
        if dense:
            parts = [torch.full((self.layout.sizes[n],), n in dense) for n in self.layout.first]
            self.dense = torch.cat(parts).to(self.w.device)
        self.regroup(assignment, masks)
        self._bind(models)

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return bool(self.masks)

    def regroup(self, assignment: Sequence[int], masks: Sequence[TaskMasks]) -> None:
        """Other masks from now on, and task -> mask."""
        groups = set(assignment)
        for one in masks:
            if min(groups) < 0 or max(groups) >= len(one):
                raise ManyoneError(f"assignment {list(assignment)}: there are masks 0..{len(one) - 1}")
            if one.shapes != {n: self.layout.shapes[n] for n in self.layout.first}:
                raise ManyoneError("the masks were made for a network of other shapes")
        if masks and len(masks) != len(self.w):
            raise ManyoneError(f"{len(masks)} sets of masks for {len(self.w)} networks: give one set a network")
        self.masks = [m.to(self.w.device) for m in masks]
        self.assignment = list(assignment)
        self.smooth = None
        self.masks_changed()

    def masks_changed(self) -> None:
        """To be called by whoever flips entries of ``masks``: unpacked copies are forgotten."""
        self._unpacked: Tensor | None = None
        self._factors: Tensor | None = None

    def masks_of(self, tasks: Sequence[int]) -> Tensor:
        """Masks of ``tasks`` in every network, bool [S, G, d]."""
        numbers = [self.assignment[t] for t in tasks]
        every = self._unpack()
        return torch.stack([m.flat(numbers) for m in self.masks]) if every is None else _chosen(every, numbers)

    def in_forward(self, mask: Tensor) -> Tensor:
        """``mask`` [..., d] as the forward pass sees it: one also where the network is dense whatever the mask says."""
        return mask if self.dense is None else mask | self.dense

    def factors(self, tasks: Sequence[int]) -> Tensor:
        """Masks of ``tasks`` as the numbers that weights are multiplied by, [S, G, d]."""
        every = self._unpack()
        if every is None or every.numel() * self.theta.element_size() > _CACHED:
            return self.in_forward(self.masks_of(tasks)).to(self.theta.dtype)
        if self._factors is None:
            self._factors = self.in_forward(every).to(self.theta.dtype)
        return _chosen(self._factors, [self.assignment[t] for t in tasks])

    def move(self, optimiser: FlatAdamW, gradient: Tensor, rate: float, mask: Tensor | None = None) -> None:
        """A step of ``optimiser`` on w by ``gradient`` [S, P]; what ``mask`` [S, d] leaves out of theta stays."""
        optimiser.step(gradient, rate, mask)
        if mask is not None:
            with torch.no_grad():
                torch.where(mask, self.w.detach()[:, : self.layout.maskable], self.theta, out=self.theta)

    def state_dict(self) -> dict[str, Any]:
        """Weights, masks, assignment and smoothed gradients."""
        return {
            "point": self.w.detach(),
            "kept": self.theta if self.masked else None,
            "masks": [m.bits for m in self.masks],
            "assignment": self.assignment,
            "smooth": self.smooth,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if state["point"].shape != self.w.shape or len(state["masks"]) != len(self.masks):
            raise ManyoneError(
                f"the saved state has {list(state['point'].shape)} parameters, this learner {list(self.w.shape)}"
            )
        with torch.no_grad():
            self.w.copy_(state["point"])
            if self.masked:
                self.theta.copy_(state["kept"])
        for masks, bits in zip(self.masks, state["masks"]):
            masks.bits = bits.to(masks.bits.device).clone()
        self.assignment = list(state["assignment"])
        self.smooth = None if state["smooth"] is None else state["smooth"].to(self.w.device)
        self.masks_changed()

    def _unpack(self) -> Tensor | None:
        """All masks, bool [S, masks, d], as long as they are few enough to be kept so."""
        if self._unpacked is None and len(self.masks) * len(self.masks[0]) * self.layout.maskable <= _CACHED:
            self._unpacked = torch.stack([m.flat(range(len(m))) for m in self.masks])
        return self._unpacked

    def _bind(self, models: Sequence[nn.Module]) -> None:
        """Makes the networks' parameters views of theta and w."""
        for number, model in enumerate(models):
            views = self.layout.views(self.theta[number : number + 1], "maskable")
            views |= self.layout.views(self.w.detach()[number : number + 1, self.layout.maskable :], "rest")
            for name, value in model.named_parameters():
                value.data = views[name]
                value.requires_grad_(False)


def _chosen(rows: Tensor, numbers: list[int]) -> Tensor:
    """Rows ``numbers`` of [S, N, d]; no copy of a single one or of all in order."""
    if len(numbers) == 1:
        return rows[:, numbers[0] : numbers[0] + 1]
    return rows if numbers == list(range(rows.shape[1])) else rows[:, numbers]
