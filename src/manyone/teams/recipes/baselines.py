"""``manyone run mat``, ``mat-dec``, ``no-comm``, ``mappo``, ``ippo``: what a learned graph is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from manyone.teams.recipes.options import AttentionOptions, TeamOptions


@dataclass(kw_only=True)
class TransformerOptions(AttentionOptions):
    """MAT (Wen et al., NeurIPS 2022): everybody hears everybody, actions are decoded one agent after another."""

    METHOD: ClassVar[str] = "mat"


@dataclass(kw_only=True)
class EncoderOptions(AttentionOptions):
    """MAT-dec: MAT's encoder, and all actions at once."""

    METHOD: ClassVar[str] = "mat-dec"


@dataclass(kw_only=True)
class SilentOptions(AttentionOptions):
    """No communication: the same network, every agent alone with its observation."""

    METHOD: ClassVar[str] = "no-comm"

    @property
    def sends(self) -> bool:
        return False


@dataclass(kw_only=True)
class CentralOptions(TeamOptions):
    """MAPPO (Yu et al., NeurIPS 2022): local actors with shared weights, a critic that sees everything in training."""

    METHOD: ClassVar[str] = "mappo"


@dataclass(kw_only=True)
class IndependentOptions(TeamOptions):
    """IPPO (de Witt et al., 2020): local actors and local critics, shared weights."""

    METHOD: ClassVar[str] = "ippo"
