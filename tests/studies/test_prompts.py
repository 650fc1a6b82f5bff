"""The study of prompts on HalfCheetah's directions with tiny data: rows, figures, going on where it stopped."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies.recipes.adaptation import AdaptationProblem
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.study.prompts import study
from manyone.policies.study.prompts.settings import PARTS, POOLS, SETTINGS, Setting
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file

TINY = {
    "horizon": 10, "episodes": 4, "context": 4, "prompt": 2, "width": 16, "layers": 1, "heads": 2, "pretrain_steps": 3,
    "pretrain_tasks": 2, "batch_size": 4, "guidance_batch": 2, "diffusion_steps": 3, "denoiser_width": 16, "steps": 2,
    "adapt_steps": 2, "eval_episodes": 1,
}  # fmt: skip


def made(task: str, seed: int, good: float) -> Trajectories:
    """Four episodes of noise; ``good`` is what each step earns besides."""
    draws = np.random.Generator(np.random.Philox(seed))
    episodes = [
        {
            "observations": draws.standard_normal((12, 20)),
            "actions": draws.uniform(-1, 1, (12, 6)),
            "rewards": draws.standard_normal(12) + good,
        }
        for _ in range(4)
    ]
    return Trajectories.from_episodes(task, episodes)


@pytest.fixture
def tiny(monkeypatch):
    """A suite called tiny at scale smoke: a policy of both directions, adapted to one of them."""
    parts = ("projection", "stage-2", "zero-shot", "prompt-dt", "lora", "lora-time")
    setting = Setting("cheetah-dir", parts, TINY, {"lora-time": {"steps": 5}})
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | {"tiny": setting})
    training = PolicyProblem("tiny", (made("cheetah-dir:0", 0, 1), made("cheetah-dir:1", 1, 1)), 10)
    new = PolicyProblem("tiny", (made("cheetah-dir:1", 2, 1),), 10)

    def problem_of(scale: str, suite: str, pool: str) -> AdaptationProblem:
        prompts = () if pool == "clean" else (made("cheetah-dir:1", 3, {"medium": 0.5, "random": -1}[pool]),)
        return AdaptationProblem(new, training, prompts)

    monkeypatch.setattr(study, "problem_of", problem_of)
    study._references.cache_clear()
    return setting


def test_every_part_gives_its_rows_once_and_goes_on_where_it_stopped(tiny, tmp_path):
    for job in study.jobs("smoke", ["tiny"], range(1)):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        rows = load_rows(path)
        assert len(rows) == study.count_rows("smoke", "tiny", job.part) == path.read_text().count("\n")
        assert all(np.isfinite(row.metrics["return"]) for row in rows)
        wanted = [pool for name in tiny.parts if PARTS[name].job == job.part for pool in PARTS[name].pools]
        assert [row.condition for row in rows] == [*wanted, *(["clean"] if job.part == "tuning" else [])]
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        again = load_rows(path)
        for before, after in zip(rows, again, strict=True):
            assert before.key == after.key
            assert before.metrics["return"] == after.metrics["return"]
    drawn = load_figures(tmp_path / "tiny-0-diffuser.figures.json")
    assert {"tiny: Cosine of the two gradients", "tiny: Rewards of prompts"} <= {f.title for f in drawn}
    titles = [f.title for f in study.overview("smoke", ["tiny"], range(1), tmp_path)]
    assert titles == ["tiny: return against the quality of prompts", "tiny: seconds to adapt"]
    [lines] = [f for f in study.overview("smoke", ["tiny"], range(1), tmp_path) if f.kind == "lines"]
    assert set(lines.data["series"]) == {"prompt-diffuser", "prompt-diffuser stage-2", "prompt-dt", "lora"}


def test_a_pools_rows_share_stage_1_and_the_policy(tiny, tmp_path):
    study.run_job("smoke", "tiny", 0, "diffuser", tmp_path)
    rows = {(r.variant, r.condition): r for r in load_rows(tmp_path / "tiny-0-diffuser.jsonl")}
    assert rows["", "clean"].metrics["updates"] == 2
    assert rows["zero-shot", "clean"].metrics["updates"] == 0
    assert rows["", "clean"].metrics["normalised"] != rows["", "random"].metrics["normalised"]


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_arms_are_commands_and_every_claim_has_its_rows(scale):
    claims = load_claims(claims_file("policies-prompts"))
    for number, (suite, setting) in enumerate(SETTINGS[scale].items()):
        for arm in study.arms(scale, suite)[: None if number == 0 else 2]:  # suites differ in what all arms share
            words = shlex.split(arm.command())[3:]
            assert parse_options(options_class(arm.recipe), arm.recipe, words) == arm.options()
        rows = {(PARTS[n].method, PARTS[n].variant, pool) for n in setting.parts for pool in PARTS[n].pools}
        rows |= {("prompt-dt", "zero-shot", "clean")}
        for claim in claims.claims:
            if suite in claim.tests.get(scale, ()):
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant, side.condition or claim.condition) in rows, claim.id
        assert set(setting.tuned) <= set(setting.parts)
        pools = {arm.options().prompt_quality for arm in study.arms(scale, suite)}
        assert pools == {None, *(quality for quality in POOLS.values() if quality != "expert")}
