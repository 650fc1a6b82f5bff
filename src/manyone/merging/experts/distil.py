"""A base from held-out images: their labels, and the features of a public ImageNet network (distillation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.data.tasks import Task
from manyone.errors import ManyoneError
from manyone.merging.experts.base import efficientnet_teacher
from manyone.merging.experts.protocol import DistilledPretraining
from manyone.merging.experts.training import OptimiserLoop, features, learning_rate, shifted, to_device
from manyone.merging.heads import Head
from manyone.nets import build_encoder, call
from manyone.nets.images import scaled
from manyone.randomness import BatchOrder, generator_for

_UNKNOWN = -1


@torch.no_grad()
def teacher_features(images: Tensor, settings: DistilledPretraining, batch_size: int = 32) -> Tensor:
    """The teacher's features [n, 1280] of ``images`` (uint8 [n, 3, H, W]), centred over the data, of unit length."""
    teacher = efficientnet_teacher(settings.asset)
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = (settings.teacher_size, settings.teacher_size)
    parts = []
    for part in images.split(batch_size):
        enlarged = F.interpolate(scaled(part), size=size, mode="bilinear", align_corners=False, antialias=True)
        parts.append(teacher.features(enlarged.clamp(0, 1).contiguous(memory_format=torch.channels_last)))
    found = torch.cat(parts)
    return F.normalize(found - found.mean(0), dim=-1)


class DistilledBase:
    """Trains an image encoder on ``tasks`` (which are never evaluated); the same for every seed.

    ``unlabelled`` are tasks whose training images only the teacher labels.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        unlabelled: Sequence[Task],
        encoder: Mapping[str, Any],
        settings: DistilledPretraining,
        device: str | torch.device = "cpu",
    ) -> None:
        if not tasks:
            raise ManyoneError("this suite has no pre-training tasks, so a distilled base cannot be made for it")
        self.settings, self.device = settings, device
        self.encoder = build_encoder(encoder).to(device)
        inputs, labels, first = [], [], 0
        for task in (*tasks, *unlabelled):
            if not isinstance(task.train.inputs, Tensor):
                raise ManyoneError(f"pre-training task {task.name!r} has no images: distillation reads images only")
            inputs.append(task.train.inputs)
            if len(inputs) <= len(tasks):
                labels.append(task.train.labels + first)
                first += len(task.classes)
            else:
                labels.append(torch.full_like(task.train.labels, _UNKNOWN))
        self.images, self.labels = torch.cat(inputs), torch.cat(labels).to(device)
        self._teacher: Tensor | None = None
        width = features(self.encoder, self.images[:1]).shape[1]
        self.classifier = nn.Linear(width, first)
        self.projection = nn.Linear(width, 1280)
        for name, layer in (("classifier", self.classifier), ("projection", self.projection)):
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.normal_(0, width**-0.5, generator=generator_for("distilled base", name))
            layer.to(device)
        trained = dict(self.encoder.named_parameters())
        for name, layer in (("classifier", self.classifier), ("projection", self.projection)):
            trained |= {f"{name}.{key}": p for key, p in layer.named_parameters()}
        self._loop = OptimiserLoop(trained, settings.lr, settings.weight_decay)
        self.order = BatchOrder(len(self.labels), settings.batch_size, "distilled base")
        self.steps = settings.steps

    @property
    def position(self) -> int:
        """Steps done."""
        return self._loop.position

    def step(self) -> dict[str, float]:
        """One step on one batch of the mixed tasks; the first call computes the teacher's features."""
        k, settings = self.position, self.settings
        if self._teacher is None:
            self._teacher = teacher_features(self.images, settings)
        index = self.order.batch(k)
        batch = self.images[index]
        if settings.shift:
            batch = shifted(batch, settings.shift, "distilled base", k)
        feature = call(self.encoder, to_device(batch, self.device))
        label = self.labels[index]
        share = (label != _UNKNOWN).sum().clamp_min(1)
        logits = self.classifier(feature)
        known = F.cross_entropy(logits, label, ignore_index=_UNKNOWN, reduction="sum") / share
        target = self._teacher[index].to(self.device)
        distance = 1 - F.cosine_similarity(self.projection(feature), target).mean()
        loss = known + settings.distillation * distance
        rate = learning_rate("one-cycle", settings.lr, k, self.steps)
        self._loop.update(loss, rate)
        parts = {"cross-entropy": float(known.detach()), "distillation": float(distance.detach())}
        return {"loss": float(loss.detach()), **parts, "lr": rate}

    def weights(self) -> dict[str, Tensor]:
        """The encoder's state dict."""
        return {name: value.detach().cpu().clone() for name, value in self.encoder.state_dict().items()}

    def heads(self) -> dict[str, Head]:
        """No heads: the tasks that will be merged are others."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Position, weights and optimiser moments."""
        return self._loop.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a saved state."""
        self._loop.load_state_dict(state)
