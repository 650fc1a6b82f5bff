"""A made-up study: every number in it is invented, to exercise the report."""

import random
from pathlib import Path

import pytest

from manyone.claims.file import load_claims
from manyone.claims.rows import Results, Row
from manyone.claims.study import Study, SuiteInfo, TaskInfo
from manyone.merging.study.study import former_figures

CLAIMS = Path(__file__).parents[2] / "src" / "manyone" / "merging" / "study" / "claims.toml"
TASKS = {
    "images": ["mnist", "tops", "shoes", "animal", "optdigits", "satellite", "clip-art", "emoji-noto"],
    "text": ["newsgroups", "reuters", "bbc", "spam", "wordnet", "tweets"],
}
ENTRIES = {
    ("pretrained", ""): 0.55,
    ("average", ""): 0.72,
    ("task-arithmetic", ""): 0.745,
    ("task-arithmetic", "tuned"): 0.751,
    ("ties", ""): 0.74,
    ("ties", "tuned"): 0.753,
    ("tsv-m", ""): 0.79,
    ("adamerging", ""): 0.79,
    ("wemoe", ""): 0.835,
    ("wemoe", "batch"): 0.837,
    ("wemoe", "batch+mixed"): 0.8,
    ("wemoe", "expert-kl"): 0.87,
    ("e-wemoe", ""): 0.832,
    ("e-wemoe", "batch"): 0.833,
    ("surgery", "average"): 0.82,
    ("surgery", "task-arithmetic"): 0.835,
    ("surgery", "ties"): 0.83,
    ("surgery", "adamerging"): 0.85,
    ("surgery-v2", "task-arithmetic"): 0.86,
    ("expert", ""): 0.9,
}
CONDITIONS = {"gaussian-noise": -0.1, "motion-blur": -0.06, "impulse-noise": -0.12, "contrast": -0.05}


def made_up_study(seeds: int = 3) -> Study:
    """A study in which nothing was measured."""
    random_ = random.Random(7)
    rows, curves = [], []
    for suite, tasks in TASKS.items():
        hardness = {t: random_.uniform(-0.1, 0.06) for t in tasks}
        for seed in range(seeds):
            for (method, variant), level in ENTRIES.items():
                shift = -0.06 if (suite, method) == ("text", "wemoe") else 0.0

                def accuracy(
                    extra: float = 0.0, level: float = level + shift, hard: dict[str, float] = hardness
                ) -> dict[str, float]:
                    return {t: min(0.995, max(0.02, level + hard[t] + extra + random_.gauss(0, 0.008))) for t in hard}

                stored = {"wemoe": 547_970_400, "e-wemoe": 133_400_000, "expert": 699_648_000}.get(method, 87_456_000)
                trained = {"wemoe": 7_160_928, "e-wemoe": 596_744, "adamerging": 1_312}.get(method, 0)
                trained = {"surgery": 131_072, "surgery-v2": 2_490_368}.get(method, trained)
                metrics = {"stored_parameters": float(stored), "trainable_parameters": float(trained)}
                metrics["ms_per_sample"] = {"wemoe": 11.6, "e-wemoe": 13.2}.get(method, 6.9) * random_.uniform(
                    0.95, 1.05
                )
                metrics["cpu_s"] = 70.0 if "wemoe" in method else 6.0
                metrics |= {"fell_back": 1.0} if (suite, method, variant) == ("text", "e-wemoe", "") else {}
                if "wemoe" in method:
                    metrics["stored_expert_parameters"] = 453_353_472.0 * (0.1 if method == "e-wemoe" else 1.0)
                details = {}
                if "wemoe" in method and variant == "":
                    details["routing"] = {
                        t: [
                            [
                                0.3 + (0.5 if k == j else -0.15) * b / 5 + random_.gauss(0, 0.05)
                                for j in range(len(tasks))
                            ]
                            for b in range(6)
                        ]
                        for k, t in enumerate(tasks)
                    }
                if method.startswith("surgery"):
                    before = {t: random_.uniform(0.4, 0.6) for t in tasks}
                    part = 0.45 if method == "surgery" else 0.3
                    details["bias"] = {"before": before, "after": {t: part * v for t, v in before.items()}}
                rows.append(Row(suite, seed, method, variant, "clean", accuracy(), metrics, details))
                if suite == "images":
                    rows += [Row(suite, seed, method, variant, c, accuracy(d)) for c, d in CONDITIONS.items()]
                if method in ("wemoe", "task-arithmetic", "adamerging"):
                    extra = -0.05 if variant == "batch" else 0.0
                    rows.append(
                        Row(suite, seed, method, variant, "unseen", {"elpv": 0.6 + extra + random_.gauss(0, 0.03)})
                    )
            for method in ("adamerging", "wemoe", "e-wemoe"):
                points = tuple(
                    {"step": s, "entropy": 0.9 * 0.985**s + 0.05, "marginal_entropy": 2.0 - 0.001 * s * (seed + 1)}
                    for s in range(0, 201, 10)
                )
                curves.append({"suite": suite, "seed": seed, "method": method, "points": points})
    suites = [
        SuiteInfo(
            s,
            "image" if s == "images" else "text",
            tuple(
                TaskInfo(t, 10, 5000, 500, 1000, "made-up package 1.0", "MIT", "EuroSAT" if t == "satellite" else None)
                for t in tasks
            ),
            ("All numbers on this page are made up.",),
        )
        for s, tasks in TASKS.items()
    ]
    return Study(
        title="Made-up numbers: many experts, one model",
        scale="laptop",
        rows=rows,
        claims_text=CLAIMS.read_text(encoding="utf-8"),
        suites=suites,
        figures=former_figures(Results(rows), load_claims(CLAIMS), curves),
        configs={"images: wemoe": {"steps": 200, "lr": 1e-4, "objective": "entropy", "split": {"adapt": "test"}}},
        commands=["pip install manyone", "manyone reproduce --scale laptop"],
        environment={"manyone": "0.1.0", "torch": "2.13.0", "processor": "made-up, 2 cores"},
        notes=["All numbers on this page are made up."],
        made="Made up",
    )


@pytest.fixture(scope="session")
def study() -> Study:
    return made_up_study()
