"""Merge five fine-tuned experts into one model in plain PyTorch: static, input-conditioned, and with surgery.

Runs in seconds on the small suite that is part of the repository:  python examples/merge_experts.py
"""

import argparse

from manyone.data.suites import load_suite
from manyone.merging import Surgery, SurgeryLearner, WeightEnsemblingMoE, task_arithmetic
from manyone.merging.experts.bundle_learner import make_bundle
from manyone.merging.measures import accuracies
from manyone.nets import build_encoder


def main() -> dict[str, float]:
    # Any network and any state dicts with equal names will do; here a small MLP and its experts are trained first.
    suite = load_suite("fixture")
    bundle = make_bundle(suite, seed=0)
    base = build_encoder(bundle.encoder)
    base.load_state_dict(dict(bundle.base))
    experts = list(bundle.experts.values())
    test = {task.name: task.test for task in suite.tasks}
    unlabelled = {task.name: task.test.inputs for task in suite.tasks}

    def mean_accuracy(model) -> float:
        scores = accuracies(model, bundle.heads, test)
        return sum(scores.values()) / len(scores)

    result = {"base": mean_accuracy(base)}

    merged = build_encoder(bundle.encoder)
    merged.load_state_dict(task_arithmetic(bundle.base, experts, scale=0.3))
    result["task arithmetic"] = mean_accuracy(merged)

    moe = WeightEnsemblingMoE(base, experts, scale=0.3)
    moe.adapt(unlabelled, bundle.heads, steps=30, lr=1e-3, objective="information-maximisation")
    result["WEMoE"] = mean_accuracy(moe)

    surgery = Surgery(merged, width=64, tasks=list(test), rank=16)
    teachers = {task: dict(weights) for task, weights in bundle.experts.items()}
    learner = SurgeryLearner(surgery, teachers, unlabelled, iterations=200)
    for _ in range(learner.steps):
        learner.step()
    result["task arithmetic + Surgery"] = mean_accuracy(surgery)
    return result


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:26s} {100 * value:5.1f} %")
