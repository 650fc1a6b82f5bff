"""Hugging Face checkpoints as encoder, experts and heads, whatever their architecture.

A classifier splits into an encoder and the last linear layer with one output a class: the layer is put aside as the
task's frozen :class:`~manyone.merging.heads.Head` and an identity takes its place, so that the model's logits are the
feature that the head reads. The encoder is an instance of the library's own class (parameter names as in the
checkpoint); only its ``forward`` maps inputs to features. The split is checked: head and encoder together must give the
expert's own logits. CLIP experts are vision towers whose heads come from :mod:`manyone.merging.experts.zero_shot`.
Causal language models stay whole: they are encoder and head in one, and go on to generate.

Public names: :func:`load_experts`, :class:`LoadedExperts`, :func:`find_classifier`, :func:`encoder_of`,
:func:`build_encoder`, :func:`is_language_model`.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from manyone.data.images.pixels import ImageFormat
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.nets.huggingface import read_config, without_code
from manyone.nets.images import normalised
from manyone.weights.open import StrPath

_CLASSIFIER = re.compile(r"(?:^|\.)(?:classifier|score|classification_head|head|out_proj)(?:\.|$)")
_LANGUAGE = ("ForCausalLM", "LMHeadModel")
_CLIP = ("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")


@dataclass(frozen=True)
class LoadedExperts:
    """``encoder`` holds the base's weights; ``experts`` have its names; CLIP and language models have no ``heads``.

    ``classes`` are the names in the expert's configuration (empty where it has only numbers); ``spec`` rebuilds the
    encoder with :func:`build_encoder`.
    """

    encoder: nn.Module
    experts: dict[str, dict[str, Tensor]]
    heads: dict[str, Head]
    classes: dict[str, tuple[str, ...]]
    spec: dict[str, Any]
    notes: tuple[str, ...] = ()


def load_experts(base: StrPath, experts: Mapping[str, StrPath] | Sequence[StrPath]) -> LoadedExperts:
    """Loads a base and experts that were fine-tuned from it.

    Args:
        base: a model folder or hub id; it may lack the classification head.
        experts: per task a folder or hub id; a sequence names the tasks after the folders.

    Parameters that the base lacks but experts train (a pooler, the dense layer of a two-layer head) start at the
    experts' mean; ``notes`` says which.
    """
    if not isinstance(experts, Mapping):
        names = [Path(e).name for e in experts]
        if len(set(names)) != len(names):
            raise ManyoneError(f"two experts have one folder name among {', '.join(names)}: name the tasks")
        experts = dict(zip(names, experts))
    if not experts:
        raise ManyoneError("no expert was named")
    kind: type | None = None
    weights: dict[str, dict[str, Tensor]] = {}
    heads: dict[str, Head] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for task, path in experts.items():
        own = _class_of(path)
        kind = kind or own
        if own is not kind:
            raise ManyoneError(f"{path}: is a {own.__name__} but the first expert is a {kind.__name__}")
        model, missing = _load(own, path)
        if own.__name__ in _CLIP:
            weights[task] = {n: v for n, v in model.state_dict().items() if n not in missing}
            continue
        if missing:
            raise ManyoneError(
                f"{path}: lacks {sorted(missing)[0]!r} of a {own.__name__}: this is no fine-tuned expert"
            )
        if own.__name__.endswith(_LANGUAGE):
            _check_causal(model, path)
            weights[task] = model.state_dict()
            continue
        head_name = find_classifier(model, path)
        layer = model.get_submodule(head_name)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        heads[task] = Head(layer.weight.detach().clone(), bias, normalise=False)
        classes[task] = _class_names(model.config)
        _check_split(model, head_name, heads[task], path)
        prefix = f"{head_name}."
        weights[task] = {n: v for n, v in model.state_dict().items() if not n.startswith(prefix)}
    assert kind is not None
    model, missing = _load(kind, base)
    if kind.__name__.endswith(_LANGUAGE):
        notes = _complete(model, weights, missing, None)
        spec = {
            "kind": "hf-causal-lm",
            "class": kind.__name__,
            "config": json.loads(model.config.to_json_string(use_diff=False)),
            "generation": json.loads(model.generation_config.to_json_string(use_diff=True)),
        }
        return LoadedExperts(model.requires_grad_(False), weights, {}, {}, spec, notes)
    head = None if kind.__name__ in _CLIP else find_classifier(model, base)
    shape = _image_format(model, [base, *experts.values()])
    encoder = encoder_of(model, head, shape)
    notes = _complete(encoder, weights, missing, head)
    spec = {
        "kind": "hf-classifier",
        "class": kind.__name__,
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "classifier": head,
        "mean": list(shape.mean) if shape else None,
        "std": list(shape.std) if shape else None,
    }
    return LoadedExperts(encoder, weights, heads, classes, spec, notes)


def find_classifier(model: nn.Module, path: StrPath = "the model") -> str:
    """The name of the last ``nn.Linear`` with ``config.num_labels`` outputs, rather one that is named a classifier."""
    labels = int(model.config.num_labels)  # type: ignore[union-attr, arg-type]
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == labels]
    named = [n for n in found if _CLASSIFIER.search(n)]
    if not found:
        raise ManyoneError(f"{path}: {type(model).__name__} has no linear layer with num_labels = {labels} outputs")
    return (named or found)[-1]


def encoder_of(model: nn.Module, classifier: str | None, shape: ImageFormat | None = None) -> nn.Module:
    """Turns a loaded model, in place, into an encoder from inputs to features [B, d].

    Images are uint8 or in [0, 1] and normalised inside; text comes as ``input_ids`` and ``attention_mask``.
    """
    if classifier is not None:
        model.set_submodule(classifier, nn.Identity())
    base = type(model)
    forward: Callable[..., Tensor]
    if _reads_images(model):
        shape = shape or ImageFormat()
        forward = _image_forward(base, "image_embeds" if classifier is None else "logits", shape)
    else:
        forward = _text_forward(base, _pad_id(model.config))
        model.config.use_cache = False  # type: ignore[union-attr]
    model.__class__ = type(base.__name__, (base,), {"forward": forward, "library_forward": base.forward})
    return model.eval()


def is_language_model(spec: Mapping[str, Any]) -> bool:
    """Whether :attr:`LoadedExperts.spec` is that of a causal language model."""
    return spec.get("kind") == "hf-causal-lm"


def build_encoder(spec: Mapping[str, Any]) -> nn.Module:
    """The encoder of :attr:`LoadedExperts.spec`, with random weights."""
    transformers = _transformers()
    named = getattr(transformers, spec["class"])
    settings = {k: v for k, v in spec["config"].items() if k not in ("architectures", "transformers_version")}
    if not (isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)):
        raise TypeError(f"{spec['class']} is no model of transformers")
    kind: Any = named
    model = kind(without_code(kind.config_class.from_dict(settings)))
    if is_language_model(spec):
        model.generation_config = transformers.GenerationConfig.from_dict(dict(spec["generation"]))
        return model.eval()
    shape = None if spec["mean"] is None else ImageFormat(mean=tuple(spec["mean"]), std=tuple(spec["std"]))
    return encoder_of(model, spec["classifier"], shape)


def _image_forward(base: Any, output: str, shape: ImageFormat) -> Callable[..., Tensor]:
    def forward(self: Any, images: Tensor) -> Tensor:
        pixels = normalised(images, shape.mean, shape.std, self.dtype)
        return getattr(base.forward(self, pixel_values=pixels), output)

    return forward


def _text_forward(base: Any, pad: int) -> Callable[..., Tensor]:
    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Tensor) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids = input_ids.masked_fill(attention_mask == 0, pad)  # how decoders find the last token
        return base.forward(self, input_ids=input_ids, attention_mask=attention_mask, **others).logits

    return forward


def _pad_id(config: Any) -> int:
    """The padding id; set to the end-of-text id (or 0) in configurations without one, as decoders often are."""
    if config.pad_token_id is None:
        end = config.eos_token_id
        end = end[0] if isinstance(end, list | tuple) else end
        config.pad_token_id = 0 if end is None else int(end)
    return int(config.pad_token_id)


def _reads_images(model: nn.Module) -> bool:
    return getattr(model, "main_input_name", "input_ids") == "pixel_values"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ManyoneError("Hugging Face checkpoints need transformers: pip install 'manyone[text]'") from error
    return transformers


def _class_of(path: StrPath) -> type:
    """The library's class for a checkpoint, from ``architectures`` in its configuration."""
    transformers = _transformers()
    try:
        config = read_config(str(path))
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{path}: no readable Hugging Face model ({str(error).splitlines()[0]})") from error
    name = (config.architectures or ["none"])[0]
    if name in _CLIP:
        name = "CLIPVisionModelWithProjection"
    elif not name.endswith(("ForImageClassification", "ForSequenceClassification", *_LANGUAGE)):
        raise ManyoneError(
            f"{path}: its architecture is {name}; experts must be image or sequence classifiers, CLIP vision models or "
            "causal language models"
        )
    return getattr(transformers, name)


def _load(kind: Any, path: StrPath) -> tuple[Any, set[str]]:
    """The model in fp32, and the names of parameters that the checkpoint lacks."""
    logging = _transformers().logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
    try:
        config = read_config(str(path))
        if hasattr(config, "vision_config"):
            options["config"] = config.vision_config
            options["config"].projection_dim = config.projection_dim
        model, info = kind.from_pretrained(str(path), **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise ManyoneError(f"{path}: cannot be loaded as a {kind.__name__} ({_first_line(error)})") from error
    finally:
        logging.set_verbosity(level)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ManyoneError(f"{path}: NaN or Inf in tensor {name!r}")
    return model.eval(), set(info["missing_keys"])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _class_names(config: Any) -> tuple[str, ...]:
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return () if all(re.fullmatch(r"LABEL_\d+", n) for n in names) else names


def _complete(
    encoder: nn.Module, weights: Mapping[str, dict[str, Tensor]], missing: set[str], head: str | None
) -> tuple[str, ...]:
    """Gives base and experts the same names: what the base lacks is the experts' mean, and the other way round."""
    state, filled = encoder.state_dict(), []
    with torch.no_grad():
        for name, value in state.items():
            having = [w[name] for w in weights.values() if name in w]
            for task, own in weights.items():
                if name in own and own[name].shape != value.shape:
                    raise ManyoneError(
                        f"expert {task!r}: {name!r} is {tuple(own[name].shape)} but {tuple(value.shape)} in the base"
                    )
                own.setdefault(name, value.clone())
            if name in missing and having and value.is_floating_point():
                value.copy_(torch.stack(having).mean(0))
                filled.append(name)
    return (f"the base lacks {', '.join(filled)}: the experts' mean stands in",) if filled else ()


def _image_format(model: nn.Module, paths: Sequence[StrPath]) -> ImageFormat | None:
    if not _reads_images(model):
        return None
    for path in paths:
        if (Path(path) / "preprocessor_config.json").is_file():
            return ImageFormat.of_model(Path(path))
        if not Path(path).is_dir() and (found := _hub_format(path)) is not None:
            return found
    return ImageFormat()


def _hub_format(path: StrPath) -> ImageFormat | None:
    from transformers.utils.hub import cached_file

    file = cached_file(str(path), "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    return None if file is None else ImageFormat.of_model(Path(file).parent)


def _check_split(model: nn.Module, classifier: str, head: Head, path: StrPath) -> None:
    """Head and encoder must reproduce the model's logits on a probe."""
    encoder = encoder_of(copy.deepcopy(model), classifier)
    probe = _probe(model)
    with torch.no_grad():
        wanted = model(**probe).logits
        inputs = dict(probe)
        if "pixel_values" in inputs:
            shape = ImageFormat()
            feature = encoder(inputs["pixel_values"] * shape.std[0] + shape.mean[0])
        else:
            feature = encoder(**inputs)
    if (
        feature.ndim != 2
        or feature.shape[1] != head.weight.shape[1]
        or not torch.allclose(head(feature), wanted, rtol=1e-3, atol=1e-4)
    ):
        raise ManyoneError(
            f"{path}: the logits of {type(model).__name__} are not its layer {classifier!r} applied to one feature, so "
            "it cannot be split into encoder and head"
        )


@torch.no_grad()
def _check_causal(model: nn.Module, path: StrPath) -> None:
    """The last token of a probe must not change the logits before it."""
    ids = _probe(model)["input_ids"]
    changed = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    one, other = (model(input_ids=tokens).logits[:, :-1] for tokens in (ids, changed))
    if model.config.is_encoder_decoder or not torch.allclose(one, other, rtol=1e-4, atol=1e-5):  # type: ignore[union-attr]
        raise ManyoneError(
            f"{path}: {type(model).__name__} is no causal language model: later tokens change its logits"
        )


def _probe(model: nn.Module) -> dict[str, Tensor]:
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    if _reads_images(model):
        size = getattr(config, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.randn(2, channels, height, width, generator=generator)}
    ids = torch.randint(1, min(config.vocab_size, 100), (2, 7), generator=generator)
    pad, end = _pad_id(config), config.eos_token_id
    ids[ids == pad] = (pad + 1) % config.vocab_size
    if isinstance(end, int):
        ids[ids == end] = (end + 1) % config.vocab_size
        ids[:, -1] = end if end != pad else ids[:, -1]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
