"""What all team recipes share: environment, training and evaluation; and what recipes with a graph and a gate add.

``--preset laptop`` (the default) is sized for two processor cores and minutes, by environment; ``--preset smac:3s5z``
and the like have the published settings (``manyone.teams.recipes.presets``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Split, check
from manyone.teams.recipes.presets import values_of

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.teams.recipes.problem import Team


@dataclass(kw_only=True)
class TeamOptions(CommonOptions):
    """A team of agents in one environment, trained by proximal policy optimisation (PPO)."""

    METHOD: ClassVar[str]
    """The method's name in ``team_problem.METHODS``."""

    preset: str = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores), or the published settings of a map:
    smac:MAP (smac:3m, smac:27m_vs_30m, ...), predator-prey, predator-capture-prey, grf:academy_3_vs_1_with_keeper."""
    env: str | None = None
    """Environment: predator-prey, predator-prey-blind, predator-capture-prey, traffic-junction-easy (-medium, -hard),
    relay, relay-gate; settings follow a colon. By prefix mpe:NAME, vmas:NAME, lbf:NAME, rware:NAME, smax:MAP, smac:MAP,
    smacv2:MAP, mamujoco:NAME; pettingzoo:MODULE is your own: a module that Python can import, with parallel_env().
    Default: predator-prey:predators=5,vision=1."""
    frames: int = 1
    """Observations of the running episode that every agent sees side by side, the last one included: memory for a
    policy that has none, for tasks where what is seen now does not say what was seen before. 1 (no memory) to 1000."""
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
    minibatches: int | None = None
    """Parts of a pass, each a gradient step; 1 or more. Preset: 2 on grids with prey, 1 elsewhere."""
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
    value_alive: bool = True
    """Leave dead agents out of the value loss (the published scripts count them)."""
    workers: int | None = None
    """Processes that step environments which are not batched; 0: this process. Default: by the processors. Results do
    not depend on it."""
    film: bool = True
    """Draw one evaluation episode as episode.gif, where the environment can be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fill()
        for name in ("envs", "length", "epochs", "minibatches", "width", "layers"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("frames", self.frames, 1 <= self.frames <= 1000, "1 to 1000")
        for name in ("lr", "clip", "grad_clip"):
            check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("value_coef", "entropy_coef", "checkpoint_every", "evaluate_every"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("gamma", "lam"):
            check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        check(
            "eval_episodes", self.eval_episodes, self.eval_episodes is not None and self.eval_episodes >= 2, "2 or more"
        )
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

    @property
    def sends(self) -> bool:
        """Whether agents can send each other messages."""
        return False

    @property
    def gated(self) -> bool:
        """Whether agents decide when to receive or to send."""
        return False

    @property
    def torch_device(self) -> str:
        """The device that is computed on."""
        from manyone.engine.fabric import make_fabric

        return str(make_fabric(self.device, self.precision).device)

    def network_words(self) -> dict[str, Any]:
        """The network's size, as its constructor takes it."""
        return {"width": self.width, "layers": self.layers}

    def graph_words(self) -> dict[str, Any]:
        """The choice of the communication graph and of the gates, as ``build_team`` takes it."""
        return {}

    def training_words(self) -> dict[str, Any]:
        """What the learner takes, by its argument names."""
        names = ("iterations", "length", "epochs", "minibatches", "lr", "clip", "value_coef", "entropy_coef", "gamma")
        return {name: getattr(self, name) for name in (*names, "lam", "grad_clip", "value_alive")}

    def team(self, **training: Any) -> Team:
        """Environment, untrained policy, graph and learner; its start depends on the seed alone."""
        from manyone.teams.recipes.problem import build_team

        assert self.env is not None
        assert self.envs is not None
        return build_team(
            self.METHOD,
            self.env,
            batch=self.envs,
            seed=self.seed,
            device=self.torch_device,
            workers=self.workers,
            frames=self.frames,
            network=self.network_words(),
            **self.graph_words(),
            **(self.training_words() | training),
        )

    def run(self, run: RunFolder) -> None:
        """Trains, evaluates, exports and draws."""
        from manyone.teams.recipes import run as team_run

        team_run.run_recipe(self, run)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Scores of the newest checkpoint in fresh episodes (test), or in those that training began with (train)."""
        from manyone.teams.recipes import run as team_run

        return team_run.evaluate_recipe(self, run, split)


@dataclass(kw_only=True)
class AttentionOptions(TeamOptions):
    """Options of the transformer over agents."""

    heads: int = 1
    """Attention heads; 1 or more."""
    dropout: float | None = None
    """Dropout of the encoder; from 0 to below 1. Preset: 0; published 0.1. At 0 PPO's ratios start at exactly 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("heads", self.heads, self.heads >= 1, "1 or more")
        check("width", self.width, self.width % self.heads == 0, f"a multiple of --heads {self.heads}")
        check("dropout", self.dropout, self.dropout is not None and 0 <= self.dropout < 1, "from 0 to below 1")

    @property
    def sends(self) -> bool:
        return True

    def network_words(self) -> dict[str, Any]:
        return super().network_words() | {n: getattr(self, n) for n in ("heads", "dropout")}


@dataclass(kw_only=True)
class EdgeOptions(AttentionOptions):
    """Options of networks whose attention knows the communication graph."""

    edge_types: bool | None = None
    """Embed in the attention scores whether there is a link. Preset: on."""
    decoder_heads: Literal["per-agent", "shared"] | None = None
    """One output head for every agent, or one for all. Preset: per-agent."""
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
    gate_target: float = 0.5
    """rho, the share of receiving (sending) agents that the budget loss asks for; 0 to 1."""
    gate_loss: Literal["ratio", "hinge", "cost"] = "ratio"
    """Budget loss: squared distance to --gate-target, only above it, or a price per message."""
    gate_weight: float | None = None
    """Weight of the budget loss, once ramped up; 0 or more. Preset: 0.2."""
    gate_open: float | None = None
    """Share of the training in which the gate is held open; 0 to 1. Preset: 0.6. Closed too early, a policy that makes
    nothing of its messages yet learns to do without."""
    gate_ramp: float | None = None
    """Share of the training over which the budget loss is ramped up after that; 0 to 1. Preset: 0.15."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gate_target", "gate_open", "gate_ramp"):
            check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        check("gate_weight", self.gate_weight, self.gate_weight is not None and self.gate_weight >= 0, "0 or more")

    @property
    def gated(self) -> bool:
        return self.gate or self.send_gate

    def network_words(self) -> dict[str, Any]:
        names = ("edge_types", "decoder_heads", "scale", "relation", "decoder_mask", "diagonal")
        return super().network_words() | {n: getattr(self, n) for n in names}

    def graph_words(self) -> dict[str, Any]:
        return {"gate": self.gate, "send_gate": self.send_gate}

    def training_words(self) -> dict[str, Any]:
        names = ("gate_loss", "gate_weight", "gate_open", "gate_ramp")
        words = {n: getattr(self, n) for n in names} | {"gate_target": self.gate_target}
        return super().training_words() | (words if self.gated else {})
