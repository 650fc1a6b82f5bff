"""A table; rows, labels and owners; a module with the weights and the loss of its problem, loaders of its clients."""

import torch
from tests.docs.given import table
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

table("patients.csv", label="died")

x = torch.randn(60, 4).numpy()
y, owner = x[:, 0] > 0, [f"site {i % 3}" for i in range(60)]
model, weights = nn.Linear(4, 3), torch.full((3,), 1 / 3)
loaders = [DataLoader(TensorDataset(torch.randn(40, 4), torch.randint(3, (40,))), batch_size=20) for _ in range(4)]


def loss(x, y, batch, noise):
    costs = cross_entropy(x(batch["features"]), batch["labels"], reduction="none")
    return (3 * y["weights"][batch["labels"]] * costs).mean()
