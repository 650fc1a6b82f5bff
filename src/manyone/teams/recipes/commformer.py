"""``manyone run commformer``: agents learn who listens to whom, and when, together with what they do.

    manyone run commformer                                   # Predator-Prey, batched, a few minutes
    manyone run commformer --env relay                       # the diagnostic: its best graph is known
    manyone run commformer --gate --gate-target 0.5          # agents also decide when to receive
    manyone run commformer --send-gate                       # or when to send, as in IC3Net
    manyone run commformer --graph dynamic                   # or whom to hear anew at every step, after MAGIC
    manyone run commformer --env pettingzoo:my_module        # your own environment

One step of the loop is one iteration: a roll-out of all copies and the update on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import check
from manyone.teams.recipes.options import EdgeOptions
from manyone.teams.recipes.presets import OFFICIAL


@dataclass(kw_only=True)
class Options(EdgeOptions):
    """CommFormer (Hu et al., ICLR 2024): a communication graph with a budget of links, learned with the policy."""

    METHOD: ClassVar[str] = "commformer"

    graph: Literal["learned", "dynamic", "full", "none", "random", "ring", "star", "nearest"] = "learned"
    """Who may hear whom: learned; dynamic (after MAGIC: --density links an agent, chosen at every step from what all
    see); or fixed: full (everybody), none, star (everybody and agent 1), or --density links an agent: random, ring,
    nearest (by the agents' places, or their order where they have none)."""
    density: float = 0.4
    """S, the share of the team that each agent may hear: max(int(n S), 1) links; above 0, at most 1."""
    graph_rollout: Literal["replay", "official"] = "replay"
    """Act with the graph that the update uses (ratios start at 1), or, as in the authors' code, with another one."""
    commit: float | None = None
    """Share of the training after which the graph stays as it is; 0: never. Preset: 0.4."""
    warmup: int | None = None
    """Iterations at the start that update on the dense graph, with --graph-rollout official. Preset: 0; published 10,
    on two maps 100."""
    edge_lr: float | None = None
    """Learning rate of the graph's logits; above 0. Preset: 0.05; published 0.0001, for millions of steps."""
    upper_every: int = 5
    """Every so many epochs one updates the graph instead of the network; 1 or more."""
    upper_data: Literal["same", "heldout"] = "same"
    """The graph learns from the same data, or from a fifth of the copies that the network does not see."""
    official: bool = False
    """Behave as the authors' code does, mistakes included: sets --graph-rollout, --scale, --relation, --decoder-mask,
    --diagonal and --no-value-alive; and, where you do not say otherwise, --dropout 0.1, --edge-lr 0.0001, --warmup 10
    and --commit 0."""

    def __post_init__(self) -> None:
        if self.official:
            for name, value in OFFICIAL.items():
                if name not in ("dropout", "edge_lr", "warmup", "commit") or getattr(self, name) is None:
                    setattr(self, name, value)
        super().__post_init__()
        if self.graph == "dynamic" and (self.relation != "receiver" or self.diagonal != "excluded"):
            raise ManyoneError("--graph dynamic: needs --relation receiver and --diagonal excluded, and no --official")
        check("density", self.density, 0 < self.density <= 1, "above 0, at most 1")
        check("commit", self.commit, self.commit is not None and 0 <= self.commit <= 1, "0 to 1")
        check("warmup", self.warmup, self.warmup is not None and self.warmup >= 0, "0 or more")
        check("edge_lr", self.edge_lr, self.edge_lr is not None and self.edge_lr > 0, "above 0")
        check("upper_every", self.upper_every, self.upper_every >= 1, "1 or more")
        assert self.epochs is not None
        if self.graph == "learned" and self.epochs < self.upper_every:
            raise ManyoneError(
                f"--epochs {self.epochs}: fewer than --upper-every {self.upper_every}, so the graph would never learn"
            )

    def graph_words(self) -> dict[str, Any]:
        return super().graph_words() | {"graph": self.graph, "density": self.density}

    def training_words(self) -> dict[str, Any]:
        words = super().training_words()
        if self.graph == "learned":
            names = ("graph_rollout", "warmup", "edge_lr", "upper_every", "upper_data")
            words |= {name: getattr(self, name) for name in names} | {"commit": self.commit}
        return words


@dataclass(kw_only=True)
class FullOptions(EdgeOptions):
    """CommFormer(FC): everybody hears everybody; the edge embedding and the decoder are CommFormer's."""

    METHOD: ClassVar[str] = "commformer-fc"
