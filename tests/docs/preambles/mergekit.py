"""A base and two experts, and a mergekit recipe."""

from tests.docs.given import mergekit_recipe, pretrained

pretrained("base", ["a", "b"])
mergekit_recipe("recipe.yaml", "base", ["a", "b"])
