"""The published training step of HarmoDT, spelt out to be timed: sampling, masks, weights as published code keeps them.

Every window is cut with numpy, one sample at a time, and its returns-to-go are summed by a Python loop over the rest of
the episode, for the window and for its prompt. Around forward and backward the state dict is copied, multiplied by the
task's float masks, loaded, and after the optimiser's step copied, blended with the weights before and loaded again.
The network is a plain GPT-2 stack with explicit attention that runs every token through every block and all three
heads. Its parameters are called as those of ``manyone.nets.decision.DecisionTransformer``: one state dict serves both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sample = tuple[np.ndarray, ...]
KEYS = ("observations", "actions", "returns_to_go", "timesteps", "valid")


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Undiscounted suffix sums by a loop."""
    result = np.zeros_like(rewards)
    result[-1] = rewards[-1]
    for t in reversed(range(len(rewards) - 1)):
        result[t] = rewards[t] + result[t + 1]
    return result


class Sampler:
    """Windows of one task's episodes, one sample at a time.

    ``episodes`` are dicts of arrays (observations [T, S], actions [T, A], rewards [T]).
    """

    def __init__(self, episodes: Sequence[Mapping[str, np.ndarray]], context: int, prompt: int, scale: float) -> None:
        self.episodes, self.context, self.prompt_length, self.scale = list(episodes), context, prompt, scale
        states = np.concatenate([e["observations"] for e in self.episodes])
        self.mean, self.std = states.mean(0), states.std(0) + 1e-6
        lengths = np.array([len(e["rewards"]) for e in self.episodes], dtype=np.float64)
        self.order = np.argsort([e["rewards"].sum() for e in self.episodes])
        self.chances = lengths / lengths.sum()
        self.random = np.random.default_rng(0)

    def cut(self, episode: Mapping[str, np.ndarray], start: int, length: int) -> Sample:
        """One window, left-padded to ``length``."""
        stop = min(start + length, len(episode["rewards"]))
        states = episode["observations"][start:stop].reshape(1, -1, episode["observations"].shape[1])
        actions = episode["actions"][start:stop].reshape(1, -1, episode["actions"].shape[1])
        sums = returns_to_go(episode["rewards"][start:])[: stop - start].reshape(1, -1, 1)
        steps = np.arange(start, stop).reshape(1, -1)
        taken = states.shape[1]
        missing = length - taken
        states = np.concatenate([np.zeros((1, missing, states.shape[2])), states], axis=1)
        states = (states - self.mean) / self.std
        actions = np.concatenate([np.ones((1, missing, actions.shape[2])) * -10.0, actions], axis=1)
        sums = np.concatenate([np.zeros((1, missing, 1)), sums], axis=1) / self.scale
        steps = np.concatenate([np.zeros((1, missing)), steps], axis=1)
        mask = np.concatenate([np.zeros((1, missing)), np.ones((1, taken))], axis=1)
        return states, actions, sums, steps, mask

    def batch(self, size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(window, prompt): tensors [size, K, .] and [size, K*, .]."""
        windows, prompts = [], []
        for j, index in enumerate(self.random.choice(len(self.episodes), size=size, p=self.chances)):
            episode = self.episodes[index]
            windows.append(self.cut(episode, int(self.random.integers(len(episode["rewards"]))), self.context))
            example = self.episodes[self.order[-j % len(self.order)]]
            start = max(0, len(example["rewards"]) - self.prompt_length - 1)
            prompts.append(self.cut(example, start, self.prompt_length))
        return _tensors(windows), _tensors(prompts)


def _tensors(samples: Sequence[Sample]) -> dict[str, Tensor]:
    columns = [torch.from_numpy(np.concatenate(column, axis=0)) for column in zip(*samples)]
    values: dict[str, Tensor] = dict(zip(KEYS, (c.to(torch.float32) for c in columns)))
    values["timesteps"], values["valid"] = values["timesteps"].long(), values["valid"].bool()
    values["returns_to_go"] = values["returns_to_go"].squeeze(-1)
    return values


def _embeddings(state_dim: int, action_dim: int, width: int, timesteps: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "return": nn.Linear(1, width),
            "state": nn.Linear(state_dim, width),
            "action": nn.Linear(action_dim, width),
            "time": nn.Embedding(timesteps, width),
        }
    )


class Block(nn.Module):
    """Pre-norm block with explicit softmax attention and ReLU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).split(width, dim=2)
        q, k, v = (t.view(batch, tokens, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(width // self.heads)
        scores = torch.where(allowed, scores, torch.full_like(scores, -1e9))
        mixed = self.dropout(scores.softmax(dim=-1)) @ v
        x = x + self.dropout(self.attn["proj"](mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return x + self.dropout(self.mlp["fc2"](F.relu(self.mlp["fc1"](self.norm2(x)))))


class PlainNetwork(nn.Module):
    """The prompt decision transformer, written down plainly: actions [B, K, A] of ``window`` behind ``prompt``."""

    def __init__(
        self, state_dim: int, action_dim: int, width: int, layers: int, heads: int, timesteps: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = _embeddings(state_dim, action_dim, width, timesteps)
        self.embed["norm"] = nn.LayerNorm(width)
        self.embed_prompt = _embeddings(state_dim, action_dim, width, timesteps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, action_dim)
        self.head_state, self.head_return = nn.Linear(width, state_dim), nn.Linear(width, 1)

    def tokens(self, table: nn.ModuleDict, steps: Mapping[str, Tensor]) -> Tensor:
        """[B, 3 K, E]: return-to-go, state, action of every step."""
        time = table["time"](steps["timesteps"])
        values = (steps["returns_to_go"].unsqueeze(-1), steps["observations"], steps["actions"])
        parts = [table[name](v) + time for name, v in zip(("return", "state", "action"), values)]
        return torch.stack(parts, dim=2).flatten(1, 2)

    def forward(self, window: Mapping[str, Tensor], prompt: Mapping[str, Tensor]) -> Tensor:
        x = torch.cat([self.tokens(self.embed_prompt, prompt), self.embed["norm"](self.tokens(self.embed, window))], 1)
        seen = torch.cat([prompt["valid"], window["valid"]], 1).repeat_interleave(3, dim=1)
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        allowed = causal & seen[:, None, None, :]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, allowed)
        x = self.norm(x)[:, 3 * prompt["valid"].shape[1] :].unflatten(1, (-1, 3))
        self.head_return(x[:, :, 2]), self.head_state(x[:, :, 2])
        return torch.tanh(self.head(x[:, :, 1]))


class PublishedStep:
    """One optimiser step of one task on ``model``; ``masks[i]`` are float tensors of every named parameter."""

    def __init__(
        self, model: nn.Module, samplers: Sequence[Sampler], masks: Sequence[Mapping[str, Tensor]], batch_size: int = 8
    ) -> None:
        self.model, self.samplers, self.masks, self.batch_size = model, samplers, masks, batch_size
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
        self.device = next(model.parameters()).device
        self.done = 0

    def _dense(self, name: str) -> bool:
        return "blocks" not in name

    def sample(self, task: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A batch of ``task`` on the model's device."""
        window, prompt = self.samplers[task].batch(self.batch_size)
        return (
            {k: v.to(self.device) for k, v in window.items()},
            {k: v.to(self.device) for k, v in prompt.items()},
        )

    def step(self) -> float:
        """Sample, mask, forward, backward, clip, mask the gradient, AdamW, restore; returns the loss."""
        task = self.done % len(self.samplers)
        masks = self.masks[task % len(self.masks)]
        window, prompt = self.sample(task)

        original = {n: p.clone() for n, p in self.model.state_dict().items()}
        masked = {n: p.clone() for n, p in self.model.state_dict().items()}
        for name in masks:
            if not self._dense(name):
                masked[name] = masked[name] * masks[name]
        self.model.load_state_dict(masked)

        self.model.train()
        predicted = self.model(window, prompt)
        valid = window["valid"]
        loss = ((predicted[valid] - window["actions"][valid]) ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        for name, parameter in self.model.named_parameters():
            if not self._dense(name) and parameter.grad is not None:
                parameter.grad = parameter.grad * masks[name]
        self.optimiser.step()

        after = {n: p.clone() for n, p in self.model.state_dict().items()}
        for name in masks:
            after[name] = after[name] * masks[name] + original[name] * (1 - masks[name])
        self.model.load_state_dict(after)
        self.done += 1
        return loss.item()


def random_masks(model: nn.Module, count: int, density: float, seed: int = 0) -> list[dict[str, Tensor]]:
    """``count`` float masks of every named parameter; vectors stay dense."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for _ in range(count):
        masks.append(
            {
                n: ((torch.rand(p.shape, generator=generator) < density) | (p.ndim < 2)).float().to(p.device)
                for n, p in model.named_parameters()
            }
        )
    return masks


def made_up_episodes(
    episodes: int, length: int, state_dim: int = 39, action_dim: int = 4, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Episodes of the published shapes, filled with noise: their values do not matter to the time."""
    random = np.random.default_rng(seed)
    return [
        {
            "observations": random.standard_normal((length, state_dim)).astype(np.float32),
            "actions": np.tanh(random.standard_normal((length, action_dim))).astype(np.float32),
            "rewards": random.random(length).astype(np.float32),
        }
        for _ in range(episodes)
    ]
