"""What policies are trained on and evaluated in: the offline data of several tasks, and held-out goals of the same tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.data.trajectories import Trajectories
