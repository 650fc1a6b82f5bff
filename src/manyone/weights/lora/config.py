"""``adapter_config.json`` of a LoRA adapter: every key is applied, without meaning for the weights, or refused.

A key that is not known here may hold nothing but null, false or an empty value: a kind of adapter that a later peft
writes is never merged as if it were a plain one. The tables follow the fields of peft 0.21's ``LoraConfig``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyone.engine.documents import loads_json
from manyone.errors import ManyoneError

LARGEST = 4 << 20
"""Bytes of an adapter's configuration that is read at all."""
APPLIED = (
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "fan_in_fan_out",
    "init_lora_weights",
    "use_dora",
    "bias",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "kasa_config",
)
"""Keys that decide how the stored tensors become weights."""
WITHOUT_MEANING = (
    # of the training or the loading alone
    "task_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "lora_dropout",
    "runtime_config",
    "velora_config",  # another backward pass; merged as plain LoRA
    "eva_config",  # where A begins; the base stays as it is
    "qalora_group_size",  # of use_qalora
    "loftq_config",  # of init_lora_weights, as the next two
    "corda_config",
    "lora_ga_config",
    "lora_dtype",  # these three are ms-swift's: the dtype of the training, learning rates of LoRA+
    "lorap_lr_ratio",
    "lorap_emb_lr",
    # which modules have tensors in the file: the tensors' names say so themselves
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "ensure_weight_tying",
)
"""Keys that do not."""
REFUSED = {
    "megatron_config": "Megatron's parallel layers",
    "alora_invocation_tokens": "activated LoRA: it acts from some tokens on and has no merged weights",
    "use_qalora": "QALoRA: a change of pooled inputs, which has no merged weights",
    "monteclora_config": "MonteCLoRA: its weights are drawn at random",
    "layer_replication": "replicated layers: the base does not have them",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow: a router over adapters, which has no merged weights",
}
"""Keys of kinds that are refused, unless they hold nothing; and what they stand for."""
_PLAIN = (True, False, "gaussian", "eva", "orthogonal", "mica")  # starts of A and B that leave the base as it is
_RESIDUAL = ("pissa", "olora")  # starts that peft repeats, exactly, whenever it loads the adapter
_DRIFTED = {
    "corda": "peft itself cannot open it without the covariances of its training data",
    "lora_ga": "the base was changed by gradients that the adapter does not hold",
    "loftq": "the base was replaced by a quantised one",
    "pissa_niter": "its start is a random approximation, another one at every loading",
}
_CONVERT = "save it with path_initial_model_for_weight_conversion"
_MERGE = "merge it with peft's merge_and_unload and give the folder of the result"
_REPEATS = 3  # in a pattern that a file brings
_LARGEST_NUMBER = 1e30
_LONGEST = 500  # characters of a module's name that such a pattern is run on


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's configuration says about its weights."""

    path: Path
    base: str | None
    rank: int | None
    alpha: float
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    rslora: bool
    fan_in_fan_out: bool
    init: str | bool
    dora: bool
    kasa: bool
    tokens: list[int] | dict[str, list[int]] | None
    parameters: list[str]

    def scale(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) (rank-stabilised LoRA); ``rank`` is that of the stored matrices."""
        expected = self._of("rank_pattern", self.ranks, module, self.rank)
        if expected is not None and expected != rank:
            raise ManyoneError(
                f"{self.path}: r = {expected} of {module}, but its matrices have rank {rank}; "
                "the configuration is of another adapter: save both again"
            )
        alpha = self._of("alpha_pattern", self.alphas, module, self.alpha)
        assert alpha is not None
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def _of(self, key: str, patterns: Mapping[str, Any], module: str, default: float | None) -> float | None:
        """The value for ``module``: of the first pattern that its name ends with, as peft compares them."""
        for pattern, value in patterns.items():
            if self._ends_with(key, pattern, module):
                return _number(self.path, f"{key} of {module}", value)
        return default

    def _ends_with(self, key: str, pattern: str, module: str) -> bool:
        """Whether the name ends with ``pattern``, a name or a regular expression that a file brings.

        Only expressions that take no more than a moment are run: short, without repeated groups or many repetitions.
        """
        if re.fullmatch(r"[\w.\-]+", pattern):
            return module == pattern or module.endswith(f".{pattern}")
        repeats = len(re.findall(r"[*+{]", pattern))
        risky = len(pattern) > 200 or repeats > _REPEATS or re.search(r"\)[*+?{]|\(\?|\\[1-9]", pattern)
        if risky or len(module) > _LONGEST:
            raise ManyoneError(
                f"{self.path}: {key} {pattern!r:.60} is not run: write names of modules, or a simpler one"
            )
        try:
            return re.search(rf"(?:^|\.)(?:{pattern})$", module) is not None
        except re.error as error:
            raise ManyoneError(f"{self.path}: {key} {pattern!r:.60}: {error}") from None


def adapter_config(folder: Path) -> AdapterConfig:
    """The configuration of the adapter in ``folder``; one line about what is not supported or damaged."""
    path = folder / "adapter_config.json"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        config = loads_json(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it must be a JSON object")
    except (ValueError, OSError) as error:
        raise ManyoneError(f"{path}: damaged adapter configuration ({error})") from error
    if config.get("peft_type") != "LORA":
        raise ManyoneError(
            f"{path}: peft_type {config.get('peft_type')!r:.40} is not supported, only LORA is; {_MERGE}"
        )
    for key, value in config.items():
        if key in REFUSED and value:
            raise ManyoneError(f"{path}: {key} = {value!r:.60} is not supported ({REFUSED[key]}); {_MERGE}")
        if key not in REFUSED and key not in APPLIED and key not in WITHOUT_MEANING and value:
            raise ManyoneError(
                f"{path}: {key!r:.60} = {value!r:.60} is not known and may change what the weights mean; {_MERGE}"
            )
    dora, lora_bias = _flag(path, config, "use_dora"), _flag(path, config, "lora_bias")
    if dora and lora_bias:
        raise ManyoneError(f"{path}: lora_bias = True together with use_dora = True has no meaning in peft")
    if config.get("bias") not in (None, "none", "all", "lora_only"):
        raise ManyoneError(f"{path}: bias = {config['bias']!r:.40} is not known; it is none, all or lora_only")
    rank = config.get("r")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ManyoneError(f"{path}: r = {rank!r:.40}: must be a whole number from 1")
    base = config.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise ManyoneError(f"{path}: base_model_name_or_path = {base!r:.40}: must be text")
    kasa = config.get("kasa_config") is not None
    if kasa and dora:
        raise ManyoneError(f"{path}: kasa_config together with use_dora = True has no meaning in peft")
    return AdapterConfig(
        path=path,
        base=base or None,
        rank=rank,
        alpha=_number(path, "lora_alpha", 8 if config.get("lora_alpha") is None else config["lora_alpha"]),
        ranks=_patterns(path, config, "rank_pattern"),
        alphas=_patterns(path, config, "alpha_pattern"),
        rslora=_flag(path, config, "use_rslora"),
        fan_in_fan_out=_flag(path, config, "fan_in_fan_out"),
        init=_init(path, config.get("init_lora_weights", True)),
        dora=dora,
        kasa=kasa,
        tokens=_tokens(path, config.get("trainable_token_indices")),
        parameters=_parameters(path, config.get("target_parameters")),
    )


def _init(path: Path, value: Any) -> str | bool:
    """How A and B began; the ones that moved the base in a way that cannot be repeated are refused."""
    value = True if value is None else value
    name = value.lower() if isinstance(value, str) else value
    if name in _PLAIN or name in _RESIDUAL:
        return name
    why = next((why for start, why in _DRIFTED.items() if isinstance(name, str) and name.startswith(start)), None)
    reason = why or "not known"
    raise ManyoneError(
        f"{path}: init_lora_weights = {value!r:.40} is not supported ({reason}); {_CONVERT}, or {_MERGE}"
    )


def _flag(path: Path, config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ManyoneError(f"{path}: {key} = {value!r:.40}: must be true or false")
    return bool(value)


def _number(path: Path, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_NUMBER:
        raise ManyoneError(f"{path}: {what} = {value!r:.40}: must be a number")
    return value


def _patterns(path: Path, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ManyoneError(f"{path}: {key} must map names of modules to numbers")
    return value


def _tokens(path: Path, value: Any) -> list[int] | dict[str, list[int]] | None:
    lists = value.values() if isinstance(value, dict) else [value]
    rows = (list, type(None)) if value is None else list
    if not all(isinstance(ids, rows) for ids in lists) or not all(
        isinstance(i, int) and not isinstance(i, bool) and i >= 0 for ids in lists for i in ids or []
    ):
        raise ManyoneError(f"{path}: trainable_token_indices must hold lists of row numbers from 0")
    return value


def _parameters(path: Path, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ManyoneError(f"{path}: target_parameters must be a list of names")
    return value
