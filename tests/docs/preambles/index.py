"""A base and two experts."""

from tests.docs.given import pretrained

pretrained("base", ["expert-a", "expert-b"])
