"""What the tables and pages of text-to-SQL's runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

ABOUT = About(
    papers={
        "kid": Paper(
            "Learning from Imperfect Data: Towards Efficient Knowledge Distillation of Autoregressive Language Models "
            "for Text-to-SQL",
            "2410.11371",
        ),
        "seqkd": Paper("Sequence-Level Knowledge Distillation", "1606.07947"),
        "fkd": Paper("Distilling the Knowledge in a Neural Network", "1503.02531"),
        "rkd": Paper("MiniLLM: Knowledge Distillation of Large Language Models", "2306.08543"),
        "f-distill": Paper("f-Divergence Minimization for Sequence-Level Knowledge Distillation", "2307.15190"),
        "imitkd": Paper("Autoregressive Knowledge Distillation through Imitation Learning", "2009.07253"),
        "gkd": Paper("On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", "2306.13649"),
        "distillm": Paper("DistiLLM: Towards Streamlined Distillation for Large Language Models", "2402.03898"),
        "sql-eval": Paper("Semantic Evaluation for Text-to-SQL with Distilled Test Suites", "2010.02840"),
    },
    labels={
        "ex": Label("execution accuracy (EX)", "%"),
        "ex/*": Label("execution accuracy (EX), pairs from *", "%"),
        "ts": Label("test-suite accuracy (TS)", "%"),
        "ts/*": Label("test-suite accuracy (TS), pairs from *", "%"),
        "pairs": Label("test questions", "count", ""),
        "pairs/*": Label("test questions from *", "count", ""),
        "val_loss": Label("cross-entropy of a token, validation pairs", "nats", "less"),
        "teacher_val_loss": Label("cross-entropy of a token of the teacher, validation pairs", "nats", "less"),
        "exposure": Label("excess error over whole answers", better="less"),
        "exposure_expected": Label("excess error over whole answers, expected", better="less"),
        "loss": Label("loss", better="less"),
        "divergence": Label("divergence from the teacher", "nats", "less"),
        "mle": Label("cross-entropy of a token, training", "nats", "less"),
        "lr": Label("learning rate", better=""),
        "grad_norm": Label("norm of the gradient", better=""),
        "tokens": Label("tokens of an update", "count", ""),
        "score": Label("score", "%"),
        "score/*": Label("score of * queries", "%"),
    },
)
