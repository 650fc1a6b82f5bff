"""What travels between processes of one team: framed orders on a control socket, bare bytes on a link.

A frame is ``length (8 bytes, little-endian) | JSON header | arrays``, the header says the arrays' types and shapes; one
file descriptor (the end of a link) may ride along. A link carries no frames: both ends know how many bytes come next.
Nothing is pickled, and torch is not needed here.
Public: ``send_frame``, ``receive_frame``, ``exchange``, ``Closed``, ``LinkLost``, ``Abandoned``.
"""

from __future__ import annotations

import contextlib
import json
import math
import selectors
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyone.engine.documents import loads_json
from manyone.errors import ManyoneError

_HEAD = 8
_LARGEST = 1 << 32  # bytes of a frame
_TYPES = ("float32", "int64", "uint8", "bool")


class Closed(Exception):
    """The other end of a control socket is gone."""


class Abandoned(Exception):
    """The coordinator hung up in the middle of a step."""


class LinkLost(Exception):
    """The agent at the other end of a link is gone; ``link`` is its key in :func:`exchange`."""

    def __init__(self, link: Any) -> None:
        super().__init__(str(link))
        self.link = link


def send_frame(
    control: socket.socket, header: Mapping[str, Any], arrays: Sequence[np.ndarray] = (), fd: int | None = None
) -> None:
    """Sends ``header`` (JSON) and ``arrays`` (float32, int64, uint8, bool); ``fd`` is passed on to the other process.

    Raises :class:`Closed` when nobody is there any more.
    """
    kinds = [(str(a.dtype), list(a.shape)) for a in arrays]
    if bad := [kind for kind, _ in kinds if kind not in _TYPES]:
        raise TypeError(f"a frame cannot carry {bad[0]}")
    text = json.dumps({"header": dict(header), "arrays": kinds}).encode()
    body = b"".join([len(text).to_bytes(_HEAD, "little"), text, *(np.ascontiguousarray(a).tobytes() for a in arrays)])
    whole = len(body).to_bytes(_HEAD, "little") + body
    try:
        sent = socket.send_fds(control, [whole], [fd]) if fd is not None else control.send(whole)
        control.sendall(memoryview(whole)[sent:])
    except TimeoutError:
        raise
    except OSError:
        raise Closed from None


def receive_frame(control: socket.socket) -> tuple[dict[str, Any], list[np.ndarray], int | None]:
    """(header, arrays, file descriptor or None) of the next frame; :class:`Closed` at its end.

    ``ManyoneError`` for bytes that are no frame: what they claim is compared with what there is before it is used.
    """
    try:
        head, fds, _, _ = socket.recv_fds(control, _HEAD, 1)
        size = int.from_bytes(head + _read(control, _HEAD - len(head), started=bool(head)), "little")
        if not _HEAD <= size <= _LARGEST:
            raise ManyoneError(f"a frame of {size} bytes: at most {_LARGEST} travel between the processes of a team")
        body = _read(control, size, started=True)
    except TimeoutError:
        raise
    except OSError:
        raise Closed from None
    try:
        header, arrays = _parsed(body)
    except (ValueError, KeyError, TypeError) as problem:
        raise ManyoneError(f"bytes that are no frame of a team's process ({' '.join(str(problem).split())})") from None
    return header, arrays, fds[0] if fds else None


def _parsed(body: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """(header, arrays) of a frame's body."""
    cut = _HEAD + int.from_bytes(body[:_HEAD], "little")
    if cut > len(body):
        raise ValueError("its header is longer than it is")
    text = loads_json(body[_HEAD:cut])
    header, arrays = text["header"], []
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    for kind, shape in text["arrays"]:
        if kind not in _TYPES or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("its arrays are of another kind")
        count = math.prod(shape)
        if count * np.dtype(kind).itemsize > len(body) - cut:
            raise ValueError("its arrays are larger than it is")
        array = np.frombuffer(body, kind, count, cut).reshape(shape).copy()
        arrays.append(array)
        cut += array.nbytes
    if cut != len(body):
        raise ValueError("more bytes than its arrays have")
    return header, arrays


def _read(control: socket.socket, size: int, *, started: bool) -> bytes:
    if size and not started:
        raise Closed
    parts = []
    while size:
        part = control.recv(min(size, 1 << 20))
        if not part:
            raise Closed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def exchange(
    links: Mapping[Any, socket.socket],
    outgoing: Mapping[Any, bytes],
    incoming: Mapping[Any, int],
    watch: socket.socket | None = None,
) -> dict[Any, bytes]:
    """Sends ``outgoing`` and receives exactly ``incoming`` bytes, each over the link of that key; what was received.

    Both directions advance together, so that two agents that send more than the system buffers do not block each
    other. ``links`` are non-blocking sockets. ``watch`` (the control socket) falling silent for good ends the wait
    with :class:`Abandoned`; a peer's end with :class:`LinkLost`.
    """
    left = {key: memoryview(data) for key, data in outgoing.items() if data}
    due = {key: size for key, size in incoming.items() if size}
    parts: dict[Any, list[bytes]] = {key: [] for key in incoming}
    for key in list(left):  # the common case: the system takes all of it at once
        _push(links, left, key)
    for key in list(due):
        _pull(links, due, parts, key)
    if left or due:
        with selectors.DefaultSelector() as selector:
            for key in {*left, *due}:
                events = (selectors.EVENT_WRITE if key in left else 0) | (selectors.EVENT_READ if key in due else 0)
                selector.register(links[key], events, key)
            if watch is not None:
                selector.register(watch, selectors.EVENT_READ, None)
            while left or due:
                for found, _ in selector.select():
                    if found.fileobj is watch:
                        raise Abandoned  # no order comes in the middle of a step: the coordinator has hung up
                    key = found.data
                    if key in left:
                        _push(links, left, key)
                    if key in due:
                        _pull(links, due, parts, key)
                    still = (selectors.EVENT_WRITE if key in left else 0) | (selectors.EVENT_READ if key in due else 0)
                    if still:
                        selector.modify(links[key], still, key)
                    else:
                        selector.unregister(links[key])
    return {key: b"".join(pieces) for key, pieces in parts.items()}


def _push(links: Mapping[Any, socket.socket], left: dict[Any, memoryview], key: Any) -> None:
    with contextlib.suppress(BlockingIOError):
        try:
            left[key] = left[key][links[key].send(left[key]) :]
        except ConnectionError:
            raise LinkLost(key) from None
        if not left[key]:
            del left[key]


def _pull(links: Mapping[Any, socket.socket], due: dict[Any, int], parts: dict[Any, list[bytes]], key: Any) -> None:
    with contextlib.suppress(BlockingIOError):
        try:
            part = links[key].recv(due[key])
        except ConnectionError as problem:
            raise LinkLost(key) from problem
        if not part:
            raise LinkLost(key)
        parts[key].append(part)
        due[key] -= len(part)
        if not due[key]:
            del due[key]
