"""A base and two experts with pictures of their tasks; a mergekit recipe."""

from tests.docs.given import pictures, pretrained

pretrained("base", ["pets-model", "signs-model"])
pictures("data/pets", ["cat", "dog"])
pictures("data/signs", ["stop", "go"])
