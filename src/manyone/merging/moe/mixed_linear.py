"""A linear layer whose weights are merged anew for every sample: y_b = x_b (W_0 + sum_i r_bi T_i)^T + bias.

All ways to compute it are exact and differ in cost only (P weights, N experts, B samples, L tokens per sample):

    loop      one sample after another, one expert after another: the definition
    grouped   [1, r] times the stack gives all B weights at once, then one batched product
    tiled     the same in tiles (some inputs of one panel of outputs), merged into a small re-used buffer that stays in
              the cache; the tiles' products add up
    factored  x times every member, summed with r: cheaper while at most 3 tokens share one r
    sparse    tiled, over a stack that stores the non-zero entries of pruned task vectors only

When all samples share one r (batch routing, routers without layers, one given r) the weights are merged once.
Training keeps only (x, r): the backward pass merges again and takes dr_bi = <dW_b, T_i> tile by tile. The factored
products, which are few, are kept too: dr_bi = <g_b, x_b T_i^T>.
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
from manyone.merging.moe.routing import PassState, Router, position_code
from manyone.merging.moe.stack import BUFFER_BYTES, TILE, SparseStack, Stack, scratch

Strategy = Literal["auto", "loop", "grouped", "tiled", "factored", "sparse"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "loop", "grouped", "tiled", "factored", "sparse")
CHUNK = 16
FACTORED_TOKENS = 3
KEPT_BYTES = 16 << 20
"""Products per layer that the factored strategy keeps for the backward pass, before the last one."""


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
        ctx.kept = [] if strategy == "factored" and ctx.needs_input_grad[1] else None
        return _forward(x, _with_base(r), stack, bias, strategy, ctx.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, r = ctx.saved_tensors
        need_x, need_r = ctx.needs_input_grad[:2]
        inputs = (grad.contiguous(), x, _with_base(r), ctx.stack, need_x, need_r)
        factored = ctx.strategy == "factored"
        grad_x, grad_r = _backward_factored(*inputs, ctx.kept) if factored else _backward_tiled(*inputs)
        if need_r and ctx.bias is not None:
            grad_r = grad_r + grad.sum(1) @ ctx.bias[1:].T
        return grad_x, grad_r, None, None, None


def _with_base(r: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(r[:, :1]), r], dim=1)


def _forward(
    x: Tensor, r: Tensor, stack: Stack, bias: Tensor | None, strategy: Strategy, kept: list[Tensor] | None
) -> Tensor:
    samples, tokens, _ = x.shape
    y = x.new_empty(samples, tokens, stack.shape[1])
    if strategy == "factored":
        _forward_factored(x, r, stack, y, kept)
        if bias is not None:
            y += (r @ bias).unsqueeze(1)
        return y
    merged_bias = None if bias is None else r @ bias
    if strategy == "loop":
        each = [stack.member(i) for i in range(r.shape[1])]
        for b in range(samples):
            weight = each[0].clone()
            for i in range(1, len(each)):
                weight += r[b, i] * each[i]
            y[b] = F.linear(x[b], weight, None if merged_bias is None else merged_bias[b])
        return y
    for panel, rows, inputs, chunks in _tiles(stack, samples, strategy, x):
        members = stack.tile(inputs.start, inputs.stop, panel)
        for some in chunks:
            weight = scratch("weight", (some.stop - some.start, members.shape[1]), x)
            torch.mm(r[some], members, out=weight)
            _add_product(
                y[some, :, rows],
                x[some, :, inputs],
                weight.view(len(weight), inputs.stop - inputs.start, -1),
                None if merged_bias is None else merged_bias[some, None, rows],
                first=inputs.start == 0,
            )
    return y


def _add_product(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, first: bool) -> None:
    """out = bias + x weight for the first tile, out += x weight for the others; [b, T, k] times [b, k, o]."""
    if len(out) == 1:  # one product is cheaper than a batch of one
        out, x, weight, bias = out[0], x[0], weight[0], None if bias is None else bias[0]
    add = torch.addmm if out.ndim == 2 else torch.baddbmm
    if not first:
        add(out, x, weight, out=out)
    elif bias is not None:
        add(bias, x, weight, out=out)
    else:
        torch.matmul(x, weight, out=out)


def _backward_tiled(
    grad: Tensor, x: Tensor, r: Tensor, stack: Stack, need_x: bool, need_r: bool
) -> tuple[Tensor | None, Any]:
    """dx_b = g_b W_b with W_b merged again; dr_bi = <g_b^T x_b, T_i>; both read each tile of the stack once."""
    grad_x = torch.zeros_like(x) if need_x else None
    grad_r = torch.zeros_like(r[:, 1:]) if need_r else None
    for panel, rows, inputs, chunks in _tiles(stack, x.shape[0], "tiled", x):
        members = stack.tile(inputs.start, inputs.stop, panel)
        for some in chunks:
            buffer = scratch("weight", (some.stop - some.start, members.shape[1]), x)
            weight, g = buffer.view(len(buffer), inputs.stop - inputs.start, -1), grad[some, :, rows]
            if grad_x is not None:
                torch.mm(r[some], members, out=buffer)
                grad_x[some, :, inputs].baddbmm_(g, weight.transpose(1, 2))
            if grad_r is not None:
                torch.bmm(x[some, :, inputs].transpose(1, 2), g, out=weight)
                grad_r[some].addmm_(buffer, members[1:].T)
    return grad_x, grad_r


def _tiles(
    stack: Stack, samples: int, strategy: Strategy, like: Tensor
) -> Iterator[tuple[int, slice, slice, list[slice]]]:
    """Panels with their outputs, their tiles' inputs, and the chunks of samples that share the buffer."""
    columns = stack.shape[2]
    width = stack.panels[0][1]
    chunk, step = samples, columns
    if strategy != "grouped":
        chunk = min(samples, CHUNK)
        limit = BUFFER_BYTES // like.element_size()
        step = min(TILE, columns)
        if like.device.type != "cpu" and not isinstance(
            stack, SparseStack
        ):  # few large launches instead of cache-sized ones
            step = min(columns, max(step, limit // (chunk * width)))
        chunk = max(1, min(chunk, limit // (step * width)))
    chunks = [slice(lo, min(lo + chunk, samples)) for lo in range(0, samples, chunk)]
    for panel, (first, last) in enumerate(stack.panels):
        for start in range(0, columns, step):
            yield panel, slice(first, last), slice(start, min(start + step, columns)), chunks


def _factored_parts(stack: Stack) -> Iterator[tuple[slice, slice, Tensor]]:
    """Outputs, inputs and members [N + 1, inputs, outputs]: a whole panel, or of a sparse stack tile by tile."""
    members, _, columns = stack.shape
    step = min(TILE, columns) if isinstance(stack, SparseStack) else columns
    for panel, (first, last) in enumerate(stack.panels):
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            part = stack.tile(start, stop, panel).reshape(members + 1, stop - start, last - first)
            yield slice(first, last), slice(start, stop), part


def _factored_chunks(tokens: int, width: int, like: Tensor) -> list[slice]:
    """Slices of ``tokens`` rows whose products with all members fit the buffer."""
    chunk = max(1, BUFFER_BYTES // (width * like.element_size()))
    return [slice(lo, min(lo + chunk, tokens)) for lo in range(0, tokens, chunk)]


def _forward_factored(x: Tensor, r: Tensor, stack: Stack, y: Tensor, kept: list[Tensor] | None) -> None:
    """Products with every member, then [1, r] times their results, token by token.

    ``kept`` receives the products for the backward pass while they are few (what is missing is computed again).
    """
    samples, tokens, columns = x.shape
    flat, sums = x.reshape(-1, columns), y.view(samples * tokens, -1)
    weights = r.repeat_interleave(tokens, 0).unsqueeze(1)
    for rows, inputs, members in _factored_parts(stack):
        for some in _factored_chunks(len(flat), members.shape[0] * members.shape[2], x):
            part = flat[some, inputs]
            shape = (members.shape[0], len(part), members.shape[2])
            keep = kept is not None and sum(k.nbytes for k in kept) < KEPT_BYTES
            each = x.new_empty(shape) if keep else scratch("factored", shape, x)
            torch.bmm(part.expand(shape[0], -1, -1), members, out=each)
            if kept is not None and keep:
                kept.append(each)
            summed = torch.bmm(weights[some], each.transpose(0, 1)).squeeze(1)
            if inputs.start == 0:
                sums[some, rows] = summed
            else:
                sums[some, rows] += summed


def _backward_factored(
    grad: Tensor, x: Tensor, r: Tensor, stack: Stack, need_x: bool, need_r: bool, kept: list[Tensor] | None
) -> tuple[Tensor | None, Any]:
    """dr_i = <g, x T_i^T>; dx = sum_i r_i g T_i."""
    samples, tokens, columns = x.shape
    flat, g_flat = x.reshape(-1, columns), grad.reshape(samples * tokens, -1)
    weights = r.repeat_interleave(tokens, 0)
    grad_x = torch.zeros_like(flat) if need_x else None
    grad_r = torch.zeros_like(weights)
    known = iter(kept or ())
    for rows, inputs, members in _factored_parts(stack):
        for some in _factored_chunks(len(flat), members.shape[0] * members.shape[2], x):
            g, part = g_flat[some, rows], flat[some, inputs]
            buffer = scratch("factored", (members.shape[0], *g.shape), x)
            if need_r:
                each = next(known, None)
                each = torch.bmm(part.expand(len(members), -1, -1), members, out=buffer) if each is None else each
                grad_r[some] += torch.bmm(each.transpose(0, 1), g.unsqueeze(2)).squeeze(2)
            if grad_x is not None:
                torch.mul(weights[some].T.unsqueeze(2), g, out=buffer)
                for scaled, member in zip(buffer, members):
                    grad_x[some, inputs].addmm_(scaled, member.T)
    routed = grad_r[:, 1:].reshape(samples, tokens, -1).sum(1)
    return (None if grad_x is None else grad_x.view_as(x)), (routed if need_r else None)


class BlockGate:
    """The routing weights of one block: computed from its first critical layer's input, used by all of them."""

    def __init__(self, index: int, name: str, router: Router, state: PassState, position: bool) -> None:
        self.index, self.name, self.router, self.state, self.position = index, name, router, state, position

    def routing(self, layer: str, tokens: Tensor, sequence: bool) -> Tensor:
        """r [B, N], or [1, N] where all samples share it. A layer seen again opens the block's next visit."""
        current = self.state.current
        if self.state.routing == "prompt" and self.state.given is None:
            return self._of_prompts(tokens)
        if not current.open and self.state.dressed and torch._C._current_graph_task_id() != -1:
            raise ManyoneError(
                f"block {self.name!r} is computed again in the backward pass, without its padding mask: checkpoint the "
                "whole mixture, checkpoint(model, inputs), not parts of its encoder"
            )
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
        r = self._route(tokens, self.state.current.mask_for(self.name, tokens) if sequence else None)
        return r.mean(0, keepdim=True) if self.state.routing == "batch" else r

    def _of_prompts(self, tokens: Tensor) -> Tensor:
        """r [B, N] of the prompts (or [1, N]): computed in the block's first run, kept for those that follow."""
        prompts = self.state.prompts
        if prompts is None:
            raise ManyoneError(
                "routing='prompt' must know what the prompt is: use model.generate(inputs), or run the model within "
                "`with model.prompt(inputs):`"
            )
        if self.index not in prompts.routing:
            prompts.routing[self.index] = self._route(*prompts.first_tokens(self.name, tokens))
            prompts.rows[self.index] = tokens.shape[0]
        if tokens.shape[0] != prompts.rows[self.index]:
            raise ManyoneError(
                f"routing='prompt': the sequences began as {prompts.rows[self.index]} rows and now are "
                f"{tokens.shape[0]}: begin new ones with model.prompt(inputs)"
            )
        return prompts.routing[self.index]

    def _route(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        code = position_code(self.index) if self.position else None
        if self.router.layers > 0:
            width = self.router.weight.shape[1] - (0 if code is None else len(code))
            if tokens.shape[-1] != width:
                raise ManyoneError(
                    f"block {self.name!r}: the first critical layer to run has inputs of width {tokens.shape[-1]} but "
                    f"its router was made for {width}; choose critical layers of one part of the block"
                )
        return self.router(tokens, mask, code)


class MixedLinear(nn.Module):
    """Stands in for one ``nn.Linear`` (or Hugging Face ``Conv1D``, stored transposed) of a critical module.

    ``batch_dim`` is the axis of its input that counts samples; ``flat``: several rows of that axis belong to each
    sample, one after another (see :mod:`manyone.merging.moe.layout`).
    """

    bias_stack: Tensor | None

    def __init__(self, name: str, stack: Stack, bias: Tensor | None, gate: BlockGate, conv1d: bool = False) -> None:
        super().__init__()
        self.name, self.gate, self.conv1d = name, gate, conv1d
        self.batch_dim, self.flat = 0, False
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
        """x [B, in] or [B, ..., in] (or with the samples along ``batch_dim``) -> the same with out for in."""
        state = self.gate.state
        if state.seen is not None:
            state.seen.setdefault(self.name, []).append(x.detach())
        rows = x.movedim(self.batch_dim, 0)
        tokens = rows.reshape(self._samples() if self.flat else rows.shape[0], -1, x.shape[-1])
        r = self.gate.routing(self.name, tokens, x.ndim == 3 or self.flat).to(self.stack.dtype)
        tokens = tokens.to(self.stack.dtype).reshape(len(r), -1, x.shape[-1])  # samples with one r are one
        with torch.autocast(x.device.type, enabled=False):
            y = self._of_kept(tokens, r)
            if y is None:
                y = mixed_linear(tokens, r, self.stack, self.bias_stack, state.strategy)  # type: ignore[arg-type]
        return y.reshape(*rows.shape[:-1], self.out_features).to(x.dtype).movedim(0, self.batch_dim)

    def _samples(self) -> int:
        state = self.gate.state
        samples = state.current.samples if state.prompts is None else state.prompts.samples
        if samples is None:
            raise ManyoneError(
                f"layer {self.name!r} cannot tell samples from tokens: call the mixture, not its encoder"
            )
        return samples

    def _of_kept(self, tokens: Tensor, r: Tensor) -> Tensor | None:
        """The product with weights that are merged once for a batch of sequences.

        None where nothing is kept: outside of sequences, with gradients, and where the merged weights of all prompts
        are more than the stack itself (reading the stack anew is cheaper then).
        """
        state = self.gate.state
        prompts = None if state.routing != "prompt" or state.given is not None else state.prompts
        if prompts is None or torch.is_grad_enabled() or len(r) > self.stack.shape[0] + 1:
            return None
        if self.name not in prompts.merged:
            prompts.merged[self.name] = self.merged_rows(r)
        weight, bias = prompts.merged[self.name]
        y = torch.bmm(tokens, weight.mT)
        return y if bias is None else y + bias.unsqueeze(1)

    @torch.no_grad()
    def merged_rows(self, r: Tensor) -> tuple[Tensor, Tensor | None]:
        """Merged weights [R, out, in] and biases [R, out] for routing weights r [R, N]."""
        coefficients = _with_base(r.to(self.stack.dtype))
        weight = coefficients.new_empty(len(r), self.out_features, self.in_features)
        for panel, rows, inputs, _ in _tiles(self.stack, len(r), "tiled", weight):
            part = coefficients @ self.stack.tile(inputs.start, inputs.stop, panel)
            weight[:, rows, inputs] = part.view(len(r), inputs.stop - inputs.start, -1).mT
        return weight, None if self.bias_stack is None else coefficients @ self.bias_stack

    @torch.no_grad()
    def merged(self, r: Tensor) -> tuple[Tensor, Tensor | None]:
        """Static weight (in the layout of the layer that this one replaced) and bias for one r [N]."""
        weight, bias = self.merged_rows(r.reshape(1, -1))
        return (weight[0].T.contiguous() if self.conv1d else weight[0]), None if bias is None else bias[0]

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        experts, rows, columns = self.stack.shape
        return f"in_features={columns}, out_features={rows}, experts={experts}"
