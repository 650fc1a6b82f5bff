"""Reads pickled numpy arrays, alone or in lists and dictionaries, without running what the pickle asks for.

A pickle may name any callable of any module; these readers know a few names (what numpy itself writes for an array) and
refuse every other one, so code in the file is never looked up, let alone called.

:func:`load_plain` trusts the pickle with nothing: the opcodes are checked before any is followed, the names stand for
stand-ins of this module rather than for numpy's own (whose ``__setstate__`` takes more than it should), and what comes
out is not much larger than the file, however often that refers to its own parts.

Public names: ``load_array``, ``load_plain``.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from manyone.errors import ManyoneError


def _reconstruct() -> Any:
    return np.empty(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, origin: str) -> None:
        super().__init__(stream)
        self.origin = origin

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise ManyoneError(
            f"{self.origin}: the pickle asks for {module}.{name}, which is refused: only plain arrays are read"
        )


def load_array(raw: bytes, origin: str) -> np.ndarray:
    """The array in the pickle ``raw``; ``origin`` names the file in errors. Object arrays are refused as well."""
    try:
        value = _ArraysOnly(io.BytesIO(raw), origin).load()
    except ManyoneError:
        raise
    except Exception as problem:
        # A damaged pickle may raise almost anything (EOFError, KeyError, UnicodeError, struct.error ...).
        raise ManyoneError(f"{origin}: not a readable pickle ({problem}); fetch the file again") from None
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise ManyoneError(f"{origin}: the pickle holds a {type(value).__name__}, not a plain array")
    return value


_OPCODES = frozenset(
    ["PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1",
     "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
     "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
     "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GET", "BINGET",
     "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"]
)  # fmt: skip
"""What lists, dictionaries, numbers, text and numpy's arrays are written with."""
_SMALL = 1 << 20  # bytes (and parts) that even a small file may unpack to: episodes may share an array


def load_plain(raw: bytes, origin: str) -> Any:
    """The lists, tuples, dictionaries, numbers, text and arrays in the pickle ``raw``; ``origin`` names the file.

    :class:`ManyoneError` for anything else, for arrays of objects, and for what would be larger than the file.
    """
    try:
        _check_opcodes(raw, origin)
        value = _Plain(io.BytesIO(raw), origin).load()
    except ManyoneError:
        raise
    except Exception as problem:
        raise ManyoneError(f"{origin}: not a readable pickle ({problem}); fetch the file again") from None
    return _Unpacking(len(raw), origin).unpacked(value)


def _check_opcodes(raw: bytes, origin: str) -> None:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if opcode.name not in _OPCODES:
            raise ManyoneError(f"{origin}: the pickle uses {opcode.name}, which is refused: only plain data are read")
        if (
            opcode.name.endswith("PUT") and int(argument or 0) > number
        ):  # the unpickler would make room for all up to it
            raise ManyoneError(f"{origin}: the pickle counts to {argument} in its {number} steps, which is refused")


class _Plain(pickle.Unpickler):
    """Every load has its own stand-ins: a pickle can set attributes of what it is given."""

    def __init__(self, stream: io.BytesIO, origin: str) -> None:
        super().__init__(stream)
        self.origin = origin

        class Kind:
            """Stands in for a dtype."""

            def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
                if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[fiub][1248]", code)):
                    raise ManyoneError(f"{origin}: the pickle holds an array of {code!r}, not of numbers")
                self.dtype = np.dtype(code)

            def __setstate__(self, state: tuple[Any, ...]) -> None:
                self.dtype = self.dtype.newbyteorder(state[1])

        class Array:
            """Stands in for an array."""

            def __init__(self, *shape: Any) -> None:
                raise ManyoneError(f"{origin}: the pickle makes an array by itself, which is refused")

            def __setstate__(self, state: tuple[Any, ...]) -> None:
                _, shape, kind, fortran, data = state
                self.array = _filled(data, kind, shape, "F" if fortran else "C")

        def _filled(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
            if not isinstance(kind, Kind) or not isinstance(data, (bytes, bytearray)):
                raise ManyoneError(f"{origin}: the pickle holds an array of objects, not of numbers")
            return np.frombuffer(data, kind.dtype).reshape(shape, order=order)

        def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
            return Array.__new__(Array)

        def frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> Array:
            made = Array.__new__(Array)
            made.array = _filled(data, kind, shape, order)
            return made

        def scalar(kind: Any, data: Any) -> Any:
            return _filled(data, kind, (), "C").item()

        def encode(text: str, codec: str) -> bytes:
            if codec != "latin1":
                raise ManyoneError(f"{origin}: the pickle asks for the codec {codec!r}, which is refused")
            return text.encode("latin1")

        multiarray = {"_reconstruct": reconstruct, "scalar": scalar}
        self.known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): Array,
            ("numpy", "dtype"): Kind,
            ("_codecs", "encode"): encode,
            **{
                (f"numpy.{core}.multiarray", name): made
                for core in ("core", "_core")
                for name, made in multiarray.items()
            },
            **{(f"numpy.{core}.numeric", "_frombuffer"): frombuffer for core in ("core", "_core")},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise ManyoneError(
                f"{self.origin}: the pickle asks for {module}.{name}, which is refused: only plain data are read"
            )
        return self.known[module, name]


class _Unpacking:
    """Puts arrays in the places of their stand-ins, and counts: no more values are visited than the file pays for."""

    def __init__(self, size: int, origin: str) -> None:
        self.left, self.nodes, self.origin = 2 * size + _SMALL, size + _SMALL, origin

    def unpacked(self, value: Any) -> Any:
        """``value`` as the file means it."""
        array = getattr(value, "array", None)
        self.nodes -= 1
        if isinstance(array, np.ndarray):
            self.left -= array.nbytes
        if self.left < 0 or self.nodes < 0:
            raise ManyoneError(f"{self.origin}: the pickle unpacks to more than the file holds, which is refused")
        if isinstance(array, np.ndarray):
            return array
        if isinstance(value, dict):
            return {self._key(key): self.unpacked(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.unpacked(part) for part in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ManyoneError(f"{self.origin}: the pickle holds a {type(value).__name__}, which is refused")

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise ManyoneError(f"{self.origin}: the pickle has a dictionary with the key {key!r}; expected names")
        return key
