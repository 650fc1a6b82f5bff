"""The table of recipes: name -> where its options are, its field, one line. Nothing is imported before it is asked for.

A recipe's module has a dataclass ``Options`` (or the one named after the colon) whose method ``run(run)`` does the
work in a ``RunFolder``; ``manyone.recipes.common`` holds the options that all recipes share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.recipes.common import CommonOptions


class Recipe(NamedTuple):
    """Where a recipe is: ``module`` ("package.module" or "package.module:OptionsClass"), ``field``, ``summary``."""

    module: str
    field: str
    summary: str


_RECIPES = "manyone.recipes."
_STATIC = _RECIPES + "static:"
_BASELINES = _RECIPES + "policy_baselines:"
_TEAMS = _RECIPES + "team_baselines:"

RECIPES: dict[str, Recipe] = {
    "average": Recipe(_STATIC + "AverageOptions", "merging", "weight averaging"),
    "task-arithmetic": Recipe(_STATIC + "TaskArithmeticOptions", "merging", "base + lambda x sum of task vectors"),
    "ties": Recipe(_STATIC + "TiesOptions", "merging", "TIES: trim globally, elect signs, sum what agrees"),
    "dare": Recipe(_STATIC + "DareOptions", "merging", "DARE: drop entries at random, rescale, then merge"),
    "slerp": Recipe(_STATIC + "SlerpOptions", "merging", "spherical interpolation of two experts"),
    "fisher": Recipe(_STATIC + "FisherOptions", "merging", "average weighted by diagonal Fisher information"),
    "regmean": Recipe(_STATIC + "RegMeanOptions", "merging", "RegMean: least squares on layer inputs"),
    "model-stock": Recipe(_STATIC + "ModelStockOptions", "merging", "Model Stock: ratio from the angle of the experts"),
    "tsv-m": Recipe(_STATIC + "TsvMOptions", "merging", "TSV-M: decorrelated singular vectors of task vectors"),
    "iso-c": Recipe(_STATIC + "IsoCOptions", "merging", "Iso-C: flat spectrum of the summed task vectors"),
    "iso-cts": Recipe(_STATIC + "IsoCtsOptions", "merging", "Iso-CTS: Iso-C with task-specific directions"),
    "mergekit": Recipe(_STATIC + "MergekitOptions", "merging", "runs a mergekit YAML recipe"),
    "adamerging": Recipe(_RECIPES + "adamerging", "merging", "AdaMerging(++): coefficients learned without labels"),
    "concrete": Recipe(_RECIPES + "adamerging:ConcreteOptions", "merging", "Concrete: a learned shared mask"),
    "wemoe": Recipe(_RECIPES + "wemoe", "merging", "WEMoE: critical modules merged anew for every input"),
    "e-wemoe": Recipe(_RECIPES + "wemoe:EfficientOptions", "merging", "E-WEMoE: pruned task vectors, a shared router"),
    "surgery": Recipe(_RECIPES + "surgery", "merging", "Surgery: per-task correction of a merged model's feature"),
    "surgery-v2": Recipe(_RECIPES + "surgery:DeepOptions", "merging", "SurgeryV2: correction after every block"),
    "experts": Recipe(_RECIPES + "experts", "merging", "trains a suite's base, heads and experts"),
    "harmodt": Recipe(_RECIPES + "harmodt", "policies", "HarmoDT: a mask a task, exchanged by gradient agreement"),
    "harmodt-r": Recipe(_RECIPES + "harmodt:FrozenOptions", "policies", "HarmoDT with its random masks kept"),
    "harmodt-m": Recipe(_RECIPES + "harmodt:MagnitudeOptions", "policies", "HarmoDT with magnitude as importance"),
    "g-harmodt": Recipe(_RECIPES + "g_harmodt", "policies", "G-HarmoDT: group masks, the group inferred by a gate"),
    "mt-dt": Recipe(_BASELINES + "MultiTaskOptions", "policies", "one dense decision transformer for all tasks"),
    "prompt-dt": Recipe(_BASELINES + "PromptOptions", "policies", "decision transformer behind a prompt of the task"),
    "id-token-dt": Recipe(_BASELINES + "IdTokenOptions", "policies", "decision transformer with a token of the task"),
    "mtbc": Recipe(_BASELINES + "CloningOptions", "policies", "multi-task behaviour cloning, an MLP"),
    "task-dt": Recipe(_BASELINES + "SingleTaskOptions", "policies", "a decision transformer of its own a task"),
    "local-sgda": Recipe(
        _RECIPES + "local_sgda", "minimax", "Local-SGDA: descent ascent on clients, a server averages"
    ),
    "local-dsgda": Recipe(
        _RECIPES + "local_sgda:DecentralisedOptions", "minimax", "Local-DSGDA: the same by gossip on a graph"
    ),
    "stability": Recipe(_RECIPES + "stability", "minimax", "how stable Distributed-SGDA is: K, m, n, steps, topology"),
    "commformer": Recipe(_RECIPES + "commformer", "teams", "CommFormer: agents learn who listens to whom, and when"),
    "commformer-fc": Recipe(_RECIPES + "commformer:FullOptions", "teams", "CommFormer(FC): everybody hears everybody"),
    "mat": Recipe(_TEAMS + "TransformerOptions", "teams", "MAT: a transformer decodes actions agent after agent"),
    "mat-dec": Recipe(_TEAMS + "EncoderOptions", "teams", "MAT-dec: MAT's encoder, all actions at once"),
    "no-comm": Recipe(_TEAMS + "SilentOptions", "teams", "the same network, every agent alone"),
    "mappo": Recipe(_TEAMS + "CentralOptions", "teams", "MAPPO: local actors, one central critic"),
    "ippo": Recipe(_TEAMS + "IndependentOptions", "teams", "IPPO: local actors and critics"),
}


def options_class(name: str) -> type[CommonOptions]:
    """The options dataclass of recipe ``name``. Raises ``ManyoneError`` when there is no such recipe."""
    import importlib

    if name not in RECIPES:
        raise ManyoneError(f"unknown recipe '{name}'; {suggestion(name, RECIPES)} (manyone ls recipes)")
    module, _, attribute = RECIPES[name].module.partition(":")
    return getattr(importlib.import_module(module), attribute or "Options")
