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
        self.stem, self.blocks = nn.Linear(192, 16), nn.ModuleList([nn.ModuleDict({"mlp": nn.Linear(16, 16)})])

    def forward(self, images):
        x = self.stem(images.flatten(1))
        for block in self.blocks:
            x = x + block["mlp"](x).relu()
        return x


expert_a, expert_b = MyNetwork(), MyNetwork()
pets_head, signs_head = nn.Linear(16, 2), nn.Linear(16, 2)
images = torch.rand(4, 3, 8, 8)
