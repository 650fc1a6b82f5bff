"""The recipes of policies: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

NEEDS = "needs:needs"
RECIPES = {
    "harmodt": Recipe("options:HarmoDTOptions", "build:harmodt", "HarmoDT: a mask a task, exchanged by gradients"),
    "harmodt-r": Recipe("options:FrozenOptions", "build:frozen", "HarmoDT with its random masks kept"),
    "harmodt-m": Recipe("options:MagnitudeOptions", "build:harmodt", "HarmoDT with magnitude as importance"),
    "g-harmodt": Recipe("options:GroupedOptions", "build:grouped", "G-HarmoDT: group masks, the group told by a gate"),
    "mt-dt": Recipe("options:MultiTaskOptions", "build:multi_task", "one dense decision transformer for all tasks"),
    "prompt-dt": Recipe("options:PromptOptions", "build:prompted", "decision transformer behind a prompt of the task"),
    "prompt-diffuser": Recipe("options_prompt:DiffuserOptions", "build_prompts:prompt_diffuser",
                              "Prompt Diffuser: a frozen policy's prompts generated from noise", "run_adaptation"),
    "id-token-dt": Recipe("options:IdTokenOptions", "build:id_token", "decision transformer with a token of the task"),
    "mtbc": Recipe("options:CloningOptions", "build:cloning", "multi-task behaviour cloning, an MLP"),
    "prompt-tuning": Recipe(
        "options_tuning:TuningOptions",
        "build_tuning:tuning",
        "a frozen policy adapted to new tasks: prompt, LoRA, adapters, weights",
        "run_adaptation",
    ),
    "task-dt": Recipe("options:SingleTaskOptions", "build:each_task", "a decision transformer of its own a task"),
    "vq-cd": Recipe(
        "options_planner:PlannerOptions", "build_planner:planner",
        "VQ-CD: a diffusion planner learns task after task, of any spaces", runner="run_planner",
    ),
    "dd": Recipe(
        "options_planner:DecisionDiffuserOptions", "build_planner:planner",
        "Decision Diffuser, task after task without rehearsal", runner="run_planner",
    ),
    "diffuser": Recipe(
        "options_planner:DiffuserOptions", "build_planner:planner",
        "Diffuser, task after task without rehearsal", runner="run_planner",
    ),
    "il-rehearsal": Recipe(
        "options_rehearsal:RehearsalOptions", "build_rehearsal:cloning",
        "behaviour cloning, task after task with a memory", runner="run_rehearsal",
    ),
}  # fmt: skip
