"""The options of all team recipes: environment, training and evaluation; of recipes with a network over agents, a
communication graph and gates; of CommFormer.

``--preset laptop`` (the default) is sized for two processor cores and minutes, by environment; ``--preset smac:3s5z``
and the like have the published settings (:mod:`manyone.teams.recipes.presets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check
from manyone.teams.recipes.presets import values_of

Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, closed="neither")]


@dataclass(kw_only=True)
class TeamOptions(CommonOptions):
    """A team of agents in one environment, trained by proximal policy optimisation (PPO)."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--env predator-prey --out runs/prey",
        "--env pettingzoo:my_module --length 25 --out runs/mine",
    )

    preset: str = "laptop"
    """Values of all options that are left open: laptop (minutes on two cores), or the published settings of a map:
    smac:MAP (smac:3m, smac:27m_vs_30m, ...), predator-prey, predator-capture-prey, grf:academy_3_vs_1_with_keeper."""
    env: str = "predator-prey:predators=5,vision=1"
    """Environment: predator-prey, predator-prey-blind, predator-capture-prey, traffic-junction-easy (-medium, -hard),
    relay, relay-gate; settings follow a colon. By prefix mpe:NAME, vmas:NAME, lbf:NAME, rware:NAME, smax:MAP, smac:MAP,
    smacv2:MAP, mamujoco:NAME; pettingzoo:MODULE is your own: a module that Python can import, with parallel_env() or
    env()."""
    frames: Annotated[int, Range(1, 1000)] = 1
    """Observations of the running episode that every agent sees side by side, the last one included: memory for a
    policy that has none, for tasks where what is seen now does not say what was seen before. 1: no memory."""
    envs: Count = 32
    """Copies of the environment that step together."""
    length: Count = 50
    """Steps of every copy in an iteration."""
    iterations: Count = 200
    """Iterations, each a roll-out and an update."""
    env_steps: Annotated[int | None, Range(1)] = None
    """Instead of --iterations, environment steps in all (copies x steps), rounded up to whole iterations."""
    epochs: Count = 5
    """Passes over the data of an iteration."""
    minibatches: Count = 1
    """Parts of a pass, each a gradient step."""
    lr: Positive = 1e-3
    """Learning rate of the network (Adam)."""
    clip: Positive = 0.2
    """PPO's clipping of probability ratios and of values."""
    grad_clip: Positive = 10.0
    """Largest norm of the network's gradient."""
    value_coef: Weight = 1.0
    """Weight of the value loss."""
    entropy_coef: Weight = 0.01
    """Weight of the entropy."""
    gamma: Share = 0.99
    """Discount."""
    lam: Share = 0.95
    """Lambda of generalised advantage estimation."""
    width: Count = 64
    """Width of the network, a multiple of --heads."""
    layers: Count = 1
    """Blocks of encoder and decoder (hidden layers of MAPPO and IPPO)."""
    evaluate_every: Annotated[int, Range(0)] = 20
    """Iterations between evaluations; 0: only at the end. Left open, a tenth of the iterations (at least 10)."""
    checkpoint_every: Annotated[int, Range(0)] = 20
    """Iterations between checkpoints; 0: only at the end."""
    eval_episodes: Annotated[int, Range(2)] = 200
    """Greedy episodes of an evaluation, never seen in training."""
    evaluate_share: Weight = 0.35
    """Most environment steps of all evaluations and the page's episodes, as a share of those of training (10000 are
    always allowed). Beyond it evaluations in between are made more rarely, then all have fewer episodes."""
    value_alive: bool = True
    """Leave dead agents out of the value loss (the published scripts count them)."""
    workers: Annotated[int | None, Range(0)] = None
    """Processes that step environments which are not batched; 0: this process. Default: by the processors. Results do
    not depend on it."""
    film: bool = True
    """Draw one evaluation episode as episode.gif, where the environment can be drawn."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        values = dict(values_of(given.get("preset", "laptop"), given.get("env", cls.env), given.get("official", False)))
        steps = values.pop("env_steps", None)
        if given.get("env_steps") is not None:
            steps = given["env_steps"]
        known = {"envs": cls.envs, "length": cls.length, "iterations": cls.iterations, **values, **given}
        if steps is not None and "iterations" not in given:
            known["iterations"] = values["iterations"] = _iterations(steps, known["envs"], known["length"])
        return {"evaluate_every": max(10, known["iterations"] // 10), **values}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env_steps is not None:
            if self.iterations != _iterations(self.env_steps, self.envs, self.length):
                raise ManyoneError("give --iterations or --env-steps, not both")
            self.env_steps = None  # so that a repetition from config.yaml can have other copies
        check("precision", self.precision, self.precision == "32-true", "32-true: teams are trained in float32")


def _iterations(env_steps: int, envs: int, length: int) -> int:
    return max(1, -(-env_steps // max(envs * length, 1)))


@dataclass(kw_only=True)
class CentralOptions(TeamOptions):
    """MAPPO (Yu et al., NeurIPS 2022): local actors with shared weights, a critic that sees everything in training."""


@dataclass(kw_only=True)
class IndependentOptions(TeamOptions):
    """IPPO (de Witt et al., 2020): local actors and local critics, shared weights."""


@dataclass(kw_only=True)
class AttentionOptions(TeamOptions):
    """Options of the transformer over agents."""

    heads: Count = 1
    """Attention heads."""
    dropout: Annotated[float, Range(0, 1, closed="left")] = 0.0
    """Dropout of the encoder; published 0.1. At 0 PPO's ratios start at exactly 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("width", self.width, self.width % self.heads == 0, f"a multiple of --heads {self.heads}")


@dataclass(kw_only=True)
class TransformerOptions(AttentionOptions):
    """MAT (Wen et al., NeurIPS 2022): everybody hears everybody, actions are decoded one agent after another."""


@dataclass(kw_only=True)
class EncoderOptions(AttentionOptions):
    """MAT-dec: MAT's encoder, and all actions at once."""


@dataclass(kw_only=True)
class EmbeddingOptions(AttentionOptions):
    """Options of CommFormer's network that do not depend on a graph."""

    edge_types: bool = True
    """Embed in the attention scores whether there is a link."""
    decoder_heads: Literal["per-agent", "shared"] = "per-agent"
    """One output head for every agent, or one for all."""


@dataclass(kw_only=True)
class SilentOptions(EmbeddingOptions):
    """No communication: the same network, every agent alone with its observation."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # what a map's preset says of heads and edge types is for networks with links
        values = super().preset_values(given)
        return {name: value for name, value in values.items() if name not in ("edge_types", "decoder_heads")}


@dataclass(kw_only=True)
class EdgeOptions(EmbeddingOptions):
    """Options of networks whose attention knows the communication graph."""

    FIRST: ClassVar[tuple[str, ...]] = ("graph", "density", "gate", "gate_target")

    scale: Literal["single", "official"] = "single"
    """Attention scores divided by the root of the head's width once, or twice as in the authors' code."""
    relation: Literal["receiver", "transposed"] = "receiver"
    """Edge type of (i, j) in the scores, or that of (j, i) as in the authors' code."""
    decoder_mask: Literal["aligned", "official"] = "aligned"
    """Which earlier actions an agent reads: those of its senders, or one agent off as in the authors' code, where every
    agent reads the one before it whatever the graph says."""
    diagonal: Literal["excluded", "official"] = "excluded"
    """Links to oneself: outside the budget of links, or as in the authors' code, where they may take one."""
    gate: bool = False
    """Every agent decides at every step, from its own observation, whether to receive (temporal gating)."""
    send_gate: bool = False
    """Every agent decides at every step, from its own observation, whether its message goes out (after IC3Net);
    alone or with --gate. The --gate-... options below are for either."""
    gate_target: Annotated[Share, With("gate", "send_gate")] = 0.5
    """rho, the share of receiving (sending) agents that the budget loss asks for."""
    gate_loss: Annotated[Literal["ratio", "hinge", "cost"], With("gate", "send_gate")] = "ratio"
    """Budget loss: squared distance to --gate-target, only above it, or a price per message."""
    gate_weight: Annotated[Weight, With("gate", "send_gate")] = 0.2
    """Weight of the budget loss, once ramped up."""
    gate_open: Annotated[Share, With("gate", "send_gate")] = 0.6
    """Share of the training in which the gate is held open. Closed too early, a policy that makes nothing of its
    messages yet learns to do without."""
    gate_ramp: Annotated[Share, With("gate", "send_gate")] = 0.15
    """Share of the training over which the budget loss is ramped up after that."""


@dataclass(kw_only=True)
class FullOptions(EdgeOptions):
    """CommFormer(FC): everybody hears everybody; the edge embedding and the decoder are CommFormer's."""


@dataclass(kw_only=True)
class CommFormerOptions(EdgeOptions):
    """CommFormer (Hu et al., ICLR 2024): a communication graph with a budget of links, learned with the policy."""

    graph: Literal["learned", "dynamic", "full", "none", "random", "ring", "star", "nearest"] = "learned"
    """Who may hear whom: learned; dynamic (after MAGIC: --density links an agent, chosen at every step from what all
    see); or fixed: full (everybody), none, star (everybody and agent 1), or --density links an agent: random, ring,
    nearest (by the agents' places, or their order where they have none)."""
    density: Annotated[float, Range(0, 1, closed="right")] = 0.4
    """S, the share of the team that each agent may hear: max(int(n S), 1) links."""
    graph_rollout: Literal["replay", "official"] = "replay"
    """Act with the graph that the update uses (ratios start at 1), or, as in the authors' code, with another one."""
    commit: Share = 0.4
    """Share of the training after which the graph stays as it is; 0: never. --search commits on its own."""
    search: Annotated[float, Range(0, 1, closed="left"), With("graph=learned")] = 0.0
    """Search, then train: for this share of the training everybody hears everybody while the links' logits learn; then
    the graph is chosen, and a new network is trained on it for the rest. 0: both are learned together."""
    graph_from: Annotated[Path | None, Places()] = None
    """Instead of --graph, the links of a trained team (its run or model folder), or of a file: n rows of n numbers 0
    and 1 as .json or .csv, a row for each receiver."""
    warmup: Annotated[int, Range(0), With("graph_rollout=official")] = 0
    """Iterations at the start that update on the dense graph, with --graph-rollout official; published 10, on two maps
    100."""
    edge_lr: Annotated[Positive, With("graph=learned")] = 5e-2
    """Learning rate of the graph's logits; published 0.0001, for millions of steps."""
    upper_every: Annotated[int, Range(0)] = 5
    """Every so many epochs one updates the graph instead of the network; 0: the graph stays as it starts."""
    upper_data: Annotated[Literal["same", "heldout"], With("graph=learned")] = "same"
    """The graph learns from the same data, or from a fifth of the copies that the network does not see."""
    official: bool = False
    """Behave as the authors' code does, mistakes included, where you do not say otherwise: --graph-rollout, --scale,
    --relation, --decoder-mask, --diagonal, --no-value-alive, --dropout 0.1, --edge-lr 0.0001, --warmup 10 and
    --commit 0."""

    @property
    def learns_graph(self) -> bool:
        """Whether there are logits of links."""
        return self.graph == "learned" and self.graph_from is None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graph == "dynamic" and (self.relation != "receiver" or self.diagonal != "excluded"):
            raise ManyoneError("--graph dynamic: needs --relation receiver and --diagonal excluded, and no --official")
        if self.learns_graph and self.epochs < self.upper_every:
            raise ManyoneError(
                f"--epochs {self.epochs}: fewer than --upper-every {self.upper_every}, so the graph would never learn"
            )
        if self.search and self.graph_rollout == "official":
            raise ManyoneError("--search: acts on all links: not with --graph-rollout official (or --official)")
        if self.search and not 0 < round(self.search * self.iterations) < self.iterations:
            raise ManyoneError(f"--search {self.search:g}: of --iterations {self.iterations} at least one must be for "
                               "the search and one for the training after it")  # fmt: skip
        if self.search and not self.upper_every:
            raise ManyoneError("--search: needs --upper-every of at least 2: else the links learn nothing")
        if self.graph_from is not None and (self.graph != "learned" or self.search):
            raise ManyoneError("--graph-from: gives all links: leave --graph and --search out")
