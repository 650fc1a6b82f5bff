"""Damage to files, drawn from a seed: bits, lengths, claims of headers, and values that do not belong."""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

import numpy as np

Kind = Literal["bytes", "json", "jsonl", "text", "safetensors"]
_DEEP = "\x00deep\x00"  # stands for nesting without end until the text is written
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31, -(2**31), 2**63, 10**9, 10**18, 1e308, -1e308, float("nan"),
    float("inf"), 0.5, "", "x", "x" * 2000, "../../../etc/passwd", "/dev/zero", "a\nb", "\x1b[2J", "(a+)+$", [], {},
    [[]], [0] * 50, ["x"], {"x": None}, [[[[[[1]]]]]], _DEEP,
)  # fmt: skip
_EXTREMES = (
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x00\xca\x9a\x3b",
    b"\x01",
)
_WORDS = (
    "null",
    "-1",
    "1e400",
    "99999999999",
    "[]",
    "{}",
    "''",
    '"x"',
    "true",
    "nan",
    "*a",
    "&a [1]",
    "!!python/name:os",
)


def mutated(data: bytes, kind: Kind, draws: np.random.Generator) -> bytes:
    """``data`` with some damage; half of it to what a parsed file says, where it has a structure."""
    structured = kind != "bytes" and draws.random() < 0.6
    if not structured:
        return _bytes(data, draws)
    if kind == "text":
        return _text(data, draws)
    if kind == "jsonl":
        lines = data.split(b"\n")
        at = int(draws.integers(max(1, len(lines) - 1)))
        lines[at] = _json(lines[at], draws)
        return b"\n".join(lines)
    if kind == "safetensors":
        length = int.from_bytes(data[:8], "little")
        header = _json(data[8 : 8 + length], draws)
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
    return _json(data, draws)


def _bytes(data: bytes, draws: np.random.Generator) -> bytes:
    if not data:
        return bytes(draws.integers(0, 256, 8, dtype=np.uint8))
    at, end = sorted(int(n) for n in draws.integers(0, len(data) + 1, 2))
    at = min(at, len(data) - 1)
    match int(draws.integers(8)):
        case 0:  # bits
            found = bytearray(data)
            for place in draws.integers(0, len(data), 1 + int(draws.integers(8))).tolist():
                found[place] ^= 1 << int(draws.integers(8))
            return bytes(found)
        case 1:  # cut
            return data[:at]
        case 2:  # a piece is missing
            return data[:at] + data[end:]
        case 3:  # a piece is there twice
            return data[:end] + data[at:]
        case 4:  # noise in between
            return data[:at] + bytes(draws.integers(0, 256, 16, dtype=np.uint8)) + data[at:]
        case 5:  # a number is extreme
            extreme = _EXTREMES[int(draws.integers(len(_EXTREMES)))]
            return data[:at] + extreme + data[at + len(extreme) :]
        case 6:  # the beginning is another
            head = bytes(draws.integers(0, 256, min(16, len(data)), dtype=np.uint8))
            return head + data[len(head) :]
        case _:  # zeros
            return data[:at] + bytes(end - at) + data[end:]


def _json(data: bytes, draws: np.random.Generator) -> bytes:
    try:
        tree = json.loads(data)
    except ValueError:
        return _bytes(data, draws)
    for _ in range(1 + int(draws.integers(2))):
        tree = _changed(tree, draws)
    text = json.dumps(tree)
    return text.replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000).encode()


def _changed(tree: Any, draws: np.random.Generator) -> Any:
    """``tree`` with one value changed, removed, renamed or there twice."""
    places = list(_places(tree, ()))
    place = places[int(draws.integers(len(places)))]
    odd = copy.deepcopy(_ODD[int(draws.integers(len(_ODD)))])  # the next change may be inside of it
    if not place:
        return odd if draws.random() < 0.2 else tree
    owner = tree
    for key in place[:-1]:
        owner = owner[key]
    what = draws.random()
    if what < 0.65:
        owner[place[-1]] = odd
    elif what < 0.85:
        del owner[place[-1]]
    elif isinstance(owner, dict):
        owner[f"{place[-1]}x"] = owner.pop(place[-1])
    else:
        owner.append(owner[place[-1]])
    return tree


def _places(tree: Any, above: tuple[Any, ...]) -> Any:
    yield above
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*above, key))


def _text(data: bytes, draws: np.random.Generator) -> bytes:
    lines = data.decode("utf-8", "replace").split("\n")
    at = int(draws.integers(len(lines)))
    match int(draws.integers(5)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[int(draws.integers(len(lines)))])
        case 2:  # another value behind the last colon, equals sign or comma
            word = _WORDS[int(draws.integers(len(_WORDS)))]
            cut = max(lines[at].rfind(mark) for mark in ":=,")
            lines[at] = lines[at][: cut + 1] + " " + word if cut >= 0 else word
        case 3:
            lines[at] = lines[at] * 300
        case _:
            lines.insert(at, "[" * 5000 if draws.random() < 0.5 else "- " * 5000)
    return "\n".join(lines).encode()
