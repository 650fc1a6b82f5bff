"""Pages of ordinary run folders."""

import json

import pytest

from manyone.claims.study import Study
from manyone.errors import ManyoneError
from manyone.report import html
from manyone.report.runs import read_run, runs_context


def make_run(folder, lr, *, final=True, cut=False):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"recipe: wemoe\noptions:\n  lr: {lr}\n  tasks: [mnist, tops]\n  note: null\n")
    lines = [{"step": k, "kind": "train", "loss": 1.0 / (k + 1), "time": {"seconds": 0.1}} for k in range(5)]
    lines += [{"step": k, "kind": "eval", "accuracy/mnist": 0.5 + k / 10} for k in (2, 4)]
    if final:
        lines.append({"step": 5, "kind": "final", "accuracy/mnist": 0.9, "accuracy/tops": 0.7, "entropy": 0.12345})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 6, "ki' if cut else ""))
    return folder


def test_one_run(tmp_path):
    context = runs_context([make_run(tmp_path / "first", 0.001)])
    assert context["title"] == "first"
    assert context["unfinished"] == []
    assert dict(context["metrics"])["entropy"] == ["0.1235"]
    assert [c["text"] for c in context["heat"]["rows"][0]["cells"]] == ["80.0", "90.0", "70.0"]
    assert ("options.lr", ["0.001"], False) in context["options"]
    assert ("options.tasks", ["mnist, tops"], False) in context["options"]
    assert {p["metric"] for p in context["plots"]} == {"loss", "accuracy/mnist"}


def test_several_runs_and_an_unfinished_one(tmp_path):
    runs = [make_run(tmp_path / "a", 0.001), make_run(tmp_path / "b", 0.01, final=False, cut=True)]
    context = runs_context([*runs, runs[0]])
    assert context["names"] == ["a (1)", "b", "a (2)"]
    assert context["unfinished"] == ["b"]
    assert dict(context["metrics"])["accuracy/tops"] == ["0.7000", "–", "0.7000"]
    assert {name for name, _, differs in context["options"] if differs} == {"options.lr"}
    out = html.run_report([*runs, runs[0]], tmp_path / "report.html")
    text = out.read_text()
    assert "Not finished: b" in text
    assert "<script" not in text
    assert "http" not in text


def test_no_metrics_yet(tmp_path):
    folder = make_run(tmp_path / "new", 0.1)
    (folder / "metrics.jsonl").unlink()
    text = html.run_report([folder], tmp_path / "r.html").read_text()
    assert 'id="results"' not in text
    assert 'id="plots"' not in text
    assert 'id="config"' in text


def test_errors(tmp_path):
    with pytest.raises(ManyoneError, match="at least one run"):
        runs_context([])
    with pytest.raises(ManyoneError, match="not a run folder"):
        read_run(tmp_path)
    folder = make_run(tmp_path / "bad", 0.1)
    (folder / "metrics.jsonl").write_text("{]\n{}\n")
    with pytest.raises(ManyoneError, match=r"metrics\.jsonl, line 1 is no record"):
        read_run(folder)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ManyoneError, match=r"config\.yaml"):
        read_run(folder)
    (folder / "config.yaml").write_text("- 1")
    with pytest.raises(ManyoneError, match="empty or damaged"):
        read_run(folder)


def test_a_study_folder_gives_its_own_page(tmp_path):
    Study("My study", "smoke", []).save(tmp_path / "study")
    assert "My study" in html.run_report([tmp_path / "study"], tmp_path / "r.html").read_text()
    run = make_run(tmp_path / "run", 0.1)
    with pytest.raises(ManyoneError, match="report on it alone"):
        html.run_report([run, tmp_path / "study"], tmp_path / "r.html")


def test_a_runs_own_figures_stand_on_its_page(tmp_path):
    from manyone.claims.figure import Figure, save_figures

    runs = [make_run(tmp_path / name, 0.1) for name in ("a", "b")]
    table = Figure(
        "table", "Who hears whom", {"columns": ["agent", "hears"], "rows": [["one", "two"]]}, section="Graph"
    )
    save_figures(runs[0] / "figures.json", [table])
    alone = html.run_report(runs[:1], tmp_path / "one.html").read_text()
    assert '<h2 id="figures-graph-h">Graph</h2>' in alone
    assert "Who hears whom" in alone
    assert "a: Graph" in html.run_report(runs, tmp_path / "two.html").read_text()
