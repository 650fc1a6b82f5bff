"""The standard artefact of a merged model that is more than a set of weights: one folder that a fresh process loads.

    from manyone.merging import load
    model = load("runs/first/model")
    logits = model(images, task="mnist")

``model.safetensors`` holds every tensor (the merged encoder, routers and task vectors, corrections, heads),
``config.json`` how they belong together, ``README.md`` the lines above. Nothing is pickled.

A network of the user's own is saved without its code: whoever loads it gives an instance, whose weights do not matter,

    save("mine", moe, heads=heads)
    model = load("mine", encoder=MyNetwork())

and nothing is imported because a file says so.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyone.data.tasks import Inputs
from manyone.engine.artefact import CONFIG, WEIGHTS, below, buffers_of, load_weights, made_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError
from manyone.merging.adaptation.adamerging import MergedEncoder
from manyone.merging.experts.bundle import head_config, head_tensors, heads_from
from manyone.merging.experts.hf import build_encoder as build_hugging_face
from manyone.merging.experts.hf import is_language_model
from manyone.merging.heads import Head, OwnLogits
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.merging.outputs import features_of, generates
from manyone.merging.surgery import model as surgery
from manyone.merging.surgery.model import Surgery, SurgeryV2
from manyone.nets import build_encoder
from manyone.weights.open import StrPath

OWN = "own"
"""The kind of an encoder that is the caller's own class."""


class MergedModel(nn.Module):
    """One model for all tasks: a merged network and the frozen heads.

    ``model(inputs)`` gives features [n, d] (not for surgery, which must know the task); ``model(inputs, task)`` logits
    [n, classes]. Of a causal language model ``model(inputs)`` are the logits [n, V] of the token after each prompt, and
    ``model.generate(inputs)`` goes on.
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
            return features_of(self.network, inputs)
        if task is None:
            raise ManyoneError(f"surgery corrects per task: give the task, one of {', '.join(self.heads)}")
        return self.network(inputs, task)

    def forward(self, inputs: Inputs, task: str | None = None) -> Tensor:
        """Logits [n, classes] of ``task``, or features [n, d] without one."""
        if task is None:
            return self.features(inputs)
        if task not in self.heads:
            raise ManyoneError(f"no head for task {task!r}: this model has {', '.join(self.heads) or 'none'}")
        feature = self.features(inputs, task)
        return self.heads[task].to(feature.device)(feature)

    @torch.no_grad()
    def generate(self, inputs: Any, **options: Any) -> Any:
        """Continues prompts, ``inputs`` as a tokeniser returns them; ``options`` are those of Hugging Face."""
        if isinstance(self.network, WeightEnsemblingMoE):
            return self.network.generate(inputs, **options)
        if not generates(self.network):
            raise ManyoneError(f"{type(self.network).__name__} is no language model: it cannot generate")
        given = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs)
        return self.network.generate(**given, **options)  # type: ignore[operator]


def save(
    folder: StrPath,
    network: nn.Module,
    encoder: Mapping[str, Any] | None = None,
    heads: Mapping[str, Head | nn.Linear] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``network`` (a plain encoder, WEMoE, or surgery on top of either) with its heads into ``folder``.

    ``encoder`` is the specification that :func:`manyone.nets.build_encoder` understands; without one the network is the
    caller's own, and :func:`load` is given an instance of it. ``info`` is free JSON data.
    """
    folder = Path(folder)
    network = network.fold() if isinstance(network, MergedEncoder) else network
    known = {t: _plain_head(t, h) for t, h in (heads or {}).items() if not isinstance(h, OwnLogits)}
    tensors, parts = _describe(network)
    tensors |= {f"head.{name}": value for name, value in head_tensors(known).items()}
    config: dict[str, Any] = {
        "encoder": {"kind": OWN, "class": type(_innermost(network)).__name__} if encoder is None else dict(encoder),
        "network": parts,
        "heads": head_config(known),
        "info": dict(info or {}),
    }
    card = _card(parts[-1]["method"], list(known), config["encoder"])
    write_model(folder, tensors, config, card, merge=_mergeable(network))


def _mergeable(network: nn.Module) -> Mergeable:
    """Of a plain encoder its parameters are merged, and the merged model has the heads of all tasks."""
    if isinstance(network, Surgery | SurgeryV2 | WeightEnsemblingMoE):
        return Mergeable(never="it is made of several models already (routers, corrections): merge its experts anew")
    heads: dict[str, Any] = {"united": ("head.*",), "united_entries": ("heads",)}
    return Mergeable(weights=("part0.*",), fixed=buffers_of(network, "part0."), described=("info",), **heads)


def load(folder: StrPath, device: str = "cpu", *, encoder: nn.Module | None = None) -> MergedModel:
    """The model that :func:`save` wrote, frozen, in evaluation mode.

    ``encoder``: for a network of your own, an instance of it; it is copied, and its weights do not matter.
    """
    config, tensors = read_model(folder, "a merged model", ("encoder", "network", "heads"))
    with made_of(Path(folder) / CONFIG, tensors):
        network = _encoder(config["encoder"], folder) if encoder is None else copy.deepcopy(encoder)
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


def _encoder(spec: Mapping[str, Any], folder: StrPath) -> nn.Module:
    if spec.get("kind") == OWN:
        raise ManyoneError(
            f"{folder}: the network was its maker's own class, {spec.get('class')!r}: give an instance of it, "
            "load(folder, encoder=...)"
        )
    if spec.get("kind") == "hf-classifier" or is_language_model(spec):
        return build_hugging_face(spec)
    return build_encoder(spec)


def _innermost(network: nn.Module) -> nn.Module:
    if isinstance(network, Surgery | SurgeryV2):
        return _innermost(network.merged)
    return network.encoder if isinstance(network, WeightEnsemblingMoE) else network


def _plain_head(task: str, head: Any) -> Head:
    if isinstance(head, nn.Linear):
        return Head(head.weight.detach(), None if head.bias is None else head.bias.detach(), normalise=False)
    if not isinstance(head, Head):
        raise ManyoneError(
            f"the head of task {task!r} is a {type(head).__name__}: only a Head or an nn.Linear is saved"
        )
    return head


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


def _card(method: str, tasks: Sequence[str], encoder: Mapping[str, Any]) -> str:
    opened = (
        'load(".", encoder=MyNetwork())   # ' if encoder.get("kind") == OWN else 'load(".")                        # '
    )
    title = f"One model for {len(tasks)} tasks: {', '.join(tasks)}." if tasks else "One model."
    if is_language_model(encoder):
        title = "One language model."
        lines = "new = model.generate(tokenizer(prompts, return_tensors='pt', padding=True), max_new_tokens=20)"
    else:
        lines = f'logits = model(inputs, task="{tasks[0]}")' if tasks else "features = model(inputs)"
    return (
        f"# A merged model ({method})\n\n{title}\n\n"
        f"```python\nfrom manyone.merging import load\n\nmodel = {opened}this folder\n{lines}\n```\n"
    )
