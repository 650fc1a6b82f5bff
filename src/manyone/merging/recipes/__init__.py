"""The recipes of merging: name -> options, builder, one line, runner. Nothing is imported before it is asked for.

A static merge has no builder: what it does with files must not import PyTorch.
"""

from manyone.recipes.recipe import Recipe

NEEDS = "needs:needs"


def _static(options: str, summary: str) -> Recipe:
    return Recipe(f"static_options:{options}", "", summary, "run_static")


def _lora(options: str, summary: str) -> Recipe:
    return Recipe(f"lora_options:{options}", "", summary, "run_lora")


RECIPES = {
    "average": _static("AverageOptions", "weight averaging"),
    "task-arithmetic": _static("TaskArithmeticOptions", "base + lambda x sum of task vectors"),
    "ties": _static("TiesOptions", "TIES: trim globally, elect signs, sum what agrees"),
    "dare": _static("DareOptions", "DARE: drop entries at random, rescale, then merge"),
    "slerp": _static("SlerpOptions", "spherical interpolation of two experts"),
    "fisher": _static("FisherOptions", "average weighted by diagonal Fisher information"),
    "regmean": _static("RegMeanOptions", "RegMean: least squares on layer inputs"),
    "model-stock": _static("ModelStockOptions", "Model Stock: ratio from the angle of the experts"),
    "tsv-m": _static("TsvMOptions", "TSV-M: decorrelated singular vectors of task vectors"),
    "iso-c": _static("IsoCOptions", "Iso-C: flat spectrum of the summed task vectors"),
    "iso-cts": _static("IsoCtsOptions", "Iso-CTS: Iso-C with task-specific directions"),
    "mergekit": _static("MergekitOptions", "runs a mergekit YAML recipe"),
    "extract-lora": _lora("ExtractLoraOptions", "a LoRA adapter from a base and a fine-tuned model"),
    "lora-arithmetic": _lora("LoraArithmeticOptions", "the weighted sum of LoRA adapters as one adapter"),
    "adamerging": Recipe(
        "options:AdaMergingOptions", "build:adamerging", "AdaMerging(++): coefficients learned without labels"
    ),
    "concrete": Recipe("options:ConcreteOptions", "build:concrete", "Concrete: a learned shared mask"),
    "wemoe": Recipe("options:WEMoEOptions", "build:wemoe", "WEMoE: critical modules merged anew for every input"),
    "e-wemoe": Recipe("options:EWEMoEOptions", "build:wemoe", "E-WEMoE: pruned task vectors, a shared router"),
    "surgery": Recipe(
        "options:SurgeryOptions", "build:surgery", "Surgery: per-task correction of a merged model's feature"
    ),
    "surgery-v2": Recipe("options:SurgeryV2Options", "build:surgery_v2", "SurgeryV2: correction after every block"),
    "experts": Recipe("options:ExpertsOptions", "", "trains a suite's base, heads and experts", "run_experts"),
}
