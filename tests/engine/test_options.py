import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from manyone.engine.options import check_round_trip, from_plain, to_plain
from manyone.errors import ManyoneError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(kw_only=True)
class Router:
    layers: int = 2
    scale: float = 0.3


@dataclass(kw_only=True)
class Options:
    base: Path
    experts: tuple[Path, ...] = ()
    size: tuple[int, str] = (1, "a")
    names: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    mode: Literal["a", "b", 3] = "a"
    colour: Colour = Colour.RED
    router: Router = field(default_factory=Router)
    second: Router | None = None
    limit: int | None = None
    rate: float = 1e-3
    number: int | float | None = None
    flag: bool = False
    tag: Annotated[str, "note"] = "x"
    anything: Any = None
    colours: frozenset[str] = frozenset()
    nested: tuple[tuple[int, ...], ...] = ()


FULL = Options(
    base=Path("/b/ä"),
    experts=(Path("e1"), Path("e2")),
    size=(2, "None"),
    names=["null", "3", "true"],
    table={"x": 1e-5, "y": float("inf")},
    mode=3,
    colour=Colour.BLUE,
    router=Router(layers=0, scale=1.0),
    second=Router(layers=1),
    limit=3,
    rate=0.1 + 0.2,
    number=2.0,
    flag=True,
    tag="a: b # c",
    colours=frozenset({"b"}),
    nested=((1, 2), ()),
)


@pytest.mark.parametrize("options", [Options(base=Path()), FULL])
def test_through_yaml_and_back_exactly(options):
    text = yaml.safe_dump(to_plain(options))
    again = from_plain(Options, yaml.safe_load(text))
    assert again == options
    assert repr(again) == repr(options)  # also the types: a tuple is no list, 2.0 is not 2


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "option 'base' is missing"),
        ({"base": "x", "rat": 1}, "unknown option 'rat'; did you mean 'rate'"),
        ({"base": "x", "rate": "fast"}, "options.rate: 'fast' is not a float"),
        ({"base": "x", "flag": 1}, "options.flag: 1 is not a bool"),
        ({"base": "x", "limit": True}, "options.limit: True is not a int or null"),
        ({"base": "x", "mode": "c"}, "options.mode: 'c' is not one of 'a', 'b', 3"),
        ({"base": "x", "colour": "GREEN"}, "'GREEN' is not one of RED, BLUE"),
        ({"base": "x", "size": [1]}, r"\[1\] has 1 items, not 2"),
        ({"base": "x", "router": {"layer": 1}}, "options.router: unknown option 'layer'; did you mean 'layers'"),
        ({"base": 3}, "options.base: 3 is not a Path"),
        ([], "expected a mapping"),
    ],
)
def test_wrong_values_are_named(plain, message):
    with pytest.raises(ManyoneError, match=message):
        from_plain(Options, plain)


def test_a_field_that_cannot_be_read_back_is_the_recipe_s_mistake():
    @dataclass
    class Ambiguous:
        where: str | Path = Path("x")

    # the annotation must be found from here
    Ambiguous.__annotations__["where"] = str | Path
    with pytest.raises(TypeError, match=r"'where' = .*Path.* read back from the config as 'x'"):
        check_round_trip(Ambiguous())
