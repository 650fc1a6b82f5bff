"""What mkdocs asks while it builds the manual: Sphinx's roles in docstrings (``:class:`Name```) become plain code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|obj):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page with the last part of each name that a role gives."""
    return _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)
