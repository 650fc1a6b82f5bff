"""The entropy ladder: whether adaptation by certainty can move a merged model towards its experts at all.

Entropy minimisation (AdaMerging, WEMoE, E-WEMoE) follows whichever model is surer. It can find the experts only where
the experts' predictions are surer than the merged model's, and those surer than the base's. A base that was trained
for long by plain cross-entropy on few samples is often the surest of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manyone.data.tasks import Inputs
from manyone.merging.adaptation.objectives import entropy
from manyone.merging.heads import Head
from manyone.merging.measures import SharedModel, logits

WAYS_OUT = (
    "ways out: a base trained with label smoothing, --objective information-maximisation, or --objective expert-kl"
)


@dataclass(frozen=True)
class Rung:
    """Mean prediction entropies of one task, in nats."""

    base: float
    merged: float
    expert: float

    @property
    def in_order(self) -> bool:
        """Whether every step down is surer: base > merged > expert."""
        return self.base > self.merged > self.expert


def entropy_ladder(
    base: SharedModel,
    merged: SharedModel,
    experts: Mapping[str, SharedModel],
    heads: Mapping[str, Head],
    inputs: Mapping[str, Inputs],
) -> dict[str, Rung]:
    """The entropies of every task on its own unlabelled ``inputs`` (each model as in :mod:`manyone.merging.measures`).

    Args:
        base, merged: one model for all tasks.
        experts, heads, inputs: by task; ``heads`` turn features into logits.
    """

    def of(model: SharedModel, task: str) -> float:
        return float(entropy(logits(model, heads[task], inputs[task], task)))

    return {t: Rung(of(base, t), of(merged, t), of(experts[t], t)) for t in inputs}


def ladder_warning(ladder: Mapping[str, Rung]) -> str | None:
    """One line where the order is another one in some task; None where it is right in all."""
    sure = [t for t, r in ladder.items() if r.base <= r.merged]
    unsure = [t for t, r in ladder.items() if r.base > r.merged and r.merged <= r.expert]
    if not sure and not unsure:
        return None
    said = [f"the base is surer than the merged model in {', '.join(sure)}"] if sure else []
    said += [f"the expert is no surer than the merged model in {', '.join(unsure)}"] if unsure else []
    return f"{'; '.join(said)}: adaptation by certainty has no pull towards the experts there; {WAYS_OUT}"
