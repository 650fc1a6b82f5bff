"""The standard artefact of a merged model that is more than a set of weights: one folder that a fresh process loads.

    from manyone.merging import load
    model = load("runs/first/model")
    logits = model(images, task="mnist")

``model.safetensors`` holds every tensor (the merged encoder, routers and task vectors, corrections, heads),
``config.json`` how they belong together, ``README.md`` the lines above. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from manyone.data.tasks import Inputs
from manyone.engine.artefact import CONFIG, WEIGHTS, below, buffers_of, load_weights, made_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError
from manyone.merging.experts.bundle import head_config, head_tensors, heads_from
from manyone.merging.experts.hf import build_encoder as build_classifier
from manyone.merging.heads import Head
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.merging.surgery import model as surgery
from manyone.merging.surgery.model import Surgery, SurgeryV2
from manyone.nets import build_encoder, call
from manyone.weights.open import StrPath


class MergedModel(nn.Module):
    """One model for all tasks: a merged network and the frozen heads.

    ``model(inputs)`` gives features [n, d] (not for surgery, which must know the task); ``model(inputs, task)`` logits
    [n, classes].
    """

    def __init__(self, network: nn.Module, heads: Mapping[str, Head], info: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.network, self.heads, self.info = network, dict(heads), dict(info or {})
        self.needs_task = isinstance(network, Surgery | SurgeryV2)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are heads for."""
        return tuple(self.heads)

    def features(self, inputs: Inputs, task: str | Sequence[str] | None = None) -> Tensor:
        """Features [n, d]; surgery needs the task (or one task name for each sample)."""
        if not self.needs_task:
            return call(self.network, inputs)
        if task is None:
            raise ManyoneError(f"surgery corrects per task: give the task, one of {', '.join(self.heads)}")
        return self.network(inputs, task)

    def forward(self, inputs: Inputs, task: str | None = None) -> Tensor:
        """Logits [n, classes] of ``task``, or features [n, d] without one."""
        if task is None:
            return self.features(inputs)
        if task not in self.heads:
            raise ManyoneError(f"no head for task {task!r}: this model has {', '.join(self.heads)}")
        feature = self.features(inputs, task)
        return self.heads[task].to(feature.device)(feature)


def save(
    folder: StrPath,
    network: nn.Module,
    encoder: Mapping[str, Any],
    heads: Mapping[str, Head],
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``network`` (a plain encoder, WEMoE, or surgery on top of either) with its heads into ``folder``.

    ``encoder`` is the specification that :func:`manyone.nets.build_encoder` understands; ``info`` is free JSON data.
    """
    folder = Path(folder)
    tensors, parts = _describe(network)
    tensors |= {f"head.{name}": value for name, value in head_tensors(heads).items()}
    config = {
        "encoder": dict(encoder),
        "network": parts,
        "heads": head_config(heads),
        "info": dict(info or {}),
    }
    write_model(folder, tensors, config, _card(parts[-1]["method"], list(heads)), merge=_mergeable(network))


def _mergeable(network: nn.Module) -> Mergeable:
    """Of a plain encoder its parameters are merged, and the merged model has the heads of all tasks."""
    if isinstance(network, Surgery | SurgeryV2 | WeightEnsemblingMoE):
        return Mergeable(never="it is made of several models already (routers, corrections): merge its experts anew")
    heads: dict[str, Any] = {"united": ("head.*",), "united_entries": ("heads",)}
    return Mergeable(weights=("part0.*",), fixed=buffers_of(network, "part0."), described=("info",), **heads)


def load(folder: StrPath, device: str = "cpu") -> MergedModel:
    """The model that :func:`save` wrote, frozen, in evaluation mode."""
    config, tensors = read_model(folder, "a merged model", ("encoder", "network", "heads"))
    with made_of(Path(folder) / CONFIG, tensors):
        network: nn.Module = _encoder(config["encoder"])
        for place, part in enumerate(config["network"]):
            own = below(tensors, f"part{place}.")
            if part["method"] == "encoder":
                load_weights(network, own, Path(folder) / WEIGHTS)
            elif part["method"] == "wemoe":
                network = WeightEnsemblingMoE.from_artefact(network, own, part)
            else:
                network = surgery.from_artefact(network, part["surgery"], own)
        heads = heads_from(below(tensors, "head."), config["heads"])
        return MergedModel(network.eval().requires_grad_(False), heads, config["info"]).to(device)


def _encoder(spec: Mapping[str, Any]) -> nn.Module:
    if spec.get("kind") == "hf-classifier":
        return build_classifier(spec)
    return build_encoder(spec)


def _describe(network: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors by part, and the parts from the inside out."""
    if isinstance(network, Surgery | SurgeryV2):
        tensors, parts = _describe(network.merged)
        own: Mapping[str, Tensor] = network.correction_state()
        config: dict[str, Any] = {"method": network.kind, "surgery": network.config()}
    elif isinstance(network, WeightEnsemblingMoE):
        tensors, parts = {}, []
        own, config = network.state_for_artefact()
    else:
        tensors, parts = {}, []
        own, config = network.state_dict(), {"method": "encoder"}
    tensors |= {f"part{len(parts)}.{name}": value for name, value in own.items()}
    return tensors, [*parts, config]


def _card(method: str, tasks: Sequence[str]) -> str:
    return (
        f"# A merged model ({method})\n\nOne model for {len(tasks)} tasks: {', '.join(tasks)}.\n\n"
        "```python\nfrom manyone.merging import load\n\n"
        f'model = load(".")                        # this folder\nlogits = model(inputs, task="{tasks[0]}")\n```\n'
    )
