"""The strategies by name; nothing is imported before it is asked for."""

STRATEGIES: dict[str, str] = {
    "masks": "masks:MaskStrategy",
}
"""Name -> ``module:class`` in this package."""
