"""Sequential training with nothing protected: what every other strategy is measured against.

    theta_i = argmin of L_i, started at theta_{i-1}        every weight may move in every task

Public names: :class:`Finetune`.
"""

from __future__ import annotations

from manyone.policies.vqcd.strategy import Strategy


class Finetune(Strategy):
    """One set of weights, moved by every task in turn: what a strategy does that protects nothing."""
