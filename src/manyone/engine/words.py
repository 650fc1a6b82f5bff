"""Words that users type: suggestions for mistyped ones, and settings after a name."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from manyone.errors import ManyoneError

_SHOWN = 30  # names that a message lists
_MEANINGS = (
    "steps iterations rounds local-steps env-steps epochs num-steps n-steps max-steps train-steps updates iters "
    "num-iterations num-epochs num-train-epochs timesteps total-timesteps generations",
    "lr learning-rate eta eta-x eta-y step-size stepsize eta0",
    "batch-size batch bs minibatch-size per-device-train-batch-size",
    "envs num-envs n-envs batch-size",
    "data dataset datasets data-dir data-path train-data train-file tasks env images input gold",
    "env environment env-name env-id task scenario map",
    "suite benchmark task-suite tasks env data",
    "out output output-dir out-dir outdir output-path save save-dir save-path result log-dir work-dir",
    "workers num-workers n-workers n-jobs jobs processes num-processes nproc num-proc",
    "threads num-threads n-threads",
    "seed random-state random-seed rng-seed",
    "device gpu gpus cuda accelerator",
    "precision dtype fp16 bf16 half amp torch-dtype",
    "scale lam lambda lambda- coef coefficient scaling scaling-coef scaling-coefficient",
    "overwrite force overwrite-output-dir exist-ok replace",
    "width hidden hidden-size hidden-dim embed-dim d-model n-embd dim student-width",
    "layers depth n-layers num-layers n-layer num-hidden-layers student-layers",
    "heads n-heads num-heads n-head num-attention-heads",
    "weight-decay wd l2",
    "clip grad-clip max-grad-norm gradient-clip clip-grad gradient-clip-val",
    "gamma discount discount-factor",
    "warmup warmup-steps num-warmup-steps",
    "evaluate-every eval-every eval-steps eval-freq eval-interval validate-every",
    "checkpoint-every save-every save-steps save-freq save-interval",
    "eval-episodes n-eval-episodes num-eval-episodes test-episodes episodes",
    "logger report-to wandb tensorboard tracker log",
    "experts models model finetuned fine-tuned checkpoints adapters",
    "base base-model pretrained pretrained-model model-name-or-path",
    "dry-run plan-only test-run simulate",
    "clients num-clients n-clients agents",
    "density keep keep-ratio top-k topk k trim",
    "rank lora-rank lora-r r",
    "horizon max-episode-steps episode-length max-steps length",
    "context context-length seq-len sequence-length block-size",
    "target-return rtg desired-return return-to-go",
    "average linear mean soup",
    "dare dare-ties dare-linear",
    "label target target-column label-column y",
)
"""Names of one idea, as other tools and papers have them: what is meant by a name that is not known here."""


def suggestion(word: str, choices: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for those of ``choices`` that mean what ``word`` means elsewhere, else for the nearest.

    The list of ``choices`` when none is near.
    """
    known = sorted(choices)
    if meant := _meant(word, known):
        return f"did you mean {' or '.join(map(repr, meant))}?"
    named = any(_plain(word) in group.split() for group in _MEANINGS)
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.8 if named else 0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if named:
        return "there is nothing of that kind here"
    shown = known if len(known) <= _SHOWN else [*known[:_SHOWN], f"... ({len(known)} in all)"]
    return f"known: {', '.join(shown)}" if known else "there is none"


def check_keywords(public: str, given: Iterable[str], target: Callable[..., Any]) -> None:
    """``ManyoneError`` for a keyword of ``given``, passed on by the function called ``public``, that is none of
    ``target``."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(target).parameters.values()
    known = [p.name for p in parameters if p.kind in kinds and not p.name.startswith("_")]
    for name in given:
        if name not in known:
            raise ManyoneError(f"{public}: there is no option {name!r}; {suggestion(name, known)}")


def _plain(word: str) -> str:
    return word.removeprefix("--").replace("_", "-").lower()


def _meant(word: str, known: Sequence[str]) -> list[str]:
    """Up to three of ``known`` that are other names of what ``word`` names, nearest in meaning first."""
    plain = {_plain(name): name for name in reversed(known)}
    asked, found = _plain(word), dict[str, None]()
    for group in map(str.split, _MEANINGS):
        if asked in group:
            found |= dict.fromkeys(plain[name] for name in group if name in plain)
    return list(found)[:3]


def parse_settings(text: str, name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings in ``text``, what follows the colon of ``NAME:key=value,key=value``, and those ``given`` beside it.

    ======================================  ===========================================================
    ``key``                                 a Python name; blanks around it and its value are left out
    ``10``, ``0.5``, ``1e-3``               a number
    ``true``, ``True``, ``false``, ``None``  what they say
    ``'10'``, ``[]``                        what Python reads, but a comma always ends a setting
    ``mixed``                               anything else is text
    ======================================  ===========================================================

    ``ManyoneError`` that begins with ``name`` for what is no setting and for one that is set twice.
    """
    settings: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not key.isidentifier() or not value:
            raise ManyoneError(f"{name}: {part.strip()!r} is not a setting: write NAME:key=value,key=value")
        if key in settings:
            raise ManyoneError(f"{name}: {key} is set twice: give it once")
        settings[key] = _value(value)
    for key, value in (given or {}).items():
        if key in settings:
            raise ManyoneError(f"{name}: {key} is set in the name and as an option ({value}): give it once")
        settings[key] = value
    return settings


def write_settings(settings: Mapping[str, Any]) -> str:
    """``settings`` by name, as :func:`parse_settings` reads them."""
    return ",".join(f"{key}={value}" for key, value in sorted(settings.items()))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
