"""Tokenizers: a byte-level BPE trained on the data, equality of two by content, and the special ids that KID needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.sql.imperfect import Tokens
from manyone.sql.language_model import MASK

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
_PROBES = (
    "SELECT count(*) FROM singer WHERE age > 30 AND name = 'Joe''s'",
    "database schema :\ntable t , columns = [ t.a ( text | primary key ) ]\n  naïve Ångström 数据",
)
MASK_TOKENS = ("auto", "bos", "eos", "pad", "added")


def train_tokenizer(texts: Iterable[str], vocabulary: int = 800) -> Any:
    """A byte-level BPE of at most ``vocabulary`` tokens (with padding, begin and end) as a transformers tokenizer."""
    tokenizers = need("tokenizers", "training a tokenizer", "sql")
    if vocabulary < 259:
        raise ManyoneError(f"vocabulary = {vocabulary}: must be at least 259: 256 bytes and three special tokens")
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, BEGIN, END], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    own.train_from_iterator(texts, trainer)
    fast = need("transformers", "a tokenizer", "sql").PreTrainedTokenizerFast
    return fast(tokenizer_object=own, pad_token=PAD, bos_token=BEGIN, eos_token=END, clean_up_tokenization_spaces=False)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does: its vocabulary, its merges, and how it reads a few lines of SQL.

    Names and files say nothing: two families share a tokenizer exactly when this is equal.
    """
    merges: Sequence[Any] = ()
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        merges = json.loads(fast.to_str())["model"].get("merges") or ()
    plain = [m if isinstance(m, str) else " ".join(m) for m in merges]
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": plain,
        "probes": [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in _PROBES],
    }
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def check_same_tokenizer(student: Any, teacher: Any) -> None:
    """Raises ``ManyoneError`` where teacher and student do not share a tokenizer."""
    if tokenizer_digest(student) != tokenizer_digest(teacher):
        raise ManyoneError(
            f"teacher and student have different tokenizers ({len(teacher)} and {len(student)} tokens): token "
            "distributions can only be compared where a token is the same; choose both of one family"
        )


def padding(tokenizer: Any) -> int:
    """The id that fills batches. Masks go by length, so any will do where a tokenizer has none."""
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    return 0


def rewriting_tokens(tokenizer: Any, mask: str = "auto") -> Tokens:
    """Ids that rewriting needs. ``mask`` is C1: auto (BOS, else a padding-like special token other than the end, else
    the end), bos, eos, pad, added (an untrained embedding outside the vocabulary), or the text of one special token."""
    end = tokenizer.eos_token_id
    if end is None:
        raise ManyoneError("the tokenizer has no end-of-text token: outputs would have no end; set one")
    named = {"bos": tokenizer.bos_token_id, "eos": end, "pad": tokenizer.pad_token_id, "added": MASK}
    if mask == "auto":
        choices = (named["bos"], named["pad"], end)
        found = next((i for i in choices if i is not None and i != end), end)
    elif mask in named:
        found = named[mask]
    else:  # the text of a special token: encoding other text would give several ordinary tokens
        found = tokenizer.convert_tokens_to_ids(mask) if mask in tokenizer.get_vocab() else None
    if found is None:
        raise ManyoneError(f"--mask-token {mask}: the tokenizer has no such single token: use {', '.join(MASK_TOKENS)}")
    special = sorted({*tokenizer.all_special_ids, int(found), int(end)})
    return Tokens(int(found), int(end), tuple(special))
