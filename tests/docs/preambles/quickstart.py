"""A base and three experts, as folders and as modules."""

from tests.docs.given import pretrained

from manyone.nets import build_encoder

pretrained("base", ["task-a", "task-b", "task-c"])
base, a, b, model = (build_encoder({"kind": "resmlp", "width": 16, "hidden": 32, "depth": 2}, seed=s) for s in range(4))
