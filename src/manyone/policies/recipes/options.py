"""The options of all policy recipes, as data.

``--preset laptop`` (the default) is sized for two processor cores and minutes; ``--preset paper`` has the published
hyper-parameters. A preset only fills in what was left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check, defaults

Natural = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Importance = Literal["fisher", "magnitude", "none"]


@dataclass(kw_only=True)
class DataOptions(CommonOptions):
    """Offline data of tasks, and how what was trained on them is evaluated."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--suite metaworld-mt10 --out runs/first",
        "--data gym:Hopper-v5=hopper.hdf5 --out runs/mine",
    )

    NEEDS_DATA: ClassVar[bool] = True
    """Whether there is nothing to do without --suite or --data."""

    suite: str | None = None
    """Tasks: metaworld-mt1:TASK, metaworld-mt5, -mt10, -mt30, -mt50, -pairs10 (opposing pairs), -cw10, or cheetah-dir,
    cheetah-vel, ant-dir (also -4, -6, -small, -ood), or ml1-reach, ml1-pick-place, point-robot (goals hidden; --quality
    expert, medium, random), or mujoco-hopper, -halfcheetah, -walker2d, mujoco3, mujoco8 (--quality medium, ...), or
    teachers-4, -12, -24, -50 (made up, contradicting each other). Their data are made by scripted, searched or shipped
    policies when the cache has none (manyone data ls)."""
    quality: Annotated[
        Literal["near", "sub", "expert", "random", "medium", "medium-replay", "medium-expert"], With("suite")
    ] = "near"
    """Made data: near-optimal, sub-optimal (noisy throughout, as a replay buffer is), or the official expert episodes
    (Meta-World, from the folder that MANYONE_METAWORLD_EXPERT names). Of mujoco-... and locomotion: random, medium,
    medium-replay, medium-expert, expert, by policies that come with the package."""
    data: Annotated[tuple[str, ...], Places()] = ()
    """Instead of --suite, own data as TASK=PLACE: PLACE is a Minari id, a D4RL HDF5 file, a folder of per-episode .npz
    files or Prompt-DT's .pkl file, or several with commas between; TASK is the environment to act in (door-open-v3,
    cheetah-vel:7, gym:Hopper-v5, gym:Ant-v5?ctrl_cost_weight=0.1) and may be left out where the data name it, as
    Minari's do."""
    keys: Annotated[tuple[str, ...], With("data")] = ()
    """Entries of dictionary observations, laid side by side in this order, in --data and in their environments, e.g.
    observation,desired_goal."""
    data_horizon: Annotated[int | None, Range(1)] = None
    """Steps after which episodes were cut, for an HDF5 file in --data that does not tell by timeouts."""
    data_choices: Annotated[int | None, Range(2)] = None
    """Number of discrete actions, for an HDF5 or .npz file in --data without an environment that tells."""
    data_seed: Annotated[Natural, With("suite")] = 0
    """Seed of made data; runs with different --seed share their data."""
    episodes: Annotated[int | None, Range(1), With("suite")] = 60
    """Episodes a task of made data (paper: 2000)."""
    horizon: Annotated[int | None, Range(1)] = None
    """Steps of an episode, in made data (at most 500) and in evaluation (paper: 500). Own data, if not given: as long
    as their longest episode, or as the environment allows where that one ended by itself."""
    simulator: bool = True
    """Evaluate in the environments. Without, TASK is any name, and actions are compared with those of a tenth of the
    episodes, which are left out of the training."""
    reference: tuple[str, ...] = ()
    """Returns that normalised scores count from and to, as TASK=RANDOM,EXPERT; default: what a Minari set says, and
    D4RL's for Hopper, HalfCheetah and Walker2d."""
    action_range: Literal["bounds", "unit"] = "bounds"
    """Actions that the network can give: those within the task's bounds (of the environment, else of the data), or -1
    to 1 whatever these are."""
    checkpoint_every: Natural = 500
    """Steps between checkpoints; 0: only at the end."""
    eval_episodes: Positive = 10
    """Evaluation episodes a task, at goals 40 to 49, which made data leave out."""
    workers: Annotated[int | None, Range(1)] = None
    """Processes that step the environments and make data; default: one a processor. Results do not depend on it."""
    full_episodes: bool = False
    """Play evaluation episodes to their end. By default they end at the first success, five times quicker; returns are
    then those up to there."""
    video: bool = False
    """Also record one evaluation episode a task as a GIF in videos/."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = ("horizon",) if given.get("data") else ()  # own data have episodes of their own length
        return {name: value for name, value in super().preset_values(given).items() if name not in own}

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: policies are trained in float32")
        if self.suite is not None and self.data:
            raise ManyoneError(f"--suite {self.suite} brings its own data: leave --data out, or --suite")
        if self.suite is None and not self.data and self.NEEDS_DATA:
            raise ManyoneError("give --suite NAME (metaworld-mt10, cheetah-vel, ...) or --data TASK=PLACE of your own")
        if self.suite is not None and not self.simulator:
            raise ManyoneError("--no-simulator is for own --data: those of a --suite are made in its simulator")
        check("video", self.video, self.simulator or not self.video, "off with --no-simulator")
        files = any(kind in word for word in self.data for kind in (".hdf5", ".h5"))
        check("data_horizon", self.data_horizon, self.data_horizon is None or files, "for an HDF5 file in --data")

    def data_name(self) -> str:
        """The made data, as ``manyone data`` names them; their size is told besides."""
        return f"{self.suite}-{self.quality}"


@dataclass(kw_only=True)
class PolicyOptions(DataOptions):
    """Data of many tasks in, one policy out; evaluated at goals that the data have not seen."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {"horizon": 200},
        "paper": {"episodes": 2000, "horizon": 500, "steps": 1_000_000, "batch_size": 8, "lr": 1e-4,
                  "schedule": "constant"},
    }  # fmt: skip

    EARLIER: ClassVar[Mapping[str, Any]] = {"hold_out": "with-prompt", "action_range": "unit"}

    preset: Literal["laptop", "paper"] = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores) or paper (the published values)."""
    steps: Positive = 3000
    """Training steps; each takes a batch of --tasks-per-step tasks (paper: 1,000,000)."""
    batch_size: Positive = 16
    """Samples a task and step (paper: 8)."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Peak learning rate of AdamW (paper: 0.0001)."""
    weight_decay: Annotated[float, Range(0)] = 1e-4
    """AdamW's weight decay."""
    hold_out: Literal["always", "with-prompt", "never"] = "always"
    """Leave the best tenth of each task's episodes, which prompts are taken from, out of the training: always, so that
    methods with and without a prompt train on the same data; only where there is a prompt; or never."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up (paper: constant)."""
    evaluate_every: Natural = 0
    """Steps between evaluations while training, the best of whose weights are exported; 0: only at the end, of the
    last weights."""


@dataclass(kw_only=True)
class CloningOptions(PolicyOptions):
    """MTBC: behaviour cloning with one multilayer perceptron on the state and a one-hot id."""

    width: Positive = 256
    """Width of the hidden layers."""
    layers: Positive = 3
    """Hidden layers."""
    tasks_per_step: Annotated[int | None, Range(1)] = None
    """Tasks that one step takes, in turn; default: all. At most all tasks are taken."""
    warmup: Natural = 0
    """Steps of linear warm-up of the learning rate."""


@dataclass(kw_only=True)
class TransformerOptions(PolicyOptions):
    """Options of the decision transformer and of its training."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {**PolicyOptions.PRESETS["laptop"]},
        "paper": {**PolicyOptions.PRESETS["paper"], "context": 20, "width": 256, "layers": 6, "heads": 8,
                  "warmup": 10_000, "mask_every": 500},
    }  # fmt: skip

    context: Positive = 10
    """K, the steps of history that the network sees (paper: 20)."""
    prompt: Positive = 5
    """K*, steps of the prompt where the method has one."""
    legacy_prompt: bool = False
    """Choose prompts as the published HarmoDT code does: not only from the best episodes, and --hold-out never."""
    width: Positive = 64
    """Width of the network, a multiple of --heads (paper: 256)."""
    layers: Positive = 2
    """Transformer blocks (paper: 6)."""
    heads: Positive = 4
    """Attention heads (paper: 8)."""
    dropout: Annotated[float, Range(0, 1, closed="left")] = 0.1
    """Dropout of embeddings, attention and residuals."""
    tasks_per_step: Positive = 1
    """Tasks that one step takes, stacked; their gradients are averaged. At most all tasks are taken. Several are
    quicker for small networks and batches."""
    warmup: Natural = 100
    """Steps of linear warm-up of the learning rate (paper: 10,000)."""
    clip: Annotated[float, Range(0, closed="neither")] = 0.25
    """Largest norm of the gradient."""
    target_quantile: Annotated[float, Range(0, 1)] = 0.9
    """The return asked for: this quantile of the task's returns in the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("width", self.width, self.width % self.heads == 0, f"a multiple of --heads {self.heads}")


@dataclass(kw_only=True)
class MultiTaskOptions(TransformerOptions):
    """MT-DT: one dense decision transformer for all tasks, without prompt and without id."""

    no_id: bool = False
    """Nothing may tell the task: statistics of the states, scale and target of the returns are pooled over tasks."""
    init: Annotated[str | None, Places()] = None
    """Start from the weights of this policy, a run or its model folder, instead of random ones; its network must have
    the sizes of this run's. Policies that start from one base can be merged (manyone run ties --base ...)."""


@dataclass(kw_only=True)
class PromptOptions(TransformerOptions):
    """Prompt-DT (Xu et al., ICML 2022): MT-DT behind a prompt, the tail of one of the task's best episodes."""

    init: Annotated[str | None, Places()] = None
    """Start from the weights of this policy, a run or its model folder, instead of random ones; its network must have
    the sizes of this run's."""
    statistics: Literal["task", "pooled"] = "task"
    """States and returns in the statistics of each task, or of all tasks together: then a new task needs none of its
    own, and prompts alone tell tasks apart."""
    surgery: Literal["none", "pcgrad", "cagrad", "gradnorm"] = "none"
    """Combine the gradients of the tasks of a step by PCGrad, CAGrad or GradNorm's weights instead of their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        several = self.surgery == "none" or self.tasks_per_step >= 2
        check("tasks_per_step", self.tasks_per_step, several, f"2 or more with --surgery {self.surgery}")


@dataclass(kw_only=True)
class IdTokenOptions(TransformerOptions):
    """MT-DT with a learned first token for each task: what knowing the task is worth without masks."""


@dataclass(kw_only=True)
class SingleTaskOptions(TransformerOptions):
    """Per-task DT: one decision transformer a task, each trained with its share of the steps."""

    init: Annotated[str | None, Places()] = None
    """Start every network from the weights of this policy, a run or its model folder, instead of random ones: experts
    of one base, which can be merged (manyone run ties --base ...). Its network must have the sizes of this run's."""


@dataclass(kw_only=True)
class FrozenOptions(TransformerOptions):
    """HarmoDT-R: a random mask a task, kept for ever."""

    sparsity: Annotated[float, Range(0, 1, closed="left")] = 0.2
    """Share of the maskable weights that a mask leaves out."""
    mask_init: Literal["erk", "uniform"] = "erk"
    """Density of each tensor in the random masks: by the Erdős–Rényi kernel, or the same for all."""
    shared_init: bool = False
    """Begin with one mask for all tasks."""
    mask_scope: Literal["blocks_weights_only", "blocks", "all"] = "blocks_weights_only"
    """Which tensors masks reach: the blocks' two-dimensional weights, all of the blocks' tensors, or all tensors."""
    freeze_unmasked: bool = False
    """Make masks for every tensor, as the published code does: outside --mask-scope they freeze weights that the
    network still uses."""
    moment_policy: Literal["shared", "freeze_masked"] = "shared"
    """Adam moments of masked entries decay, as in the published code, or stay as they are."""


@dataclass(kw_only=True)
class HarmoDTOptions(FrozenOptions):
    """HarmoDT-F (Hu et al., ICML 2024): task masks that exchange weights by gradient agreement and importance."""

    FIRST: ClassVar[tuple[str, ...]] = ("sparsity", "mask_every", "importance", "eta_max")

    mask_every: Positive = 100
    """t_m, steps between mask updates (paper: 500)."""
    eta_min: Natural = 0
    """Fewest weights that a mask exchanges in an update."""
    eta_max: int = 100
    """Most weights that a mask exchanges in an update, at least --eta-min."""
    swap_schedule: Literal["bump", "decay"] = "bump"
    """Number exchanged over time: eta_min, eta_max, eta_min (the published code), or from eta_max to eta_min."""
    importance: Importance = "fisher"
    """Importance score: squared gradients (HarmoDT-F), weights' magnitude (HarmoDT-M), or none."""
    fisher_samples: bool = False
    """Square the gradients of single samples for --importance fisher, and not their mean."""
    gamma: Annotated[float, Range(0)] = 10.0
    """Weight of the agreement score in the harmony score."""
    ranking: Literal["global", "quota", "z-score"] = "global"
    """Compare scores over all maskable weights, within each tensor for its share, or standardised in each tensor."""
    ema_decay: Annotated[float, Range(0, 1, closed="left")] = 0.0
    """Smoothing of the tasks' gradients over mask updates."""
    mask_batches: Positive = 1
    """Batches of a task whose gradients are averaged for its scores; with few samples in each, one of them is noise."""
    mask_until: Annotated[float, Range(0, 1, closed="right")] = 1.0
    """Share of the steps after which masks stay as they are; --swap-schedule goes over this share."""
    update: Literal["corrected", "random", "official"] = "corrected"
    """Mask update: by dense gradients; at random, as a control; or as the published code does it, mistakes included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("eta_min", self.eta_min, self.eta_min <= self.eta_max, f"from 0 to --eta-max {self.eta_max}")
        fits = not self.fisher_samples or self.importance == "fisher"
        check("fisher_samples", self.fisher_samples, fits, "off unless --importance is fisher")


@dataclass(kw_only=True)
class MagnitudeOptions(HarmoDTOptions):
    """HarmoDT-M: HarmoDT with the weights' magnitude as importance."""

    importance: Importance = "magnitude"
    """Importance score: squared gradients (HarmoDT-F), weights' magnitude (HarmoDT-M), or none."""


@dataclass(kw_only=True)
class GroupedOptions(HarmoDTOptions):
    """G-HarmoDT (2024): tasks grouped by their gradients share a mask, and a gate infers the group while acting.

    Nothing tells the policy its task: statistics and target are pooled, there is no prompt. What the published
    abstract leaves open is our reading.
    """

    groups: str = "auto"
    """Number of groups, 1 to the number of tasks; tasks: a group each; auto: the number with the best silhouette."""
    group_after: Natural = 300
    """Steps before the tasks are grouped, below --steps; a tenth of them if not given."""
    first_phase: Literal["dense", "random-masks"] = "dense"
    """What is trained before: a dense network, or a frozen random mask a task."""
    clustering: Literal["k-means", "agglomerative"] = "k-means"
    """Spherical k-means++, or average linkage on 1 - cosine."""
    recluster_every: Natural = 0
    """Mask updates between later clusterings; 0: tasks are grouped once."""
    no_gate: bool = False
    """Train no gate: the policy must then be told its task, and gives it the mask of its group."""
    gate_context: Positive = 10
    """Steps that the gate sees, at most --context; that or 10 if not given."""
    gate_width: Positive = 256
    """Width of the gate's layers."""
    gate_lr: Annotated[float, Range(0, closed="neither"), With("no_gate=False")] = 3e-4
    """Learning rate of the gate."""
    gate_states_only: bool = False
    """Keep the agent's previous actions from the gate."""
    gate_returns: bool = False
    """Let the gate see returns-to-go, whose scale may tell the task."""
    selection: Literal["gate", "soft", "oracle", "random"] = "gate"
    """How the evaluation chooses the mask: the gate's best group, the gate's mixture of masks, the true group, or a
    random one."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        known = defaults(HarmoDTOptions, given) | dict(given)
        own = {"group_after": known["steps"] // 10, "gate_context": min(10, known["context"])}
        return {**super().preset_values(given), **own}

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.groups in ("auto", "tasks") or self.groups.isdigit()
        check("groups", self.groups, fits, "auto, tasks or a number")
        check("group_after", self.group_after, self.group_after < self.steps, f"from 0 to {self.steps - 1}")
        check("gate_context", self.gate_context, self.gate_context <= self.context, f"from 1 to {self.context}")
