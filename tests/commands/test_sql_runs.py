"""Whole runs of the sql recipes on pairs of a user's own: teacher, warm start, scores, kill -9, bad input."""

import json

import pytest
from tests.commands.run_files import assert_kill_9_changes_nothing, lines
from tests.sql.small_pairs import write_pairs

SMALL = ("--student-width", 32, "--teacher-width", 32, "--teacher-layers", 2, "--vocabulary", 300, "--teacher-steps", 6,
         "--warm-start", 4, "--batch-size", 8, "--max-output", 16, "--workers", 1)  # fmt: skip


@pytest.fixture(scope="session")
def pairs(shared_cache):
    folder = shared_cache / "sql-pairs"
    path = folder / "pairs.jsonl"
    if not path.exists():
        folder.mkdir()
        write_pairs(folder)
    return path


def test_kid_trains_its_teacher_scores_and_leaves_a_folder(manyone, tmp_path, pairs):
    code, out, err = manyone("run", "kid", "--data", f"band={pairs}", *SMALL, "--steps", 4, "--evaluate-every", 2,
                             "--exposure", 2, "--out", "r")  # fmt: skip
    assert code == 0, err
    assert "EX %" in out
    records = lines(tmp_path / "r/metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    assert all(r["masked"] > 0 and 0 <= r["rewrite_error"] <= 1 for r in train)
    final = records[-1]
    assert {"ex", "ex_low", "ex_high", "ts", "val_loss", "exposure"} <= set(final)
    assert final["ex_low"] <= final["ex"] <= final["ex_high"]
    assert final["ts"] <= final["ex"]
    description = json.loads((tmp_path / "r/model/manyone.json").read_text())
    assert (description["recipe"], description["style"]) == ("kid", "compact")
    assert description["scores"]["ex"] == final["ex"]
    assert "text-to-sql" in (tmp_path / "r/model/README.md").read_text()
    assert not (tmp_path / "r/stages/teacher/model/pytorch_model.bin").exists()
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final['ex']:.6g}" in out
    code, out, err = manyone("run", "rkd", "--data", f"band={pairs}", *SMALL, "--steps", 2, "--out", "second")
    assert code == 0, err
    assert not (tmp_path / "second/stages").exists(), "teacher and warm start are shared"


def test_a_teacher_that_is_no_better_than_its_student_is_told(manyone, tmp_path, pairs):
    own = [word for word in SMALL if word not in ("--teacher-steps", 6, "--warm-start", 4)]
    good = (*own, "--data", f"band={pairs}", "--steps", 1)
    code, _, err = manyone("run", "rkd", *good, "--teacher-steps", 1, "--warm-start", 30, "--out", "worse")
    assert code == 0, err
    assert "no better than the student that it is to teach" in err
    assert "--teacher-steps" in err
    (start,) = (r for r in lines(tmp_path / "worse/metrics.jsonl") if r["kind"] == "start")
    assert start["teacher_val_loss"] >= start["val_loss"]
    code, _, err = manyone("run", "rkd", *good, "--teacher-steps", 40, "--warm-start", 0, "--out", "better")
    assert code == 0, err
    assert "no better" not in err


@pytest.mark.parametrize("recipe", ["sft", "seqkd", "fkd", "f-distill", "imitkd", "gkd", "distillm"])
def test_every_recipe_runs(manyone, tmp_path, pairs, recipe):
    code, _, err = manyone("run", recipe, "--data", f"band={pairs}", *SMALL, "--steps", 2,
                           *(("--evaluate-every", 1) if recipe == "distillm" else ()),
                           *(("--teacher-filter", "none") if recipe == "seqkd" else ()), "--out", "r")  # fmt: skip
    assert code == 0, err
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert "ex" in final
    assert (tmp_path / "r/model/model.safetensors").is_file()
    assert (tmp_path / "r/teacher-outputs.json").exists() == (recipe in ("seqkd", "f-distill"))


def test_kill_9_changes_nothing(manyone, tmp_path, pairs):
    """Masks and samples included."""
    own = ("kid", "--pick", "sample", "--data", f"band={pairs}", *SMALL, "--steps", 30, "--checkpoint-every", 5)
    assert_kill_9_changes_nothing(manyone, tmp_path, own, after=8)


@pytest.mark.parametrize(("words", "says"), [
    (("--data", "band=nowhere.jsonl"), "no such folder or file"),
    (("--mask-ratio", "1.5"), "from 0 to 1"),
    (("--divergence", "none", "--mle", "0"), "nothing else is learned from"),
    (("--beta", "0.3"), "does nothing without"),
    (("--source", "gold", "--strategy", "hard"), "does nothing without"),
    (("--source", "adaptive"), "follows the validation loss"),
    (("--teacher", "every-third-layer"), "a whole model"),
    (("--teacher-steps", "0"), "has to be trained first"),
    (("--teacher", "no/such/place"), "no such folder"),
    (("--precision", "16-mixed"), "bf16-mixed"),
    (("--epochs", "1", "--steps", "3"), "one of --steps and --epochs"),
    (("--vocabulary", "100"), "259"),
    (("--mask-token", "<nothing>"), "no such single token"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(manyone, tmp_path, pairs, words, says):
    data = () if "--data" in words else ("--data", f"band={pairs}")
    code, out, err = manyone("run", "kid", *data, *words, "--out", "r")
    assert code == 2, (out, err)
    assert says in err
    assert err.strip().count("\n") == 0, err
    assert not (tmp_path / "r").exists()


def test_a_dry_run_writes_nothing(manyone, tmp_path, pairs):
    code, out, _ = manyone("run", "kid", "--data", f"band={pairs}", "--dry-run", "--out", "r")
    assert code == 0
    assert "imperfect" in out
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("preset", ["paper-qwen", "paper-codegen", "paper-llama", "smollm2"])
def test_published_settings_are_complete(manyone, pairs, preset):
    code, out, err = manyone("run", "kid", "--preset", preset, "--data", f"spider={pairs}", "--dry-run")
    assert code == 0, err
    assert ("epochs" in out) == preset.startswith("paper")
