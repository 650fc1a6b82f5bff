"""A recipe's file as values: which models, which layers of them, which settings. Nothing is opened here.

Every complaint names the file, the key, the value and what to write instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.engine.documents import read_yaml
from manyone.errors import ManyoneError

_TOP = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
)
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_MOST = 1000  # slices, and models of one: a recipe writes them out by hand


@dataclass(frozen=True)
class Scope:
    """Settings at one place of the file; ``where`` is that place in words, for messages."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """One model of a slice; ``layers`` [first, last) are the layers taken, None all of them."""

    model: str
    layers: tuple[int, int] | None
    own: Scope


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the output: of every source equally many, merged one by one."""

    where: str
    sources: list[Source]
    base: str | None
    common: list[Scope]
    """Settings for all sources, the nearest first."""


@dataclass(frozen=True)
class TokenSource:
    """Where a token's embedding comes from: ``kind`` "zero", "model" (its own token) or "token" (``token`` there)."""

    kind: str
    model: str = ""
    token: str | int = ""


@dataclass(frozen=True)
class TokenRule:
    """``source`` for the models that lack the token; with ``force`` for all of them."""

    source: TokenSource | None
    force: bool


@dataclass(frozen=True)
class Vocabulary:
    """The tokeniser of the output: ``source`` "union", "base" or a model; ``tokens`` override where rows come from."""

    source: str
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    multiple: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe. ``whole`` says that it merges whole models (``models``), so that no layer changes its place."""

    path: Path
    method: str
    base: str | None
    slices: list[Slice]
    whole: bool
    dtype: str | None
    vocabulary: Vocabulary | None
    chat_template: str | None

    @property
    def models(self) -> list[str]:
        """All models that it names, the base first."""
        named = [source.model for part in self.slices for source in part.sources]
        bases = [self.base, *(part.base for part in self.slices)]
        return list(dict.fromkeys([base for base in bases if base is not None] + named))


class Complaints:
    """Raises what is wrong with the file at ``path``, in one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, where: str, value: object, way_out: str) -> ManyoneError:
        """The error about the ``value`` at ``where``."""
        return ManyoneError(f"{self.path}: {where} {short(value)}: {way_out}")

    def keys(self, where: str, value: object, allowed: Collection[str]) -> Mapping[str, Any]:
        """``value`` if it is a mapping of ``allowed`` keys."""
        if not isinstance(value, dict):
            raise self.refuse(where, value, f"must be a mapping with the keys {', '.join(allowed)}")
        if odd := [key for key in value if key not in allowed]:
            raise ManyoneError(
                f"{self.path}: {where + '.' if where else ''}{odd[0]!s:.60} is not supported; "
                f"remove it, known are {', '.join(allowed)}"
            )
        return value

    def settings(self, where: str, value: object) -> Scope:
        """The settings at ``where``."""
        if value is None:
            return Scope(where, {})
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.refuse(where, value, "must be a mapping of parameters to values")
        return Scope(where, value)

    def listed(self, where: str, value: object) -> Sequence[Any]:
        """``value`` if it is a list with something in it."""
        if not isinstance(value, list) or not 0 < len(value) <= _MOST:
            raise self.refuse(where, value, f"must be a list of 1 to {_MOST} entries")
        return value


def short(value: object) -> str:
    """A value for a message: one line, not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def load_recipe(path: Path) -> Recipe:
    """The recipe at ``path``."""
    raw = read_yaml(path, aliases=True)
    no = Complaints(path)
    if not isinstance(raw, dict) or "merge_method" not in raw:
        raise ManyoneError(f"{path}: not a mergekit recipe: it has no merge_method; write one, such as linear")
    no.keys("", raw, _TOP)
    method = raw["merge_method"]
    if not isinstance(method, str):
        raise no.refuse("merge_method", method, "must be the name of a method, such as linear")
    base = None if raw.get("base_model") is None else _model(no, "base_model", raw["base_model"])
    common = no.settings("parameters", raw.get("parameters"))
    slices, whole = _slices(no, raw, base, [common])
    template = raw.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise no.refuse("chat_template", template, "must be text: auto, chatml, or a Jinja template")
    dtypes = [_dtype(no, key, raw.get(key)) for key in ("out_dtype", "dtype")]
    return Recipe(path, method, base, slices, whole, dtypes[0] or dtypes[1], _vocabulary(no, raw), template)


def _dtype(no: Complaints, key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES:
        raise no.refuse(key, value, f"is not supported; use {', '.join(_DTYPES)}")
    return value.removeprefix("torch.")


def _slices(no: Complaints, raw: Mapping[str, Any], base: str | None, common: list[Scope]) -> tuple[list[Slice], bool]:
    given = [key for key in ("models", "slices", "modules") if raw.get(key)]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ManyoneError(f"{no.path}: needs exactly one of models, slices and modules; it has {found}")
    if given[0] != "modules":
        return _parts(no, "", raw, base, common)
    modules = raw["modules"]
    if not isinstance(modules, dict) or len(modules) != 1:
        raise no.refuse("modules", modules, "only one module is supported; merge the models as a whole, with models")
    name, module = next(iter(modules.items()))
    where = f"modules.{name}"
    module = no.keys(where, module, ("slices", "models", "parameters"))
    if bool(module.get("slices")) == bool(module.get("models")):
        raise no.refuse(where, module, "needs either slices or models")
    nearest = no.settings(f"{where}.parameters", module.get("parameters"))
    return _parts(no, f"{where}.", module, base, [nearest, *common])


def _parts(
    no: Complaints, at: str, raw: Mapping[str, Any], base: str | None, common: list[Scope]
) -> tuple[list[Slice], bool]:
    if raw.get("models"):
        entries = no.listed(f"{at}models", raw["models"])
        sources = [_source(no, f"{at}models[{i}]", entry, False) for i, entry in enumerate(entries)]
        if base is not None and all(source.model != base for source in sources):
            sources.append(Source(base, None, Scope("base_model", {})))
        return [Slice(f"{at}models", sources, base, common)], True
    slices = []
    for i, entry in enumerate(no.listed(f"{at}slices", raw["slices"])):
        where = f"{at}slices[{i}]"
        part = no.keys(where, entry, ("sources", "base_model", "parameters", "residual_weight"))
        if part.get("residual_weight") is not None:
            raise no.refuse(f"{where}.residual_weight", part["residual_weight"], "has no effect in mergekit; remove it")
        entries = no.listed(f"{where}.sources", part.get("sources"))
        sources = [_source(no, f"{where}.sources[{k}]", source, True) for k, source in enumerate(entries)]
        own = part.get("base_model")
        nearest = no.settings(f"{where}.parameters", part.get("parameters"))
        named = base if own is None else _model(no, f"{where}.base_model", own)
        slices.append(Slice(where, sources, named, [nearest, *common]))
    return slices, False


def _source(no: Complaints, where: str, raw: object, layers: bool) -> Source:
    keys = ("model", "parameters", "layer_range") if layers else ("model", "parameters")
    entry = no.keys(where, raw, keys)
    if "model" not in entry:
        raise no.refuse(where, raw, "has no model; write model: and a folder")
    span = None
    if layers:
        given = entry.get("layer_range")
        pair = given if isinstance(given, list) and all(type(k) is int for k in given) else []
        if len(pair) != 2 or not 0 <= pair[0] < pair[1]:
            raise no.refuse(f"{where}.layer_range", given, "must be [first, last + 1], as in [0, 16]")
        span = (pair[0], pair[1])
    model = _model(no, f"{where}.model", entry["model"])
    return Source(model, span, no.settings(f"{where}.parameters", entry.get("parameters")))


def _model(no: Complaints, where: str, raw: object) -> str:
    """A model as text, ``folder`` or ``folder+adapter``."""
    if isinstance(raw, dict):
        parts = no.keys(where, raw, ("model", "lora"))
        names = [_folder(no, f"{where}.{key}", parts[key]) for key in ("model", "lora") if parts.get(key) is not None]
        if "model" not in parts:
            raise no.refuse(where, raw, "has no model; write model: and a folder")
        return "+".join(names)
    if not isinstance(raw, str) or not raw or raw.count("+") > 1:
        raise no.refuse(where, raw, "must be a folder, or folder+adapter")
    return raw


def _folder(no: Complaints, where: str, raw: object) -> str:
    if isinstance(raw, dict):
        parts = no.keys(where, raw, ("path", "revision"))
        if parts.get("revision") is not None:
            raise no.refuse(f"{where}.revision", parts["revision"], "download that revision and name its folder")
        raw = parts.get("path")
    if not isinstance(raw, str) or not raw:
        raise no.refuse(where, raw, "must be a folder")
    return raw


def _vocabulary(no: Complaints, raw: Mapping[str, Any]) -> Vocabulary | None:
    source, tokenizer = raw.get("tokenizer_source"), raw.get("tokenizer")
    if source is not None and tokenizer is not None:
        raise no.refuse("tokenizer_source", source, "leave it out, tokenizer.source says the same")
    if source is not None:
        return Vocabulary(_model(no, "tokenizer_source", source))
    if tokenizer is None:
        return None
    entry = no.keys("tokenizer", tokenizer, ("source", "tokens", "pad_to_multiple_of"))
    multiple = entry.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or not 0 < multiple <= 1 << 20):
        raise no.refuse("tokenizer.pad_to_multiple_of", multiple, "must be a positive number, such as 64")
    tokens = entry.get("tokens") or {}
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens):
        raise no.refuse("tokenizer.tokens", tokens, "must be a mapping of tokens (as text) to their sources")
    rules = {token: _token_rule(no, f"tokenizer.tokens.{token}", rule) for token, rule in tokens.items()}
    return Vocabulary(_model(no, "tokenizer.source", entry.get("source", "union")), rules, multiple)


def _token_rule(no: Complaints, where: str, raw: object) -> TokenRule:
    rule = no.keys(where, raw, ("source", "force"))
    force = rule.get("force", False)
    if not isinstance(force, bool):
        raise no.refuse(f"{where}.force", force, "must be true or false")
    source = rule.get("source")
    where = f"{where}.source"
    if source is None:
        if force:
            raise no.refuse(
                where, source, "a forced token needs one: a model, {kind: zero} or {kind: model_token, ...}"
            )
        return TokenRule(None, force)
    if not isinstance(source, dict) or "kind" not in source:
        return TokenRule(TokenSource("model", _model(no, where, source)), force)
    if source["kind"] == "zero":
        no.keys(where, source, ("kind",))
        return TokenRule(TokenSource("zero"), force)
    if source["kind"] != "model_token":
        raise no.refuse(f"{where}.kind", source["kind"], "must be zero or model_token")
    no.keys(where, source, ("kind", "model", "token", "token_id"))
    found = [source[key] for key in ("token", "token_id") if source.get(key) is not None]
    kinds = [str if source.get("token") is not None else int]
    if len(found) != 1 or type(found[0]) is not kinds[0] or "model" not in source:
        raise no.refuse(where, source, "needs a model and either token (text) or token_id (a number)")
    return TokenRule(TokenSource("token", _model(no, f"{where}.model", source["model"]), found[0]), force)
