"""Surgery spelt out: merge every parameter anew, run the merged model and the expert, take one Adam step. No caches.

The corrections are plain dictionaries of tensors; the networks are :class:`TinyBlocks`, so that block outputs can be
written down without hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """x + fc2(gelu(fc1(LN x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyBlocks(nn.Module):
    """[B, L, 6] -> stem -> blocks -> mean over tokens -> projection [B, d]; tokens mix through their mean."""

    def __init__(self, hidden: int = 8, width: int = 5, depth: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Linear(6, hidden)
            self.blocks = nn.ModuleList(Block(hidden) for _ in range(depth))
            self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.project(x.tanh().mean(1))


class PaddedText(nn.Module):
    """Embedding, blocks that return tuples, mean over unpadded tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)

        class TupleBlock(Block):
            def forward(self, x: Tensor) -> tuple[Tensor]:  # type: ignore[override]
                return (super().forward(x),)

        self.layer = nn.ModuleList(TupleBlock(8) for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layer:
            x = layer(x)[0]
        weight = attention_mask.float().unsqueeze(-1)
        return (x * weight).sum(1) / weight.sum(1)


def merge(base: nn.Module, experts: Sequence[Mapping[str, Tensor]], scale: float) -> dict[str, Tensor]:
    """theta_0 + scale * sum of task vectors."""
    start = base.state_dict()
    return {n: v + scale * sum((e[n] - v) for e in experts) for n, v in start.items()}


def correct(v: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """v - U ReLU(D v)."""
    return v - torch.relu(v @ down.T) @ up.T


def forward(
    weights: Mapping[str, Tensor], network: TinyBlocks, x: Tensor, corrections: Sequence[tuple[Tensor, Tensor]] | None
) -> tuple[list[Tensor], Tensor]:
    """Token means of every (corrected) block output and the (corrected) feature; one correction means V1."""
    model = TinyBlocks(network.stem.out_features, network.project.out_features, len(network.blocks))
    model.load_state_dict(dict(weights))
    model.requires_grad_(False)
    x, means = model.stem(x), []
    for place, block in enumerate(model.blocks):
        x = block(x)
        if corrections is not None and len(corrections) > 1:
            x = correct(x, *corrections[place])
        means.append(x.mean(1))
    feature = model.project(x.tanh().mean(1))
    return means, feature if corrections is None else correct(feature, *corrections[-1])


def train(
    base: TinyBlocks,
    experts: Sequence[Mapping[str, Tensor]],
    scale: float,
    corrections: Sequence[Sequence[tuple[Tensor, Tensor]]],
    batches: Sequence[Sequence[Sequence[Tensor]]],
    *,
    lr: float = 1e-3,
    stale: bool = False,
) -> list[float]:
    """Trains ``corrections[task]`` in place on ``batches[iteration][task][k]``; one loss per optimiser step."""
    parameters = [[p.requires_grad_(True) for pair in task for p in pair] for task in corrections]
    shared = torch.optim.Adam([p for task in parameters for p in task], lr=lr)
    own = [torch.optim.Adam(task, lr=lr) for task in parameters]
    losses = []
    for iteration in batches:
        for task, task_batches in enumerate(iteration):
            for x in task_batches:
                means, feature = forward(merge(base, experts, scale), base, x, corrections[task])
                wanted_means, wanted = forward(experts[task], base, x, None)
                loss = (feature - wanted).abs().mean()
                if len(corrections[task]) > 1:
                    for a, b in zip(means, wanted_means):
                        loss = loss + (a - b).abs().mean()
                optimiser = shared if stale else own[task]
                optimiser.zero_grad(set_to_none=not stale)
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
    return losses
