"""The options of all behavior recipes, as data.

``--preset laptop`` (the default) is sized for two processor cores and minutes; ``--preset paper`` has the published
hyper-parameters. A preset only fills in what was left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check

Natural = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Width = Annotated[int, Range(1, 4096)]
Rate = Annotated[float, Range(0, closed="neither")]


@dataclass(kw_only=True)
class BehaviorOptions(CommonOptions):
    """Offline data in; what comes out acts in their environment."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--out runs/first", "--data hopper=d4rl/hopper.hdf5 --out runs/mine")

    preset: Literal["laptop", "paper"] = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores) or paper (the published values)."""
    suite: str | None = None
    """Data of ours, made by TD3 experts' checkpoints when the cache has none: mujoco-hopper (the default, where no
    --data is given), mujoco-halfcheetah, mujoco-walker2d, or mujoco3 for all three."""
    quality: Annotated[Literal["medium-replay", "medium", "medium-expert", "expert", "random"], With("suite")] = (
        "medium-replay"
    )
    """Made data: roll-outs of all checkpoints as a replay buffer holds them, of a middling one, of the best one, of
    both, or of random actions."""
    data: Annotated[tuple[str, ...], Places()] = ()
    """Instead of --suite, own data as TASK=PLACE: PLACE is a D4RL HDF5 file, a Minari id or a folder of per-episode
    .npz files, or several with commas between; TASK is the environment to act in (hopper, halfcheetah, walker2d,
    gym:Walker2d-v4, gym:CartPole-v1) and may be left out where the data name it, as Minari's do."""
    keys: Annotated[tuple[str, ...], With("data")] = ()
    """Entries of dictionary observations, laid side by side in this order, e.g. observation,desired_goal."""
    data_horizon: Annotated[int | None, Range(1)] = None
    """Steps after which episodes were cut, for an HDF5 file in --data that does not tell by timeouts."""
    data_choices: Annotated[int | None, Range(2), With("data")] = None
    """Number of discrete actions in HDF5 or .npz files of --data; default: as many as the environment has."""
    data_seed: Annotated[Natural, With("suite")] = 0
    """Seed of made data; runs with different --seed share their data."""
    horizon: Annotated[int | None, Range(1)] = None
    """Steps of an evaluation episode; default: as many as the data's longest, or as the environment allows."""
    simulator: bool = True
    """Evaluate in the environments. Without, TASK is any name, and only the losses are known."""
    reference: tuple[str, ...] = ()
    """Returns that normalised scores count from and to, as TASK=RANDOM,EXPERT; default: D4RL's for its environments,
    or what a Minari set says."""
    eval_episodes: Positive = 10
    """Evaluation episodes of each policy."""
    workers: Annotated[int | None, Range(1)] = None
    """Processes that step environments without a fast simulator and make data; default: one a processor."""
    checkpoint_every: Natural = 500
    """Steps between checkpoints; 0: only at the end."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {} if given.get("data") or given.get("suite") else {"suite": "mujoco-hopper"}
        return {**own, **super().preset_values(given)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: distillation computes in float32")
        if self.suite is not None and self.data:
            raise ManyoneError(f"--suite {self.suite} brings its own data: leave --data out, or --suite")
        if self.suite is None and not self.data:
            raise ManyoneError("give --suite NAME (mujoco-hopper, mujoco3, ...) or --data TASK=PLACE of your own")
        if self.suite is not None and not self.simulator:
            raise ManyoneError("--no-simulator is for own --data: those of a --suite are made in its simulator")
        files = any(kind in word for word in self.data for kind in (".hdf5", ".h5"))
        check("data_horizon", self.data_horizon, self.data_horizon is None or files, "for an HDF5 file in --data")


@dataclass(kw_only=True)
class StudentOptions(BehaviorOptions):
    """The students: what they look like, and how behaviour cloning trains them on a synthetic set."""

    student: Literal["mlp", "residual"] = "mlp"
    """Architecture: a multilayer perceptron, or one of 4 layers with a shortcut past two of them."""
    layers: Annotated[int, Range(2, 6)] = 4
    """Linear layers of the students."""
    width: Width = 64
    """Width of their hidden layers (paper: 256)."""
    inner_steps: Annotated[int, Range(0, 100_000)] = 50
    """T, full-batch steps of behaviour cloning that train a student (paper: 100)."""
    inner_lr: Rate = 0.2
    """Their learning rate (paper: 0.1)."""
    inner_momentum: Annotated[float, Range(0, 1, closed="left")] = 0.0
    """Their momentum."""
    students: Positive = 10
    """Fresh students that an evaluation trains on a synthetic set."""


@dataclass(kw_only=True)
class DistilOptions(StudentOptions):
    """Offline Behavior Distillation (Lei et al., NeurIPS 2024): a few (state, action) pairs stand for a data set."""

    FIRST: ClassVar[tuple[str, ...]] = ("objective", "size", "density", "init", "students")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {},
        "paper": {"width": 256, "inner_steps": 100, "inner_lr": 0.1, "size": 256, "outer": "sgd", "lr": 0.1,
                  "steps": 50_000, "batch_size": 2560, "at_once": 1, "evaluate_every": 1000, "checkpoint_every": 1000},
    }  # fmt: skip

    objective: Literal["av-pbc", "pbc", "dbc"] = "av-pbc"
    """What trained students are compared with: the teacher's actions weighted by its values (av-pbc), the teacher's
    actions (pbc), or the recorded actions (dbc)."""
    weights: Annotated[Literal["clamped", "q", "mean-one", "advantage"], With("objective=av-pbc")] = "clamped"
    """Weights of the states: the teacher's values with negative ones at 0 (clamped), as they are (q, as published),
    scaled to mean one, or the teacher's gain over the recorded action (advantage)."""
    beta: Annotated[float, Range(0, closed="neither"), With("weights=clamped", "weights=q")] = 0.02
    """Factor of the values."""
    density: Annotated[float, Range(0)] = 0.0
    """Exponent of further weights by the inverse density of the states (SDW-OBD: 1); 0: none."""
    size: Positive = 256
    """N, synthetic pairs (paper: 256)."""
    init: Literal["random", "teacher", "top-q", "k-means++", "k-means-q", "gaussian", "xavier"] = "random"
    """Where they start: random recorded pairs, the same with the teacher's actions, those of the largest values,
    k-means++ centres, the largest values of each cluster, or random numbers (standard normal, or Glorot's)."""
    teacher: Annotated[str, Places(names=True)] = "auto"
    """The teacher: auto (for data of ours offline, or expert where none comes along; else td3bc, or iql where actions
    are discrete), calql, iql, td3bc or bc (trained first; bc has no values), offline (one that was trained on data of
    ours alone, where manyone brings it), expert (the best policy behind data of ours, with its critics: trained
    online), or a place: the folder of a trained one, or a checkpoint file of the method's authors."""
    teacher_steps: Annotated[int | None, Range(1)] = None
    """Updates of a teacher that is trained here; default: its recipe's."""
    steps: Natural = 400
    """Outer steps; 0 leaves the set as --init makes it (paper: 50,000, for Hopper 20,000; for dbc and pbc 200,000, for
    Hopper 50,000)."""
    at_once: Positive = 2
    """Fresh students of an outer step, trained together (paper: 1)."""
    batch_size: Positive = 512
    """Recorded states of an outer step (paper: 10 batches of 256)."""
    outer: Literal["adam", "sgd"] = "adam"
    """Optimiser of the synthetic pairs: Adam, or SGD with momentum 0.9 (paper)."""
    lr: Rate = 0.02
    """Its learning rate (paper: 0.1)."""
    clip: Rate = 2.0
    """Largest joint norm of the gradients of states and actions."""
    stochastic: bool = False
    """Students draw their actions, as published, with noise that is kept for the way back."""
    learn_lr: bool = False
    """Learn the inner learning rate too."""
    learn_momentum: bool = False
    """Learn the inner momentum too."""
    mode: Literal["auto", "stored", "unrolled", "recompute", "segments"] = "auto"
    """How the gradient through the inner steps is computed; the same result. auto: the fastest within --memory."""
    memory: Rate = 1.0
    """GiB that the gradient may take."""
    evaluate_every: Natural = 100
    """Outer steps between evaluations; 0: only at the end."""
    baselines: bool = True
    """Also evaluate the teacher, behaviour cloning on everything, and as many random pairs."""
    checkpoint_every: Natural = 100
    """Steps between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.student != "residual" or self.layers == 4
        check("layers", self.layers, fits, "4 with --student residual")
        asked = self.objective == "av-pbc" or self.init in ("top-q", "k-means-q")
        fits = self.teacher != "bc" or not asked
        check("teacher", self.teacher, fits, "one with values (calql, iql, td3bc) for av-pbc, top-q and k-means-q")
        fits = not (self.learn_momentum and self.inner_steps < 2)
        check("inner_steps", self.inner_steps, fits, "2 or more with --learn-momentum")


@dataclass(kw_only=True)
class EvolutionOptions(StudentOptions):
    """Distillation by evolution strategies on true returns (Lupu et al., ICLR 2024): online, the oracle of the rest."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"laptop": {}, "paper": {"width": 256, "size": 256}}

    size: Positive = 64
    """N, synthetic pairs."""
    init: Literal["random", "k-means++", "gaussian", "xavier"] = "random"
    """Where they start: random recorded pairs, k-means++ centres, or random numbers."""
    steps: Natural = 100
    """Generations."""
    population: Annotated[int, Range(2)] = 32
    """Sets that a generation tries, an even number: each noise comes with its negative."""
    sigma: Rate = 0.2
    """Deviation of the noise, in deviations of the states and half ranges of the actions."""
    at_once: Positive = 1
    """Students that judge each set."""
    episodes: Positive = 1
    """Episodes that each of them plays."""
    lr: Rate = 0.05
    """Learning rate of Adam."""
    evaluate_every: Natural = 0
    """Generations between evaluations; 0: only at the end."""
    checkpoint_every: Natural = 10
    """Generations between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("population", self.population, self.population % 2 == 0, "an even number")
        if not self.simulator:
            raise ManyoneError("--no-simulator: evolution plays in the environment: leave it out")
        fits = self.student != "residual" or self.layers == 4
        check("layers", self.layers, fits, "4 with --student residual")


@dataclass(kw_only=True)
class CloningOptions(BehaviorOptions):
    """Behaviour cloning, on a synthetic set or on everything; what comes out is a policy."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"laptop": {}, "paper": {"batch_size": 256}}

    data: Annotated[tuple[str, ...], Places()] = ()
    """Instead of --suite, a distilled set (the folder of an obd run or its model), or own data as TASK=PLACE: PLACE is
    a D4RL HDF5 file, a Minari id or a folder of per-episode .npz files; TASK is the environment to act in."""
    set: str | None = None
    """Which one of several distilled sets in the folder."""
    student: Literal["mlp", "residual"] | None = None
    """Architecture: a multilayer perceptron, or one of 4 layers with a shortcut past two of them. Default: the
    distilled set's, else mlp."""
    layers: Annotated[int | None, Range(2, 6)] = None
    """Linear layers; default: the distilled set's, else 4."""
    width: Annotated[int | None, Range(1, 4096)] = None
    """Width of the hidden layers; default: the distilled set's, else 64 (paper: 256)."""
    students: Positive = 1
    """Policies that are trained side by side; several act as their ensemble."""
    fraction: Annotated[float, Range(0, 1, closed="right")] = 1.0
    """Clone the best episodes by return alone, this share of all (10 % BC: 0.1)."""
    steps: Annotated[int | None, Range(0)] = None
    """Updates; default: 3000, and on a distilled set the full-batch steps that it says."""
    batch_size: Positive = 512
    """Transitions an update (paper: 256); a distilled set is one batch."""
    lr: Annotated[float | None, Range(0, closed="neither")] = None
    """Learning rate; default: 0.001 for Adam, and on a distilled set that of SGD, as the set says."""
    evaluate_every: Natural = 0
    """Updates between evaluations; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.student != "residual" or self.layers in (None, 4)
        check("layers", self.layers, fits, "4 with --student residual")


@dataclass(kw_only=True)
class TheoryOptions(CommonOptions):
    """Theorems 1 and 2 and Corollary 1 of Offline Behavior Distillation, by linear solves on finite MDPs."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--out runs/theory", "--states 4 --actions 3 --pairs 200")

    device: Literal["auto", "cpu"] = "auto"
    """The linear solves are small: they run on the CPU."""
    precision: Literal["64-true"] = "64-true"
    """The identity holds to 1e-10: double precision."""
    states: Annotated[int, Range(1, 500)] = 6
    """States of a random MDP."""
    actions: Annotated[int, Range(2, 100)] = 3
    """Actions in each."""
    pairs: Annotated[int, Range(1, 100_000)] = 1000
    """Random MDPs, each with a teacher and a random student."""
    teacher: Literal["optimal", "random"] = "optimal"
    """The teacher: a policy of largest return, or a random one (the statements hold for any)."""
    gammas: Annotated[tuple[float, ...], Range(0, 1, closed="neither")] = (
        0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999,
    )  # fmt: skip
    """Discounts, each of which all MDPs are taken under."""
    mistakes: Annotated[float, Range(0, 1, closed="right")] = 1e-5
    """Probability of a mistake of the student in the two cases where the theorems are tight."""
    checkpoint_every: Natural = 1
    """Blocks of 1000 pairs (fewer of many states) between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("gammas", self.gammas, len(set(self.gammas)) == len(self.gammas) > 0, "one or more, each once")


@dataclass(kw_only=True)
class TeacherOptions(BehaviorOptions):
    """Offline reinforcement learning on one data set: a policy and twin critics, the teacher of a distillation."""

    steps: Positive = 20_000
    """Updates (paper: 1,000,000)."""
    batch_size: Positive = 256
    """Transitions an update, drawn with replacement."""
    width: Positive = 128
    """Width of the hidden layers (paper: 256)."""
    lr: Rate = 1e-3
    """Learning rate of the critics (paper: 0.0003)."""
    policy_lr: Rate = 1e-3
    """Learning rate of the policy (paper: 0.0003; calql 0.00003)."""
    schedule: Literal["constant", "policy", "all"] = "all"
    """Which learning rates fall to 0 along a half cosine: none (paper), the policy's (paper for iql), or all."""
    discount: Annotated[float, Range(0, 1, closed="left")] = 0.99
    """What a reward one step later is worth."""
    tau: Annotated[float, Range(0, 1, closed="right")] = 0.02
    """Share of the weights by which target networks follow in a step (paper: 0.005)."""
    norm: bool = True
    """Normalise the layers of the critics, without which few updates leave them far off where data are scarce (paper:
    off)."""
    average: Annotated[float, Range(0, 1, closed="left")] = 0.999
    """The policy that acts is the average of the trained one's over about the last 1 / (1 - average) updates; 0 is the
    trained one itself (paper)."""
    reward_scale: Annotated[float, Range(0)] = 1.0
    """Factor of the rewards while training: critics learn fastest where values are a few tens (td3bc: 0.05; paper: 1);
    0: such that the returns of the data span 1000 (iql)."""
    evaluate_every: Natural = 0
    """Updates between evaluations in the environment; 0: only at the end."""
    checkpoint_every: Natural = 5000
    """Updates between checkpoints; 0: only at the end."""


_PAPER: Mapping[str, Any] = {"steps": 1_000_000, "width": 256, "lr": 3e-4, "policy_lr": 3e-4, "schedule": "constant",
                             "tau": 0.005, "norm": False, "average": 0.0, "evaluate_every": 50_000,
                             "checkpoint_every": 50_000}  # fmt: skip


@dataclass(kw_only=True)
class CalQLOptions(TeacherOptions):
    """Cal-QL (Nakamoto et al., NeurIPS 2023): conservative critics that stay above the value of the data."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {"penalised": 64},
        "paper": {**_PAPER, "policy_lr": 3e-5},
    }

    alpha: Annotated[float, Range(0)] = 10.0
    """Weight of the conservative term."""
    samples: Positive = 10
    """Actions of each of three kinds (uniform, the policy's, the policy's a step later) that the term draws."""
    penalised: Annotated[int | None, Range(1)] = None
    """States of a batch at which the term is taken; default: all (laptop: 64, four times as fast)."""


@dataclass(kw_only=True)
class IQLOptions(TeacherOptions):
    """Implicit Q-learning (Kostrikov et al., ICLR 2022): the best recorded actions by an expectile of their values."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {"reward_scale": 0.0, "expectile": 0.9, "temperature": 1.0},
        "paper": {**_PAPER, "schedule": "policy", "reward_scale": 0.0},
    }

    expectile: Annotated[float, Range(0.5, 1, closed="neither")] = 0.7
    """Which recorded actions a state's value is that of: near 1 the best one's (laptop: 0.9; paper: 0.7)."""
    temperature: Annotated[float, Range(0)] = 3.0
    """How much better actions outweigh others in the policy's loss; 0 clones all of them (laptop: 1; paper: 3)."""


@dataclass(kw_only=True)
class TD3BCOptions(TeacherOptions):
    """TD3+BC (Fujimoto and Gu, NeurIPS 2021): Q-learning whose policy is held near the recorded actions."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {"steps": 40_000, "reward_scale": 0.05},
        "paper": _PAPER,
    }

    alpha: Annotated[float, Range(0)] = 2.5
    """Weight of the critic against the recorded actions."""
