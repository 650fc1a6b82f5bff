"""These tests need the extra ``earth-models`` and are not part of the default ones: make earth-models-test.

On Linux the torchvision of PyPI is built for CUDA; beside a torch for CPUs its compiled operators are missing, and it
stops at the first that it describes. The networks here use none of them, so their names are declared.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MANYONE_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)
if not torch.version.cuda:
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
