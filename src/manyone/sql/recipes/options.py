"""The options of the sql recipes, as data.

One class holds every choice; a recipe is that class with choices of its own (``CHOICES``), each of which a user may
change. ``--preset laptop`` (the default) trains small decoders from scratch in minutes on two processor cores. The
``paper-`` presets are the published settings (Zhong et al., EMNLP Findings 2024, table of hyper-parameters; what it
does not say, scheduler, warm-up, precision, adapted layers, is that of the authors' earlier code).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check

Natural = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, closed="neither")]
Preset = Literal["laptop", "paper-qwen", "paper-codegen", "paper-llama", "smollm2"]

_IMPERFECT = With("source=imperfect", "source=mask-only", "source=noise", "source=scheduled")
_WRITTEN = With("source=imperfect", "source=scheduled")
_PAPER: Mapping[str, Any] = {
    "lr": 2e-4, "batch_size": 16, "steps": None, "epochs": 8.0, "teacher_epochs": 8.0, "max_input": 1024,
    "max_output": 128, "lora_rank": 64, "lora_alpha": 32.0, "precision": "bf16-mixed", "gradient_checkpointing": True,
    "warm_start": 0, "clip": None, "evaluate_every": 0, "checkpoint_every": 500, "eval_pairs": None, "micro_batch": 8,
    "style": "full",
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "laptop": {},
    "paper-qwen": {**_PAPER, "teacher": "Qwen/Qwen1.5-1.8B", "student": "Qwen/Qwen1.5-0.5B"},
    "paper-codegen": {**_PAPER, "teacher": "Salesforce/codegen-2B-multi", "student": "Salesforce/codegen-350M-multi",
                      "lora_rank": 8},
    "paper-llama": {**_PAPER, "teacher": "meta-llama/Llama-2-7b-hf",
                    "student": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "epochs": 4.0,
                    "teacher_epochs": 4.0, "max_input": 2048, "max_output": 256},
    "smollm2": {"teacher": "smollm2-135m", "student": "every-third-layer", "style": "full", "lr": 2e-4, "clip": 1.0,
                "batch_size": 16, "micro_batch": 8, "max_input": 512, "steps": 2000, "teacher_steps": 1000,
                "warm_start": 500, "teacher_lr": 2e-4, "evaluate_every": 0},
}  # fmt: skip


@dataclass(kw_only=True)
class DistilOptions(CommonOptions):
    """A student learns text-to-SQL from a teacher, or from gold alone."""

    FIRST: ClassVar[tuple[str, ...]] = ("divergence", "source", "mask_ratio", "strategy", "warm_start", "teacher_steps")
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--data shop=pairs --out runs/shop",
        "--teacher smollm2-135m --student every-third-layer",
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    CHOICES: ClassVar[Mapping[str, Any]] = {}
    """What makes the recipe of its name: values of options, under any preset."""

    preset: Preset = "laptop"
    """Defaults of all options that are left open: laptop (small decoders from scratch), smollm2 (a real model of 135
    million parameters), or the published settings of paper-qwen, paper-codegen and paper-llama (they need a GPU)."""
    suite: str | None = None
    """Data of ours, made when the cache has none: schemas3 (the default, where no --data is given),
    schemas8, schemas20, schemas146 or spider14."""
    data: Annotated[tuple[str, ...], Places()] = ()
    """Instead of --suite, own pairs as NAME=PLACE: a folder in the layout of Spider or BIRD, or a file of pairs."""
    data_seed: Annotated[Natural, With("suite")] = 0
    """Seed of generated pairs and databases; runs with different --seed share their data."""
    train_pairs: Annotated[int | None, Range(1)] = None
    """Train on so many pairs at most, a random choice; default: all."""
    style: Literal["auto", "full", "compact"] = "auto"
    """The prompt: full (CodeS's, with types, keys and values), compact (one line of names), or auto: compact for models
    from scratch, full for others."""
    matched: Literal["auto", "yes", "no"] = "auto"
    """Show the values of the database that the question names; auto: with the full prompt."""
    tables: Positive = 6
    """Tables of a schema that a prompt shows at most: while learning the gold ones and others by lot, else those that
    the question seems to be about."""
    columns: Positive = 10
    """Columns of each of them."""
    normal: bool = True
    """Learn SQL in its normal form: keywords upper, names lower, aliases of tables expanded."""
    max_input: Annotated[int, Range(8, 1 << 20)] = 256
    """Tokens of a prompt; longer ones are cut on the left (paper: 1024, LLaMA 2048)."""
    max_output: Annotated[int, Range(2, 1 << 16)] = 80
    """Tokens of an answer, with its end (paper: 128, LLaMA 256)."""
    vocabulary: Annotated[int, Range(259, 1 << 18)] = 800
    """Tokens of the byte-level BPE that is trained for models from scratch."""

    student: Annotated[str, Places(names=True)] = "scratch"
    """Who learns: scratch, a Hugging Face folder, a hub id, a .gguf file, smollm2-135m, or every-third-layer (also
    second, fourth ...) of the teacher."""
    student_layers: Annotated[int, Range(1, 200), With("student=scratch")] = 2
    """Layers of a student from scratch."""
    student_width: Annotated[int, Range(8, 16384), With("student=scratch")] = 64
    """Its width; one head for every 32."""
    teacher: Annotated[str, Places(names=True)] = "scratch"
    """Who teaches: as --student, without every-...-layer."""
    teacher_layers: Annotated[int, Range(1, 200), With("teacher=scratch")] = 3
    """Layers of a teacher from scratch."""
    teacher_width: Annotated[int, Range(8, 16384), With("teacher=scratch")] = 128
    """Its width."""
    teacher_steps: Natural = 1000
    """Updates of fine-tuning that the teacher gets first, on the same pairs; 0: it is one already."""
    teacher_epochs: Annotated[float | None, Range(0, closed="neither")] = None
    """Instead of --teacher-steps, passes over the pairs (paper: 8, LLaMA 4)."""
    teacher_lr: Rate = 3e-3
    """Its peak learning rate (paper: 2e-4)."""
    teacher_seed: Natural = 0
    """Its seed; runs with different --seed share their teacher."""
    warm_start: Natural = 300
    """C11: updates of fine-tuning that the student gets before the method; methods of one seed share them (paper: 0,
    from a pretrained student)."""
    warm_lr: Annotated[float, Range(0, closed="neither"), With("warm_start")] = 5e-3
    """Their peak learning rate."""
    lora_rank: Natural = 0
    """Rank of low-rank adapters on all projections of attention and MLP; 0: all weights are trained (paper: 64, CodeGen
    8)."""
    lora_alpha: Annotated[float, Range(0, closed="neither"), With("lora_rank")] = 32.0
    """Their scale."""
    lora_dropout: Annotated[float, Range(0, 1, closed="left"), With("lora_rank")] = 0.0
    """Their dropout."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which takes less memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process has the whole model, or a share of its layers."""

    steps: Annotated[int | None, Range(0)] = 900
    """Updates of the student; null: as --epochs says."""
    epochs: Annotated[float | None, Range(0, closed="neither")] = None
    """Instead of --steps, passes over the pairs (paper: 8, LLaMA 4)."""
    lr: Rate = 3e-3
    """Peak learning rate of AdamW (paper: 2e-4)."""
    batch_size: Positive = 32
    """Pairs of an update, over all processes (paper: 16)."""
    micro_batch: Annotated[int | None, Range(1)] = None
    """Pairs of a forward pass; gradients of a batch are accumulated, normalised by the whole batch. Default: all."""
    warmup: Share = 0.03
    """Share of the updates in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What it does then: falls to 0 along a cosine, or stays."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Of AdamW."""
    clip: Annotated[float | None, Range(0, closed="neither")] = 1.0
    """Largest norm of the gradient; null: as it is."""

    divergence: Literal["none", "fkl", "rkl", "jsd", "tvd", "skew-fkl", "skew-rkl"] = "rkl"
    """How far the student is from the teacher: KL(teacher, student), KL(student, teacher), generalised Jensen-Shannon,
    total variation, KL to a mixture with the own or the other side; none: hard labels alone."""
    beta: Annotated[float, Range(0, 1), With("divergence=jsd")] = 0.5
    """The weight b of jsd."""
    skew: Annotated[float, Range(0, 1), With("divergence=skew-fkl", "divergence=skew-rkl")] = 0.1
    """The weight a of the skew divergences."""
    temperature: Rate = 1.0
    """C13: of both models in the divergence."""
    source: Literal["gold", "teacher", "student", "gold+student", "teacher+student", "imperfect", "mask-only", "noise",
                    "scheduled", "adaptive"] = "imperfect"  # fmt: skip
    """The sequences that both models read: gold, the teacher's answers, the student's of now, one of two per batch,
    gold with tokens rewritten by the student (imperfect), left masked, replaced at random or rewritten from the clean
    prefix, or gold with more and more replayed answers (adaptive)."""
    student_share: Annotated[float, Range(0, 1), With("source=gold+student", "source=teacher+student")] = 0.5
    """Probability that a batch is the student's."""
    sampling_temperature: Rate = 1.0
    """Of the student's answers while it learns."""
    teacher_filter: Annotated[
        Literal["none", "executes", "matches"], With("source=teacher", "source=teacher+student")
    ] = "none"
    """Keep the teacher's answers that execute, or that give gold's result, and drop the other pairs."""
    mle: Annotated[float, Range(0)] = 1.0
    """C4: weight of the cross-entropy with gold."""
    mle_on: Annotated[Literal["imperfect", "clean"], With("mle")] = "imperfect"
    """C3: the sequence that it is computed on: the imperfect one, in the same forward pass, or clean gold."""
    reduction: Literal["token", "sequence"] = "token"
    """C10: mean over the tokens of a batch, or over its sequences."""
    logits_memory: Rate = 1.0
    """GiB of logits that are formed at once; more of them go chunk by chunk."""
    loss_kernel: Literal["own", "liger"] = "own"
    """What forms the loss: own, or Liger's fused one (fkl, rkl and jsd; pip install liger-kernel)."""

    mask_ratio: Annotated[float, Range(0, 1), _IMPERFECT] = 0.2
    """alpha, the share of a gold answer's tokens that become imperfect."""
    strategy: Annotated[Literal["random", "uniform", "hard", "easy"], _IMPERFECT] = "random"
    """Which tokens: random, evenly spaced, or those that the student is least or most sure of."""
    rounding: Annotated[Literal["round", "bernoulli"], With("strategy=random")] = "round"
    """C6: that many in every answer, or each with that probability."""
    mask_token: Annotated[str, With("source=imperfect", "source=mask-only")] = "auto"
    """C1: what hides a token: auto (begin-of-text, else a padding-like token), bos, eos, pad, added (an untrained
    embedding of its own), or a special token's text."""
    mask_end: Annotated[bool, _IMPERFECT] = False
    """C5: the end token may be masked too."""
    pick: Annotated[Literal["argmax", "sample"], _WRITTEN] = "argmax"
    """C2: what the student writes: its likeliest token, or a sample."""
    special_tokens: Annotated[bool, _IMPERFECT] = False
    """C7: the student may write special tokens."""
    passes: Annotated[int, Range(0), With("source=imperfect")] = 1
    """C8: forward passes in which the tokens are written, left to right; 0: a pass for each."""
    loss_places: Annotated[Literal["output", "after-change"], _IMPERFECT] = "output"
    """C9: where the divergence counts: the whole answer, or what follows the first change."""
    rewrite_dropout: Annotated[bool, With("lora_dropout")] = False
    """C12: the student writes with dropout."""
    changed_share: Annotated[float | None, Range(0, 1, closed="neither"), _IMPERFECT] = None
    """Let the mask ratio follow, so that this share of tokens really differs from gold; default: a fixed ratio."""

    eval_pairs: Annotated[int | None, Range(1)] = 200
    """Test pairs of each kind (generated, real) that evaluations answer; default of the paper presets: all."""
    evaluate_every: Natural = 0
    """Updates between evaluations; 0: only at the end (adaptive data needs them)."""
    beams: Positive = 1
    """Answers by beam search of which the first that executes counts; 1: greedy."""
    exposure: Natural = 0
    """Test prompts on which the excess accumulated error (ExAccErr) of the finished student is measured; 0: none."""
    timeout: Rate = 5.0
    """Seconds that a query may take."""
    export: Annotated[Literal["merged", "adapter"], With("lora_rank")] = "merged"
    """The model that is left: adapters merged into the weights, or the adapter alone."""
    workers: Annotated[int | None, Range(1)] = None
    """Processes that execute queries; default: one a processor."""
    checkpoint_every: Natural = 100
    """Updates between checkpoints; 0: only at the end."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {} if given.get("data") or given.get("suite") else {"suite": "schemas3"}
        found = {**own, **super().preset_values(given), **cls.CHOICES}
        if given.get("steps") is not None:
            found["epochs"] = None
        if given.get("teacher_steps") is not None:
            found["teacher_epochs"] = None
        if given.get("epochs") is not None:
            found["steps"] = None
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = ("32-true", "bf16-mixed", "bf16-true", "64-true")
        check("precision", self.precision, self.precision in allowed, f"one of {', '.join(allowed)}")
        if self.suite is not None and self.data:
            raise ManyoneError(f"--suite {self.suite} brings its own data: leave --data out, or --suite")
        if self.suite is None and not self.data:
            raise ManyoneError("give --suite NAME (schemas3, schemas8 ...) or --data NAME=PLACE of your own")
        if (self.steps is None) == (self.epochs is None):
            raise ManyoneError("give one of --steps and --epochs")
        check("teacher", self.teacher, not self.teacher.startswith("every-"), "a whole model: layers are left out of "
              "the teacher for --student")  # fmt: skip
        if self.divergence == "none":
            check("mle", self.mle, self.mle > 0, "above 0 with --divergence none: nothing else is learned from")
            teachers = self.source in ("gold", "teacher", "imperfect", "mask-only", "noise", "scheduled")
            check("source", self.source, teachers, "one with hard labels (gold, teacher, imperfect, mask-only, noise, "
                  "scheduled) with --divergence none")  # fmt: skip
        if self.teacher == "scratch" and self.needs_teacher and self.teacher_epochs is None:
            check("teacher_steps", self.teacher_steps, self.teacher_steps > 0, "1 or more: a teacher from scratch has "
                  "to be trained first")  # fmt: skip
        if self.source == "adaptive":
            check("evaluate_every", self.evaluate_every, self.evaluate_every > 0, "1 or more with --source adaptive, "
                  "which follows the validation loss")  # fmt: skip
        whole = self.warm_start == 0 and self.student != "scratch" and not self.student.startswith("every-")
        check("export", self.export, self.export == "merged" or whole, "merged: an adapter needs its base, which is no "
              "model of its own here (--warm-start 0 and a --student that is a place)")  # fmt: skip
        if self.student.startswith("every-") and not self.needs_teacher and self.teacher == "scratch":
            raise ManyoneError(f"--student {self.student}: layers of which teacher? Name it with --teacher")

    @property
    def needs_teacher(self) -> bool:
        """Whether the method asks a teacher anything."""
        return self.divergence != "none" or self.source in ("teacher", "teacher+student") or self.exposure > 0


@dataclass(kw_only=True)
class KIDOptions(DistilOptions):
    """KID, distillation with imperfect data (Zhong et al., EMNLP Findings 2024): gold with the student's own slips."""


@dataclass(kw_only=True)
class SFTOptions(DistilOptions):
    """Supervised fine-tuning: cross-entropy on gold, the unit of cost of everything else."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "none", "source": "gold"}


@dataclass(kw_only=True)
class SeqKDOptions(DistilOptions):
    """SeqKD: fine-tuning on the teacher's answers (Kim & Rush, EMNLP 2016); --teacher-filter drops wrong ones."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "none", "source": "teacher"}


@dataclass(kw_only=True)
class FKDOptions(DistilOptions):
    """Supervised distillation: forward KL on gold, with hard labels."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "fkl", "source": "gold"}


@dataclass(kw_only=True)
class RKDOptions(DistilOptions):
    """Reverse KL on gold, with hard labels: KID without imperfect data."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "rkl", "source": "gold"}


@dataclass(kw_only=True)
class FDistillOptions(DistilOptions):
    """f-distill (Wen et al., ACL 2023): total variation on the teacher's and the student's answers."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "tvd", "source": "teacher+student", "mle": 0.0}


@dataclass(kw_only=True)
class ImitKDOptions(DistilOptions):
    """ImitKD (Lin et al., EMNLP 2020): forward KL on gold and the student's answers."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "fkl", "source": "gold+student", "mle": 0.0}


@dataclass(kw_only=True)
class GKDOptions(DistilOptions):
    """GKD (Agarwal et al., ICLR 2024): on-policy distillation, on what the student answers now."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "rkl", "source": "student", "mle": 0.0}


@dataclass(kw_only=True)
class DistiLLMOptions(DistilOptions):
    """DistiLLM (Ko et al., ICML 2024): skew KL on gold with more and more replayed answers of the student."""

    CHOICES: ClassVar[Mapping[str, Any]] = {"divergence": "skew-fkl", "source": "adaptive", "mle": 0.0,
                                            "evaluate_every": 50}  # fmt: skip
