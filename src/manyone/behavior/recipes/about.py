"""What the tables and pages of behavior's runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_OBD = Paper("Offline Behavior Distillation", "2410.22728")

ABOUT = About(
    papers={
        "obd": _OBD,
        "obd-es": _OBD,
        "obd-theory": _OBD,
        "bc": _OBD,
        "calql": Paper("Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning", "2303.05479"),
        "iql": Paper("Offline Reinforcement Learning with Implicit Q-Learning", "2110.06169"),
        "td3bc": Paper("A Minimalist Approach to Offline Reinforcement Learning", "2106.06860"),
    },
    labels={
        "normalised": Label("normalised return", "%"),
        "normalised/*": Label("normalised return, *", "%"),
        "return": Label("return"),
        "return/*": Label("return, *"),
        "ensemble_normalised": Label("normalised return of the students' ensemble", "%"),
        "ensemble_normalised/*": Label("normalised return of the students' ensemble, *", "%"),
        "ensemble_return": Label("return of the students' ensemble"),
        "ensemble_return/*": Label("return of the students' ensemble, *"),
        "alone_normalised": Label("normalised return of each student alone", "%"),
        "alone_return": Label("return of each student alone"),
        "students_spread": Label("spread of the students' returns", better=""),
        "students_spread/*": Label("spread of the students' returns, *", better=""),
        "episodes_spread": Label("spread of a student's episodes", better=""),
        "episodes_spread/*": Label("spread of a student's episodes, *", better=""),
        "alone_students_spread": Label("spread of the students' returns, each alone", better=""),
        "alone_episodes_spread": Label("spread of a student's episodes, each alone", better=""),
        "episode_length": Label("length of an episode", "steps", ""),
        "episode_length/*": Label("length of an episode, *", "steps", ""),
        "alone_episode_length": Label("length of an episode, each student alone", "steps", ""),
        "value_mean": Label("mean of the teacher's values", better=""),
        "discounted_mean": Label("mean of its discounted returns", better=""),
        "value_correlation": Label("correlation of values and discounted returns"),
        "loss": Label("loss", better="less"),
    },
)
