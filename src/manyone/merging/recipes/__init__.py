"""The recipes of merging: name -> where its options are, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

RECIPES = {
    "average": Recipe("static:AverageOptions", "", "weight averaging", ""),
    "task-arithmetic": Recipe("static:TaskArithmeticOptions", "", "base + lambda x sum of task vectors", ""),
    "ties": Recipe("static:TiesOptions", "", "TIES: trim globally, elect signs, sum what agrees", ""),
    "dare": Recipe("static:DareOptions", "", "DARE: drop entries at random, rescale, then merge", ""),
    "slerp": Recipe("static:SlerpOptions", "", "spherical interpolation of two experts", ""),
    "fisher": Recipe("static:FisherOptions", "", "average weighted by diagonal Fisher information", ""),
    "regmean": Recipe("static:RegMeanOptions", "", "RegMean: least squares on layer inputs", ""),
    "model-stock": Recipe("static:ModelStockOptions", "", "Model Stock: ratio from the angle of the experts", ""),
    "tsv-m": Recipe("static:TsvMOptions", "", "TSV-M: decorrelated singular vectors of task vectors", ""),
    "iso-c": Recipe("static:IsoCOptions", "", "Iso-C: flat spectrum of the summed task vectors", ""),
    "iso-cts": Recipe("static:IsoCtsOptions", "", "Iso-CTS: Iso-C with task-specific directions", ""),
    "mergekit": Recipe("static:MergekitOptions", "", "runs a mergekit YAML recipe", ""),
    "adamerging": Recipe("adamerging:Options", "", "AdaMerging(++): coefficients learned without labels", ""),
    "concrete": Recipe("adamerging:ConcreteOptions", "", "Concrete: a learned shared mask", ""),
    "wemoe": Recipe("wemoe:Options", "", "WEMoE: critical modules merged anew for every input", ""),
    "e-wemoe": Recipe("wemoe:EfficientOptions", "", "E-WEMoE: pruned task vectors, a shared router", ""),
    "surgery": Recipe("surgery:Options", "", "Surgery: per-task correction of a merged model's feature", ""),
    "surgery-v2": Recipe("surgery:DeepOptions", "", "SurgeryV2: correction after every block", ""),
    "experts": Recipe("experts:Options", "", "trains a suite's base, heads and experts", ""),
}
