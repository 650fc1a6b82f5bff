"""The figures of a distillation say what its numbers say; what cannot be drawn is left out with the reason."""

from __future__ import annotations

import base64
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from manyone.behavior.artefact import Distilled, Frame
from manyone.behavior.distillation import Distillations, DistilLearner
from manyone.behavior.evaluate import StudentScores
from manyone.behavior.inner import InnerLoop
from manyone.behavior.objectives import Objective
from manyone.behavior.recipes import figures
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.teachers.teacher import from_functions, label
from manyone.claims.figure import load_figures, save_figures
from manyone.errors import ManyoneError

REFERENCE = (-20.0, 180.0)


def learner(data, size=6, steps=3, **options):
    teacher = from_functions(lambda s: s[:, : data.action_dim].tanh(), lambda s, a: s[:, 0] + 2, data)
    start = (data.states[:size], data.actions[:size])
    options = {"spec": StudentSpec(width=8, layers=2), "inner": InnerLoop(3, 0.1), "batch_size": 20, **options}
    made = DistilLearner(data, label(teacher, data), Objective(), start=start, **options)
    for _ in range(steps):
        made.step()
    return made


def lines(made: Distillations, steps: int, evaluate=lambda step: {}):
    """What the loop would write."""
    found = [{"step": 0, "kind": "eval", **evaluate(0)}]
    for step in range(1, steps + 1):
        found.append({"step": step, "kind": "train", **made.step()})
    return [*found, {"step": steps, "kind": "final", **evaluate(steps)}]


def scores(data, students, episodes, reference=None):
    frame = replace(Frame.of(data), reference=reference)
    returns = 10.0 * np.arange(students)[:, None] + np.arange(episodes)[None]
    return StudentScores(returns, np.ones_like(returns, int), frame)


def test_a_run_s_figures_are_written_and_read(data, tmp_path):
    made = Distillations([learner(data)])
    result = {"return": 3.0, "return_low": 1.0, "return_high": 5.0, "ensemble_return": 4.0}
    written = lines(made, 4, lambda step: {k: v + step for k, v in result.items()})
    acted = {data.name: (scores(data, 3, 4), scores(data, 1, 4))}
    found = figures.run_figures(made, written, {data.name: {"teacher": {"return": 9.0}}}, acted)
    save_figures(tmp_path / "figures.json", found)
    read = load_figures(tmp_path / "figures.json")
    assert [f.title for f in read] == [
        "Score over outer steps", "Return of each student", "Outer loss", "Gradient of the set", "Clipped steps",
        "Weights of the recorded states", "How far the states have gone", "What an outer step costs",
    ]  # fmt: skip
    assert [f.section for f in read] == ["Score"] * 2 + ["Distillation"] * 3 + ["The set"] * 2 + ["Cost"]
    assert "No pictures: walks: no environment to draw it in." in read[6].caption  # this data set has none


def test_several_sets_have_their_own_figures_over_their_own_steps(data):
    other = replace(data, name="others")
    made = Distillations([learner(data, steps=0), learner(other, steps=0, seed=1)])
    found = figures.run_figures(made, lines(made, 8), {}, {})
    losses = [f for f in found if f.title == "Outer loss"]
    assert [f.section for f in losses] == ["walks: Distillation", "others: Distillation"]
    assert [f.data["series"]["outer loss"]["x"] for f in losses] == [[0.5, 1.5, 2.5, 3.5], [1.0, 2.0, 3.0, 4.0]]
    assert losses[0].data["series"]["outer loss"]["y"] != losses[1].data["series"]["outer loss"]["y"]


def test_normalised_scores_stand_beside_what_else_acts():
    tests = [{"kind": kind, "step": step, "normalised": 0.1 + step / 100, "normalised_low": 0.05,
              "normalised_high": 0.4 + step / 100, "ensemble_normalised": 0.5, "return": 7.0}
             for step, kind in ((0, "eval"), (10, "eval"), (20, "final"))]  # fmt: skip
    rows = {"teacher": {"normalised": 0.9, "return": 3000}, "random pairs": {"normalised": 0.03}, "odd": {}}
    found = figures.score_curve([{"kind": "train", "step": 1, "loss": 1.0}, *tests], "", 1, rows)
    assert found.data["y_label"] == "normalised score x 100"
    series = found.data["series"]
    assert list(series) == ["students, 95 % interval over students", "their ensemble", "teacher", "random pairs"]
    students = series["students, 95 % interval over students"]
    assert students["x"] == [0, 10, 20]
    assert students["y"] == pytest.approx([10, 20, 30])
    assert students["high"] == pytest.approx([40, 50, 60])
    assert series["teacher"] == {"x": [0, 20], "y": [90.0, 90.0]}
    (alone,) = (figures.score_curve([{k: v for k, v in t.items() if k in ("kind", "step", "return")} for t in tests],
                                    "", 1, rows),)  # fmt: skip
    assert list(alone.data["series"]) == ["students", "teacher"]
    assert figures.score_curve(tests[:1], "", 1, rows) is None


def test_a_set_s_own_score_is_read_of_several():
    tests = [{"kind": "eval", "step": step, "return/a": step, "return/b": -step} for step in (0, 6)]
    found = figures.score_curve(tests, "/b", 3, {})
    assert found.data["series"] == {"students": {"x": [0, 2], "y": [0, -6]}}
    assert found.caption == "Fresh students, trained on the set as it was at the step."


@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_a_bar_a_student_with_its_episodes(data, reference):
    times, off = (1.0, 0.0) if reference is None else (0.5, 10.0)  # 100 (R + 20) / 200
    (found,) = figures.student_bars(scores(data, 3, 5, reference), scores(data, 1, 5, reference))
    assert found.data["names"] == ["student 3", "student 2", "student 1", "all together"]
    assert found.data["values"] == pytest.approx([times * r + off for r in (22, 12, 2, 2)])
    assert found.data["low"] == pytest.approx([times * r + off for r in (21, 11, 1, 1)])
    assert found.data["high"] == pytest.approx([times * r + off for r in (23, 13, 3, 3)])
    between = {1.0: "10.0", 0.5: "5.00"}[times]
    assert f"between students {between}" in found.caption
    (single,) = figures.student_bars(scores(data, 2, 1), scores(data, 1, 1))
    assert "low" not in single.data


def test_long_curves_are_averaged_and_learned_rates_drawn():
    steps = [{"kind": "train", "step": k, "loss": float(k), "gradient_norm": 2.0, "clipped": float(k % 2),
              "inner_lr": 0.5, "inner_momentum": 0.1} for k in range(1, 601)]  # fmt: skip
    loss, norm, clipped, rates = figures.loss_curves(steps, 2, 1.5)
    drawn = loss.data["series"]["outer loss"]
    assert len(drawn["x"]) == 60
    assert drawn["y"][0] == pytest.approx(5.5)
    assert drawn["x"][0] == pytest.approx(5.5 / 2)
    assert norm.data["series"]["clip"]["y"] == [1.5] * 60
    assert clipped.data["series"]["share of steps"]["y"] == [0.5] * 60
    assert set(rates.data["series"]) == {"learning rate", "momentum"}
    assert figures.loss_curves(steps[:1], 1, 1.5) == []


def test_distances_are_those_of_a_plain_double_loop(data, monkeypatch):
    monkeypatch.setattr(figures, "_PIECE", 40)  # several pieces
    made = learner(data, steps=5, lr=0.3)
    one = made.distilled()
    found = figures.moves(one, made.start, data.states)

    def apart(a, b):
        return float((a.double() - b.double()).square().mean().sqrt())

    for k, state in enumerate(one.states):
        assert found.moved[k] == pytest.approx(apart(state, data.states[k]))
        assert found.nearest[k] == pytest.approx(min(apart(state, other) for other in data.states))
        assert found.actions[k] == pytest.approx(apart(one.actions[k], data.actions[k]))
    assert found.moved.min() > 0.01
    pairs = itertools.permutations(range(len(data)), 2)
    usual = {i: min(apart(data.states[i], data.states[j]) for _, j in group)
             for i, group in itertools.groupby(pairs, lambda p: p[0])}  # fmt: skip
    assert found.usual == pytest.approx([usual[i] for i in range(len(data))])
    drawn = figures.moves_figure(found)
    assert drawn.data["values"] == pytest.approx([np.median(v) for v in (found.moved, found.nearest, found.usual)])
    far = replace(one, actions=torch.tensor([[1.5, 0.0]]).expand(6, 2))
    assert figures.moves(far, made.start, data.states).beyond == 0.5
    assert (
        "50.0 % of their entries lie beyond"
        in figures.moves_figure(figures.moves(far, made.start, data.states)).caption
    )


def test_the_unmoved_set_lies_on_recorded_states(data):
    made = learner(data, steps=0)
    found = figures.moves(made.distilled(), made.start, data.states)
    assert found.moved.max() == found.nearest.max() == found.actions.max() == 0


def test_a_weights_histogram_counts_every_state_once():
    found = figures.weight_histogram(torch.tensor([0.0] * 5 + [1.0] * 4 + [7.0]))
    assert sum(found.data["values"]) == pytest.approx(1)
    assert found.data["values"][0] == pytest.approx(0.5)
    assert found.data["values"][-1] == pytest.approx(0.1)
    assert (
        "The tenth with the largest has 64 % of all weight; 50.0 % weigh nothing; 23 % of the states" in found.caption
    )
    choices = figures.weight_histogram(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    assert max(choices.data["values"]) == 1  # both states weigh 1 on average


def test_representatives_are_one_of_each_cluster_the_largest_first():
    rng = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    sizes = [3, 9, 5]
    states = torch.cat([c + torch.randn(n, 2, generator=rng) for c, n in zip(centres, sizes)])
    found = figures.representatives(states, 3)
    assert [count for _, count in found] == [9, 5, 3]
    groups = [slice(3, 12), slice(12, 17), slice(0, 3)]
    for (row, _), group in zip(found, groups):
        mean = states[group].mean(0)
        own = states[group]
        assert torch.equal(states[row], own[(own - mean).norm(dim=1).argmin()])
    assert sorted(row for row, _ in figures.representatives(states[:4], 12)) == [0, 1, 2, 3]
    assert figures.representatives(states[:1].expand(5, 2), 12) == [(0, 5)]


def test_a_sheet_has_a_picture_of_each_and_says_how_it_was_drawn(monkeypatch):
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    from manyone.envs.single import opengl

    monkeypatch.setattr(opengl, "working", lambda: None)
    mean = torch.tensor([1.25, *[0.0] * 10])
    frame = Frame("hopper", "gym:Hopper-v5", mean, torch.full((11,), 0.5), -torch.ones(3), torch.ones(3), 0, 1000)
    rng = torch.Generator().manual_seed(0)
    one = Distilled(frame, torch.randn(5, 11, generator=rng), torch.full((5, 3), 1.2), StudentSpec(), InnerLoop())
    one.states[0, 0] = 1e5
    found = figures.moves(one, (torch.zeros(5, 11), torch.zeros(5, 3)), torch.zeros(3, 11))
    drawn = figures.contact_sheet(one, found)
    assert drawn.kind == "image"
    assert "5 of 5 states" in drawn.caption
    assert "with Pillow, for OpenGL does not work here. (cut)" in drawn.caption
    sheet = Image.open(io.BytesIO(base64.b64decode(drawn.data["data"])))
    assert sheet.width == 3 * 220 + 20
    assert sheet.height > 2 * 220
    pixels = np.asarray(sheet.convert("RGB"), int)
    tiles = [pixels[top : top + 220, left : left + 220] for top in (0, sheet.height // 2) for left in (0, 230, 460)]
    blank = [bool((np.abs(t - [255, 255, 255]) < 20).all()) for t in tiles]
    assert blank == [False] * 5 + [True]
    with pytest.raises(ManyoneError, match="no environment"):
        figures.contact_sheet(replace(one, frame=replace(frame, environment=None)), found)
    with pytest.raises(ManyoneError, match="none can be drawn"):
        figures.contact_sheet(replace(one, frame=replace(frame, environment="gym:Reacher-v5")), found)


def test_cost_is_of_the_steps_alone(data):
    made = Distillations([learner(data, at_once=2)])
    written = [{"kind": "train", "step": k, "time": {"cpu": c}} for k, c in enumerate((0.1, 0.3, 9.0))]
    found = figures.cost_table([{"kind": "eval", "step": 0, "time": {"unix": 1}}, *written], made.learners[0], 812.0)
    assert [row[1] for row in found.data["rows"]] == ["300", "50.0", "812"]  # 2 students of 3 steps
    assert figures.cost_table([{"kind": "train", "step": 1}], made.learners[0], None) is None
    (timed,) = (line["time"]["cpu"] for line in lines(made, 1) if line["kind"] == "train")
    assert 0 < timed < 10
    memory = figures.peak_memory()
    assert memory is None or 10 < memory < 1e6
