"""Options of the recipes whose result is a LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from manyone.recipes.options import CommonOptions, Places, Range


@dataclass(kw_only=True)
class ExtractLoraOptions(CommonOptions):
    """A PEFT LoRA adapter from a base and a model fine-tuned from it, by truncated singular value decomposition."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--base base --model tuned --rank 16 --out adapter",
        "--base base --model tuned --dry-run",
    )

    precision: Literal["32-true"] = "32-true"
    """The factors are computed and written in float32."""
    base: Annotated[str | None, Places()] = None
    """The model that the adapter is for: a .safetensors file, a Hugging Face folder, or a .pt/.bin file of tensors."""
    model: Annotated[str | None, Places()] = None
    """The model fine-tuned from it, in the same forms."""
    rank: Annotated[int, Range(1)] = 32
    """Rank of every layer's change; a layer with a shorter side has that rank."""
    others: Literal["save", "drop"] = "save"
    """What is no linear layer (embeddings, norms, biases): save what changed exactly in the adapter, or drop it."""
    exclude: tuple[str, ...] = ()
    """Regular expressions of tensor names that the adapter leaves as in the base."""


@dataclass(kw_only=True)
class LoraArithmeticOptions(CommonOptions):
    """Task arithmetic of LoRA adapters: their weighted sum as one adapter, exactly and without the base."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--adapters a b --weights 0.5 0.5 --out sum", "--adapters a b --dry-run")

    precision: Literal["32-true"] = "32-true"
    """The factors are written in float32."""
    adapters: Annotated[tuple[str, ...], Places()] = ()
    """PEFT folders of plain LoRA adapters of one base, two or more."""
    scale: float = 1.0
    """Weight of every adapter."""
    weights: tuple[float, ...] = ()
    """Weights of the adapters one by one, in their order; each is multiplied by --scale."""
