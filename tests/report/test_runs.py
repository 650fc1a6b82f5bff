"""Pages of ordinary run folders."""

import json
import re

import pytest

from manyone.claims.figure import Figure, save_figures
from manyone.claims.study import Study
from manyone.errors import ManyoneError
from manyone.report import html
from manyone.report.record import read_run
from manyone.report.runs import runs_context

POINTS = [
    {"name": "base", "metrics": {"accuracy": 0.4, "accuracy/mnist": 0.5, "accuracy/tops": 0.3}, "end": "from"},
    {"name": "experts", "metrics": {"accuracy": 0.9, "accuracy/mnist": 0.9, "accuracy/tops": 0.9}, "end": "to"},
    {"name": "teacher", "metrics": {}, "how": "manyone run sft"},
]


def make_run(folder, lr, *, final=True, cut=False, points=()):
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"recipe: wemoe\noptions:\n  lr: {lr}\n  suite: mini6\n  seed: 3\n  out: {folder.name}\n"
    )
    lines = [{"step": 0, "kind": "reference", "how": "", "end": "", **point} for point in points]
    lines += [{"step": k, "kind": "train", "loss": 1.0 / (k + 1), "time": {"seconds": 0.1}} for k in range(5)]
    lines += [{"step": k, "kind": "eval", "accuracy/mnist": 0.5 + k / 10} for k in (2, 4)]
    if final:
        lines.append({"step": 5, "kind": "final", "accuracy": 0.8, "accuracy/mnist": 0.9, "accuracy/tops": 0.7,
                      "entropy": 0.12345})  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 6, "ki' if cut else ""))
    return folder


def values(context, raw):
    return next([value for value, _ in row["cells"]] for row in context["metrics"] if row["raw"] == raw)


def test_one_run(tmp_path):
    context = runs_context([make_run(tmp_path / "first", 0.002)])
    assert context["title"] == "wemoe on mini6"
    assert context["unfinished"] == []
    assert values(context, "entropy") == ["0.1235"]
    assert [c["text"] for c in context["heat"]["rows"][0]["cells"]] == ["80.0", "90.0", "70.0"]
    assert ("options.lr", ["0.002"], False) in context["options"]
    assert {p["raw"] for p in context["plots"]} == {"loss", "accuracy/mnist"}


def test_the_page_tells_what_ran_and_how_to_have_it_again(tmp_path):
    run = make_run(tmp_path / "first", 0.002)
    (run / "model").mkdir()
    (run / "model/README.md").write_text(
        '---\nx: 1\n---\n\n# A model\n\n```python\nfrom a import load\n\nm = load(".", k=1)   # this folder\n```\n'
    )
    text = html.run_report([run], tmp_path / "r.html").read_text()
    for part in (
        "WEMoE: critical modules merged anew for every input",
        'href="https://arxiv.org/abs/2402.00433">Merging Multi-Task Models via Weight-Ensembling',
        "<pre>manyone run wemoe --lr 0.002 --suite mini6 --seed 3</pre>",
        f"from a import load\n\nm = load(&#34;{run / 'model'}&#34;, k=1)</pre>",
    ):
        assert part in text


def test_a_result_lies_among_its_points(tmp_path):
    context = runs_context([make_run(tmp_path / "first", 0.002, points=POINTS)])
    (place,) = context["places"]
    assert (place["title"], place["raw"]) == ("accuracy, mean over tasks, %", "accuracy")
    assert place["points"] == [("base", "40.0"), ("experts", "90.0")]
    (row,) = place["rows"]
    assert (row["name"], row["value"], row["words"]) == ("this run", "80.0", "80 % of the way from base to experts")
    assert row["strip"].count('class="hollow"') == 2
    assert 'cx="77.6%"' in row["strip"]
    assert context["unmeasured"] == [("teacher", "manyone run sft")]
    assert [(row["name"], row["bound"]) for row in context["heat"]["rows"]] == [
        ("first", False), ("base", True), ("experts", True)
    ]  # fmt: skip


def test_points_of_several_runs_stand_apart_where_they_differ(tmp_path):
    same = [make_run(tmp_path / name, 0.002, points=POINTS) for name in ("a", "b")]
    (place,) = runs_context(same)["places"]
    assert len(place["points"]) == 2
    assert [row["name"] for row in place["rows"]] == ["a", "b"]
    other = [POINTS[0] | {"metrics": {"accuracy": 0.1}}]
    context = runs_context([same[0], make_run(tmp_path / "c", 0.002, points=other)])
    (place,) = context["places"]
    assert place["points"] == []
    assert [row["points"] for row in place["rows"]] == [[("base", "40.0"), ("experts", "90.0")], [("base", "10.0")]]
    assert [row["name"] for row in context["heat"]["rows"]] == ["a", "c"]


def test_no_metric_stands_twice(tmp_path):
    run = make_run(tmp_path / "first", 0.002)
    line = {"step": 5, "kind": "final", "accuracy": 0.8, "accuracy/mnist": 0.9, "accuracy/tops": 0.7, "return": 5.0,
            "return_low": 4.0, "return_high": 6.0, "return/only": 5.0, "bias/a": 1.0, "bias/b": 2.0}  # fmt: skip
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    context = runs_context([run])
    assert [row["raw"] for row in context["metrics"]] == ["return", "bias/a", "bias/b"]
    assert context["metrics"][0]["cells"] == [("5.000", "4.000 to 6.000")]
    page = html.run_report([run], tmp_path / "r.html").read_text()
    assert 'title="bias/a">distance to the expert&#39;s feature on a<span class="raw">bias/a</span>' in page


def test_very_many_metrics_are_folded(tmp_path):
    run = make_run(tmp_path / "first", 0.002)
    many = {f"bias/{k}": float(k) for k in range(20)}
    (run / "metrics.jsonl").write_text(json.dumps({"step": 5, "kind": "final", "bias": 1.0, **many}) + "\n")
    context = runs_context([run])
    assert [row["raw"] for row in context["metrics"]] == ["bias"]
    assert len(context["more_metrics"]) == 20


def test_several_runs_and_an_unfinished_one(tmp_path):
    runs = [make_run(tmp_path / "a", 0.002), make_run(tmp_path / "b", 0.01, final=False, cut=True)]
    context = runs_context([*runs, runs[0]])
    assert context["title"] == "3 runs side by side"
    assert context["names"] == ["a (1)", "b", "a (2)"]
    assert context["unfinished"] == ["b"]
    assert values(context, "entropy") == ["0.1235", "–", "0.1235"]
    assert [c["text"] for c in context["heat"]["rows"][1]["cells"]] == ["–", "90.0", "–"]
    assert {name for name, _, differs in context["options"] if differs} == {"options.lr", "options.out"}
    assert len(context["stories"]) == 1
    out = html.run_report([*runs, runs[0]], tmp_path / "report.html")
    text = out.read_text()
    named = [*re.findall(r'role="region" aria-label="([^"]+)"', text), *re.findall(r"<h2 [^>]*>([^<]+)</h2>", text)]
    assert len(named) == len(set(named)), "each region of the page has a name of its own"
    assert "Not finished: b" in text
    assert "<script" not in text
    assert set(re.findall(r'(\w+)="http', text)) == {"href"}, "a paper is linked, nothing is loaded"


def test_no_metrics_yet(tmp_path):
    folder = make_run(tmp_path / "new", 0.1)
    (folder / "metrics.jsonl").unlink()
    text = html.run_report([folder], tmp_path / "r.html").read_text()
    assert 'id="results"' not in text
    assert 'id="plots"' not in text
    assert 'id="config"' in text


def test_a_recipe_that_is_not_known_here(tmp_path):
    folder = make_run(tmp_path / "new", 0.1)
    (folder / "config.yaml").write_text("recipe: of-tomorrow\noptions: {what: 1}\n")
    context = runs_context([folder])
    assert context["title"] == "of-tomorrow"
    text = html.run_report([folder], tmp_path / "r.html").read_text()
    assert "This version does not take the options of this run." in text


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


def test_a_card_elsewhere_is_not_put_on_the_page(tmp_path):
    folder = make_run(tmp_path / "run", 0.1)
    (folder / "model").mkdir()
    (tmp_path / "secret").write_text("```\nwords\n```\n")
    (folder / "model/README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ManyoneError, match="a link out of the run folder"):
        read_run(folder)


def test_a_study_folder_gives_its_own_page(tmp_path):
    Study("My study", "smoke", []).save(tmp_path / "study")
    assert "My study" in html.run_report([tmp_path / "study"], tmp_path / "r.html").read_text()
    run = make_run(tmp_path / "run", 0.1)
    with pytest.raises(ManyoneError, match="report on it alone"):
        html.run_report([run, tmp_path / "study"], tmp_path / "r.html")


def test_a_runs_own_figures_stand_on_its_page(tmp_path):
    runs = [make_run(tmp_path / name, 0.1) for name in ("a", "b")]
    table = Figure(
        "table", "Who hears whom", {"columns": ["agent", "hears"], "rows": [["one", "two"]]}, section="Graph"
    )
    save_figures(runs[0] / "figures.json", [table])
    alone = html.run_report(runs[:1], tmp_path / "one.html").read_text()
    assert '<h2 id="figures-graph-h">Graph</h2>' in alone
    assert "Who hears whom" in alone
    assert "a: Graph" in html.run_report(runs, tmp_path / "two.html").read_text()
