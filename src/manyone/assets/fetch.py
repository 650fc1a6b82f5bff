"""``get(name)``: the asset's file from the cache, or fetched, verified and cached; ``get_all`` fetches several.

Order: the cache; the online source when its library is installed and carries the very same bytes; the package
registry's ordinary client. What does not answer within 3 s is passed over, and not asked again for a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from manyone.assets import clients
from manyone.assets.archives import open_archive
from manyone.assets.cache import cache_folder, cache_path, locked, verify, workspace
from manyone.assets.registry import Asset, find_asset
from manyone.engine.files import sha256
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

REMEMBER = 60.0
"""Seconds for which other processes believe that a source does not answer."""

_silent: dict[str, str] = {}  # source -> reason, for the life of this process


class Unavailable(ManyoneError):
    """No source could bring the asset called ``asset``; what needs it may take a stand-in."""

    def __init__(self, asset: str, message: str) -> None:
        super().__init__(message)
        self.asset = asset


def get(name: str) -> Path:
    """The verified file of asset ``name`` (or the folder that its online source filled).

    Raises :class:`Unavailable` when no source answers, :class:`ManyoneError` when the bytes are wrong.
    """
    asset = find_asset(name)
    if (path := cached(asset)) is not None:
        return path
    if os.environ.get("MANYONE_OFFLINE", "0") not in ("", "0"):
        raise Unavailable(
            name,
            f"{name} is not in the cache and MANYONE_OFFLINE is set: unset it, or put {asset.filename} "
            f"(SHA-256 {asset.sha256}) into {cache_folder('assets')}",
        )
    with locked(f"asset-{name}"):
        return cached(asset) or _fetch(asset, _watched)


def get_all(names: Sequence[str]) -> None:
    """Fetches what the cache lacks of ``names``, two at a time: clients spend more time on starting than on bytes.

    What no source brings is left to :func:`get`, which says why where it is needed.
    """
    missing = [asset for asset in map(find_asset, names) if cached(asset) is None]
    if len(missing) < 2 or os.environ.get("MANYONE_OFFLINE", "0") not in ("", "0"):
        return
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:

        @contextmanager
        def shown(asset: Asset, origin: str) -> Iterator[clients.Watch]:
            with _watched(asset, origin) as watch:

                def both(size: int) -> None:
                    if stop.is_set():
                        raise Unavailable(asset.name, f"{asset.name}: fetching was interrupted")
                    watch(size)

                yield both

        def fetch(asset: Asset) -> None:
            with suppress(Unavailable), locked(f"asset-{asset.name}"):
                if not stop.is_set() and cached(asset) is None:
                    _fetch(asset, shown)

        try:
            for future in [pool.submit(fetch, asset) for asset in missing]:
                future.result()
        except BaseException:
            stop.set()
            raise


def cached(asset: Asset) -> Path | None:
    """Where the asset lies, verified, or None. A wrong file is removed and reported."""
    folder = cache_path("assets")
    path = folder / asset.filename
    if path.is_file():
        verify(path, asset.sha256, name=asset.name)
        return path
    if asset.online and asset.online.files and (folder / asset.name).is_dir():
        for file, expected in asset.online.files.items():
            verify(folder / asset.name / file, expected, name=f"{asset.name}, {file}")
        return folder / asset.name
    return None


def in_cache(asset: Asset) -> Path | None:
    """Where the asset lies, not verified (which reads all of it), or None: for those who only list what is there."""
    places = (cache_path("assets") / name for name in (asset.filename, asset.name))
    return next((place for place in places if place.exists()), None)


def materialise(name: str) -> Path:
    """A folder that holds the asset's members as plain files and nothing else, for libraries that open folders only.

    What was unpacked before is compared with the verified archive, and written anew where it differs.
    """
    asset = find_asset(name)
    source = get(name)
    if source.is_dir():
        return source
    target = cache_folder("unpacked") / f"{asset.name}-{asset.version}"
    archive = open_archive(source)
    with locked(f"unpack-{name}"):
        files = {member.rsplit("/", 1)[-1]: archive.read(member) for member in asset.members}
        if {p.name for p in target.glob("*")} == files.keys() and all(
            (target / file).read_bytes() == content for file, content in files.items()
        ):
            return target
        with workspace() as place:
            folder = place / "files"
            folder.mkdir()
            for file, content in files.items():
                (folder / file).write_bytes(content)
            if target.is_dir():
                target.rename(place / "earlier")
            folder.rename(target)
    return target


def forget(asset: Asset) -> int:
    """Removes what the cache holds of ``asset``; returns the bytes set free."""
    paths = [cache_folder("assets") / asset.filename, cache_folder("assets") / asset.name]
    paths += [
        cache_folder("assets") / f"{asset.filename}.verified",
        cache_folder("unpacked") / f"{asset.name}-{asset.version}",
    ]
    freed = 0
    for path in paths:
        if path.is_dir():
            freed += clients.folder_size(path)
            shutil.rmtree(path)
        elif path.is_file():
            freed += path.stat().st_size
            path.unlink()
    return freed


Show = Callable[[Asset, str], AbstractContextManager[clients.Watch]]


def _fetch(asset: Asset, progress: Show) -> Path:
    problems = []
    for source in (_from_online, _from_registry):
        label = _label(asset, source is _from_online)
        if label is None:
            continue
        if (reason := _known_silent(label)) is not None:
            problems.append(f"{label} did not answer a moment ago ({reason})")
            continue
        try:
            clients.check_client(asset, online=source is _from_online)
            return source(asset, progress)
        except clients.PassedOver as problem:
            problems.append(str(problem))
            if problem.unreachable:
                _remember(label, str(problem))
    raise Unavailable(
        asset.name,
        f"{asset.name} could not be fetched ({clients.explain(problems)}); fetch it where a network is, or put "
        f"{asset.filename} (SHA-256 {asset.sha256}) into {cache_folder('assets')}",
    )


def _label(asset: Asset, from_online: bool) -> str | None:
    """What is remembered as silent: the registry, or the kind of online source (None when there is no equal one)."""
    if not from_online:
        return asset.registry
    return asset.online.kind if asset.online and asset.online.files else None


def _from_online(asset: Asset, progress: Show) -> Path:
    assert asset.online is not None
    target = cache_folder("assets") / asset.name
    with workspace() as folder, progress(asset, f"{asset.online.kind} {asset.online.id}") as watch:
        clients.online(asset, folder, watch)
        kept = folder / "verified"
        kept.mkdir()
        for file, expected in asset.online.files.items():
            found = sorted(p for p in folder.rglob(file) if p.is_file())
            if not found or sha256(found[0]) != expected:
                state = "has other bytes than expected" if found else "is missing"
                raise clients.PassedOver(f"{asset.online.kind} {asset.online.id}: {file} {state}", unreachable=False)
            found[0].rename(kept / file)
        kept.rename(target)
    return target


def _from_registry(asset: Asset, progress: Show) -> Path:
    target = cache_folder("assets") / asset.filename
    with workspace() as folder, progress(asset, asset.origin) as watch:
        path = clients.download(asset, folder, watch)
        verify(path, asset.sha256, name=f"{asset.name} ({asset.origin})")
        path.replace(target)
    verify(target, asset.sha256, name=asset.name)
    return target


@contextmanager
def _watched(asset: Asset, origin: str) -> Iterator[clients.Watch]:
    """One line that says what is fetched, and progress while it runs."""
    print(f"fetching {asset.name}, {asset.megabytes}, licence: {asset.licence}, from {origin}", file=sys.stderr)
    with Progress(asset.name, asset.size, unit="bytes") as bar:
        yield lambda size: bar.update(min(size, asset.size))


def _known_silent(source: str) -> str | None:
    if source in _silent:
        return _silent[source]
    record = cache_folder("silent") / f"{source}.json"
    try:
        text = json.loads(record.read_text())
        return text["reason"] if 0 <= time.time() - text["time"] < REMEMBER else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no record, or one that was cut short: ask the source


def _remember(source: str, reason: str) -> None:
    _silent[source] = reason
    (cache_folder("silent") / f"{source}.json").write_text(json.dumps({"time": time.time(), "reason": reason}))
