"""The recipes of sql: name -> options, builder, one line. Nothing is imported before it is asked for.

All of them are the same distillation with other choices (``options.py``): a divergence, a source of sequences, hard
labels beside it.
"""

from manyone.recipes.recipe import Predict, Recipe

NEEDS = "needs:needs"
PREDICT = Predict("predict_arguments", "predict")
RECIPES = {
    "kid": Recipe("options:KIDOptions", "build:distillation", "KID: distillation on gold with the student's own slips"),
    "sft": Recipe("options:SFTOptions", "build:distillation", "supervised fine-tuning of a text-to-SQL model"),
    "seqkd": Recipe("options:SeqKDOptions", "build:distillation", "SeqKD: fine-tuning on what the teacher answers"),
    "fkd": Recipe("options:FKDOptions", "build:distillation", "forward KL on gold, the supervised distillation"),
    "rkd": Recipe("options:RKDOptions", "build:distillation", "reverse KL on gold"),
    "f-distill": Recipe("options:FDistillOptions", "build:distillation", "total variation on both models' outputs"),
    "imitkd": Recipe("options:ImitKDOptions", "build:distillation", "forward KL on gold and the student's outputs"),
    "gkd": Recipe("options:GKDOptions", "build:distillation", "GKD: on-policy, on what the student answers now"),
    "distillm": Recipe("options:DistiLLMOptions", "build:distillation", "skew KL on replayed outputs of the student"),
    "sql-eval": Recipe("options_eval:EvalOptions", "", "scores of anybody's predictions by Spider's and BIRD's rules",
                       runner="run_eval"),
}  # fmt: skip
