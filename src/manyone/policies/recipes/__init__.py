"""The recipes of policies: name -> where its options are, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

RECIPES = {
    "harmodt": Recipe("harmodt:Options", "", "HarmoDT: a mask a task, exchanged by gradient agreement", ""),
    "harmodt-r": Recipe("harmodt:FrozenOptions", "", "HarmoDT with its random masks kept", ""),
    "harmodt-m": Recipe("harmodt:MagnitudeOptions", "", "HarmoDT with magnitude as importance", ""),
    "g-harmodt": Recipe("g_harmodt:Options", "", "G-HarmoDT: group masks, the group inferred by a gate", ""),
    "mt-dt": Recipe("baselines:MultiTaskOptions", "", "one dense decision transformer for all tasks", ""),
    "prompt-dt": Recipe("baselines:PromptOptions", "", "decision transformer behind a prompt of the task", ""),
    "id-token-dt": Recipe("baselines:IdTokenOptions", "", "decision transformer with a token of the task", ""),
    "mtbc": Recipe("baselines:CloningOptions", "", "multi-task behaviour cloning, an MLP", ""),
    "task-dt": Recipe("baselines:SingleTaskOptions", "", "a decision transformer of its own a task", ""),
}
