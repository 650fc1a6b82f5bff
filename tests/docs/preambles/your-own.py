"""A base and two experts with pictures of their tasks; a mergekit recipe; a network of one's own."""

import torch
from tests.docs.given import pictures, pretrained
from torch import nn

pretrained("base", ["pets-model", "signs-model"])
pictures("data/pets", ["cat", "dog"])
pictures("data/signs", ["stop", "go"])


class MyNetwork(nn.Module):
    """Pictures [B, 3, 8, 8] -> features [B, 16]."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, images):
        return self.mlp(images.flatten(1))


expert_a, expert_b = MyNetwork(), MyNetwork()
pets_head, signs_head = nn.Linear(16, 2), nn.Linear(16, 2)
images = torch.rand(4, 3, 8, 8)
