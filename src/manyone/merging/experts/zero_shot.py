"""Zero-shot heads of CLIP: one row a class, made from prompts by the text tower.

Each class name is put into every prompt template, embedded, normalised; the mean over templates, normalised again, is
the class's row of W, and exp(logit_scale) the head's scale (Radford et al., 2021). Heads are cached as safetensors
under a key of the model, the class names and the templates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyone.engine.files import part_beside, writing
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.nets.huggingface import read_config
from manyone.weights.open import StrPath

TEMPLATES = ("a photo of a {}.",)
Tokenizer = Callable[..., Mapping[str, Tensor]]


def zero_shot_heads(
    model: StrPath | Any,
    classes: Mapping[str, Sequence[str]],
    templates: Sequence[str] | Mapping[str, Sequence[str]] = TEMPLATES,
    *,
    cache: StrPath | None = None,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 64,
) -> dict[str, Head]:
    """One head a task from its class names.

    Args:
        model: a CLIP folder or hub id, or a loaded ``CLIPModel`` (then ``tokenizer`` is needed and nothing cached).
        classes: class names per task, in label order.
        templates: prompts with one ``{}``, for all tasks or per task.
        cache: folder of the cached heads.
        tokenizer: called as a Hugging Face tokenizer is; by default the model's own.
    """
    loaded: list[Any] = []

    def tower() -> tuple[Any, Tokenizer]:
        if not loaded:
            loaded.extend(_tower(model, tokenizer))
        return loaded[0], loaded[1]

    heads = {}
    for task, names in classes.items():
        prompts = templates[task] if isinstance(templates, Mapping) else templates
        if not prompts or any("{}" not in p for p in prompts):
            raise ManyoneError(f"task {task!r}: every prompt template needs a {{}} for the class name")
        path = None
        if cache is not None and isinstance(model, str | os.PathLike):
            path = Path(cache) / f"{_key(model, names, prompts)}.safetensors"
        found = None if path is None else _cached(path)
        if found is None:
            found = _embedded(*tower(), names, prompts, batch_size)
            if path is not None:
                with writing(path), part_beside(path) as part:
                    save_tensors(found, part / path.name)
                    (part / path.name).replace(path)
        heads[task] = Head(found["weight"], None, float(found["scale"]), normalise=True)
    return heads


def _cached(path: Path) -> dict[str, Tensor] | None:
    """The cached head; a damaged file counts as absent and is written anew."""
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except SafetensorError:
        return None


def _tower(model: StrPath | Any, tokenizer: Tokenizer | None) -> tuple[Any, Tokenizer]:
    if not isinstance(model, str | os.PathLike):
        if tokenizer is None:
            raise ManyoneError("a loaded CLIP model needs tokenizer= to make zero-shot heads")
        return model.eval(), tokenizer
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError as error:
        raise ManyoneError("zero-shot heads need transformers: pip install 'manyone[text]'") from error
    try:
        read_config(str(model))
        clip = CLIPModel.from_pretrained(str(model), dtype=torch.float32, trust_remote_code=False).eval()
        return clip, tokenizer or AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{model}: cannot be loaded as a CLIP model ({str(error).splitlines()[0]})") from error


@torch.no_grad()
def _embedded(
    clip: Any, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str], batch_size: int
) -> dict[str, Tensor]:
    texts = [t.format(name.replace("_", " ")) for name in names for t in templates]
    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizer(texts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
        states = clip.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        rows.append(F.normalize(clip.text_projection(states.pooler_output), dim=-1))
    mean = torch.cat(rows).view(len(names), len(templates), -1).mean(1)
    return {"weight": F.normalize(mean, dim=-1).contiguous(), "scale": clip.logit_scale.detach().exp().reshape(1)}


def _key(model: StrPath, names: Sequence[str], templates: Sequence[str]) -> str:
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) if folder.is_dir() else []
    identity = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    text = json.dumps([str(model), identity, list(names), list(templates)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
