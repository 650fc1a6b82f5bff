"""The tokeniser and chat template of the output, made with transformers of files alone: no code of a model is run.

The union keeps the base's tokens and their numbers and appends what the other models have besides, in the order of the
recipe and of their numbers. Without a tokeniser in the recipe only the chat template is written.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from manyone.engine.documents import LARGEST_JSON, loads_json, read_json, read_text
from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.merging.static.files import hf_config
from manyone.merging.static.mergekit.schema import Complaints, Recipe, Vocabulary
from manyone.merging.static.mergekit.vocabulary import Tokens

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary_size(folder: Path) -> int | None:
    """The number of rows of the model's tables, by its configuration."""
    config = hf_config(folder / "config.json")
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return size if type(size) is int and size > 0 else None


def vocabulary_entries(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """What config.json has to say of a vocabulary of so many rows."""
    inner = config.get("text_config")
    if "vocab_size" not in config and isinstance(inner, dict):
        return {"text_config": {**inner, "vocab_size": rows}}
    return {"vocab_size": rows}


def build_tokens(
    no: Complaints, recipe: Recipe, vocabulary: Vocabulary, folders: Mapping[str, Path | None]
) -> tuple[Tokens, Any, list[str]]:
    """The vocabularies, the output's tokeniser, and notes; ``folders`` are the models' (None: a lone file)."""
    transformers = need("transformers", "a recipe with a tokenizer", "text")
    notes = []
    base = recipe.base if recipe.base is not None else recipe.models[0]
    loaded: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for model, folder in folders.items():
        if folder is None:
            raise ManyoneError(f"{no.path}: {model} is no folder with a config.json and a tokeniser; name the folder")
        size = vocabulary_size(folder)
        if any((folder / name).is_file() for name in _FILES[:1] + _FILES[4:10]):
            loaded[model] = _load(transformers, folder)
        elif model == base:
            raise ManyoneError(f"{folder}: has no tokeniser, and the recipe's tokenizer needs the base's; add it there")
        else:
            notes.append(f"{folder}: has no tokeniser; taken to have the tokens of {base}")
        sizes[model] = size if size is not None else len(loaded.get(model, loaded.get(base, ())))
    chosen = base if vocabulary.source == "base" else vocabulary.source
    if chosen != "union" and chosen not in loaded:
        raise no.refuse(
            "tokenizer source", chosen, f"must be union, base or a model of the recipe: {', '.join(loaded)}"
        )
    if chosen in ("union", base):
        loaded[base] = _stripped(transformers, loaded[base], folders[base], sizes[base])
    result = _copy(transformers, loaded[base if chosen == "union" else chosen])
    if chosen == "union":
        _add_union(transformers, result, loaded, sizes, base)
    for token in vocabulary.tokens:
        if token not in result.get_vocab():
            result.add_tokens(token)
    own = {model: loaded.get(model, loaded[base]).get_vocab() for model in folders}
    in_order = dict(sorted(result.get_vocab().items(), key=lambda pair: pair[1]))
    return Tokens(in_order, own, sizes, vocabulary.multiple), result, notes


def _load(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # whatever the library stumbles over is a tokeniser that cannot be read
        reason = f"{' '.join(str(problem).split()):.200}"
        raise ManyoneError(f"{folder}: its tokeniser cannot be read ({reason}); correct its files") from problem


def _copy(transformers: Any, tokenizer: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return _load(transformers, Path(folder))


def _stripped(transformers: Any, tokenizer: Any, folder: Path | None, size: int) -> Any:
    """The tokeniser without the tokens that have no row in the model's table."""
    beyond = {token for token, row in tokenizer.get_vocab().items() if row >= size}
    if not beyond:
        return tokenizer
    content = loads_json(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    model = content["model"]
    if model.get("type") != "BPE":
        raise ManyoneError(
            f"{folder}: its tokeniser has {len(beyond)} tokens without a row in the model, and only those of BPE "
            "tokenisers can be left out; remove them"
        )
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["id"] < size]
    model["vocab"] = {token: row for token, row in model["vocab"].items() if token not in beyond}
    pairs = [(merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    model["merges"] = [merge for merge, pair in pairs if not beyond & {*pair, "".join(pair)}]
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        (Path(place) / "tokenizer.json").write_text(json.dumps(content))
        return _load(transformers, Path(place))


def _add_union(transformers: Any, result: Any, loaded: Mapping[str, Any], sizes: Mapping[str, int], base: str) -> None:
    added: dict[str, Any] = {}
    words: dict[str, None] = {}
    for model in sorted(loaded, key=lambda name: name != base):  # the base first, then as the recipe has them
        tokenizer = loaded[model]
        special = tokenizer.added_tokens_decoder
        for row, info in sorted(special.items()):
            if row < sizes[model]:
                added.setdefault(info.content, info)
        names = {info.content for info in special.values()}
        for token, row in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
            if row < sizes[model] and token not in names:
                words.setdefault(token)
    known = result.get_vocab()
    for token in words:
        if token not in added and token not in known:
            result.add_tokens(token)
    for info in added.values():
        result.add_tokens(info)


# --- what is written ------------------------------------------------------------------------------------------------


def find_template(no: Complaints, recipe: Recipe, folders: Mapping[str, Path | None]) -> str | None:
    """The chat template that the recipe asks for: the most frequent of the models', a known one, or its own text."""
    wanted = recipe.chat_template
    if not wanted:
        return None
    if wanted == "auto":
        found = [_template_of(folder) for folder in folders.values() if folder is not None]
        counts = Counter(text.strip() for text in found if text)
        return counts.most_common(1)[0][0] if counts else None
    if wanted == "chatml":
        return _CHATML
    if len(wanted) < 20 or "{" not in wanted:
        raise no.refuse("chat_template", wanted, "must be auto, chatml, or the text of a Jinja template")
    return wanted


def _template_of(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja", "the chat template")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    config = read_json(folder / "tokenizer_config.json", "the tokeniser's configuration")
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def writer(tokenizer: Any, template: str | None) -> Callable[[Path], None] | None:
    """Puts tokeniser and template into a folder that holds the base's files, or None where they stay as they are."""
    if tokenizer is None and template is None:
        return None

    def write(folder: Path) -> None:
        if tokenizer is not None:
            for name in _FILES:
                (folder / name).unlink(missing_ok=True)
            if template is not None:
                tokenizer.chat_template = template
            tokenizer.save_pretrained(folder)
            return
        assert template is not None
        (folder / "chat_template.json").unlink(missing_ok=True)
        (folder / "chat_template.jinja").write_text(template)
        path = folder / "tokenizer_config.json"
        if path.is_file():
            config = read_json(path, "the tokeniser's configuration", largest=LARGEST_JSON)
            if isinstance(config, dict) and "chat_template" in config:  # what older readers look at
                path.write_text(json.dumps(config | {"chat_template": template}, indent=2, ensure_ascii=False) + "\n")

    return write
