"""Where teachers and students come from: folders, hub ids, GGUF files, small decoders from scratch, layers left out.

Code of a repository is never run, weights are read from safetensors (or GGUF) alone. Public names: :func:`open_model`,
:func:`open_tokenizer`, :func:`new_decoder`, :func:`drop_layers`, :func:`add_lora`, :func:`without_lora`.
"""

from __future__ import annotations

import contextlib
import copy
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.assets.fetch import materialise
from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.nets.huggingface import read_config, without_code
from manyone.randomness import seed_for
from manyone.sql.parallel import decoder_layers

PACKAGED = {"smollm2-135m": "SmolLM2-135M-Instruct.Q4_1.gguf"}
"""Models that a package registry carries, and their file: they need no hub."""
_NUMBERS = {"second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6}
EVERY = tuple(f"every-{word}-layer" for word in _NUMBERS)


@dataclass(frozen=True)
class Size:
    """A decoder from scratch."""

    layers: int = 2
    width: int = 64
    heads: int | None = None
    """Default: one for every 32 of the width."""


def new_decoder(size: Size, vocabulary: int, *, seed: int, longest: int = 2048, special: Any = None) -> Any:
    """A Llama decoder with tied embeddings and random weights; ``special``: a tokenizer whose ids it takes over."""
    transformers = need("transformers", "a language model", "sql")
    heads = size.heads or max(1, size.width // 32)
    if size.width % (2 * heads):
        raise ManyoneError(f"width {size.width}: must be a multiple of {2 * heads}, twice the number of heads")
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=size.width, intermediate_size=5 * size.width // 2,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=longest, tie_word_embeddings=True,
        bos_token_id=getattr(special, "bos_token_id", None), eos_token_id=getattr(special, "eos_token_id", None),
        pad_token_id=getattr(special, "pad_token_id", None),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "decoder", size.layers, size.width))
        return transformers.LlamaForCausalLM(config)


def open_model(place: str, dtype: torch.dtype = torch.float32) -> Any:
    """The causal LM at ``place``: a folder (also of an adapter), a GGUF file, ``smollm2-135m``, or a hub id."""
    transformers = need("transformers", "a language model", "sql")
    place = local_folder(place)
    adapter = Path(place) / "adapter_config.json"
    if adapter.is_file() and not (Path(place) / "config.json").is_file():
        return _open_adapter(Path(place), dtype)
    _check_place(place)
    config = _no_dropout(read_config(place))
    try:
        with without_bars():
            return transformers.AutoModelForCausalLM.from_pretrained(
                place, config=config, trust_remote_code=False, use_safetensors=True, dtype=dtype
            )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ManyoneError(f"{place}: cannot be opened as a causal language model: {_line(error)}") from error


def open_tokenizer(place: str) -> Any:
    """The tokenizer at ``place``, see :func:`open_model`."""
    transformers = need("transformers", "a tokenizer", "sql")
    place = local_folder(place)
    _check_place(place)
    try:
        return transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ManyoneError(f"{place}: its tokenizer cannot be opened: {_line(error)}") from error


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers shows no progress of its own: what takes long says so itself."""
    logging = need("transformers", "a language model", "sql").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def local_folder(place: str) -> str:
    """``place`` as transformers opens it: packaged models and GGUF files become folders of the cache."""
    if place in PACKAGED:
        return str(_from_gguf(materialise(place) / PACKAGED[place], place))
    if place.endswith(".gguf"):
        path = Path(place)
        if not path.is_file():
            raise ManyoneError(f"{place}: no such file")
        stat = path.stat()
        return str(_from_gguf(path, f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"))
    folder = Path(place)
    return str(folder / "model") if (folder / "model" / "config.json").is_file() else place


def drop_layers(model: Any, every: int) -> Any:
    """A student of every ``every``-th layer of ``model`` (the first, and so on), with its embeddings and head."""
    number = model.config.num_hidden_layers
    kept = list(range(0, number, every))
    if len(kept) == number:
        raise ManyoneError(f"every {every} layers of {number}: nothing is left out")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    for name in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        if isinstance(listed := getattr(config, name, None), list) and len(listed) == number:
            setattr(config, name, [listed[i] for i in kept])
    for name in ("max_window_layers", "num_kv_shared_layers"):
        if isinstance(value := getattr(config, name, None), int):
            setattr(config, name, min(value, len(kept)))
    with torch.random.fork_rng(devices=[]):
        student = type(model)(config).to(model.dtype)
    prefix = _layers_name(model)
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    state = {}
    for name, value in model.state_dict().items():
        if (layer := pattern.match(name)) is None:
            state[name] = value
        elif int(layer[1]) in kept:
            state[f"{prefix}.{kept.index(int(layer[1]))}.{name[layer.end() :]}"] = value
    student.load_state_dict(state)
    return student


def dropped(word: str) -> int | None:
    """3 for "every-third-layer"; None for what is no such word."""
    found = re.fullmatch(r"every-(\w+)-layer", word)
    if found is None:
        return None
    if found[1] not in _NUMBERS:
        raise ManyoneError(f"--student {word}: must be one of {', '.join(EVERY)}, or a place")
    return _NUMBERS[found[1]]


def add_lora(model: Any, rank: int, alpha: float, *, dropout: float = 0.0, seed: int = 0) -> Any:
    """``model`` with low-rank adapters on all projections of attention and MLP; they alone are trainable."""
    peft = need("peft", "LoRA", "sql")
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear",
                               task_type="CAUSAL_LM")  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "lora", rank))
        return peft.get_peft_model(model, settings)


def without_lora(model: Any) -> Any:
    """A copy with its adapters merged into the weights; a model without adapters as it is."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _open_adapter(folder: Path, dtype: torch.dtype) -> Any:
    peft = need("peft", "an adapter", "sql")
    file = folder / "adapter_config.json"
    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        base = settings.base_model_name_or_path
        if not base or (Path(base) / "adapter_config.json").is_file():
            raise ManyoneError(f"{file}: base model {base!r}: must be a whole model, not an adapter")
        if getattr(settings, "megatron_config", None):  # PEFT imports the module that it names
            raise ManyoneError(f"{file}: megatron_config names code that is never run: remove the entry")
        model = open_model(base, dtype)
        with without_bars():
            return peft.PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ManyoneError(f"{folder}: cannot be opened as an adapter: {_line(error)}") from error


def _check_place(place: str) -> None:
    """A folder that is there, or what may be a hub id."""
    path = Path(place)
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        raise ManyoneError(f"{place}: no config.json: give a Hugging Face folder, or the model folder of a run")
    if not path.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", place):
        raise ManyoneError(f"{place}: no such folder, and not the id of a model on the hub")


def _from_gguf(file: Path, name: str) -> Path:
    """The folder of the cache with the de-quantised model of a GGUF file, in float32."""
    transformers = need("transformers", "a GGUF model", "sql-models")
    need("gguf", "a GGUF model", "sql-models")
    target = cache_folder("sql-models") / re.sub(r"[^\w.-]", "_", name)
    with locked(f"gguf-{target.name}"):
        if not (target / "config.json").is_file():
            with workspace() as place:
                folder = place / "model"
                try:
                    config = _no_dropout(without_code(transformers.AutoConfig.from_pretrained(
                        str(file.parent), gguf_file=file.name, trust_remote_code=False)))  # fmt: skip
                    with without_bars():
                        model = transformers.AutoModelForCausalLM.from_pretrained(
                            str(file.parent), gguf_file=file.name, config=config, dtype=torch.float32)  # fmt: skip
                    tokenizer = transformers.AutoTokenizer.from_pretrained(
                        str(file.parent), gguf_file=file.name, trust_remote_code=False)  # fmt: skip
                # whatever a damaged file makes of the reader of gguf and transformers is one line about that file
                except (OSError, ValueError, LookupError, ImportError, NotImplementedError, RuntimeError, TypeError,
                        AttributeError, OverflowError, struct.error) as error:  # fmt: skip
                    raise ManyoneError(f"{file}: cannot be read as a GGUF model: {_line(error)}") from error
                with without_bars():
                    _plain(model).save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                folder.rename(target)
    return target


def _plain(model: Any) -> Any:
    """A de-quantised model as one that never was quantised, which can be saved."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        whole = type(model)(config)
    whole.load_state_dict(model.state_dict())
    return whole


def _no_dropout(config: Any) -> Any:
    """The configuration without dropout: a batch has one loss, whatever it is split into."""
    for name in ("dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout"):
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    return config


def _layers_name(model: nn.Module) -> str:
    layers = decoder_layers(model.base_model)  # type: ignore[arg-type]
    return next(name for name, module in model.named_modules() if module is layers)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
