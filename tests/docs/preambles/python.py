"""A base, two experts, something merged, their inputs and heads; as folders too. Rows of a study."""

from pathlib import Path

import torch
from tests.docs.given import pretrained
from tests.report.conftest import made_up_study
from torch import nn

from manyone.nets import build_encoder

pretrained("base", ["task-a", "task-b"])
network = {"kind": "resmlp", "width": 16, "hidden": 32, "depth": 2}
base, a, b, merged = (build_encoder(network, seed=seed) for seed in range(4))
encoder = base
images, inputs_a, inputs_b = (torch.rand(n, 1, 28, 28) for n in (8, 40, 40))
head_a, head_b = nn.Linear(16, 3), nn.Linear(16, 5)
made_up_study(seeds=2).save(Path("runs/reproduce-smoke/merging"))
