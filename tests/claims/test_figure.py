"""A study's own figures: every kind is drawn, wrong data are named, pages with several chapters stay whole."""

import base64
import re
import struct
import zlib
from dataclasses import replace

import pytest
from tests.report.test_html import Page, links_lead_somewhere

from manyone.claims.figure import Figure, image_of, load_figures, mime, save_figures
from manyone.claims.rows import Row
from manyone.claims.study import Report, Study
from manyone.errors import ManyoneError
from manyone.report import html
from manyone.report.terminal import show


def png() -> bytes:
    """One grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00\x80")) + chunk(b"IEND", b"")
    )


IMAGE = base64.b64encode(png()).decode()
FIGURES = [
    Figure(
        "matrix", "Overlap", {"rows": ["a", "b"], "columns": ["c"], "values": [[0.5], [None]], "unit": "%"}, "Of 1."
    ),
    Figure("matrix", "Signed", {"rows": ["a"], "columns": ["c", "d"], "values": [[-1.25, 40]]}, section="Harmony"),
    Figure(
        "lines",
        "Gap",
        {
            "series": {
                "local": {"x": [1, 10, 100], "y": [1, 0.1, 0.01], "low": [0.5, 0.05, 0.005], "high": [2, 0.2, 0.02]},
                "one": {"x": [10], "y": [0.3]},
            },
            "x_label": "round",
            "y_label": "gap",
            "log_x": True,
            "log_y": True,
            "marks": [{"x": 10, "y": 0.1, "label": "here"}, {"x": 50, "label": "switch"}],
        },
        section="Harmony",
    ),
    Figure("lines", "Flat", {"series": {"flat": {"x": [3, 4], "y": [0, 0]}}}),
    Figure("lines", "Nothing", {"series": {}}),
    Figure("bars", "Rates", {"names": ["p", "q"], "values": [-0.2, 0.4], "low": [-0.3, None], "high": [0, None]}),
    Figure("image", "Film", {"data": IMAGE, "width": 64}, "One episode."),
    Figure(
        "table", "Bytes", {"columns": ["mask", "bytes"], "rows": [["all", 1234567], ["none", None], ["some", 0.25]]}
    ),
]
CLAIMS = """
field = "minimax"
[metrics.gap]
label = "duality gap"
[metrics.worst]
label = "worst client"
unit = "%"
[papers]
[methods.local]
label = "Local SGDA"
[methods.server]
label = "Server"
[[claims]]
id = "x"
short = "smaller gap"
statement = "Local steps leave a smaller gap."
comparison = "less"
metric = "gap"
left = { method = "local" }
right = { method = "server" }
tests = { smoke = ["quadratic"] }
published = [{ setting = "s", source = "t", family = "f", left = 0.5, right = 1.5, unit = "nats" }]
[[claims]]
id = "y"
short = "fairer"
statement = "The worst client gains."
comparison = "greater"
metric = "worst"
left = { method = "local" }
right = { method = "server" }
tests = { smoke = ["quadratic"] }
"""


def measures_only() -> Study:
    """Rows without any score per task."""
    rows = [
        Row("quadratic", seed, method, metrics={"gap": gap + seed / 10, "worst": 0.8 - gap / 10, "other": 1.0})
        for seed in range(3)
        for method, gap in (("local", 1.0), ("server", 3.0))
    ]
    return Study("Many clients", "smoke", rows, claims_text=CLAIMS, figures=FIGURES, field="minimax", notes=["N"])


def test_every_kind_is_drawn_and_described():
    text = html.render(measures_only())
    page = Page(text)
    for figure in FIGURES:
        assert figure.title in page.text
    assert "Of 1." in page.text
    assert 'class="band s0"' in text
    assert "here" in page.text
    assert "switch" in page.text
    assert "50.0" in page.text
    assert "−1.25" in page.text
    assert "1.23 M" in page.text or "1 230 000" in page.text
    drawn = [a["aria-label"] for a in page.all("svg") if a.get("role") == "img"]
    assert any("Gap: local from 1 to 0.01; one from 0.3 to 0.3" in (d or "") for d in drawn)
    assert any("Rates: p −0.200, q 0.400" in (d or "") for d in drawn)
    (image,) = page.all("img")
    assert (image["src"] or "").startswith("data:image/png;base64,")
    assert image["alt"] == "Film. One episode."
    assert text.count('class="part" id="figures-harmony-h"') == 1
    assert 'href="#figures-harmony"' in text
    assert "nan" not in "".join(d or "" for d in drawn)


def test_rows_without_scores_have_measures_and_claims_but_no_heat_map(capsys):
    study = measures_only()
    page = Page(html.render(study))
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {"claims", "measures", "figures-figures", "figures-harmony"} <= ids
    assert not {"scores", "cost", "conditions"} & ids
    assert "duality gap" in page.text
    assert "worst client, %" in page.text
    assert "Local SGDA 1.10 ± 0.25, Server 3.10 ± 0.25; difference −2.00" in page.text
    assert "+20.0 points" in page.text
    assert [f.verdict for f in study.findings()] == ["holds", "holds"]
    show(study)
    shown = capsys.readouterr().out
    assert "mean ± 95 %" not in shown
    assert "−1.00" in shown


def test_a_score_of_another_name_and_unit():
    text = CLAIMS.replace('field = "minimax"', 'field = "policies"\nscore = "success"').replace("gap", "success")
    rows = [
        Row("tasks", s, m, task={"door": v, "drawer": v}) for s in (0, 1) for m, v in (("local", 0.5), ("server", 1))
    ]
    study = Study("P", "smoke", rows, claims_text=text.replace("quadratic", "tasks"), field="policies")
    page = Page(html.render(study))
    for words in ("Success per task", "tasks: success in %, mean over 2 seeds", "mean success", "Success is in %"):
        assert words in page.text
    assert "accuracy" not in page.text.lower()
    assert "merged" not in page.text
    plain = replace(study, claims_text=study.claims_text.replace('score = "success"', 'score = "success"\nunit = ""'))
    assert "tasks: success, mean over 2 seeds" in Page(html.render(plain)).text


def test_chapters_keep_apart_and_together(study, tmp_path):
    merging = replace(study, field="merging", scale="smoke")
    report = Report("Everything", (merging, measures_only()))
    text = html.render(report)
    page = Page(text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    links_lead_somewhere(page)
    assert len(page.all("h1")) == len(page.all("nav")) == 1
    assert {"merging", "minimax", "merging-claims", "minimax-claims", "merging-scores"} <= set(ids)
    assert len(page.all("script")) == 1
    assert "open" not in page.all("details")[1], "chapters are folded"
    assert [merging.short, measures_only().short] == ["Merging", "Minimax"], "its own, and from the field's name"
    assert replace(merging, claims_text="", field="").short == merging.title
    alone = Page(html.render(merging)).text
    for section in ("In short", "Routing per sample and per batch", "Cost against accuracy", "Repeat it"):
        assert section in alone
        assert section in page.text
    report.save(tmp_path)
    assert html.render(Report.load(tmp_path)) == text
    assert html.render(Study.load(tmp_path / "minimax")) == html.render(measures_only())
    with pytest.raises(ManyoneError, match="holds a report on merging, minimax: name one of these folders"):
        Study.load(tmp_path)


def test_a_report_on_one_field_is_that_fields_page(study, tmp_path):
    one = replace(study, field="merging")
    assert html.render(Report("Title", (one,))) == html.render(one)
    one.save(tmp_path)
    assert Report.load(tmp_path).studies[0].rows == list(one.rows)


def test_figures_come_back_from_their_file(tmp_path):
    save_figures(tmp_path / "new" / "f.figures.json", FIGURES)
    assert load_figures(tmp_path / "new" / "f.figures.json") == FIGURES
    (tmp_path / "p.png").write_bytes(png())
    assert image_of(tmp_path / "p.png") == IMAGE
    assert mime(IMAGE) == "image/png"
    assert mime(base64.b64encode(b"GIF89a.........").decode()) == "image/gif"
    assert mime("no base64!") == ""


def test_cells_of_a_matrix_keep_its_columns_narrow():
    def cells(*values: float) -> list[str]:
        data = {"rows": ["r"], "columns": [f"c{k}" for k in range(len(values))], "values": [list(values)]}
        text = html.render(Study("T", "smoke", [], figures=[Figure("matrix", "M", data)]))
        return re.findall(r"<td[^>]*>([^<]*)</td>", text)[: len(values)]

    assert cells(0.784, -0.0014, 0.00469, -1.19) == ["0.78", "0.00", "0.00", "−1.19"]
    assert cells(0.0123, 0.00045) == ["0.0123", "0.000450"], "small everywhere: digits that count"


def test_what_users_name_is_escaped():
    evil = "<script>alert('x')</script>"
    figures = [
        Figure("matrix", evil, {"rows": [evil], "columns": [evil], "values": [[1]]}, evil, evil),
        Figure("lines", evil, {"series": {evil: {"x": [1, 2], "y": [1, 2]}}, "marks": [{"x": 1, "label": evil}]}),
        Figure("bars", evil, {"names": [evil], "values": [1], "unit": evil}),
        Figure("table", evil, {"columns": [evil], "rows": [[evil]]}),
        Figure("image", evil, {"data": IMAGE}, evil),
    ]
    text = html.render(Study("T", "smoke", [], figures=figures))
    assert text.count("<script") == 1, "the page's own"
    Page(text)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("pie", {}, "unknown kind 'pie': use matrix, lines"),
        ("bars", {"names": ["a"]}, "needs 'values'"),
        ("bars", {"names": ["a"], "values": [1], "colour": 1}, "unknown key 'colour' for kind 'bars'"),
        ("bars", {"names": ["a"], "values": [1, 2]}, "values: must be a list of 1 numbers"),
        ("bars", {"names": ["a"], "values": [1], "low": [0]}, "low and high must be given together"),
        ("matrix", {"rows": ["a"], "columns": ["b"], "values": []}, "must have a line for each of the 1 rows"),
        ("matrix", {"rows": ["a"], "columns": ["b"], "values": [[float("nan")]]}, "must be finite numbers, got nan"),
        ("matrix", {"rows": "ab", "columns": ["b"], "values": [[1]]}, "rows: must be a list of texts"),
        ("lines", {"series": {"s": {"x": [1]}}}, "must have x and y"),
        ("lines", {"series": {"s": {"x": [1], "y": [1], "low": [0]}}}, "low and high must be given together"),
        ("lines", {"series": {"s": {"x": [0], "y": [1]}}, "log_x": True}, "x must be positive on a log axis"),
        ("lines", {"series": {}, "marks": [{"x": 1}]}, "marks: each must be"),
        ("image", {"data": "aGVsbG8gd29ybGQh"}, "must be the base64 text of a PNG, GIF, JPEG or WebP file"),
        ("table", {"columns": ["a"], "rows": [[1, 2]]}, "each must be a list of 1 cells"),
    ],
)
def test_wrong_figures_are_named(kind, data, message):
    with pytest.raises(ManyoneError, match=r"^figure 'T': ") as caught:
        Figure(kind, "T", data)
    assert message in str(caught.value)


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "f.json"
    for text, message in (
        ("{", "not JSON"),
        ("{}", "must hold a list of figures"),
        ("[1]", "must be a JSON object with 'kind' and 'title'"),
        ('[{"kind": "bars", "title": 1}]', "'title' of a figure must be text"),
        ('[{"kind": "bars", "title": "t"}]', "needs 'names'"),
    ):
        path.write_text(text)
        with pytest.raises(ManyoneError, match=r"f\.json") as caught:
            load_figures(path)
        assert message in str(caught.value)
    with pytest.raises(ManyoneError, match="cannot read figures"):
        load_figures(tmp_path / "none")
