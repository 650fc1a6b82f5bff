"""Tensors in files that others may read.

Public: ``save_tensors``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """``safetensors.torch.save_file`` with the mode that the umask gives to every other new file.

    safetensors itself makes a file that its owner alone can read.
    """
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    path.chmod(mode)
