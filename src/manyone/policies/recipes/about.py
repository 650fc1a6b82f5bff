"""What the tables and pages of policies' runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_HARMODT = Paper("HarmoDT: Harmony Multi-Task Decision Transformer for Offline Reinforcement Learning", "2405.18080")
_DT = Paper("Decision Transformer: Reinforcement Learning via Sequence Modeling", "2106.01345")

ABOUT = About(
    papers={
        "harmodt": _HARMODT,
        "harmodt-r": _HARMODT,
        "harmodt-m": _HARMODT,
        "g-harmodt": Paper(
            "Task-Aware Harmony Multi-Task Decision Transformer for Offline Reinforcement Learning", "2411.01146"
        ),
        "mt-dt": _DT,
        "task-dt": _DT,
        "id-token-dt": _DT,
        "prompt-dt": Paper("Prompting Decision Transformer for Few-Shot Policy Generalization", "2206.13499"),
        "prompt-diffuser": Paper(
            "Prompt Tuning with Diffusion for Few-Shot Pre-trained Policy Generalization", "2411.01168"
        ),
        "prompt-tuning": Paper("Prompt-Tuning Decision Transformer with Preference Ranking", "2305.09648"),
        "vq-cd": Paper(
            "Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces", "2410.15698"
        ),
        "dd": Paper("Is Conditional Generative Modeling all you need for Decision-Making?", "2211.15657"),
        "diffuser": Paper("Planning with Diffusion for Flexible Behavior Synthesis", "2205.09991"),
    },
    labels={
        "success": Label("success, mean over tasks", "%"),
        "success/*": Label("success in *", "%"),
        "normalised": Label("normalised return, mean over tasks", "%"),
        "normalised/*": Label("normalised return in *", "%"),
        "return": Label("return, mean over tasks"),
        "return/*": Label("return in *"),
        "return_iqm": Label("return, interquartile mean of all episodes"),
        "action_error": Label("error of actions, mean over tasks", better="less"),
        "action_error/*": Label("error of actions in *", better="less"),
        "episode_length": Label("length of an episode", "steps", ""),
        "updates": Label("updates of a network", "count", ""),
        "samples_per_task": Label("steps of data trained on, a task", "count", ""),
        "groups": Label("groups of tasks", "count", ""),
        "gate_accuracy": Label("steps under the right group", "%"),
        "loss": Label("loss", better="less"),
        "loss/*": Label("loss in *", better="less"),
        "lr": Label("learning rate", better=""),
        "grad_norm": Label("norm of the gradient", better=""),
        "task": Label("number of the task that is learned", better=""),
    },
)
