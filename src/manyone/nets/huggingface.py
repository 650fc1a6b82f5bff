"""Encoders that are Hugging Face models with a pooled output; they load the library's own checkpoints strictly.

Each encoder is an instance of a subclass of the library's own class whose ``forward`` maps inputs to features [n, d];
``save_pretrained`` and friends keep working. ``transformers`` is imported when one is built, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.nets.images import normalised

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Pool = Literal["mean", "token"]

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "dropout",
    "activation_dropout",
)


def sentence_encoder(config: Mapping[str, Any]) -> nn.Module:
    """BERT with the mean of its last hidden states over the attention mask: (input_ids, attention_mask) -> [n, d].

    ``config`` is the content of the checkpoint's ``config.json``. Dropout is off in training as well: fine-tuning is
    short, and the same batch then gives the same numbers.
    """
    transformers = _transformers()
    built = _without_dropout(without_code(transformers.BertConfig(**config)))
    encoder = _with_forward(transformers.BertModel, _pooled_text("mean"))(built)
    encoder.register_load_state_dict_pre_hook(_drop_position_ids)
    return encoder


def clip_vision(
    config: Mapping[str, Any], mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> nn.Module:
    """CLIP's vision tower and projection: images uint8 or float in [0, 1], [n, 3, S, S], -> [n, projection_dim].

    The feature is not normalised; the head does that. ``config`` is the ``vision_config`` of the checkpoint with its
    ``projection_dim``.
    """
    transformers = _transformers()
    base = transformers.CLIPVisionModelWithProjection

    def forward(self: Any, images: Tensor) -> Tensor:
        pixels = normalised(images, mean, std, self.visual_projection.weight.dtype)
        return base.forward(self, pixel_values=pixels).image_embeds

    return _with_forward(base, forward)(without_code(transformers.CLIPVisionConfig(**config)))


def auto_encoder(
    config: Mapping[str, Any],
    pool: Pool = "mean",
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> nn.Module:
    """Any encoder that ``AutoModel`` knows, from its ``config.json``: text models and vision transformers.

    ``pool`` is "mean" (over the attention mask, or over all tokens of an image) or "token" (the first one).
    """
    transformers = _transformers()
    if "model_type" not in config:
        raise ManyoneError("an encoder of kind 'hf' needs 'model_type' in its config, as config.json has it")
    settings = {k: v for k, v in config.items() if k != "model_type"}
    built = _without_dropout(without_code(transformers.AutoConfig.for_model(config["model_type"], **settings)))
    base = transformers.AutoModel._model_mapping[type(built)]
    forward = _pooled_text(pool) if hasattr(built, "vocab_size") else _pooled_images(pool, mean, std)
    return _with_forward(base, forward)(built)


def read_config(path: str) -> Any:
    """The configuration of a checkpoint (folder or hub id), whose own code is never run."""
    return without_code(_transformers().AutoConfig.from_pretrained(path, trust_remote_code=False), path)


def without_code(config: Any, path: str = "config.json") -> Any:
    """``config``; ``ManyoneError`` where it names a repository whose kernels, which are code, the library would run."""
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        for name in ("_attn_implementation", "_experts_implementation"):
            if "/" in str(getattr(part, name, None)):
                raise ManyoneError(
                    f"{path}: {name.lstrip('_')} {getattr(part, name)} is code from a hub, which is never run: remove "
                    "the entry from config.json"
                )
    return config


def _drop_position_ids(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Checkpoints of transformers < 4.31 also store the constant 0, 1, 2, ... of the position look-up."""
    state.pop("embeddings.position_ids", None)


def _transformers() -> Any:
    return need("transformers", "this encoder", "text")


def _without_dropout(config: Any) -> Any:
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _with_forward(base: Any, forward: Callable[..., Tensor]) -> type:
    """A subclass of ``base`` under the same name (saved configurations record it) with another ``forward``.

    The library's own forward stays reachable as ``_states``.
    """
    return type(base.__name__, (base,), {"forward": forward, "_states": base.forward})


def _pooled_text(pool: Pool) -> Callable[..., Tensor]:
    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states = self._states(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if pool == "token":
            return states[:, 0]
        weight = attention_mask.to(states.dtype)[:, :, None]
        return (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)

    return forward


def _pooled_images(pool: Pool, mean: Sequence[float], std: Sequence[float]) -> Callable[..., Tensor]:
    def forward(self: Any, images: Tensor) -> Tensor:
        pixels = normalised(images, mean, std, self.dtype)
        states = self._states(pixel_values=pixels).last_hidden_state
        return states[:, 0] if pool == "token" else states.mean(1)

    return forward
