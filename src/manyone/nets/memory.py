"""What the C library does with memory that tensors give back.

Public names: :func:`keep_freed_memory`.
"""

from __future__ import annotations

import torch


def keep_freed_memory() -> None:
    """Lets later steps reuse the memory of earlier ones; where malloc is not glibc's nothing happens.

    glibc hands freed blocks above a threshold back to the system, and faulting their pages in again takes a fifth to a
    third of the time of a step of a small network. The threshold grows to the largest block freed so far, 32 MB at most
    (mallopt(3)), so one block of nearly that size, never touched, is all it takes; the process then keeps at most twice
    as much. Settings of one's own (MALLOC_MMAP_THRESHOLD_) stay in force.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
