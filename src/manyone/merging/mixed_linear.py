"""A linear layer whose weights are merged anew for every sample: y_b = x_b (W_0 + sum_i r_bi T_i)^T + bias.

All ways to compute it are exact and differ in cost only (P weights, N experts, B samples, L tokens per sample):

    loop      one sample after another, one expert after another: the definition
    grouped   [1, r] times the stack gives all B weights at once, then one batched product
    tiled     the same in tiles of output rows, merged into one small re-used buffer that stays in the cache
    factored  x times every member, summed with r: cheaper while at most 3 tokens share one r
    sparse    tiled, over a stack that stores the non-zero entries of pruned task vectors only

When all samples share one r (batch routing, routers without layers, one given r) the weights are merged once.
Training keeps only (x, r): the backward pass merges again and takes dr_bi = <dW_b, T_i> tile by tile.
Public names: :func:`mixed_linear`, :class:`MixedLinear`, :data:`STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from manyone.errors import ManyoneError
from manyone.merging.routing import PassState, Router, position_code
from manyone.merging.stack import BUFFER_BYTES, TILE_ROWS, SparseStack, Stack, scratch

Strategy = Literal["auto", "loop", "grouped", "tiled", "factored", "sparse"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "loop", "grouped", "tiled", "factored", "sparse")
CHUNK = 16
FACTORED_TOKENS = 3


def mixed_linear(x: Tensor, r: Tensor, stack: Stack, bias: Tensor | None, strategy: Strategy) -> Tensor:
    """x [R, T, in], r [R, N], bias [N + 1, out] or None -> [R, T, out]; differentiable once in x and r."""
    if strategy == "auto":
        strategy = "factored" if x.shape[1] <= FACTORED_TOKENS else "tiled"
    return _MixedLinear.apply(x, r, stack, bias, strategy)


class _MixedLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, r: Tensor, stack: Stack, bias: Tensor | None, strategy: Strategy
    ) -> Tensor:
        ctx.save_for_backward(x, r)
        ctx.stack, ctx.bias, ctx.strategy = stack, bias, strategy
        return _forward(x, _with_base(r), stack, bias, strategy)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, r = ctx.saved_tensors
        need_x, need_r = ctx.needs_input_grad[:2]
        backward = _backward_factored if ctx.strategy == "factored" else _backward_tiled
        grad_x, grad_r = backward(grad.contiguous(), x, _with_base(r), ctx.stack, need_x, need_r)
        if need_r and ctx.bias is not None:
            grad_r = grad_r + grad.sum(1) @ ctx.bias[1:].T
        return grad_x, grad_r, None, None, None


def _with_base(r: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(r[:, :1]), r], dim=1)


def _forward(x: Tensor, r: Tensor, stack: Stack, bias: Tensor | None, strategy: Strategy) -> Tensor:
    samples, tokens, _ = x.shape
    _, rows, columns = stack.shape
    y = x.new_empty(samples, tokens, rows)
    if strategy == "factored":
        _forward_factored(x, r, stack, y)
        if bias is not None:
            y += (r @ bias).unsqueeze(1)
        return y
    merged_bias = None if bias is None else r @ bias
    if strategy == "loop":
        members = stack.tile(0, rows).view(-1, rows, columns)
        for b in range(samples):
            weight = members[0].clone()
            for i in range(1, len(members)):
                weight += r[b, i] * members[i]
            y[b] = F.linear(x[b], weight, None if merged_bias is None else merged_bias[b])
        return y
    for start, stop, chunks in _tiles(stack, samples, strategy, x):
        members = stack.tile(start, stop)
        for lo, hi in chunks:
            weight = scratch("weight", (hi - lo, members.shape[1]), x)
            torch.mm(r[lo:hi], members, out=weight)
            weight = weight.view(hi - lo, stop - start, columns).transpose(1, 2)
            out = y[lo:hi, :, start:stop]
            if samples == 1 and merged_bias is not None:
                torch.addmm(merged_bias[0, start:stop], x[0], weight[0], out=out[0])
            elif samples == 1:
                torch.mm(x[0], weight[0], out=out[0])
            elif merged_bias is not None:
                torch.baddbmm(merged_bias[lo:hi, None, start:stop], x[lo:hi], weight, out=out)
            else:
                torch.bmm(x[lo:hi], weight, out=out)
    return y


def _backward_tiled(
    grad: Tensor, x: Tensor, r: Tensor, stack: Stack, need_x: bool, need_r: bool
) -> tuple[Tensor | None, Any]:
    """dx_b = g_b W_b with W_b merged again; dr_bi = <g_b^T x_b, T_i>; both read each tile of the stack once."""
    columns = x.shape[2]
    grad_x = torch.zeros_like(x) if need_x else None
    grad_r = torch.zeros_like(r[:, 1:]) if need_r else None
    for start, stop, chunks in _tiles(stack, x.shape[0], "tiled", x):
        members = stack.tile(start, stop)
        for lo, hi in chunks:
            buffer = scratch("weight", (hi - lo, members.shape[1]), x)
            weight, g = buffer.view(hi - lo, stop - start, columns), grad[lo:hi, :, start:stop]
            if grad_x is not None:
                torch.mm(r[lo:hi], members, out=buffer)
                grad_x[lo:hi].baddbmm_(g, weight)
            if grad_r is not None:
                torch.bmm(g.transpose(1, 2), x[lo:hi], out=weight)
                grad_r[lo:hi].addmm_(buffer, members[1:].T)
    return grad_x, grad_r


def _tiles(
    stack: Stack, samples: int, strategy: Strategy, like: Tensor
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Tiles of output rows, and within each the chunks of samples that share the buffer."""
    _, rows, columns = stack.shape
    if strategy == "grouped":
        yield 0, rows, [(0, samples)]
        return
    chunk = min(samples, CHUNK)
    limit = BUFFER_BYTES // like.element_size()
    step = min(TILE_ROWS, rows)
    if like.device.type != "cpu" and not isinstance(
        stack, SparseStack
    ):  # few large launches instead of cache-sized ones
        step = min(rows, max(step, limit // (chunk * columns)))
    chunk = max(1, min(chunk, limit // (step * columns)))
    chunks = [(lo, min(lo + chunk, samples)) for lo in range(0, samples, chunk)]
    for start in range(0, rows, step):
        yield start, min(start + step, rows), chunks


def _factored_parts(stack: Stack) -> Iterator[tuple[int, int, Tensor]]:
    """Members [N + 1, rows, in]: all rows of a dense stack, or tile by tile."""
    _, rows, columns = stack.shape
    step = min(TILE_ROWS, rows) if isinstance(stack, SparseStack) else rows
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, stop, stack.tile(start, stop).view(-1, stop - start, columns)


def _forward_factored(x: Tensor, r: Tensor, stack: Stack, y: Tensor) -> None:
    samples, tokens, columns = x.shape
    for start, stop, members in _factored_parts(stack):
        count, rows = members.shape[0], stop - start
        chunk = max(1, BUFFER_BYTES // (count * rows * tokens * x.element_size()))
        for lo in range(0, samples, chunk):
            hi = min(lo + chunk, samples)
            part = x[lo:hi].reshape(-1, columns)
            each = scratch("factored", (count, len(part), rows), x)
            torch.matmul(part, members.transpose(1, 2), out=each)
            weights = r[lo:hi].repeat_interleave(tokens, 0).T.unsqueeze(2)
            y[lo:hi, :, start:stop] = each.mul_(weights).sum(0).view(hi - lo, tokens, rows)


def _backward_factored(
    grad: Tensor, x: Tensor, r: Tensor, stack: Stack, need_x: bool, need_r: bool
) -> tuple[Tensor | None, Any]:
    """With v_i = g T_i: dx = sum_i r_i v_i and dr_i = <v_i, x>."""
    samples, tokens, columns = x.shape
    flat = x.reshape(-1, columns)
    weights = r.repeat_interleave(tokens, 0).T.unsqueeze(2)
    grad_x = torch.zeros_like(flat)
    grad_r = torch.zeros_like(weights[1:, :, 0])
    for start, stop, members in _factored_parts(stack):
        g = grad[:, :, start:stop].reshape(-1, stop - start)
        chunk = max(1, BUFFER_BYTES // (len(members) * columns * x.element_size()))
        for lo in range(0, len(flat), chunk):
            rows = slice(lo, min(lo + chunk, len(flat)))
            each = scratch("factored", (len(members), rows.stop - lo, columns), x)
            torch.matmul(g[rows], members, out=each)
            if need_r:
                grad_r[:, rows] += torch.linalg.vecdot(each[1:], flat[rows])
            if need_x:
                grad_x[rows] += each.mul_(weights[:, rows]).sum(0)
    routed = grad_r.T.reshape(samples, tokens, -1).sum(1)
    return (grad_x.view_as(x) if need_x else None), (routed if need_r else None)


class BlockGate:
    """The routing weights of one block: computed from its first critical layer's input, used by all of them."""

    def __init__(self, index: int, name: str, router: Router, state: PassState, position: bool) -> None:
        self.index, self.name, self.router, self.state, self.position = index, name, router, state, position

    def routing(self, layer: str, tokens: Tensor, sequence: bool) -> Tensor:
        """r [B, N], or [1, N] where all samples share it. A layer seen again opens the block's next visit."""
        current = self.state.current
        visited = current.visited.setdefault(self.index, set())
        if self.index not in current.routing or layer in visited:
            visited.clear()
            current.routing[self.index] = self._compute(tokens, sequence)
        visited.add(layer)
        return current.routing[self.index]

    def _compute(self, tokens: Tensor, sequence: bool) -> Tensor:
        given = self.state.given
        if given is not None:
            if given.shape[0] not in (1, tokens.shape[0]):
                raise ManyoneError(
                    f"given routing weights have {given.shape[0]} rows but the batch has {tokens.shape[0]} samples"
                )
            return given[:, self.index].to(tokens.device)
        code = position_code(self.index) if self.position else None
        if self.router.layers > 0:
            width = self.router.weight.shape[1] - (0 if code is None else len(code))
            if tokens.shape[-1] != width:
                raise ManyoneError(
                    f"block {self.name!r}: the first critical layer to run has inputs of width {tokens.shape[-1]} but "
                    f"its router was made for {width}; choose critical layers of one part of the block"
                )
        mask = self.state.current.mask_for(self.name, tokens) if sequence else None
        r = self.router(tokens, mask, code)
        return r.mean(0, keepdim=True) if self.state.routing == "batch" else r


class MixedLinear(nn.Module):
    """Stands in for one ``nn.Linear`` (or Hugging Face ``Conv1D``, stored transposed) of a critical module."""

    bias_stack: Tensor | None

    def __init__(self, name: str, stack: Stack, bias: Tensor | None, gate: BlockGate, conv1d: bool = False) -> None:
        super().__init__()
        self.name, self.gate, self.conv1d = name, gate, conv1d
        self.stack = stack
        self.register_buffer("bias_stack", bias)
        _, self.out_features, self.in_features = stack.shape

    @property
    def weight(self) -> Tensor:
        """theta_0's weight, for callers that look at a layer's dtype or device."""
        return self.stack.base.T if self.conv1d else self.stack.base

    @property
    def bias(self) -> Tensor | None:
        """theta_0's bias."""
        return None if self.bias_stack is None else self.bias_stack[0]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in] or [B, ..., in] -> [B, ..., out]."""
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        r = self.gate.routing(self.name, tokens, x.ndim == 3).to(self.stack.base.dtype)
        tokens = tokens.to(self.stack.base.dtype)
        if r.shape[0] == 1:
            tokens = tokens.reshape(1, -1, x.shape[-1])
        state = self.gate.state
        with torch.autocast(x.device.type, enabled=False):
            y = mixed_linear(tokens, r, self.stack, self.bias_stack, state.strategy)  # type: ignore[arg-type]
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    @torch.no_grad()
    def merged(self, r: Tensor) -> tuple[Tensor, Tensor | None]:
        """Static weight (in the layout of the layer that this one replaced) and bias for one r [N]."""
        coefficients = _with_base(r.reshape(1, -1).to(self.stack.base.dtype))
        columns = self.stack.shape[2]
        weight = torch.cat(
            [
                (coefficients @ self.stack.tile(start, stop)).view(stop - start, columns)
                for start, stop, _ in _tiles(self.stack, 1, "tiled", self.stack.base)
            ]
        )
        bias = None if self.bias_stack is None else (coefficients @ self.bias_stack)[0]
        return (weight.T.contiguous() if self.conv1d else weight), bias

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        experts, rows, columns = self.stack.shape
        return f"in_features={columns}, out_features={rows}, experts={experts}"
