"""Writes the manual's API pages, docs/api-FIELD.md: every public name of every field, at the place that defines it.

python scripts/api_pages.py
"""

from __future__ import annotations

import ast
from pathlib import Path

from manyone.fields import FIELDS

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"sql": "SQL"}


def public_names(field: str) -> dict[str, str]:
    """Public name -> where it is defined, from the field's stub."""
    stub = ast.parse((ROOT / "src/manyone" / field / "__init__.pyi").read_text(encoding="utf-8"))
    found = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, (f"manyone.{field}" if node.level == 1 else "manyone", node.module)))
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def page(field: str) -> str:
    """The text of a field's page."""
    lines = [f"# API: {TITLES.get(field, field)}", "", f"All of these are imported from `manyone.{field}`."]
    for name, place in public_names(field).items():
        lines += ["", f"## {name}", "", f"::: {place}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes all pages."""
    for field in FIELDS:
        (ROOT / "docs" / f"api-{field}.md").write_text(page(field), encoding="utf-8")


if __name__ == "__main__":
    main()
