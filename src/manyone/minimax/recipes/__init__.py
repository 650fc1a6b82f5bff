"""The recipes of minimax: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Predict, Recipe

NEEDS = "needs:needs"
PREDICT = Predict("predict_arguments", "predict")
RECIPES = {
    "local-sgda": Recipe(
        "options:LocalSGDAOptions", "build:rounds", "Local-SGDA: descent ascent on clients, a server averages"
    ),
    "local-dsgda": Recipe("options:LocalDSGDAOptions", "build:rounds", "Local-DSGDA: the same by gossip on a graph"),
    "stability": Recipe(
        "options:StabilityOptions", "build:sweeps", "how stable Distributed-SGDA is: K, m, n, steps, topology",
        runner="stability",
    ),
}  # fmt: skip
