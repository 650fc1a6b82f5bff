"""How a suite's base, heads and experts are made: plain data, one protocol per suite.

Three ways to a base: ``JointPretraining`` (a weak base and its head rows from a few images of every task),
``DistilledPretraining`` (other tasks' images, with a public ImageNet network as teacher; made once, for all seeds) and
``PretrainedText`` (public weights). Heads are the rows of joint pre-training, a logistic regression on base features
or, for texts, the base's embeddings of class descriptions; all are frozen afterwards, as CLIP's text embeddings are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from manyone.data.tasks import Suite
from manyone.errors import ManyoneError

Schedule = Literal["constant", "cosine", "linear", "one-cycle"]


@dataclass(frozen=True, kw_only=True)
class JointPretraining:
    """AdamW with one cycle over all tasks' classes at once; the cosine head's rows become the tasks' heads.

    Without ``label_smoothing`` plain cross-entropy on so few samples makes a base that is surer of its mistakes than
    the experts are of their answers, and then nothing that adapts by certainty can move towards the experts.
    """

    samples_per_task: int = 60
    samples_per_class: int = 0
    """Samples of every class instead, where it is not 0; ``samples_per_class_of`` says otherwise for single tasks."""
    samples_per_class_of: Mapping[str, int] = field(default_factory=dict)
    label_smoothing: float = 0.3
    principal_stem: bool = False
    """Freeze ``stem`` at principal components of the tasks' unlabelled training images, and their negatives."""
    epochs: int = 60
    batch_size: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    head_scale: float = 16.0


@dataclass(frozen=True, kw_only=True)
class DistilledPretraining:
    """AdamW with one cycle on the suite's pre-training tasks: their labels, and a teacher's features of their images.

    Loss: cross-entropy over the union of their classes + ``distillation`` x (1 - cosine) between a linear map of the
    feature and the teacher's feature (centred over the data). Images are shifted; the teacher saw them unshifted, at
    ``teacher_size`` pixels. ``unlabelled`` adds the training images of the tasks themselves, without their labels. One
    base serves all seeds, like a public checkpoint.
    """

    asset: str = "efficientnet-lite0"
    teacher_size: int = 64
    steps: int = 1800
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    distillation: float = 4.0
    unlabelled: bool = True
    shift: int = 3


@dataclass(frozen=True, kw_only=True)
class PretrainedText:
    """Weights and configuration of the asset called ``asset``, a folder with model.safetensors and config.json."""

    asset: str = "minilm"


@dataclass(frozen=True, kw_only=True)
class LogisticHeads:
    """Multinomial logistic regression on normalised base features times ``scale``, inverse penalty ``c``."""

    samples: int = 600
    scale: float = 10.0
    c: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ZeroShotHeads:
    """The base's normalised embedding of each class's description, times ``scale``; sees no labelled sample."""

    scale: float = 20.0


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How an expert is trained from the base with its frozen head.

    ``frozen``: prefixes of parameter names that stay at the base. Length: ``steps``, or ``epochs`` when that is None;
    a task with fewer than ``small`` training samples gets ``small_epochs`` instead.
    """

    lr: float
    schedule: Schedule = "cosine"
    warm_up: int = 0
    batch_size: int = 100
    weight_decay: float = 0.01
    steps: int | None = None
    epochs: int = 10
    small: int = 0
    small_epochs: int = 20
    frozen: tuple[str, ...] = ()
    shift: int = 0
    """Images are translated by up to this many pixels in each direction, a new draw in every batch."""

    def length(self, samples: int) -> int:
        """Number of optimisation steps for a task with ``samples`` training samples."""
        if self.steps is not None:
            return self.steps
        epochs = self.small_epochs if samples < self.small else self.epochs
        return epochs * max(samples // self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that decides a bundle besides the data and the seed; ``encoder`` is a build_encoder specification."""

    base: JointPretraining | DistilledPretraining | PretrainedText
    fine_tuning: FineTuning
    encoder: Mapping[str, Any] = field(default_factory=dict)
    heads: LogisticHeads | ZeroShotHeads | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data for cache keys and records."""
        base = {"way": type(self.base).__name__, **dataclasses.asdict(self.base)}
        plain = dataclasses.asdict(self) | {"base": base}
        if self.heads is not None:
            plain["heads"] = {"way": type(self.heads).__name__, **dataclasses.asdict(self.heads)}
        return json.loads(json.dumps(plain))


_SMALL_VIT = {"kind": "vit", "size": 28, "patch": 7, "channels": 3, "width": 96, "depth": 4, "heads": 4}
RESMLP_WIDTHS = {"inputs": 784, "width": 128, "hidden": 512, "depth": 4}

PROTOCOLS: dict[str, Protocol] = {
    "mini6": Protocol(
        encoder={"kind": "resmlp", **RESMLP_WIDTHS},
        base=JointPretraining(),
        fine_tuning=FineTuning(lr=7e-4, batch_size=100, epochs=7, small=2000, small_epochs=14, frozen=("stem.",)),
    ),
    "crisp8": Protocol(
        encoder={"kind": "resmlp", **RESMLP_WIDTHS},
        base=JointPretraining(
            samples_per_class=2,
            samples_per_class_of={"animal": 5, "optdigits": 1, "texture": 1, "fashion-a": 1, "fashion-b": 1},
            principal_stem=True,
        ),
        fine_tuning=FineTuning(lr=7e-4, batch_size=100, epochs=6, small=2000, small_epochs=12, frozen=("stem.",)),
    ),
    "fixture": Protocol(
        encoder={"kind": "resmlp", **RESMLP_WIDTHS, "width": 64, "hidden": 128, "depth": 2},
        base=JointPretraining(samples_per_task=40, epochs=30, label_smoothing=0.0),  # runs that tests keep are of it
        fine_tuning=FineTuning(lr=1e-3, batch_size=50, steps=80, frozen=("stem.",)),
    ),
    "images": Protocol(
        encoder={"kind": "vit", "size": 32, "patch": 8, "channels": 3, "width": 128, "depth": 6, "heads": 4},
        base=DistilledPretraining(),
        heads=LogisticHeads(samples=600, scale=30.0, c=0.1),
        fine_tuning=FineTuning(
            lr=1.5e-4, warm_up=20, batch_size=64, steps=200, frozen=("patch_embed.", "pos_embed", "cls_token")
        ),
    ),
    "earth": Protocol(
        # a patch of 7 is about 50 m of ground; means and spreads are those of the four areas, once for all
        encoder={
            **_SMALL_VIT,
            "mean": (0.29, 0.28, 0.36),
            "std": (0.09, 0.11, 0.12),
        },
        base=JointPretraining(samples_per_task=60, epochs=25, label_smoothing=0.0),
        fine_tuning=FineTuning(
            lr=5e-4, warm_up=20, batch_size=64, steps=200, frozen=("patch_embed.", "pos_embed", "cls_token")
        ),
    ),
    "text": Protocol(
        base=PretrainedText(),
        heads=ZeroShotHeads(),
        fine_tuning=FineTuning(
            lr=1e-4, schedule="linear", warm_up=15, batch_size=16, steps=110, frozen=("embeddings.",)
        ),
    ),
}
"""The protocols of the named suites."""


def protocol_for(suite: Suite) -> Protocol:
    """The protocol of a named suite; for another one what its kind asks for (text, or images of any size)."""
    if suite.name in PROTOCOLS:
        return PROTOCOLS[suite.name]
    if suite.kind == "text":
        return dataclasses.replace(PROTOCOLS["text"], heads=LogisticHeads(samples=600, scale=16.0, c=0.1))
    if suite.kind != "image":
        raise ManyoneError(f"suite {suite.name!r} is of kind {suite.kind!r}: there is no protocol for its experts")
    shape = suite.tasks[0].train.inputs.shape[1:] if suite.tasks else ()  # type: ignore[union-attr]
    inputs = 1
    for size in shape:
        inputs *= int(size)
    mini6 = PROTOCOLS["mini6"]
    return dataclasses.replace(mini6, encoder={**mini6.encoder, "inputs": inputs})
