"""What users have, as tensors: fields of samples, and labels of two classes.

Public: ``as_field``, ``positives``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError


def as_field(values: Any) -> Tensor:
    """What ``torch.as_tensor`` takes, as a tensor; class names [N] as class numbers 0, 1, ... in their sorted order.

    Objects in several dimensions, as a table of columns of several types gives, must be numbers; text there is refused.
    """
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # words, or a container that only numpy knows
        array = np.asarray(values)
    if array.ndim > 1 and array.dtype.kind in "SU":
        shape = list(array.shape)
        raise ManyoneError(
            f"a field of shape {shape} holds text, only labels [N] may: convert it, values.astype(float)"
        )
    try:
        if array.ndim > 1 and array.dtype.kind == "O":
            return torch.as_tensor(array.astype(np.float64))
        return torch.as_tensor(np.unique(array, return_inverse=True)[1] if array.dtype.kind in "OSU" else array)
    except (TypeError, ValueError):
        raise ManyoneError(f"a field of samples is made of numbers or of class names, not of {array.dtype}") from None


def positives(labels: Any) -> Tensor:
    """Which labels are of the positive class: bool [N].

    Labels are bool, 0/1, +1/-1, any two numbers or any two words; of the two in sorted order the second is positive
    (scikit-learn's rule: ``classes_[1]``). Labels that are all -1, 0 or 1 are one class, positive if it is 1.
    """
    values = as_field(labels)
    classes = values.unique().tolist()
    if len(classes) == 2 and all(c == c for c in classes):
        return values == classes[1]
    if len(classes) == 1 and classes[0] in (-1, 0, 1):
        return values > 0
    if not isinstance(labels, Tensor):
        classes = sorted({str(label) for label in np.asarray(labels).flatten()})
    shown = ", ".join(map(str, classes[:6])) + (", ..." if len(classes) > 6 else "")
    raise ManyoneError(f"two classes are needed, these labels hold {len(classes)}: {shown}")
