"""Merging: many fine-tuned experts of one base become one multi-task model.

Static mergers are functions on weights (:mod:`manyone.merging.static`); WEMoE, E-WEMoE, AdaMerging and Concrete are
modules that adapt on unlabelled inputs; Surgery and SurgeryV2 correct the features of any merged model.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdaMerging": "adaptation.adamerging",
    "AdaptationLearner": "adaptation.learner",
    "Bundle": "experts.bundle",
    "ConcreteMerging": "adaptation.concrete",
    "Head": "heads",
    "MergedModel": "artefact",
    "Surgery": "surgery.model",
    "SurgeryLearner": "surgery.learner",
    "SurgeryV2": "surgery.model",
    "WeightEnsemblingMoE": "moe.wemoe",
    "average": "static.methods",
    "dare": "static.methods",
    "fisher": "static.methods",
    "iso_c": "static.methods",
    "iso_cts": "static.methods",
    "load": "artefact",
    "merge": "static.methods",
    "model_stock": "static.methods",
    "regmean": "static.methods",
    "save": "artefact",
    "sensitivity": "sensitivities",
    "slerp": "static.methods",
    "task_arithmetic": "static.methods",
    "ties": "static.methods",
    "tsv_m": "static.methods",
}
_WEIGHTS = ("apply_task_vector", "task_vector", "task_vectors")

__all__ = sorted([*_HOME, *_WEIGHTS])


def __getattr__(name: str) -> Any:
    """Loads the module of ``name`` when it is first asked for, so that importing the package costs nothing."""
    if name in _HOME:
        return getattr(importlib.import_module(f"manyone.merging.{_HOME[name]}"), name)
    if name in _WEIGHTS:
        return getattr(importlib.import_module("manyone.weights.arithmetic"), name)
    raise AttributeError(f"module 'manyone.merging' has no attribute {name!r}")
