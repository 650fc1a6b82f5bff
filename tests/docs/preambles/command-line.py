"""A base and two experts, their pictures, and a mergekit recipe."""

from tests.docs.given import mergekit_recipe, pictures, pretrained

pretrained("base", ["a", "b"])
pictures("data/pets", ["cat", "dog"])
pictures("data/signs", ["stop", "go"])
mergekit_recipe("recipe.yaml", "base", ["a", "b"])
