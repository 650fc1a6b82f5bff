"""What the tables and pages of earth's runs say beside numbers: papers, and what the metrics are called."""

from manyone.recipes.recipe import About, Label, Paper

_SURVEY = Paper("Foundation Models for Remote Sensing and Earth Observation: A Survey", "2410.16602")

ABOUT = About(
    papers=dict.fromkeys(("earth-bench", "earth-embed", "earth-map", "earth-match"), _SURVEY),
    labels={
        "accuracy": Label("accuracy on held-out pixels", "%"),
        "test_pixels": Label("held-out pixels", "count", ""),
        "mean_rank/*": Label("mean rank over sets, *", better="less"),
        "encoder_passes": Label("batches that went through an encoder", "count", ""),
        "figures": Label("figures", "count", ""),
        "vectors": Label("vectors", "count", ""),
        "slots": Label("input slots of the model", "count", ""),
        "filled": Label("slots that a band feeds", "count"),
        "unused_bands": Label("bands that feed nothing", "count", "less"),
    },
)
