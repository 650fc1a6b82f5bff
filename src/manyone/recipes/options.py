"""What the options of all recipes share: their common fields, ranges said once in the type, and presets.

An options class is data: fields, ranges, defaults. ``Annotated[float, Range(0, 1, closed="left")]`` is all there is to
say about a range: the check, its message and the help come from it.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from manyone.errors import ManyoneError

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
Split = Literal["test", "val", "train"]
T = TypeVar("T")
VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "steps": ("iterations", "env_steps"),
    "data": ("tasks", "env"),
    "suite": ("env",),
    "discount": ("gamma",),
    "gamma": ("discount",),
    "clip": ("grad_clip",),
    "grad_clip": ("clip",),
}
"""One word for one idea in every field: where a recipe has a field's own term instead, the word names the last of
those that it has."""
_ENDINGS = {
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".parquet", ".h5", ".hdf5", ".npz", ".npy"),
    *(".pkl", ".db", ".sqlite", ".duckdb", ".sql", ".tif", ".tiff", ".geojson", ".gpkg", ".shp", ".png", ".jpg"),
    *(".jpeg", ".safetensors", ".bin", ".pt", ".gguf", ".zip", ".tar", ".gz"),
}
"""Of files: a word that ends like this is no name of a hub or of a registered set."""


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high`` (None: no bound); ``closed`` says which ends belong to it."""

    low: float | None = None
    high: float | None = None
    closed: Literal["both", "left", "right", "neither"] = "both"

    def __contains__(self, value: float) -> bool:
        above = self.low is None or value > self.low or (value == self.low and self.closed in ("both", "left"))
        below = self.high is None or value < self.high or (value == self.high and self.closed in ("both", "right"))
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        """In words, as help and messages show it: "0 or more", "from 0 to below 1"."""
        left, right = self.closed in ("both", "left"), self.closed in ("both", "right")
        if self.high is None:
            return f"{self.low:g} or more" if left else f"above {self.low:g}"
        end = f"{self.high:g}" if right else f"below {self.high:g}"
        if self.low is None:
            return f"at most {end}" if right else end
        return f"from {self.low:g} to {end}" if left else f"above {self.low:g}, {'at most ' * right}{end}"


@dataclass(frozen=True)
class Places:
    """The option names files or folders, as PLACE or NAME=PLACE or NAME=A,B: one that exists becomes absolute.

    So a run that is taken up from another folder reads what it read before. Other words (the hub's names, those of
    registered data) stay as they are; with ``names`` all bare words do, as the option knows names of its own.
    """

    names: bool = False
    new: bool = False
    """The run makes it where it is missing."""

    def absolute(self, value: Any) -> Any:
        """``value`` (text, a path, None or a tuple of them) with absolute places."""
        if isinstance(value, tuple):
            return tuple(self.absolute(item) for item in value)
        if value is None:
            return None
        name, parts = _parts(str(value))
        found = ",".join(map(self._absolute, parts))
        return value if found == ",".join(parts) else type(value)(name + found)

    def missing(self, value: Any) -> list[str]:
        """Those of ``value`` that can only be places, by the way they are written, and do not exist."""
        if value is None or self.new:
            return []
        words = value if isinstance(value, tuple) else (value,)
        return [
            part
            for word in words
            for part in _parts(str(word))[1]
            if _is_path(part) and not Path(part).expanduser().exists()
        ]

    def _absolute(self, place: str) -> str:
        bare = self.names and "." not in place and Path(place).name == place
        return place if not place or bare or not Path(place).exists() else str(Path(place).absolute())


@dataclass(frozen=True)
class With:
    """The option does something only where one of ``switches`` is set (or has the value, written "option=value")."""

    switches: tuple[str, ...]

    def __init__(self, *switches: str) -> None:
        object.__setattr__(self, "switches", switches)

    def on(self, options: Any) -> bool:
        """Whether one of the switches is as it must be in ``options``."""
        for switch in self.switches:
            name, equals, value = switch.partition("=")
            if str(getattr(options, name)) == value if equals else getattr(options, name):
                return True
        return False

    def __str__(self) -> str:
        """In words: "--gate or --send-gate"."""
        words = (switch.partition("=") for switch in self.switches)
        return " or ".join(f"--{name.replace('_', '-')}{' ' * bool(value)}{value}" for name, _, value in words)


def _parts(text: str) -> tuple[str, list[str]]:
    """("NAME=" or nothing, the places) of PLACE, NAME=PLACE or NAME=A,B."""
    starts = [0, *(at + 1 for at, letter in enumerate(text) if letter == "=")]  # a NAME may have an = in it
    start = next((at for at in starts if text[at:] and Path(text[at:]).exists()), starts[-1])
    whole = text[start:]
    return text[:start], [whole] if Path(whole).exists() else whole.split(",")


def _is_path(word: str) -> bool:
    """Whether it is written as a path is and no name: of a hub, a registered data set or a kind."""
    return word.startswith((".", "~", "/")) or word.endswith("/") or Path(word).suffix.lower() in _ENDINGS


@dataclass(frozen=True)
class Without:
    """The option does something only where ``switch`` is not set."""

    switch: str

    def __str__(self) -> str:
        """In words: "--policy"."""
        return f"--{self.switch.replace('_', '-')}"


@dataclass(kw_only=True)
class CommonOptions:
    """Options that every recipe has.

    A subclass adds its own fields, each with a docstring that gives meaning and unit and with its range in the type.
    Only checks that tie options together stand in ``__post_init__`` (which calls this class's).
    """

    out: Path | None = None
    """Folder of the run; made by the run. Default: runs/RECIPE-TIME."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of everything that is drawn at random."""
    overwrite: bool = False
    """Replace the run that is in the folder already."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "32-true"
    """Floating-point precision, by Lightning Fabric's names."""
    logger: tuple[str, ...] = ()
    """Also send the metrics to these: tensorboard, wandb, trackio."""
    dry_run: bool = False
    """Print the plan (what is read, written and needed) and stop; nothing is written."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Values of options by the name of ``--preset``, where a recipe has one."""
    ALIASES: ClassVar[Mapping[str, str]] = {}
    """Other words for options on the command line: word -> option."""
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--seed 1 --out runs/first", "--dry-run")
    """What may stand behind ``manyone run RECIPE``; shown below its help."""
    AMBIGUOUS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Words that could mean one option or another: word -> those options, between which the user is asked to choose."""
    FIRST: ClassVar[tuple[str, ...]] = ()
    """Options of the method that its short help shows before others."""
    EARLIER: ClassVar[Mapping[str, Any]] = {}
    """What runs of earlier versions did where their ``config.yaml`` lacks an option that has been added since."""
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """What runs of earlier versions call an option in their ``config.yaml``: earlier name -> option."""

    def __post_init__(self) -> None:
        allowed = _noted(type(self), Range)
        for field in dataclasses.fields(self):
            for value in _numbers(getattr(self, field.name)):
                if field.name in allowed:
                    check(field.name, value, value in allowed[field.name], str(allowed[field.name]))
                elif isinstance(value, float):
                    check(field.name, value, math.isfinite(value), "a finite number")
        for name, places in _noted(type(self), Places).items():
            setattr(self, name, places.absolute(getattr(self, name)))

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the options that are not ``given`` are set to, where that differs from their defaults."""
        if not cls.PRESETS:
            return {}
        name = given.get("preset", next(iter(cls.PRESETS)))
        check("preset", name, name in cls.PRESETS, f"one of {', '.join(cls.PRESETS)}")
        return cls.PRESETS[name]


def option_of(word: str, cls: type[CommonOptions]) -> str | None:
    """The option of ``cls`` that ``word`` is another word for; None where it is an option itself, or nothing."""
    names = {f.name for f in dataclasses.fields(cls)}
    if word in names:
        return None
    if word in cls.ALIASES:
        return cls.ALIASES[word]
    own = [name for name in VOCABULARY.get(word, ()) if name in names]
    return own[-1] if own else None


def from_earlier(cls: type[CommonOptions], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the ``config.yaml`` of a run of whatever version, as this version names and completes them."""
    return {**cls.EARLIER, **{cls.RENAMED.get(name, name): value for name, value in plain.items()}}


def other_words(option: str, cls: type[CommonOptions]) -> list[str]:
    """The words that name ``option`` as well."""
    return sorted(word for word in {*cls.ALIASES, *VOCABULARY} if option_of(word, cls) == option)


def with_preset(cls: type[T], given: Mapping[str, Any]) -> T:
    """Complete options of class ``cls``: what is ``given``, the preset's values for what is not, else the defaults."""
    return cls(**{**_preset_fields(cls, given), **given})


def single_options(cls: type[Any]) -> set[str]:
    """The options that are one number or one of a few words, so that a comma in their value stands for several."""
    found = set()
    for name, hint in typing.get_type_hints(cls).items():
        kinds = get_args(hint) if type(None) in get_args(hint) and get_origin(hint) is not Literal else (hint,)
        if all(one in (int, float, type(None)) or get_origin(one) is Literal for one in kinds):
            found.add(name)
    return found & {f.name for f in dataclasses.fields(cls)}


def check_switches(options: Any, given: Mapping[str, Any]) -> None:
    """Raises ``ManyoneError`` for an option of ``given`` that changes nothing, as its switches are."""
    for name, other in _noted(type(options), Without).items():
        if name in given and getattr(options, other.switch):
            raise ManyoneError(f"--{name.replace('_', '-')}: does nothing with {other}: leave one of the two out")
    for name, needed in _noted(type(options), With).items():
        if name in given and not needed.on(options):
            others = {k: v for k, v in given.items() if k != name}
            if given[name] != defaults(type(options), others).get(name):
                option = f"--{name.replace('_', '-')} {given[name]}"
                raise ManyoneError(f"{option}: does nothing without {needed}: add it, or leave this out")


def check_places(options: CommonOptions) -> None:
    """Raises ``ManyoneError`` for a file or folder that is not there: a dry run is to find that out."""
    for name, places in _noted(type(options), Places).items():
        if lacking := places.missing(getattr(options, name)):
            raise ManyoneError(f"--{name.replace('_', '-')}: there is no {lacking[0]}: look at the path")


def defaults(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What ``with_preset`` gives to every option that has a default; default factories are left out."""
    own = {f.name: f.default for f in dataclasses.fields(cls) if f.init and f.default is not dataclasses.MISSING}
    return own | _preset_fields(cls, given)


def _preset_fields(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    return {n: v for n, v in cls.preset_values(given).items() if n in names and n not in given}


def ranges(cls: type[Any]) -> dict[str, Range]:
    """Field -> its range, for the fields of the dataclass ``cls`` that have one."""
    return _noted(cls, Range)


def _noted(cls: type[Any], kind: type[T]) -> dict[str, T]:
    """Field -> the note of type ``kind`` in its ``Annotated`` type."""
    hints = typing.get_type_hints(cls, include_extras=True).items()
    noted = ((name, note) for name, hint in hints if get_origin(hint) is Annotated for note in get_args(hint)[1:])
    return {name: note for name, note in noted if isinstance(note, kind)}


def _numbers(value: Any) -> Iterator[Any]:
    """``value`` itself or, of a sequence, its items; None is no number."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif value is not None:
        yield value


def check(option: str, value: object, holds: bool, allowed: str) -> None:
    """Raises ``ManyoneError`` that names ``option``, its ``value`` and what is ``allowed``, unless ``holds``."""
    if not holds:
        raise ManyoneError(f"--{option.replace('_', '-')} {value}: must be {allowed}")
