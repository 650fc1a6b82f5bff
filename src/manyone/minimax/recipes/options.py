"""The options of minimax's recipes, as data: fields, ranges, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.recipes.options import CommonOptions, Places, Range, check

Positive = Range(0, closed="neither")


@dataclass(kw_only=True)
class TableOptions(CommonOptions):
    """What a table is and how it is read."""

    ALIASES: ClassVar[Mapping[str, str]] = {"batch": "batch_size"}
    AMBIGUOUS: ClassVar[Mapping[str, tuple[str, ...]]] = {"steps": ("rounds", "local_steps")}
    RENAMED: ClassVar[Mapping[str, str]] = {"steps": "local_steps", "batch": "batch_size"}

    data: Annotated[str, Places(names=True)] = "breast-cancer"
    """A real data set by name (breast-cancer, spambase, digits:8, fashion-mnist:shirt/coat ...: manyone data ls) or a
    CSV, Parquet or libsvm file."""
    label: str | None = None
    """Column of your file that holds the label."""
    positive: str | None = None
    """Label of the positive class, against all others; default: the rarer of two."""
    columns: tuple[str, ...] = ()
    """Columns of your file that are features; default: all but the label and those that other options name."""
    drop: tuple[str, ...] = ()
    """Columns of your file that are left out."""
    categories: Literal["refuse", "one-hot"] = "refuse"
    """Columns of words in your file: an error, or one 0/1 column a word."""
    missing: Literal["refuse", "mean", "median", "drop"] = "refuse"
    """Missing cells of your file: an error; the mean or median of the training rows (of words, the most frequent one);
    or the row is left out."""
    delimiter: str | None = None
    """What separates the cells of your CSV: one character, or tab; default: found by itself."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of the numbers in your file."""


@dataclass(kw_only=True)
class LocalSGDAOptions(TableOptions):
    """Local-SGDA: clients make K local steps of gradient descent ascent, then a server averages them."""

    FIRST: ClassVar[tuple[str, ...]] = ("topology", "partition", "alpha", "local_step")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--data my.csv --label y --out runs/auc",
        "--local-steps 10 --rounds 200 --seeds 5",
    )

    precision: Literal["32-true", "64-true"] = "32-true"
    """Floating-point precision, by Lightning Fabric's names."""
    problem: Literal["auc", "gan", "agnostic", "group-dro", "neyman-pearson"] = "auc"
    """What is solved: auc (maximise the area under the ROC curve), gan, agnostic (worst mixture of clients), group-dro
    (worst mixture of classes), neyman-pearson (fewest misses under a bound on false alarms)."""
    data: Annotated[str, Places(names=True)] = "breast-cancer"
    """A real data set by name (breast-cancer, spambase, digits:8, fashion-mnist:shirt/coat ...: manyone data ls) or a
    CSV, Parquet or libsvm file. Default: breast-cancer; digits for gan, agnostic and group-dro."""
    client_column: str | None = None
    """Column of your file whose values are the clients, one each, instead of --clients that rows are dealt to."""
    group: str | None = None
    """Column of your file whose values keep rows together: all of a value are for training, or all for testing."""
    test: Annotated[float, Range(0, 1, closed="neither")] = 0.2
    """Share of the rows kept for testing."""
    scale: Literal["standard-rows", "standard", "rows", "none"] = "standard-rows"
    """Scaling: columns standardised on the training rows, then every row to norm 1 (what step sizes of 0.1 assume)."""
    model: Literal["linear", "mlp"] = "linear"
    """Score or classifier."""
    hidden: Annotated[tuple[int, ...], Range(1)] = (64,)
    """Widths of the hidden layers of an mlp, and of the GAN's networks."""
    latent: Annotated[int, Range(1)] = 16
    """Width of the GAN's noise."""
    gan_form: Literal["zero-sum", "non-saturating"] = "zero-sum"
    """The GAN's game."""
    form: Literal["solam", "aucm"] = "solam"
    """AUC objective: square loss over pairs, or the margin form."""
    margin: Annotated[float, Range(0)] = 1.0
    """Margin of the AUC objective's margin form."""
    running_p: bool = False
    """AUC: every client counts its own rate of positives as it goes (SOLAM), instead of the pooled rate."""
    ridge: Annotated[float, Range(0)] = 0.0
    """Weight of (ridge/2) ||x||^2 in the AUC objective."""
    ridge_y: Annotated[float, Range(0)] = 0.0
    """Weight of (ridge_y/2) alpha^2 in the AUC objective, which alpha maximises less it."""
    rho: Annotated[float, Range(0)] = 0.0
    """Weight of (rho/2) ||lambda - uniform||^2 for agnostic and group-dro."""
    level: Annotated[float, Positive] = 0.5
    """Bound on the mean softplus loss of negatives for neyman-pearson."""
    clients: Annotated[int, Range(1)] = 16
    """Clients m."""
    partition: Literal["auto", "iid", "by-class", "dirichlet"] = "auto"
    """How the training rows are dealt; auto: iid, by-class for agnostic."""
    alpha: Annotated[float, Positive] = 0.5
    """Concentration of the dirichlet partition; small is heterogeneous."""
    per_client: Annotated[int | None, Range(1)] = None
    """Rows of each client; default: all rows are dealt. What nobody holds enters no figure, scaling or rate."""
    topology: Annotated[str, Places(names=True)] = "server"
    """Who averages with whom: server, complete, exponential, torus, grid, ring, path, star, isolated,
    one-peer-exponential, random-matching, hierarchical:GROUP[:EVERY], or a file with one edge (two client numbers) a
    line."""
    rounds: Annotated[int, Range(1)] = 100
    """Communication rounds T."""
    local_steps: Annotated[int, Range(1)] = 5
    """Local updates K that every client makes in a round."""
    batch_size: Annotated[int, Range(1)] = 1
    """Samples a local step."""
    eta_x: Annotated[float, Positive] = 0.1
    """Step size of the minimised block."""
    eta_y: Annotated[float, Range(0)] = 0.1
    """Step size of the maximised block."""
    decay: bool = False
    """Step sizes eta / (s + 1) at the local step s."""
    local_step: str = "simultaneous"
    """Local step: simultaneous, alternating, extragradient, extragradient-two-samples, optimistic, heavy-ball, adam,
    gdmax, sgda-plus, gradient-tracking or control-variates."""
    order: Literal["adapt-then-combine", "combine-then-adapt"] = "adapt-then-combine"
    """Clients mix what they have after their local steps, or what they had before."""
    outer_lr: Annotated[float, Positive] = 1.0
    """Step size of the outer step on a round's displacement; 1 without momentum is plain averaging."""
    outer_momentum: Annotated[float, Range(0, 1, closed="left")] = 0.0
    """Nesterov momentum of the outer step."""
    participation: Annotated[float, Range(0, 1, closed="right")] = 1.0
    """Share of the clients that the server draws in every round."""
    failures: Annotated[float, Range(0, 1, closed="left")] = 0.0
    """Probability that a client is down in a round (simulated; the mixing matrix is repaired)."""
    push_sum: bool = False
    """Mass-corrected gossip, which keeps the mean on directed graphs with failures."""
    weighting: Literal["uniform", "loss", "average"] = "uniform"
    """Clients of unequal size: count alike, or by their size in the loss or in the server's average."""
    timeout: Annotated[float, Positive] = 60.0
    """On ranks (torchrun): seconds to wait for another rank before it counts as lost."""
    output: Literal["mean", "time-average"] = "mean"
    """The model: the clients' mean at the end, or its average over the rounds."""
    evaluate_every: Annotated[int, Range(0)] = 10
    """Rounds between evaluations; 0: only at the end."""
    checkpoint_every: Annotated[int, Range(0)] = 25
    """Rounds between checkpoints; 0: only at the end."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"data": "digits"} if given.get("problem") in ("gan", "agnostic", "group-dro") else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.client_column is not None:
            why = "left out with --client-column, which says whose the rows are"
            check("partition", self.partition, self.partition == "auto", why)
            check("per-client", self.per_client, self.per_client is None, why)
        self.data = self.data or self.preset_values({"problem": self.problem}).get("data", "breast-cancer")  # from 0.1


@dataclass(kw_only=True)
class LocalDSGDAOptions(LocalSGDAOptions):
    """Local-DSGDA: clients make K local steps of gradient descent ascent, then average with their neighbours."""

    topology: Annotated[str, Places(names=True)] = "ring"
    """Who averages with whom: ring, torus, grid, path, star, exponential, complete, isolated, one-peer-exponential,
    random-matching, hierarchical:GROUP[:EVERY], server, or a file with one edge (two client numbers) a line."""


@dataclass(kw_only=True)
class StabilityOptions(TableOptions):
    """Stability laboratory: twins that differ in one sample, every replica and grid point in one stacked program.

    Of what is not given, each problem has its own default.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--replicas 16 --sweep-steps 1 5 20", "--problem gan --rounds 200")

    precision: Literal["64-true", "32-true"] = "64-true"
    """Floating-point precision of the models, by Lightning Fabric's names. Distances of twins are small: double."""
    problem: Literal["auc-linear", "auc-mlp", "gan", "wave"] = "auc-linear"
    """AUC with a linear score (convex-concave), with an MLP score (nonconvex-strongly-concave), a GAN, or the wave game
    (a nonconvex primal risk that satisfies the Polyak-Lojasiewicz inequality)."""
    data: Annotated[str, Places(names=True)] = "spambase"
    """A real data set by name or file; default: spambase, digits:8, digits and spambase for the four problems."""
    scale: Literal["standard-rows", "standard", "rows", "none"] = "standard-rows"
    """Scaling of all rows: columns standardised, and every row to norm 1."""
    hidden: Annotated[tuple[int, ...], Range(1)] = ()
    """Widths of the hidden layers of the MLP score; of the generator and, reversed, of the discriminator."""
    latent: Annotated[int, Range(1)] = 16
    """Width of the GAN's noise."""
    ridge: Annotated[float, Range(0)] = 0.0
    """AUC: weight of (ridge/2) ||x||^2; above 0 a linear score is strongly convex-concave."""
    ridge_y: Annotated[float, Range(0)] = 0.0
    """AUC: weight of (ridge_y/2) alpha^2, which alpha maximises less it."""
    random_features: Annotated[int, Range(0)] = 0
    """AUC: cosines of random projections of the rows in place of their columns; more of them than samples make a linear
    score overparameterised. 0: the columns."""
    wave: Annotated[float, Range(0)] = 3.0
    """Wave game: weight of the sum of sin^2 x; 0 is a quadratic, convex up to 0.5."""
    replicas: Annotated[int, Range(1)] = 8
    """Replicas R: splits, replaced samples and draws of their own; intervals need 2."""
    neighbour: Literal["one", "per_client", "none"] = "one"
    """What a neighbouring data set is: one sample of one client replaced, one of every client, or none (the control,
    whose distances are exactly 0)."""
    sweep_rounds: Annotated[tuple[int, ...], Range(1)] = ()
    """Numbers of rounds T to compare."""
    sweep_steps: Annotated[tuple[int, ...], Range(1)] = (1, 2, 5, 10, 20)
    """Local steps K to compare; nothing to leave it out."""
    sweep_clients: Annotated[tuple[int, ...], Range(1)] = (2, 4, 8, 16, 32)
    """Numbers of clients m to compare."""
    sweep_samples: Annotated[tuple[int, ...], Range(1)] = (12, 25, 50, 100)
    """Samples n of each client to compare."""
    sweep_eta: Annotated[tuple[float, ...], Positive] = (0.01, 0.03, 0.1, 0.3)
    """Step sizes (of both blocks) to compare."""
    sweep_topology: tuple[str, ...] = ("complete", "exponential", "ring", "star", "isolated")
    """Topologies to compare, with each of --sweep-partition."""
    sweep_partition: tuple[Literal["iid", "by-class"], ...] = ("iid", "by-class")
    """How rows are dealt where topologies are compared: alike clients, label-sorted ones."""
    clients: Annotated[int, Range(1)] = 16
    """m where it is not varied."""
    samples: Annotated[int, Range(1)] = 50
    """n where it is not varied."""
    rounds: Annotated[int, Range(1)] = 100
    """Communication rounds T."""
    local_steps: Annotated[int, Range(1)] = 5
    """Local updates K that every client makes in a round, where they are not varied."""
    eta: Annotated[float, Positive] = 0.1
    """Step size where it is not varied."""
    topology: Annotated[str, Places(names=True)] = "server"
    """Who averages with whom where it is not varied."""
    partition: Literal["iid", "by-class"] = "iid"
    """How rows are dealt where it is not varied."""
    batch_size: Annotated[int, Range(1)] = 1
    """Samples a local step."""
    test: Annotated[int, Range(1)] = 1000
    """Unseen rows of every replica, for risks and gaps."""
    checkpoint_every: Annotated[int, Range(0)] = 20
    """Hundredths of the run between checkpoints; 0: only at the end."""

    PRESETS: ClassVar = {
        "auc-linear": {},
        "auc-mlp": {"data": "digits:8", "scale": "rows", "hidden": (16,), "samples": 70, "rounds": 60, "eta": 0.3,
                    "batch_size": 2, "test": 500, "sweep_steps": (1, 5, 20), "sweep_clients": (4, 8, 16),
                    "sweep_samples": (35, 70), "sweep_eta": (0.1, 0.3)},
        "gan": {"data": "digits", "scale": "none", "hidden": (32,), "clients": 8, "samples": 100, "eta": 0.05,
                "batch_size": 16, "test": 500, "sweep_steps": (1, 5), "sweep_clients": (4, 8),
                "sweep_samples": (50, 100), "sweep_eta": (0.02, 0.05)},
        "wave": {"scale": "standard", "eta": 0.05, "sweep_eta": (0.01, 0.03, 0.05)},
    }  # fmt: skip

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return super().preset_values({"preset": given.get("problem", "auc-linear")})

    def __post_init__(self) -> None:
        super().__post_init__()
        check("hidden", self.hidden, not self.hidden or self.problem in ("auc-mlp", "gan"), "left out without networks")
        auc = self.problem in ("auc-linear", "auc-mlp")
        for name in ("ridge", "ridge_y", "random_features"):
            check(name.replace("_", "-"), getattr(self, name), auc or not getattr(self, name), "0 except for AUC")
