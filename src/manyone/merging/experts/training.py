"""The two training loops behind a bundle, each one step at a time: a joint base, and one expert.

Both are deterministic functions of data, settings and seed; batch ``k`` depends on ``k`` alone, so a loop that goes on
from its saved state gives what the uninterrupted one gives, bit for bit (on the same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.data.tasks import Inputs, Split, Task, concatenate, count, take
from manyone.errors import ManyoneError
from manyone.merging.experts.protocol import FineTuning, JointPretraining, Schedule
from manyone.merging.heads import Head
from manyone.nets import build_encoder, call
from manyone.nets.images import scaled
from manyone.randomness import BatchOrder, generator_for

Weights = Mapping[str, Tensor]


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int, warm_up: int = 0) -> float:
    """The rate of step ``step`` (from 0) of ``steps``; "one-cycle" rises for 30 % from peak/25 and falls to zero."""
    if schedule == "one-cycle":
        rise = 0.3 * steps
        if step < rise:
            return peak * (1 - (1 - 1 / 25) * 0.5 * (1 + math.cos(math.pi * step / rise)))
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(steps - warm_up, 1)
    return peak * {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def to_device(inputs: Inputs, device: str | torch.device) -> Inputs:
    """``inputs`` on ``device``."""
    return inputs.to(device) if isinstance(inputs, Tensor) else {k: v.to(device) for k, v in inputs.items()}


@torch.no_grad()
def features(encoder: nn.Module, inputs: Inputs, batch_size: int = 250) -> Tensor:
    """Features [n, d] of all ``inputs`` in their order; texts are grouped by length, which saves their padding."""
    n = count(inputs)
    device = next(encoder.parameters()).device
    order = torch.arange(n) if isinstance(inputs, Tensor) else inputs["attention_mask"].sum(1).argsort(stable=True)
    parts = [call(encoder, to_device(take(inputs, i), device)) for i in order.split(batch_size)]
    result = torch.cat(parts).cpu()
    return result[order.argsort()]


def accuracy(encoder: nn.Module, head: Head, split: Split, limit: int | None = None) -> float:
    """Share of right predictions on the first ``limit`` samples of ``split`` (all when None)."""
    split = split if limit is None else split.take(slice(0, limit))
    logits = head.to("cpu")(features(encoder, split.inputs))
    return float((logits.argmax(1) == split.labels).double().mean())


class BucketOrder:
    """Like :class:`BatchOrder`, with batches of samples of similar length, so that short texts are padded little.

    Every epoch is a permutation, cut into pools of ``pool`` batches; each pool is sorted by length and its batches
    are then taken in random order.
    """

    def __init__(self, lengths: Tensor, batch_size: int, *names: str | int, pool: int = 16) -> None:
        self.lengths, self.names, self.pool = lengths, names, pool
        self.whole = BatchOrder(len(lengths), batch_size, *names)
        self.batch_size, self.per_epoch = self.whole.batch_size, self.whole.per_epoch
        self._cached: tuple[int, Tensor] | None = None

    def batch(self, k: int) -> Tensor:
        """Indices of batch ``k`` (int64 [batch_size])."""
        epoch, position = divmod(k, self.per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            first = epoch * self.per_epoch
            order = torch.cat([self.whole.batch(first + j) for j in range(self.per_epoch)])
            pools = order.split(self.pool * self.batch_size)
            order = torch.cat([p[self.lengths[p].argsort(stable=True)] for p in pools]).view(-1, self.batch_size)
            mixed = torch.randperm(len(order), generator=generator_for(*self.names, "buckets", epoch))
            self._cached = (epoch, order[mixed])
        return self._cached[1][position]


def shifted(images: Tensor, most: int, *names: str | int) -> Tensor:
    """Every image [n, C, H, W] moved by its own (dy, dx) in {-most..most}^2; the border is repeated outwards."""
    n, channels, height, width = images.shape
    move = torch.randint(-most, most + 1, (2, n, 1), generator=generator_for(*names, "shift"))
    rows = (torch.arange(height)[None] + move[0]).clamp(0, height - 1)
    columns = (torch.arange(width)[None] + move[1]).clamp(0, width - 1)
    flat = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).to(images.device)
    return images.flatten(2).gather(2, flat.expand(-1, channels, -1)).view_as(images)


class OptimiserLoop:
    """Optimiser, schedule and position of one training loop; ``trained`` are the tensors that change."""

    def __init__(self, trained: Mapping[str, nn.Parameter], lr: float, weight_decay: float) -> None:
        self.trained, self.lr, self.position = dict(trained), lr, 0
        on_cpu = all(p.device.type in ("cpu", "cuda") for p in self.trained.values())
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=lr, weight_decay=weight_decay, fused=on_cpu)

    def update(self, loss: Tensor, rate: float) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.position += 1

    def state_dict(self) -> dict[str, Any]:
        moments = {}
        for name, p in self.trained.items():
            slot = self.optimiser.state.get(p, {})
            moments[name] = {key: torch.as_tensor(slot[key]).clone() for key in sorted(slot)}
        weights = {name: p.detach().clone() for name, p in self.trained.items()}
        return {"position": self.position, "weights": weights, "moments": moments}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
        saved = self.optimiser.state_dict()
        saved["state"] = {}
        for index, (name, p) in enumerate(self.trained.items()):
            p.copy_(state["weights"][name])
            if state["moments"][name]:
                saved["state"][index] = {k: v.clone() for k, v in state["moments"][name].items()}
        self.optimiser.load_state_dict(saved)


def _few(task: Task, settings: JointPretraining, seed: int) -> Tensor:
    """Indices of the training samples of ``task`` that the base sees."""
    order = torch.randperm(len(task.train), generator=generator_for(seed, "base", "samples", task.name))
    each = settings.samples_per_class_of.get(task.name, settings.samples_per_class)
    if not each:
        return order[: settings.samples_per_task]
    labels = task.train.labels[order]
    return torch.cat([order[labels == c][:each] for c in range(len(task.classes))])


@torch.no_grad()
def principal_stem(encoder: nn.Module, images: Sequence[Inputs], most: int = 2000) -> None:
    """Sets ``encoder.stem`` (a linear layer of ``width`` rows) to +-v_k / sqrt(s_k) of centred images, and freezes it.

    v_k are the first ``width / 2`` principal components of at most ``most`` images of every task and s_k their
    standard deviations; the square root whitens half-way, so that weak components count without drowning in noise.
    All rows are then scaled by one number, so that their outputs have mean square 1.
    """
    stem: Any = encoder.stem
    half = stem.weight.shape[0] // 2
    flat = torch.cat([scaled(take(i, slice(0, most))).flatten(1) for i in images])  # type: ignore[arg-type]
    centre = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - centre).T.double().cov(correction=0))
    deviation = values.clamp_min(0).sqrt().flip(0)[:half]
    rows = vectors.flip(1)[:, :half].T / deviation.clamp_min(1e-6).sqrt()[:, None]
    rows = rows / deviation.mean().sqrt()  # row k has outputs of variance s_k / mean(s)
    rows = torch.cat([rows, -rows])
    stem.weight.copy_(rows)
    stem.bias.copy_(-(rows @ centre.double()))
    stem.requires_grad_(False)


class JointBase:
    """Pre-trains a base and a cosine head on a few samples of every task; cross-entropy over all tasks' classes."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: Mapping[str, Any],
        settings: JointPretraining,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.tasks, self.settings, self.seed = tuple(tasks), settings, seed
        self.encoder = build_encoder(encoder, seed=seed).to(device)
        inputs, labels, first = [], [], 0
        for task in self.tasks:
            few = task.train.take(_few(task, settings, seed))
            inputs.append(few.inputs)
            labels.append(few.labels + first)
            first += len(task.classes)
        self.inputs, self.labels = to_device(concatenate(inputs), device), torch.cat(labels).to(device)
        trained = dict(self.encoder.named_parameters())
        if settings.principal_stem:
            principal_stem(self.encoder, [t.train.inputs for t in self.tasks])
            trained = {name: p for name, p in trained.items() if not name.startswith("stem.")}
        with torch.no_grad():
            width = features(self.encoder, take(self.inputs, slice(0, 1))).shape[1]
        rows = torch.randn(first, width, generator=generator_for(seed, "base", "head"))
        self.rows = nn.Parameter(rows.to(device))
        self._loop = OptimiserLoop(trained | {"rows": self.rows}, settings.lr, settings.weight_decay)
        self.per_epoch = math.ceil(len(self.labels) / settings.batch_size)
        self.steps = settings.epochs * self.per_epoch

    @property
    def position(self) -> int:
        """Steps done."""
        return self._loop.position

    def step(self) -> dict[str, float]:
        """One step on one batch of the mixed tasks; the last batch of an epoch may be short."""
        epoch, batch = divmod(self.position, self.per_epoch)
        order = torch.randperm(len(self.labels), generator=generator_for(self.seed, "base", "epoch", epoch))
        index = order[batch * self.settings.batch_size : (batch + 1) * self.settings.batch_size]
        feature = F.normalize(call(self.encoder, take(self.inputs, index)), dim=-1)
        logits = self.settings.head_scale * feature @ F.normalize(self.rows, dim=-1).T
        loss = F.cross_entropy(logits, self.labels[index], label_smoothing=self.settings.label_smoothing)
        rate = learning_rate("one-cycle", self.settings.lr, self.position, self.steps)
        self._loop.update(loss, rate)
        return {"loss": float(loss.detach()), "lr": rate}

    def weights(self) -> dict[str, Tensor]:
        """The encoder's state dict."""
        return {name: value.detach().cpu().clone() for name, value in self.encoder.state_dict().items()}

    def heads(self) -> dict[str, Head]:
        """One frozen head per task: its classes' normalised rows."""
        rows = F.normalize(self.rows.detach(), dim=-1).cpu().split([len(t.classes) for t in self.tasks])
        return {t.name: Head(r.clone(), None, self.settings.head_scale) for t, r in zip(self.tasks, rows)}

    def state_dict(self) -> dict[str, Any]:
        """Position, weights and optimiser moments."""
        return self._loop.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a saved state."""
        self._loop.load_state_dict(state)


class ExpertTraining:
    """Fine-tunes the base on one task by cross-entropy through the task's frozen head."""

    def __init__(
        self,
        task: Task,
        encoder: nn.Module,
        base: Weights,
        head: Head,
        settings: FineTuning,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """``encoder`` is taken over: it is loaded with ``base`` and trained in place."""
        self.task, self.settings, self.seed = task, settings, seed
        self.encoder = encoder.to(device).eval()
        self.encoder.load_state_dict(dict(base))
        self.head = head.to(device)
        trained = {}
        for name, p in self.encoder.named_parameters():
            p.requires_grad_(not name.startswith(settings.frozen) if settings.frozen else True)
            if p.requires_grad:
                trained[name] = p
        if not trained:
            raise ManyoneError(f"every parameter is frozen by the prefixes {', '.join(settings.frozen)}")
        self.steps = settings.length(len(task.train))
        self.inputs, self.labels = to_device(task.train.inputs, device), task.train.labels.to(device)
        names: tuple[str | int, ...] = (seed, "expert", task.name)
        self.order: BatchOrder | BucketOrder
        if isinstance(self.inputs, Tensor):
            self.order = BatchOrder(len(self.labels), settings.batch_size, *names)
        else:
            self.order = BucketOrder(self.inputs["attention_mask"].sum(1).cpu(), settings.batch_size, *names)
        self._loop = OptimiserLoop(trained, settings.lr, settings.weight_decay)

    @property
    def position(self) -> int:
        """Steps done."""
        return self._loop.position

    def step(self) -> dict[str, float]:
        """One step on one batch of the task."""
        k, settings = self.position, self.settings
        index = self.order.batch(k)
        batch = take(self.inputs, index)
        if settings.shift and isinstance(batch, Tensor):
            batch = shifted(batch, settings.shift, self.seed, "expert", self.task.name, k)
        loss = F.cross_entropy(self.head(call(self.encoder, batch)), self.labels[index])
        rate = learning_rate(settings.schedule, settings.lr, k, self.steps, settings.warm_up)
        self._loop.update(loss, rate)
        return {"loss": float(loss.detach()), "lr": rate}

    def weights(self) -> dict[str, Tensor]:
        """The tensors that training may change; all others are the base's."""
        return {name: p.detach().cpu().clone() for name, p in self._loop.trained.items()}

    def state_dict(self) -> dict[str, Any]:
        """Position, weights and optimiser moments."""
        return self._loop.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a saved state."""
        self._loop.load_state_dict(state)
