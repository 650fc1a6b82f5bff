"""Output heads of our networks with first and second derivatives, written out.

With z the last map's outputs, p(z) the student's action or its probabilities and A the target, the loss of a member is

    l = c/2 sum (p(z) - A)^2,    c = 2 / (N A)        (the mean over rows and entries)

A head computes, without the factor c, delta = dl/dz; and, for a change R z of z along a direction of the weights
(Pearlmutter's R{}), R delta and R{dl/dA}. Tensors are [K, outputs, N]. One head keeps what it needs of ``length``
steps: ``first`` on the way there, ``second`` on the way back.

Public names: :class:`Tanh`, :class:`Softmax`, :class:`Gaussian`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from manyone.behavior.students.network import LOG_DEVIATION


class Head(Protocol):
    """Records of the last activation of ``length`` steps; see the module."""

    by_target: Tensor
    """[K, A, N]: its sum over members grows by -R{dl/dA} with every step back; to be set to 0 before."""
    by_rate: Tensor
    """[K, A, N]: its sum grows by R l, the change of the loss along the direction."""

    def first(self, slot: int, step: int, z: Tensor, target: Tensor, delta: Tensor, own: Tensor | None) -> None:
        """Records step ``step`` in ``slot`` and writes dl/dz into ``delta``; ``own``: the head's own parameters."""
        ...

    def second(self, slot: int, rz: Tensor, delta: Tensor, out: Tensor, own: Tensor | None, along: Tensor | None) -> None:
        """Writes R delta into ``out``, adds to both sums; ``along``: the direction of the head's own parameters."""
        ...


class Tanh:
    """p = tanh z: delta = r s with r = p - A, s = 1 - p^2; R p = s R z; R delta = (s^2 - 2 p delta) R z."""

    def __init__(self, length: int, like: Tensor) -> None:
        kept = like.new_empty(2, length, *like.shape)
        self.action, self.slope = kept[0].unbind(), kept[1].unbind()
        self.one, self.change = torch.ones_like(like), torch.empty_like(like)
        self.by_target, self.by_rate = torch.zeros_like(like), torch.zeros_like(like)

    def first(self, slot: int, step: int, z: Tensor, target: Tensor, delta: Tensor, own: Tensor | None) -> None:
        action, slope = self.action[slot], self.slope[slot]
        torch.tanh(z, out=action)
        torch.addcmul(self.one, action, action, value=-1, out=slope)
        torch.sub(action, target, out=delta).mul_(slope)

    def second(self, slot: int, rz: Tensor, delta: Tensor, out: Tensor, own: Tensor | None, along: Tensor | None) -> None:
        action, slope = self.action[slot], self.slope[slot]
        torch.mul(slope, rz, out=self.change)
        self.by_target.add_(self.change)
        self.by_rate.addcmul_(delta, rz)
        torch.mul(slope, self.change, out=out)
        out.addcmul_(torch.mul(action, delta, out=self.change), rz, value=-2)


class Softmax:
    """p = softmax z over the outputs: with <,> the sum over them, J x = p (x - <p, x>): delta = J r, R p = J R z."""

    def __init__(self, length: int, like: Tensor) -> None:
        kept = like.new_empty(2, length, *like.shape)
        self.chances, self.error = kept[0].unbind(), kept[1].unbind()
        self.by_target, self.by_rate = torch.zeros_like(like), torch.zeros_like(like)

    def first(self, slot: int, step: int, z: Tensor, target: Tensor, delta: Tensor, own: Tensor | None) -> None:
        p, error = self.chances[slot], self.error[slot]
        torch.softmax(z, 1, out=p)
        torch.sub(p, target, out=error)
        delta.copy_(error - (p * error).sum(1, keepdim=True)).mul_(p)

    def second(self, slot: int, rz: Tensor, delta: Tensor, out: Tensor, own: Tensor | None, along: Tensor | None) -> None:
        p, error = self.chances[slot], self.error[slot]
        rp = (rz - (p * rz).sum(1, keepdim=True)).mul_(p)
        self.by_target.add_(rp)
        self.by_rate.addcmul_(delta, rz)
        # R{p (r - <p, r>)} with R r = R p
        out.copy_(error - (p * error).sum(1, keepdim=True)).mul_(rp)
        out.addcmul_(p, rp - (rp * error + p * rp).sum(1, keepdim=True))


class Gaussian:
    """p = tanh(mu + sigma noise), log sigma = clamp(m l + o); z holds mu, then l; own parameters m and o, [2, K].

    With q = sigma noise where the clamp is open, else 0, and g = dl/dmu = r s: dl/dl = g q m, dl/dm = sum g q l,
    dl/do = sum g q; and R q = q R u with R u = m R l + l R m + R o.
    """

    def __init__(self, length: int, like: Tensor) -> None:
        entries = like.shape[1] // 2
        small = like[:, :entries]
        kept = like.new_empty(5, length, *small.shape)
        self.action, self.slope, self.raw, self.spread, self.first_mean = (one.unbind() for one in kept)
        self.noise = small  # [T, K or 1, A, N] of the run at hand
        self.by_target, self.by_rate = torch.zeros_like(small), torch.zeros_like(small)
        self.own_gradient = like.new_zeros(2, like.shape[0])
        """Of m and o, without c: of the loss after :meth:`first`, along the direction after :meth:`second`."""

    def first(self, slot: int, step: int, z: Tensor, target: Tensor, delta: Tensor, own: Tensor | None) -> None:
        assert own is not None
        mean, raw = z.chunk(2, 1)
        scale, offset = own.view(2, -1, 1, 1)
        log = scale * raw + offset
        low, high = LOG_DEVIATION
        spread = log.clamp(low, high).exp_().mul_(self.noise[step])
        action = (mean + spread).tanh_()
        slope = 1 - action * action
        gradient = (action - target).mul_(slope)
        spread.mul_((log >= low) & (log <= high))
        records = (self.action, self.slope, self.raw, self.spread, self.first_mean)
        for record, value in zip(records, (action, slope, raw, spread, gradient), strict=True):
            record[slot].copy_(value)
        by_log = gradient * spread
        gradients = delta.chunk(2, 1)
        gradients[0].copy_(gradient)
        torch.mul(by_log, scale, out=gradients[1])
        self._own(by_log * raw, by_log)

    def second(self, slot: int, rz: Tensor, delta: Tensor, out: Tensor, own: Tensor | None, along: Tensor | None) -> None:
        assert own is not None
        assert along is not None
        action, slope, raw = self.action[slot], self.slope[slot], self.raw[slot]
        spread, gradient = self.spread[slot], self.first_mean[slot]
        scale, along_scale, along_offset = own[0].view(-1, 1, 1), *along.view(2, -1, 1, 1)
        change_mean, change_raw = rz.chunk(2, 1)
        change_log = scale * change_raw + raw * along_scale + along_offset
        inner = change_mean + spread * change_log  # R(mu + sigma noise)
        change = slope * inner  # R p
        self.by_target.add_(change)
        self.by_rate.addcmul_(gradient, inner)
        second = slope * change - 2 * action * gradient * inner  # R g
        by_log = gradient * spread
        change_by_log = second * spread + by_log * change_log
        outs = out.chunk(2, 1)
        outs[0].copy_(second)
        outs[1].copy_(change_by_log * scale + by_log * along_scale)
        self._own(change_by_log * raw + by_log * change_raw, change_by_log)

    def _own(self, by_scale: Tensor, by_offset: Tensor) -> None:
        torch.sum(by_scale, (1, 2), out=self.own_gradient[0])
        torch.sum(by_offset, (1, 2), out=self.own_gradient[1])
