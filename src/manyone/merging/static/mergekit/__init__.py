"""mergekit's YAML recipes, with the meaning that mergekit 0.1.5 gives them; docs/mergekit.md says what differs."""

from manyone.merging.static.mergekit.recipe import prepare_recipe

__all__ = ["prepare_recipe"]
