"""The ways to adapt a frozen sequence policy to new tasks, as the few choices in which they differ. Data only.

Public names: :data:`METHODS`, :class:`TuningMethod`.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class TuningMethod(NamedTuple):
    """What makes a method."""

    summary: str
    defaults: dict[str, Any]
    """Options whose defaults are its own: steps, lr, weight_decay."""
    needs_prompt: bool = False
    """Whether it tunes a prompt, so that the policy must read one."""


METHODS: dict[str, TuningMethod] = {
    "none": TuningMethod("Prompt-DT as it is: prompts of the new task's data, nothing is trained",
                         {"steps": 1, "lr": 1e-3}),
    "full": TuningMethod("all weights are fine-tuned", {"steps": 150, "lr": 1e-3, "weight_decay": 1e-4}),
    "soft": TuningMethod("the prompt's 3 K* token vectors are tuned", {"steps": 150, "lr": 5e-2}, True),
    "gradient": TuningMethod("the prompt's returns, states and actions are tuned", {"steps": 150, "lr": 0.1}, True),
    "ranking": TuningMethod("Prompt-Tuning DT: the prompt is tuned by ranks of perturbed ones, by their errors",
                            {"steps": 150, "lr": 0.3}, True),
    "ranking-online": TuningMethod("the same by the returns of episodes that they play",
                                   {"steps": 20, "lr": 0.3}, True),
    "adaptor": TuningMethod("bottlenecks behind attention and MLP of each block", {"steps": 150, "lr": 5e-3}),
    "lora": TuningMethod("low-rank updates of each block's attention", {"steps": 150, "lr": 5e-3}),
    "mlp": TuningMethod("a network of the diffuser's size that gives prompts, without diffusion",
                        {"steps": 150, "lr": 1e-3}, True),
}  # fmt: skip
