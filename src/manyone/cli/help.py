"""The help of a recipe: its options in groups, what they are without being given, within 80 columns and a screen.

``--help`` shows the options that most people set and those of the method itself, ``--help-all`` every one in full.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import docstring_parser

from manyone.recipes.options import CommonOptions, defaults, other_words, ranges

COLUMNS, LINES = 80, 60
_INDENT = 26  # columns before the text of an option
_LONG = 22  # columns of choices beside an option's name; longer ones stand in its text
_SENTENCE = re.compile(r"(?<=[.;:])\s")
_NAMED = 20  # options that are named where they are not shown; of more only the number is told
_FIRST = (
    *("preset", "suite", "data", "base", "experts", "tasks", "env", "policy", "shots", "gold", "pred", "db", "labels"),
    *("teacher", "student", "model", "models", "recipe", "adapters", "label", "out", "seed", "steps", "iterations"),
    *("env_steps", "rounds", "local_steps", "lr", "eta_x", "eta_y", "batch_size", "envs", "clients", "scale"),
    *("density", "device", "workers", "dry_run", "overwrite", "eval_episodes"),
)
"""Options that most people set, whatever the recipe."""
_MEMBERS = {
    "run": "out seed preset overwrite device precision logger dry_run workers threads timeout checkpoint_every "
    "evaluate_every eval_episodes video film max_shard_size parallel exposure beams eval_pairs export store memory "
    "monitor_samples cached",
    "data": "suite data base experts tasks model models adapters teacher student policy init recipe fishers grams "
    "others exclude limit adapt_split examples shots shot_episodes shot_quality prompts prompt_quality quality keys "
    "data_seed data_horizon data_choices horizon episodes full_episodes action_range simulator reference hold_out "
    "order transitions env frames envs length label positive columns drop categories missing delimiter decimal "
    "client_column group test gold pred db tables rows style matched normal train_pairs max_input max_output sensor "
    "unit normalise window stride weights labels column split block buffer train tile step format set fraction",
    "optimisation": "steps iterations env_steps rounds local_steps epochs minibatches batch_size micro_batch lr eta "
    "eta_x eta_y policy_lr schedule warmup weight_decay clip grad_clip decay outer_lr outer_momentum tasks_per_step "
    "dropout warm_start warm_lr teacher_steps teacher_epochs teacher_lr adapt_steps pretrain_steps inner_lr "
    "inner_steps inner_momentum gradient_checkpointing loss_kernel logits_memory reduction ema ema_decay",
}
_GROUPS: Mapping[str, frozenset[str]] = {group: frozenset(names.split()) for group, names in _MEMBERS.items()}
"""What belongs to the groups of all recipes; anything else is the method's own."""
_TITLES = {"run": "Run", "data": "Data", "optimisation": "Optimisation", "method": "Method"}


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    group: str
    rank: int
    """What is shown first where not all is: small."""
    lines: tuple[str, ...]


def recipe_help(cls: type[CommonOptions], recipe: str, given: Mapping[str, Any], *, whole: bool) -> str:
    """The help of ``recipe``, with the defaults of the options that are ``given``'s (its preset among them)."""
    entries = _entries(cls, given, whole=whole)
    head = [
        f"usage: manyone run {recipe} [options]",
        "",
        *textwrap.wrap(" ".join((cls.__doc__ or "").split("\n\n")[0].split()), COLUMNS - 1),
    ]
    tail = [
        "",
        "Also --config FILE.yaml (lines of `option: value`, or the config.yaml of a run),",
        "--seeds N (N runs, one table with intervals), --help and --help-all.",
        "",
        "examples:",
        *(line for words in cls.EXAMPLES for line in _example(f"manyone run {recipe} {words}")),
    ]
    if whole:
        return "\n".join([*head, *_grouped(entries), *tail])
    order = sorted(entries, key=lambda e: e.rank)
    for count in range(len(order), -1, -1):
        shown = set(order[:count])
        rest = [f"--{e.name}" for e in entries if e not in shown]
        named = ": " + ", ".join(rest) if len(rest) <= _NAMED else ""
        more = ["", *_filled(f"{len(rest)} more options with --help-all{named}")] if rest else []
        lines = [*head, *_grouped([e for e in entries if e in shown]), *more, *tail]
        if len(lines) <= LINES:
            break
    return "\n".join(lines)


def _grouped(entries: Sequence[_Entry]) -> list[str]:
    lines = []
    for group, title in _TITLES.items():
        found = [line for entry in entries if entry.group == group for line in entry.lines]
        lines += ["", f"{title}:", *found] if found else []
    return lines


def _entries(cls: type[CommonOptions], given: Mapping[str, Any], *, whole: bool) -> list[_Entry]:
    owners, fields = _owners(cls), dataclasses.fields(cls)
    # the method's own options before those that it shares with others, each class's in their order
    own = sorted(range(len(fields)), key=lambda at: (fields[at].name not in cls.FIRST, owners[fields[at].name], at))
    ranks = {fields[at].name: len(_FIRST) + rank for rank, at in enumerate(own)}
    entries = []
    for name, written, told in _options(cls, defaults(cls, given), whole=whole):
        field = name.partition(".")[0]
        rank = _FIRST.index(field) if field in _FIRST else ranks[field]
        group = next((group for group, members in _GROUPS.items() if field in members), "method")
        words = [f"also --{word.replace('_', '-')}" for word in other_words(name, cls)]
        entries.append(
            _Entry(name.replace("_", "-"), group, rank, tuple(_lines(written, told[0], [*told[1:], *words])))
        )
    return entries


def _options(
    cls: type[Any], known: Mapping[str, Any], prefix: str = "", *, whole: bool
) -> Iterator[tuple[str, str, list[str]]]:
    """(Name, how it is written, its text and notes) of every option; groups of options have a dot in their names."""
    hints, texts, allowed = typing.get_type_hints(cls), docstrings(cls), ranges(cls)
    for field in dataclasses.fields(cls):
        hint, default = hints[field.name], known.get(field.name)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            inner = default if default is not None else _made_default(field)
            values = {f.name: getattr(inner, f.name, None) for f in dataclasses.fields(hint)}
            yield from _options(hint, values, f"{prefix}{field.name}.", whole=whole)
            continue
        text = texts.get(field.name, "")
        notes = [text.rstrip(".") if whole else _first_clause(text)]
        notes += [str(allowed[field.name])] if field.name in allowed else []
        metavar, choices = _metavar(hint)
        notes += [f"one of {choices}"] if choices else []
        if not prefix and not _has_default(field):
            notes.append("required")
        elif shown := _default(default):
            notes.append(f"default: {shown}")
        name = f"{prefix}{field.name}".replace("_", "-")
        group, dot, last = name.rpartition(".")
        negative = f" / --{group}{dot}no-{last}" if hint is bool and default is True else ""
        yield f"{prefix}{field.name}", f"--{name}{negative} {metavar}".rstrip(), notes


def _made_default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _first_clause(text: str) -> str:
    """The first sentence, or what stands before its first semicolon or colon, if no bracket is open there."""
    for end in _SENTENCE.finditer(text):
        part = text[: end.start()]
        if part.count("(") == part.count(")") and not (part.endswith(":") and len(part) < _INDENT):
            return part.rstrip(".;:")
    return text.rstrip(".;:")


def _lines(head: str, text: str, notes: Sequence[str]) -> list[str]:
    body = textwrap.wrap(
        f"{text} ({'; '.join(notes)})" if notes else text, COLUMNS - 1 - _INDENT, break_on_hyphens=False
    )
    if len(head) + 4 <= _INDENT:
        first, body = f"  {head:<{_INDENT - 2}}{body[0] if body else ''}".rstrip(), body[1:]
        return [first, *(" " * _INDENT + line for line in body)]
    return [*_filled(head, "  ", "      "), *(" " * _INDENT + line for line in body)]


def _filled(text: str, first: str = "", rest: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, COLUMNS - 1, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _example(words: str) -> list[str]:
    """A command, continued with backslashes where it is longer than a line."""
    lines = textwrap.wrap(words, COLUMNS - 5, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return [line + " \\" * (at < len(lines) - 1) for at, line in enumerate(lines)]


def _metavar(hint: Any) -> tuple[str, str]:
    """(What stands for a value of this type, its choices where they are too long to stand there)."""
    many = ""
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        hint, many = get_args(hint)[0], " ..."
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        words = [str(word) for word in get_args(hint)]
        short = "|".join(words)
        return (short + many, "") if len(short) <= _LONG else ("NAME" + many, ", ".join(words))
    if hint is bool:
        return "", ""
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(hint, "VALUE") + many, ""


def _default(value: Any) -> str:
    """A default in words; nothing where the text of the option has to say what happens without it."""
    if value is None or value == () or value is False or value == "":
        return ""
    if value is True:
        return "yes"
    if isinstance(value, tuple):
        return " ".join(map(_default, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _owners(cls: type[Any]) -> dict[str, int]:
    """Field -> how far up from ``cls`` is the class that first has it: the method's own are near."""
    found: dict[str, int] = {}
    for distance, base in enumerate(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= {f.name: distance for f in dataclasses.fields(base)}
    return found


def docstrings(cls: type[Any]) -> dict[str, str]:
    """Field -> the text below it, a subclass's before its base's."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            parsed = docstring_parser.parse_from_object(base)
            found |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params if p.description}
    return found
