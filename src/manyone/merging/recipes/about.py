"""What the tables and pages of merging's runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_ISO = Paper("No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", "2502.04959")

ABOUT = About(
    papers={
        "average": Paper(
            "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing "
            "inference time",
            "2203.05482",
        ),
        "task-arithmetic": Paper("Editing Models with Task Arithmetic", "2212.04089"),
        "ties": Paper("TIES-Merging: Resolving Interference When Merging Models", "2306.01708"),
        "dare": Paper(
            "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
            "2311.03099",
        ),
        "slerp": Paper("Animating Rotation with Quaternion Curves", "10.1145/325165.325242"),
        "fisher": Paper("Merging Models with Fisher-Weighted Averaging", "2111.09832"),
        "regmean": Paper("Dataless Knowledge Fusion by Merging Weights of Language Models", "2212.09849"),
        "model-stock": Paper("Model Stock: All we need is just a few fine-tuned models", "2403.19522"),
        "tsv-m": Paper("Task Singular Vectors: Reducing Task Interference in Model Merging", "2412.00081"),
        "iso-c": _ISO,
        "iso-cts": _ISO,
        "mergekit": Paper("Arcee's MergeKit: A Toolkit for Merging Large Language Models", "2403.13257"),
        "adamerging": Paper("AdaMerging: Adaptive Model Merging for Multi-Task Learning", "2310.02575"),
        "concrete": Paper(
            "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion", "2312.06173"
        ),
        "wemoe": Paper("Merging Multi-Task Models via Weight-Ensembling Mixture of Experts", "2402.00433"),
        "e-wemoe": Paper(
            "Efficient and Effective Weight-Ensembling Mixture of Experts for Multi-Task Model Merging", "2410.21804"
        ),
        "surgery": Paper("Representation Surgery for Multi-Task Model Merging", "2402.02705"),
        "surgery-v2": Paper(
            "SurgeryV2: Bridging the Gap Between Model Merging and Multi-Task Learning with Deep Representation "
            "Surgery",
            "2410.14389",
        ),
    },
    labels={
        "accuracy": Label("accuracy, mean over tasks", "%"),
        "accuracy/*": Label("accuracy on *", "%"),
        "base/average": Label("accuracy of the base, mean over tasks", "%"),
        "base/*": Label("accuracy of the base on *", "%"),
        "experts/average": Label("accuracy of the experts, mean over tasks", "%"),
        "experts/*": Label("accuracy of the expert of *", "%"),
        "loss": Label("objective, sum over tasks", better="less"),
        "loss/*": Label("objective on *", better="less"),
        "entropy": Label("entropy of predictions, mean over tasks", "nats", ""),
        "entropy/*": Label("entropy of predictions on *", "nats", ""),
        "marginal_entropy": Label("entropy of the mean prediction, mean over tasks", "nats", ""),
        "marginal_entropy/*": Label("entropy of the mean prediction on *", "nats", ""),
        "monitor/entropy/*": Label("entropy of predictions on *, watched inputs", "nats", ""),
        "monitor/marginal_entropy/*": Label("entropy of the mean prediction on *, watched inputs", "nats", ""),
        "monitor/criterion/*": Label("unlabelled criterion on *", better="less"),
        "criterion": Label("unlabelled criterion of the fallback", better="less"),
        "criterion_at_start": Label("unlabelled criterion at the start", better="less"),
        "fell_back": Label("whether the initialisation was restored", better=""),
        "paused/*": Label("whether * is paused", better=""),
        "lr": Label("learning rate", better=""),
        "bias": Label("distance to the experts' features, mean over tasks", better="less"),
        "bias/*": Label("distance to the expert's feature on *", better="less"),
        "error": Label("relative error of the change", "%", "less"),
        "errors/*": Label("relative error of the change of *", "%", "less"),
        "experts": Label("experts", "count", ""),
        "elements": Label("merged numbers", "count", ""),
        "tensors_merged": Label("tensors merged", "count", ""),
        "tensors_copied": Label("tensors copied from the base", "count", ""),
        "tensors_dropped": Label("tensors of experts left out", "count", ""),
        "bytes": Label("size", "bytes", ""),
        "layers": Label("linear layers", "count", ""),
        "rank": Label("rank", "count", ""),
        "modules": Label("modules", "count", ""),
        "adapters": Label("adapters", "count", ""),
    },
)
