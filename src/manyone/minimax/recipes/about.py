"""What the tables and pages of minimax's runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_SGDA = Paper("Stability and Generalization for Distributed SGDA", "2411.09365")

ABOUT = About(
    papers={"local-sgda": _SGDA, "local-dsgda": _SGDA, "stability": _SGDA},
    labels={
        "*/auc": Label("area under the ROC curve, *"),
        "*/primal_risk": Label("primal risk, *", better="less"),
        "*/accuracy": Label("accuracy, *", "%"),
        "*/worst_class_accuracy": Label("accuracy of the worst class, *", "%"),
        "*/loss": Label("mean loss, *", better="less"),
        "*/worst_class_loss": Label("mean loss of the worst class, *", better="less"),
        "*/frechet": Label("Fréchet distance of made rows, *", better="less"),
        "*/detection": Label("positives detected, *", "%"),
        "*/false_alarm": Label("false alarms, *", "%", "less"),
        "gap": Label("generalisation gap of the primal risk", better="less"),
        "consensus_error": Label("disagreement of the clients", better="less"),
        "largest_weight": Label("largest weight of the mixture", "%", ""),
        "multiplier": Label("Lagrange multiplier", better=""),
        "loss": Label("objective at the consensus model", better="less"),
    },
)
