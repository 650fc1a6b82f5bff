"""What a run asks for before it computes anything: packages of data that are fetched, things of the hub, libraries.

A field says it in a light module, ``recipes/needs.py``: ``needs(options)``. Where a library is missing a run is refused
before anything is fetched or trained; a dry run shows all of it and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from manyone.assets.fetch import in_cache
from manyone.assets.registry import find_asset
from manyone.engine.extras import Extra

UNKNOWN = "known once the data are there"
"""What a dry run says instead of a value that only the data tell."""


@dataclass(frozen=True)
class Needs:
    """``assets``: names of records (:mod:`manyone.assets.registry`); ``hub``: ids of the data hub, whose sizes and
    licences are told there; ``extras``: optional libraries."""

    assets: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    extras: tuple[Extra, ...] = ()

    def __or__(self, other: Needs) -> Needs:
        """Both, each thing once."""
        pairs = ((self.assets, other.assets), (self.hub, other.hub), (self.extras, other.extras))
        return Needs(*(tuple(dict.fromkeys((*one, *two))) for one, two in pairs))  # type: ignore[arg-type]

    @property
    def there(self) -> bool:
        """Whether nothing would be fetched."""
        return not self.hub and all(in_cache(find_asset(name)) for name in self.assets)

    def lines(self) -> Iterator[str]:
        """What a dry run says of it."""
        records = [find_asset(name) for name in self.assets]
        missing = [asset for asset in records if not in_cache(asset)]
        if missing or self.hub:
            yield "would be fetched first:"
        for asset in missing:
            yield f"  {asset.name}: {asset.megabytes}, licence: {asset.licence}, from {asset.origin}"
        if len(missing) > 1:
            yield f"  together {sum(asset.size for asset in missing) / 1e6:.0f} MB"
        for name in self.hub:
            yield f"  {name}: from the data hub, which tells size and licence"
        if there := [asset.name for asset in records if asset not in missing]:
            yield f"in the cache already: {', '.join(there)}"
        for extra in self.extras:
            if extra.missing:
                yield f"missing: {extra}"


def together(parts: Iterable[Needs]) -> Needs:
    """All of ``parts``, each thing once."""
    found = Needs()
    for part in parts:
        found |= part
    return found


def hub_ids(words: Iterable[object]) -> tuple[str, ...]:
    """Those of ``words`` that mean the hub: OWNER/NAME or NAME where no such file or folder is here."""
    texts = [str(word) for word in words if word]
    return tuple(t for t in texts if t.count("/") <= 1 and not t.startswith((".", "/", "~")) and not Path(t).exists())
