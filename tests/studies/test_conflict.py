"""The study of tasks in conflict with tiny data: rows, gains, cosines, figures, going on where it stopped."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch

from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.study.conflict import study
from manyone.policies.study.conflict.settings import FEW, JOBS, PARTS, SETTINGS, Setting
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file

pytest.importorskip("gymnasium")

TINY = {
    "horizon": 6, "episodes": 10, "context": 3, "prompt": 2, "width": 8, "layers": 1, "heads": 2, "dropout": 0.0,
    "batch_size": 2, "tasks_per_step": 9, "steps": 4, "warmup": 1, "sparsity": 0.5, "mask_every": 1, "eta_max": 3,
    "mask_until": 0.5, "swap_schedule": "decay", "ranking": "quota", "eval_episodes": 1,
}  # fmt: skip


def made(task: str) -> Trajectories:
    """Ten episodes of noise."""
    draws = np.random.Generator(np.random.Philox(int(task[-1])))
    episodes = [
        {
            "observations": draws.standard_normal((7, 6)),
            "actions": draws.uniform(-1, 1, (6, 3)),
            "rewards": draws.standard_normal(6),
        }
        for _ in range(10)
    ]
    return Trajectories.from_episodes(task, episodes, meta={"reference": [0.0, 6.0]})


@pytest.fixture
def tiny(monkeypatch):
    """Suites called tiny and tiny-3 at scale smoke: three tasks, two of which are the few; and two."""
    every = tuple(PARTS)
    settings = {"tiny": Setting("teachers-12", every, TINY, few=True), "tiny-2": Setting("teachers-4", every[:2], TINY)}
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | settings)
    data = tuple(made(f"teachers:{i}") for i in range(3))

    def problem_of(scale: str, suite: str, condition: str) -> PolicyProblem:
        return PolicyProblem("tiny", data[: 2 if suite == "tiny-2" or condition == FEW else 3], 6)

    monkeypatch.setattr(study, "problem_of", problem_of)
    return settings["tiny"]


def test_every_part_gives_its_rows_once_and_goes_on_where_it_stopped(tiny, tmp_path):
    rows = {}
    for job in study.jobs("smoke", ["tiny", "tiny-2"], range(1)):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        found = load_rows(path)
        assert len(found) == study.count_rows("smoke", job.suite, job.part) == path.read_text().count("\n")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        for before, after in zip(found, load_rows(path), strict=True):
            assert before.key == after.key
            assert before.metrics["normalised"] == after.metrics["normalised"]
        rows |= {row.key[:1] + row.key[2:]: row for row in found}
    for row in rows.values():
        scores = row.details["normalised"]["by task"]
        assert row.metrics["normalised"] == pytest.approx(sum(scores.values()) / len(scores))
        assert row.metrics["worst_quarter"] == min(scores.values())
        assert row.metrics["updates"] == (12 if row.variant == "long" else 4)
        assert -1 <= row.metrics["cosine"] <= 1
    for condition in ("clean", FEW):
        masks, token = (rows["tiny", m, "", condition].metrics for m in ("harmodt-r", "id-token-dt"))
        assert masks["gain"] == masks["normalised"] - token["normalised"]
    swapped = {m: rows["tiny", m, "", "clean"].metrics["swaps"] for m in ("harmodt", "random-swap", "harmodt-r")}
    assert swapped["harmodt"] == swapped["random-swap"] > 0 == swapped["harmodt-r"]
    figures = study.overview("smoke", ["tiny", "tiny-2"], range(1), tmp_path)
    assert [f.title for f in figures] == [
        "score against number of tasks, width 8",
        "cosine between tasks' gradients against number of tasks, width 8",
        "tiny: score against sparsity",
    ]
    assert set(figures[0].data["series"]) == {"id-token-dt", "harmodt-r"}
    assert figures[2].data["series"]["harmodt-r"]["x"] == [0.2, 0.5, 0.8]


def test_cosines_of_two_draws():
    one = torch.tensor([[1.0, 0, 0], [0, 2, 0], [-3, 0, 4]])
    other = torch.tensor([[2.0, 0, 0], [1, 1, 0], [-3, 0, 4]])
    half = 2**-0.5
    pairs = [half, -0.6, 0, 0, -0.6, -0.6 * half]
    found = study.cosines(one, other)
    assert found["cosine"] == pytest.approx(sum(pairs) / 6)
    assert found["own_cosine"] == pytest.approx((1 + half + 1) / 3)
    assert found["opposed"] == 0.5


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_arms_are_commands_and_every_claim_has_its_rows(scale):
    claims = load_claims(claims_file("policies-conflict"))
    for suite, setting in SETTINGS[scale].items():
        for arm in study.arms(scale, suite):
            words = shlex.split(arm.command())[3:]
            assert parse_options(options_class(arm.recipe), arm.recipe, words) == arm.options()
        rows = {(PARTS[n].method, PARTS[n].variant, c) for job in JOBS for n, c in setting.rows(job)}
        used = [claim for claim in claims.claims if suite in claim.tests.get(scale, ())]
        assert used
        sides = [(side, side.condition or claim.condition) for claim in used for side in (claim.left, *claim.right)]
        needed = {need for claim in used for need in claim.needs}
        sides += [(gate.side, gate.condition) for gate in claims.gates if gate.id in needed]
        for side, condition in sides:
            assert (side.method, side.variant, condition) in rows, (suite, side)
    tested = {suite for claim in claims.claims for suite in claim.tests.get(scale, ())}
    assert tested == set(SETTINGS[scale])
