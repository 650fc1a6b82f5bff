"""A base and two experts, as folders and as modules; pictures without labels; a mergekit recipe."""

import torch
from tests.docs.given import mergekit_recipe, pictures, pretrained
from torch import nn

from manyone.nets import build_encoder

pretrained("base", ["expert-a", "expert-b"])
pictures("data/pets", ["cat", "dog"])
pictures("data/cars", ["bus", "van"])
mergekit_recipe("recipe.yaml", "base", ["expert-a", "expert-b"])

network = {"kind": "resmlp", "width": 16, "hidden": 32, "depth": 2}
base_module, expert_a, expert_b = (build_encoder(network, seed=seed) for seed in range(3))
expert_a_weights, expert_b_weights = expert_a.state_dict(), expert_b.state_dict()
images = torch.rand(8, 1, 28, 28)
unlabelled_a, unlabelled_b = torch.rand(40, 1, 28, 28), torch.rand(40, 1, 28, 28)
heads = {"a": nn.Linear(16, 3), "b": nn.Linear(16, 5)}
