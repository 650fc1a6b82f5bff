"""The recipes of behavior: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

NEEDS = "needs:needs"
RECIPES = {
    "obd": Recipe("options:DistilOptions", "build:distillations", "Offline Behavior Distillation: DBC, PBC, Av-PBC"),
    "bc": Recipe(
        "options:CloningOptions", "build:cloning", "behaviour cloning, on a distilled set or on everything",
        runner="run_cloning",
    ),
    "obd-es": Recipe(
        "options:EvolutionOptions", "build:evolution", "the same pairs by evolution on true returns, the online oracle",
        runner="run_evolution",
    ),
    "calql": Recipe(
        "options:CalQLOptions", "build:calql", "Cal-QL, the published teacher: offline RL with conservative critics",
        runner="run_teacher",
    ),
    "iql": Recipe(
        "options:IQLOptions", "build:iql", "implicit Q-learning, a teacher: offline RL on recorded actions alone",
        runner="run_teacher",
    ),
    "td3bc": Recipe(
        "options:TD3BCOptions", "build:td3bc", "TD3+BC, a teacher: offline RL held near the recorded actions",
        runner="run_teacher",
    ),
    "obd-theory": Recipe(
        "options:TheoryOptions", "theory:laboratory", "what its theorems say, exactly, on finite MDPs", runner="theory"
    ),
}  # fmt: skip
