"""VQ-CD's own strategy: every task has a disjoint random part of the weights (arXiv 2410.15698, selective activation).

While task i is trained the live network is M_i * W (what belongs to others is held back, so that the forward pass
needs no product), its gradient is M_i * g, and Adam starts anew: what lies outside M_i stays exactly zero. Tensors of
one dimension (biases, norms) are kept per task in a bank: unmasked, they would be overwritten and forget silently.

Public names: :class:`MaskStrategy`.
"""

from __future__ import annotations

from manyone.policies.vqcd.strategy import Kept, Strategy


class MaskStrategy(Strategy):
    """Disjoint masks with a bank of the one-dimensional tensors; forgetting is exactly zero."""

    def kept(self) -> Kept:
        """One merged set of weights, the masks and the bank."""
        raise AssertionError("filled in with the masks of manyone.policies.vqcd.weights")
