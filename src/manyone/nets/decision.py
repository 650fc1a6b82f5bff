"""A causal transformer that reads (return-to-go, state, action) steps and gives actions: the Decision Transformer.

Chen et al., "Decision Transformer" (arXiv 2106.01345), with the prompt of Xu et al., "Prompting Decision Transformer"
(arXiv 2206.13499): K* steps of a good trajectory stand in front of the K steps of history. GPT-2 blocks (pre-LN, ReLU),
no position embedding but a learned table over the absolute timestep, one LayerNorm on history tokens, none on the
prompt's. The action is read at each history *state* token.

One implementation serves one set of weights and many: every parameter may carry a leading member axis, and so may the
data (see :meth:`DecisionTransformer.run`). Nothing is computed that no action depends on: the last action token is left
out, and the last block runs its queries and its MLP at the history's state tokens only. Small trained parts beside the
weights (soft tokens, low-rank updates, adapters: :mod:`manyone.nets.adapters`) are further entries of the mapping.

Tasks of different widths share the blocks; with ``widths`` each has maps of its own from states and actions to tokens
and from tokens to actions (HarmoDT's ``special_embedding``), held as one stack padded to the widest. What padded
entries hold is never read, and padded actions are 0.
Public names: :class:`DecisionTransformer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.adapters import SOFT, block_parts, bottleneck, low_rank
from manyone.nets.dropout import DropoutNoise
from manyone.nets.members import linear, lookup, mlp, norm, product
from manyone.randomness import generator_for

Steps = Mapping[str, Tensor]
Prefix = list[tuple[Tensor, Tensor]]
_BLOCK = tuple(
    f"{part}.{kind}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)


class DecisionTransformer(nn.Module):
    """Actions [B, K, A] from the last K steps, optionally behind a prompt of K* steps or a task token.

    ``context`` is K, ``prompt`` K* (0: none), ``id_tokens`` the number of tasks that have a learned first token (0:
    none), ``max_timestep`` the rows of the timestep tables. ``widths`` are the states and actions of each task, at most
    ``state_dim`` and ``action_dim``, where these differ (empty: one map for all). Block weights start at N(0, 0.02),
    embeddings and head at torch's defaults, drawn from ``seed`` alone.
    """

    kept_states: Tensor
    """Which entries of padded states are a task's own, bool [N, S]; only with ``widths``."""
    kept_actions: Tensor
    """The same of actions, bool [N, A]."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        context: int = 20,
        prompt: int = 0,
        max_timestep: int = 1000,
        dropout: float = 0.1,
        id_tokens: int = 0,
        widths: Sequence[Sequence[int]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("state_dim", state_dim, 1), ("action_dim", action_dim, 1), ("layers", layers, 1),
                                   ("heads", heads, 1), ("context", context, 1), ("prompt", prompt, 0),
                                   ("max_timestep", max_timestep, 1), ("id_tokens", id_tokens, 0)):  # fmt: skip
            if value < least:
                raise ManyoneError(f"{name} = {value}: must be at least {least}")
        if width % heads:
            raise ManyoneError(f"width = {width} must be a multiple of heads = {heads}")
        if not 0 <= dropout < 1:
            raise ManyoneError(f"dropout = {dropout}: must be in [0, 1)")
        self.state_dim, self.action_dim, self.width, self.heads = state_dim, action_dim, width, heads
        self.context, self.prompt, self.max_timestep = context, prompt, max_timestep
        self.dropout, self.id_tokens, self.layers = dropout, id_tokens, layers
        self.widths = tuple((int(s), int(a)) for s, a in widths)
        if any(not (1 <= s <= state_dim and 1 <= a <= action_dim) for s, a in self.widths):
            raise ManyoneError(f"widths {self.widths}: must be 1 to {state_dim} states and 1 to {action_dim} actions")
        if self.widths:
            for name, most, place in (("kept_states", state_dim, 0), ("kept_actions", action_dim, 1)):
                own = torch.tensor([w[place] for w in self.widths])
                self.register_buffer(name, torch.arange(most) < own[:, None], persistent=False)
        self.embed = _embeddings(state_dim, action_dim, width, max_timestep, self.widths)
        self.embed["norm"] = nn.LayerNorm(width)
        if prompt:
            self.embed_prompt = _embeddings(state_dim, action_dim, width, max_timestep, self.widths)
        if id_tokens:
            self.embed_task = nn.Embedding(id_tokens, width)
        self.blocks = nn.ModuleList(_block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = _linear(width, action_dim, [(width, a) for _, a in self.widths])
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Draws all weights anew, each tensor from (seed, its name)."""
        for name, value in self.named_parameters():
            draw = generator_for(seed, "decision transformer", name)
            fresh = torch.empty(value.shape, dtype=torch.float64)
            module = self.get_submodule(name.rpartition(".")[0])
            if name.startswith(("blocks.", "norm.")) or "norm" in name:
                if value.ndim == 2:
                    fresh.normal_(0, 0.02, generator=draw)
                else:
                    fresh.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif isinstance(module, TaskLinear):
                fresh.zero_()
                for number, (inputs, outputs) in enumerate(module.sizes):
                    own = fresh[number, :outputs] if value.ndim == 2 else fresh[number, :outputs, :inputs]
                    draw = generator_for(seed, "decision transformer", name, number)
                    own.uniform_(-(inputs**-0.5), inputs**-0.5, generator=draw)
            elif "time" in name or "task" in name:
                fresh.normal_(0, 1, generator=draw)
            else:
                bound = self.get_parameter(f"{name.rpartition('.')[0]}.weight").shape[1] ** -0.5
                fresh.uniform_(-bound, bound, generator=draw)
            value.copy_(fresh)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return {
            "state_dim": self.state_dim, "action_dim": self.action_dim, "width": self.width, "layers": self.layers,
            "heads": self.heads, "context": self.context, "prompt": self.prompt, "max_timestep": self.max_timestep,
            "dropout": self.dropout, "id_tokens": self.id_tokens,
            **({"widths": [list(w) for w in self.widths]} if self.widths else {}),
        }  # fmt: skip

    @property
    def reads_task(self) -> bool:
        """Whether it must be given the task's number: it has a token or maps of each task's own."""
        return bool(self.id_tokens or self.widths)

    def forward(self, batch: Steps, prompt: Steps | None = None, task: Tensor | int | None = None) -> Tensor:
        """Actions [B, K, A], in (-1, 1), with the module's own weights and without dropout.

        ``batch`` and ``prompt`` hold observations [B, K, S], actions [B, K, A], returns_to_go [B, K], timesteps [B, K]
        (int64) and valid [B, K] (bool, False at left padding), normalised by the caller; ``task`` [B] or one number
        (with ``widths`` the same for all).
        """
        return self.run(dict(self.named_parameters()), batch, prompt, task)

    def run(
        self,
        weights: Mapping[str, Tensor],
        batch: Steps,
        prompt: Steps | None = None,
        task: Tensor | int | None = None,
        *,
        noise: DropoutNoise | None = None,
        prefix: Prefix | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Actions under ``weights``: parameters by name, each of its own shape or with a leading member axis.

        With members the data have a leading axis too, [M, B, K, ...]; a parameter's member axis may be any divisor m
        of M: member i of the data uses the parameter's member i // (M / m). So masked block weights [seeds x tasks]
        and shared embeddings [seeds] run in one program. ``weights`` may hold parts of :mod:`manyone.nets.adapters`;
        with soft tokens there is no prompt. ``noise`` gives the dropout masks (None: no dropout). ``prefix`` stands
        for a prompt that :meth:`encode_prefix` has read already; ``last_only`` gives the action of the last step alone,
        [M, B, 1, A].
        """
        single = batch["observations"].ndim == 3
        if single:
            batch = {k: v.unsqueeze(0) for k, v in batch.items()}
            prompt = None if prompt is None else {k: v.unsqueeze(0) for k, v in prompt.items()}
            task = task.unsqueeze(0) if isinstance(task, Tensor) and task.ndim == 1 else task
        self._check(weights, batch, prompt, task, prefix)
        members, size, steps = batch["timesteps"].shape
        own = self._own_task(task, members)
        tokens = self._history(weights, batch, own)[:, :, :-1]  # nobody reads the last action
        seen = batch["valid"].repeat_interleave(3, -1)[:, :, :-1]
        if prefix is None:
            front, front_seen = self._front(weights, prompt, task, (members, size))
            if front is not None and front_seen is not None:
                tokens, seen = torch.cat((front, tokens), 2), torch.cat((front_seen, seen), 2)
        first = tokens.shape[2] - (3 * steps - 1)  # of the history
        wanted = slice(tokens.shape[2] - 1 if last_only else first + 1, None, 3)
        mask = _attention_mask(seen, prefix[0][0].shape[-2] if prefix else 0)
        x = self._encode(weights, tokens, mask, noise=noise, prefix=prefix, wanted=wanted)
        x = norm(x, weights["norm.weight"], weights["norm.bias"])
        actions = torch.tanh(linear(x, *_layer(weights, "head", own)))
        if own is not None:
            actions = torch.where(self.kept_actions[own][:, None, None], actions, 0)
        return actions.squeeze(0) if single else actions

    def prompt_tokens(self, weights: Mapping[str, Tensor], prompt: Steps) -> Tensor:
        """The tokens [M, B, 3 K*, E] that ``prompt``, [M, B, K*, ...], is read as: where soft tokens stand."""
        return self._tokens(weights, "embed_prompt.", prompt, None)

    def encode_prefix(
        self, weights: Mapping[str, Tensor], prompt: Steps | None, task: Tensor | None, shape: tuple[int, int]
    ) -> Prefix | None:
        """Keys and values of every block for the task token and prompt of [M, B] = ``shape`` sequences; None if none.

        Exact, because no token of the front sees the history. Every step of the prompt must be valid.
        """
        front, seen = self._front(weights, prompt, task, shape)
        if front is None or seen is None:
            return None
        if not bool(seen.all()):
            raise ManyoneError("a prompt with padded steps cannot be encoded ahead: give it with every call")
        collected: Prefix = []
        self._encode(weights, front, _attention_mask(seen, 0), collect=collected)
        return collected

    def _check(
        self,
        weights: Mapping[str, Tensor],
        batch: Steps,
        prompt: Steps | None,
        task: Tensor | int | None,
        prefix: Prefix | None,
    ) -> None:
        for what, steps in (("batch", batch), ("prompt", prompt)):
            if steps is None:
                continue
            found = (steps["observations"].shape[-1], steps["actions"].shape[-1])
            if found != (self.state_dim, self.action_dim):
                raise ManyoneError(
                    f"{what}: states and actions are {found[0]} and {found[1]} wide, but the model was built for "
                    f"{self.state_dim} and {self.action_dim}"
                )
        if prompt is not None and SOFT in weights:
            raise ManyoneError("a prompt and soft tokens in its place: give one of them")
        if prefix is None and bool(self.prompt) != (prompt is not None or SOFT in weights):
            raise ManyoneError(f"the model was built with prompt = {self.prompt}: a prompt must be given iff it is > 0")
        if (prefix is None or bool(self.widths)) and self.reads_task != (task is not None):
            raise ManyoneError(
                f"the model was built with id_tokens = {self.id_tokens} and {len(self.widths)} widths: a task number "
                "must be given iff one of them is > 0"
            )

    def _own_task(self, task: Tensor | int | None, members: int) -> Tensor | None:
        """The task of each member, int64 [M], where tasks have maps of their own."""
        if not self.widths:
            return None
        number = torch.as_tensor(task, device=self.kept_actions.device)
        if number.device.type == "cpu" and not bool(((number >= 0) & (number < len(self.widths))).all()):
            raise ManyoneError(f"task number {number.tolist()}: this model knows tasks 0..{len(self.widths) - 1}")
        if number.ndim == 2:
            if number.device.type == "cpu" and not bool((number == number[:, :1]).all()):
                raise ManyoneError("tasks of different widths in one batch: give each a member of its own")
            number = number[:, 0]
        return number.expand(members)

    def _history(self, weights: Mapping[str, Tensor], batch: Steps, own: Tensor | None) -> Tensor:
        tokens = self._tokens(weights, "embed.", batch, own)
        return norm(tokens, weights["embed.norm.weight"], weights["embed.norm.bias"])

    def _front(
        self, weights: Mapping[str, Tensor], prompt: Steps | None, task: Tensor | int | None, shape: tuple[int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        parts, seen = [], []
        if task is not None and self.id_tokens:
            number = torch.as_tensor(task, device=weights["embed_task.weight"].device)
            if number.device.type == "cpu" and not bool(((number >= 0) & (number < self.id_tokens)).all()):
                raise ManyoneError(f"task number {number.tolist()}: this model has tokens for 0..{self.id_tokens - 1}")
            number = number.expand(shape).unsqueeze(-1)
            parts.append(lookup(weights["embed_task.weight"], number))
            seen.append(torch.ones_like(number, dtype=torch.bool))
        if prompt is not None:
            parts.append(self._tokens(weights, "embed_prompt.", prompt, self._own_task(task, shape[0])))
            seen.append(prompt["valid"].repeat_interleave(3, -1))
        if SOFT in weights:
            soft = weights[SOFT]
            parts.append(_soft(soft, shape))
            seen.append(soft.new_ones(1, dtype=torch.bool).expand(*shape, soft.shape[-2]))
        return (torch.cat(parts, 2), torch.cat(seen, 2)) if parts else (None, None)

    def _tokens(self, weights: Mapping[str, Tensor], prefix: str, steps: Steps, own: Tensor | None) -> Tensor:
        """[M, B, 3 K, E] in the order return-to-go, state, action."""
        time = lookup(weights[f"{prefix}time.weight"], steps["timesteps"].clamp(max=self.max_timestep - 1))
        values = {"return": steps["returns_to_go"].unsqueeze(-1), "state": steps["observations"],
                  "action": steps["actions"]}  # fmt: skip
        if own is not None:
            for name, kept in (("state", self.kept_states), ("action", self.kept_actions)):
                values[name] = torch.where(kept[own][:, None, None], values[name], 0)
        parts = [
            linear(v, *_layer(weights, f"{prefix}{n}", None if n == "return" else own)) + time
            for n, v in values.items()
        ]
        return torch.stack(parts, 3).flatten(2, 3)

    def _encode(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        mask: Tensor,
        *,
        noise: DropoutNoise | None = None,
        prefix: Prefix | None = None,
        wanted: slice | None = None,
        collect: Prefix | None = None,
    ) -> Tensor:
        """The blocks; ``wanted`` are the only tokens whose output is returned (all without)."""
        if noise is not None:
            last = len(range(x.shape[2])[slice(None) if wanted is None else wanted])
            noise.start(self._noise_width(x.shape[1], x.shape[2], last))
            x = noise.drop(x)
        for number in range(self.layers):
            w = {name: weights[f"blocks.{number}.{name}"] for name in _BLOCK}
            more = block_parts(weights, number)
            rows = wanted if number == self.layers - 1 else None
            h = norm(x, w["norm1.weight"], w["norm1.bias"])
            if rows is not None:
                x = x[:, :, rows]
                cut = (self.width, 2 * self.width)
                (weight_q, weight_kv), (bias_q, bias_kv) = (
                    w["attn.qkv.weight"].split(cut, -2),
                    w["attn.qkv.bias"].split(cut, -1),
                )
                q, kv = linear(h[:, :, rows], weight_q, bias_q), linear(h, weight_kv, bias_kv)
                if more.qkv is not None:
                    inner = product(h, more.qkv[0])
                    second_q, second_kv = more.qkv[1].split(cut, -2)
                    q, kv = q + product(inner[:, :, rows], second_q), kv + product(inner, second_kv)
                k, v = kv.chunk(2, -1)
            else:
                qkv = linear(h, w["attn.qkv.weight"], w["attn.qkv.bias"])
                q, k, v = (qkv if more.qkv is None else qkv + low_rank(h, more.qkv)).chunk(3, -1)
            q, k, v = (self._split(t) for t in (q, k, v))
            if collect is not None:
                collect.append((k.unflatten(0, x.shape[:2]), v.unflatten(0, x.shape[:2])))
                if number == self.layers - 1:
                    return x
            if prefix is not None:
                old_k, old_v = (t.expand(*x.shape[:2], *t.shape[2:]).flatten(0, 1) for t in prefix[number])
                k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
            read = _attention(q, k, v, mask if rows is None else mask[..., rows, :], noise)
            read = read.unflatten(0, x.shape[:2]).transpose(2, 3).flatten(3)
            h = linear(read, w["attn.proj.weight"], w["attn.proj.bias"])
            h = h if more.proj is None else h + low_rank(read, more.proj)
            h = h if more.attn is None else bottleneck(h, more.attn)
            x = x + (h if noise is None else noise.drop(h))
            h = norm(x, w["norm2.weight"], w["norm2.bias"])
            h = mlp(h, *(w[f"mlp.{part}"] for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")))
            h = h if more.mlp is None else bottleneck(h, more.mlp)
            x = x + (h if noise is None else noise.drop(h))
        return x

    def _split(self, t: Tensor) -> Tensor:
        """[M, B, L, E] -> [M B, H, L, E / H]."""
        return t.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(0, 1)

    def _noise_width(self, size: int, length: int, last: int) -> int:
        rows = [length] * (self.layers - 1) + [last]
        attention = sum(self.heads * row * length for row in rows)
        return size * (length * self.width + attention + 2 * sum(rows) * self.width)


class TaskLinear(nn.Module):
    """Parameters of a linear layer of each task's own, N x (inputs, outputs) = ``sizes``, padded with zeros."""

    def __init__(self, inputs: int, outputs: int, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.weight = nn.Parameter(torch.zeros(len(sizes), outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(len(sizes), outputs))


def _linear(inputs: int, outputs: int, sizes: Sequence[tuple[int, int]]) -> nn.Module:
    return TaskLinear(inputs, outputs, sizes) if sizes else nn.Linear(inputs, outputs)


def _layer(weights: Mapping[str, Tensor], name: str, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer ``name``; with ``own`` [M] each member's task's: [M, O, I] and [M, O]."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if own is None:
        return weight, bias
    return _of_task(weight, own, weight.ndim == 4), _of_task(bias, own, bias.ndim == 3)


def _of_task(value: Tensor, own: Tensor, members: bool) -> Tensor:
    """Entries ``own`` [M] of ``value`` [N, ...], or [m, N, ...] with ``members``, m a divisor of M."""
    if not members:
        return value[own]
    return value[torch.arange(len(own), device=own.device) // (len(own) // len(value)), own]


def _embeddings(
    state_dim: int, action_dim: int, width: int, max_timestep: int, widths: Sequence[tuple[int, int]]
) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "return": nn.Linear(1, width),
            "state": _linear(state_dim, width, [(s, width) for s, _ in widths]),
            "action": _linear(action_dim, width, [(a, width) for _, a in widths]),
            "time": nn.Embedding(max_timestep, width),
        }
    )


def _soft(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """Soft tokens [L, E] or [m, L, E] for [M, B] = ``shape`` sequences, m a divisor of M: [M, B, L, E]."""
    if tokens.ndim == 3:
        tokens = tokens.repeat_interleave(shape[0] // len(tokens), 0).unsqueeze(1)
    return tokens.expand(*shape, *tokens.shape[-2:])


def _block(width: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "norm1": nn.LayerNorm(width),
            "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}),
            "norm2": nn.LayerNorm(width),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}),
        }
    )


def _attention_mask(seen: Tensor, past: int) -> Tensor:
    """Which keys a query may read, [M B or 1, 1, L, past + L]: all of the prefix, valid ones up to itself, itself.

    A padded token reads at least itself, so that its softmax is defined; nothing valid reads a padded token.
    """
    length = seen.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril_()
    if seen.device.type == "cpu" and bool(seen.all()):
        mask = causal.view(1, 1, length, length)
    else:
        mask = causal & seen.flatten(0, 1)[:, None, None, :]
        mask |= torch.eye(length, dtype=torch.bool, device=seen.device)
    return F.pad(mask, (past, 0), value=True) if past else mask


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, noise: DropoutNoise | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v for q [N, H, l, D], k and v [N, H, L, D], mask broadcastable to [N, H, l, L]."""
    if noise is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # the library's own dropout draws from the global generator: not a function of (seed, step)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
    return noise.drop(scores.masked_fill(~mask, -math.inf).softmax(-1)) @ v
