"""What the tables and pages of teams' runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_COMMFORMER = Paper("Learning Multi-Agent Communication from Graph Modeling Perspective", "2405.08550")
_MAT = Paper("Multi-Agent Reinforcement Learning is a Sequence Modeling Problem", "2205.14953")

ABOUT = About(
    papers={
        "commformer": _COMMFORMER,
        "commformer-fc": _COMMFORMER,
        "mat": _MAT,
        "mat-dec": _MAT,
        "mappo": Paper("The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games", "2103.01955"),
        "ippo": Paper("Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?", "2011.09533"),
    },
    labels={
        "success": Label("success", "%"),
        "return": Label("return of an episode"),
        "episode_length": Label("steps of an episode", better="less"),
        "links": Label("messages of the whole team, a step", better="less"),
        "receive_rate": Label("agents that receive, a step", "%", ""),
        "best_links": Label("agents that hear whom they need", "%"),
        "loss": Label("loss of the policy", better="less"),
        "value_loss": Label("loss of the values", better="less"),
        "entropy": Label("entropy of the policy", "nats", ""),
        "kl": Label("divergence of an update", "nats", ""),
        "clip_share": Label("ratios that were clipped", "%", ""),
        "reward": Label("reward of a step, sampled actions"),
        "grad_norm": Label("norm of the gradient", better=""),
        "lr": Label("learning rate", better=""),
    },
    drawn=("return", "episode_length", "success", "receive_rate", "links"),
)
