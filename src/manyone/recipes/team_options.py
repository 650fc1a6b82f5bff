"""What all team recipes share: environment, training and evaluation; and what recipes with a graph and a gate add.

``--preset laptop`` (the default) is sized for two processor cores and minutes, by environment; ``--preset smac:3s5z`` and
the like have the published settings (``manyone.recipes.team_presets``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.common import CommonOptions, Split, check
from manyone.recipes.team_presets import OFFICIAL, values_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from manyone.engine.run import RunFolder
    from manyone.envs.team_types import TeamSpec

GraphKind = Literal["learned", "full", "none", "random", "ring", "star", "nearest"]


@dataclass(kw_only=True)
class TeamOptions(CommonOptions):
    """A team of agents in one environment, trained by proximal policy optimisation (PPO)."""

    METHOD: ClassVar[str]
    """What the figures and the artefact call the method."""

    preset: str = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores), or the published settings of a map:
    smac:MAP (smac:3m, smac:27m_vs_30m, ...), predator-prey, predator-capture-prey, grf:academy_3_vs_1_with_keeper."""
    env: str | None = None
    """Environment: predator-prey (default), predator-prey-blind, predator-capture-prey, traffic-junction-easy|medium|hard,
    relay, relay-gate; settings follow a colon (predator-prey:size=10,predators=5,vision=1,limit=40). By prefix mpe:NAME,
    vmas:NAME, lbf:NAME, rware:NAME, smax:MAP, smac:MAP, smacv2:MAP, mamujoco:NAME; pettingzoo:MODULE is your own: a module
    that Python can import, with parallel_env()."""
    envs: int | None = None
    """Copies of the environment that step together; 1 or more."""
    length: int | None = None
    """Steps of every copy in an iteration; 1 or more."""
    iterations: int | None = None
    """Iterations, each a roll-out and an update; 1 or more."""
    env_steps: int | None = None
    """Instead of --iterations, environment steps in all (copies x steps); 1 or more, rounded up to whole iterations."""
    epochs: int | None = None
    """Passes over the data of an iteration; 1 or more."""
    minibatches: int = 1
    """Parts of a pass, each a gradient step; 1 or more."""
    lr: float | None = None
    """Learning rate of the network (Adam); above 0."""
    clip: float | None = None
    """PPO's clipping of probability ratios and of values; above 0."""
    grad_clip: float | None = None
    """Largest norm of the network's gradient; above 0."""
    value_coef: float = 1.0
    """Weight of the value loss; 0 or more."""
    entropy_coef: float = 0.01
    """Weight of the entropy; 0 or more."""
    gamma: float = 0.99
    """Discount; 0 to 1."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation; 0 to 1."""
    width: int = 64
    """Width of the network, a multiple of --heads; 1 or more."""
    layers: int = 1
    """Blocks of encoder and decoder (hidden layers of MAPPO and IPPO); 1 or more."""
    evaluate_every: int | None = None
    """Iterations between evaluations; 0: only at the end. Default: a tenth of the iterations (at least 10)."""
    checkpoint_every: int = 20
    """Iterations between checkpoints; 0: only at the end."""
    eval_episodes: int | None = None
    """Greedy episodes of an evaluation, never seen in training; 2 or more. Default: 200; published settings 32."""
    workers: int | None = None
    """Processes that step environments which are not batched; default: this process. Results do not depend on it."""
    film: bool = True
    """Draw one evaluation episode as episode.gif, where the environment can be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fill()
        for name in ("envs", "length", "epochs", "minibatches", "width", "layers"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("lr", "clip", "grad_clip"):
            check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("value_coef", "entropy_coef", "checkpoint_every", "evaluate_every"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("gamma", "lam"):
            check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        check("eval_episodes", self.eval_episodes, self.eval_episodes is not None and self.eval_episodes >= 2, "2 or more")
        check("workers", self.workers, self.workers is None or self.workers >= 0, "0 or more")
        check("precision", self.precision, self.precision == "32-true", "32-true: teams are trained in float32")

    def fill(self) -> None:
        """Gives the preset's values to what was left open, and the number of iterations to ``iterations``."""
        values = dict(values_of(self.preset, self.env))
        if self.iterations is not None:
            if self.env_steps is not None:
                raise ManyoneError("give --iterations or --env-steps, not both")
            values.pop("env_steps", None)
        elif self.env_steps is not None:
            values.pop("iterations", None)
        for name, value in values.items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)
        assert self.envs is not None
        assert self.length is not None
        if self.env_steps is not None:
            check("env_steps", self.env_steps, self.env_steps >= 1, "1 or more")
            self.iterations = -(-self.env_steps // max(self.envs * self.length, 1))
            self.env_steps = None
        assert self.iterations is not None
        check("iterations", self.iterations, self.iterations >= 1, "1 or more")
        if self.evaluate_every is None:
            self.evaluate_every = max(10, self.iterations // 10)
        if self.eval_episodes is None:
            self.eval_episodes = 200

    def policy(self, spec: TeamSpec) -> nn.Module:
        """The untrained policy, its weights drawn from the seed."""
        raise NotImplementedError

    def graph(self, spec: TeamSpec) -> Any:
        """The communication graph: a ``LearnedGraph`` or a fixed [n, n] tensor."""
        raise NotImplementedError

    def learner_options(self) -> dict[str, Any]:
        """What the learner takes, by its argument names."""
        names = ("iterations", "length", "epochs", "minibatches", "lr", "clip", "value_coef", "entropy_coef", "gamma")
        return {name: getattr(self, name) for name in (*names, "lam", "grad_clip", "seed")}

    @property
    def device_(self) -> torch.device:
        """The device by its name."""
        from manyone.engine.fabric import make_fabric

        return make_fabric(self.device, self.precision).device

    def run(self, run: RunFolder) -> None:
        """Trains, evaluates, exports and draws."""
        from manyone.recipes import team_run

        team_run.run_recipe(self, run)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Scores of the newest checkpoint in fresh episodes (test), or in those that training began with (train)."""
        from manyone.recipes import team_run

        return team_run.evaluate_recipe(self, run, split)


@dataclass(kw_only=True)
class AttentionOptions(TeamOptions):
    """Options of the transformer over agents."""

    AUTOREGRESSIVE: ClassVar[bool] = True
    GRAPH: ClassVar[GraphKind] = "full"
    """The graph of a recipe that has no choice."""

    heads: int = 1
    """Attention heads; 1 or more."""
    dropout: float | None = None
    """Dropout of the encoder; from 0 to below 1. Published 0.1; 0 keeps PPO's ratios at 1 in the first epoch."""
    edge_types: bool | None = None
    """Embed whether there is a link in the attention scores."""
    decoder_heads: Literal["per-agent", "shared"] | None = None
    """One output head for every agent, or one for all."""
    scale: Literal["single", "official"] = "single"
    """Scores over the square root of the head's width once, or twice as in the authors' code."""
    relation: Literal["receiver", "transposed"] = "receiver"
    """Edge type of (i, j) in the scores, or that of (j, i) as in the authors' code."""
    decoder_mask: Literal["aligned", "official"] = "aligned"
    """Which earlier actions an agent reads: those of its senders, or one agent later as in the authors' code, where every
    agent reads the one before it whatever the graph says."""
    diagonal: Literal["excluded", "official"] | None = None
    """Self-links: outside the budget of links, or as in the authors' code, where they may take one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("heads", self.heads, self.heads >= 1, "1 or more")
        check("width", self.width, self.width % self.heads == 0, f"a multiple of --heads {self.heads}")
        check("dropout", self.dropout, self.dropout is not None and 0 <= self.dropout < 1, "from 0 to below 1")

    @property
    def autoregressive(self) -> bool:
        """Whether an agent reads the actions of earlier ones."""
        return self.AUTOREGRESSIVE

    @property
    def gated(self) -> bool:
        """Whether agents decide when to receive."""
        return False

    def policy(self, spec: TeamSpec) -> nn.Module:
        from manyone.randomness import seed_for
        from manyone.recipes.team_run import seeded
        from manyone.teams.commformer import CommFormer

        with seeded(seed_for(self.seed, "team-policy")):
            return CommFormer(
                spec,
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                edge_types=bool(self.edge_types),
                autoregressive=self.autoregressive,
                decoder_heads=self.decoder_heads,
                scale=self.scale,
                decoder_mask=self.decoder_mask,
                relation=self.relation,
                diagonal=self.diagonal,
                dropout=self.dropout,
                gate=self.gated,
            )

    def graph(self, spec: TeamSpec) -> Tensor | Any:
        from manyone.teams.graph import fixed_graph

        return fixed_graph(self.GRAPH, spec.agents, 0)


@dataclass(kw_only=True)
class GraphOptions(AttentionOptions):
    """Options of the communication graph and of the gate."""

    graph_kind: ClassVar[str]
