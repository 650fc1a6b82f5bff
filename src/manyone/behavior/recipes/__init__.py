"""The recipes of behavior: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

RECIPES = {
    "obd": Recipe("options:DistilOptions", "build:distillations", "Offline Behavior Distillation: DBC, PBC, Av-PBC"),
    "bc": Recipe(
        "options:CloningOptions", "build:cloning", "behaviour cloning, on a distilled set or on everything",
        runner="run_cloning",
    ),
    "obd-theory": Recipe(
        "options:TheoryOptions", "theory:laboratory", "what its theorems say, exactly, on finite MDPs", runner="theory"
    ),
}  # fmt: skip
