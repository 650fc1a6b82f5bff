"""The page: one valid file without outside resources, the same for equal studies, whole when parts are missing."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from manyone.claims.claims import Claims
from manyone.claims.rows import Results, Row
from manyone.claims.study import Study
from manyone.errors import ManyoneError
from manyone.merging.study.study import former_figures
from manyone.report import html
from manyone.report.sections_claims import linked

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "circle", "line", "source"}


class Page(HTMLParser):
    """Checks nesting and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len({k for k, _ in attrs}), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and not self.get_starttag_text().endswith("/>")):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> without a beginning"
        assert self.stack[-1] == tag, f"</{tag}> inside <{self.stack[-1]}>"
        self.stack.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.stack):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page(study) -> Page:
    return Page(html.render(study))


def test_nothing_is_loaded(study):
    text = html.render(study)
    page = Page(text)
    for tag in ("link", "img", "iframe", "object", "embed", "base", "form"):
        assert not page.all(tag), tag
    assert page.all("script") == [{}]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "poster", "data"), (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "https://arxiv.org/abs/", "https://github.com/")), value
    assert "@import" not in text
    assert "url(" not in text
    assert "@font-face" not in text


def test_the_policy_lets_nothing_run_but_the_page_s_own_script(study):
    text = html.render(study)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    (policy,) = (a["content"] or "" for a in Page(text).all("meta") if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for word in ("fetch", "XMLHttpRequest", "import(", "eval", "innerHTML", "http"):
        assert word not in script


def links_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for href in (a["href"] or "" for a in page.all("a")):
        assert href.startswith("https://") or href.removeprefix("#") in ids, href


def test_links_lead_somewhere_and_ids_are_unique(page):
    links_lead_somewhere(page)


def test_every_test_is_a_row_of_the_figure_and_leads_to_its_claim(page, study):
    rows = [a["href"] for a in page.all("a") if "row" in (a.get("class") or "").split()]
    assert sorted(rows) == sorted(f"#claim-{f.claim.id}" for f in study.findings())


def test_arxiv_numbers_and_known_places_are_links():
    text = linked("<b> of arXiv 2405.18080, table 1; github.com/some/one, README; evil.com/x")
    assert '<a href="https://arxiv.org/abs/2405.18080" rel="noreferrer">arXiv:2405.18080</a>, table 1' in text
    assert '<a href="https://github.com/some/one" rel="noreferrer">github.com/some/one</a>, README' in text
    assert "&lt;b&gt;" in text
    assert text.count("<a ") == 2


def test_what_was_not_verified_is_marked_and_not_drawn(study):
    claim = 'left = 68.0, right = 66.5, source = "'
    assert claim in study.claims_text
    text = study.claims_text.replace(claim, f"verified = false, {claim}")
    doubtful = replace(study, claims_text=text)
    assert "not verified" not in Page(html.render(study)).text
    assert Page(html.render(doubtful)).text.count("not verified") == 2, "at the figure, and in the legend"
    assert html.render(doubtful).count('class="diamond"') < html.render(study).count('class="diamond"')
    assert [f.verdict for f in doubtful.findings()] == [f.verdict for f in study.findings()]


def test_the_runs_time_is_said_and_the_last_command_s_is_called_so(study):
    timed = Page(html.render(replace(study, seconds=151.2, environment={"wall time": "4 s"}))).text
    assert "The runs that made the rows took 2 min 31 s together." in timed
    assert "wall time of the last command" in timed
    assert "took" not in Page(html.render(study)).text


def test_accessible(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("header")) == len(page.all("nav")) == 1
    assert all("scope" in a for a in page.all("th"))
    for a in page.all("svg"):
        assert a.get("aria-hidden") == "true" or a.get("aria-label") or "overflow" in a
    for a in page.all("div"):
        if "scroll" in (a.get("class") or "").split():
            assert a.get("tabindex") == "0"
            assert a.get("role") == "region"
            assert a.get("aria-label")
    for a in page.all("section"):
        assert a.get("aria-labelledby")
    assert "width=device-width" in (page.all("meta")[1]["content"] or "")


def test_both_colour_schemes_and_paper(study):
    text = html.render(study)
    for rule in ("prefers-color-scheme: dark", "@media print", "size: A4", "focus-visible", "prefers-reduced-motion"):
        assert rule in text


def _contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    def luminance(c: tuple[int, ...]) -> float:
        part = [v / 255 / 12.92 if v / 255 <= 0.03928 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in c]
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_in_both_schemes(study):
    """WCAG AA: 4.5 for text on the page, on boxes and on the darkest shade of a cell."""
    style = html.render(study)
    schemes = re.findall(r":root \{(.*?)\}", style, re.S)[:2]
    assert len(schemes) == 2
    for scheme in schemes:
        colour = {n: tuple(bytes.fromhex(v)) for n, v in re.findall(r"--([a-z0-9]+): #([0-9a-f]{6})", scheme)}
        for ground in ("surface", "raised"):
            for name in ("ink", "muted", "accent", "good", "unsure", "bad", "none"):
                assert _contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
        for shade in ("heat", "cold"):
            darkest = tuple(round(0.6 * h + 0.4 * s) for h, s in zip(colour[shade], colour["surface"]))
            assert _contrast(colour["ink"], darkest) >= 4.5, shade


def test_content(page, study):
    assert "Made-up numbers" in page.text
    for finding in study.findings():
        assert finding.claim.statement in page.text
    for words in ("does not hold", "within noise", "holds", "not tested"):
        assert words in page.text
    for words in (
        "stands in for EuroSAT",
        "fell back to its initialisation",
        "manyone reproduce --scale laptop",
        "MIT",
    ):
        assert words in page.text
    assert "[nan" not in page.text
    assert " nan" not in page.text


def test_a_failed_claim_is_said_first(study):
    # WEMoE far below AdaMerging on every seed.
    rows = [
        replace(r, task=dict.fromkeys(r.task, 0.01 * (1 + r.seed)))
        if (r.method, r.variant, r.condition) == ("wemoe", "", "clean")
        else r
        for r in study.rows
    ]
    text = Page(html.render(replace(study, rows=rows))).text
    head = text[: text.index("Verdicts follow")]
    assert "✗ does not hold" in head
    assert "Claims that do not hold here" in head
    assert "WEMoE beats AdaMerging." in head


def test_equal_studies_give_equal_pages(study, tmp_path):
    timed = replace(study, seconds=151.2)
    timed.save(tmp_path / "study")
    assert html.render(Study.load(tmp_path / "study")) == html.render(timed)


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"claims_text": ""}, 'id="claims"'),
        ({"figures": ()}, 'id="figures-adaptation"'),
        ({"suites": ()}, 'id="data"'),
        ({"configs": {}, "commands": (), "environment": {}}, 'id="repeat"'),
    ],
)
def test_missing_parts_leave_no_trace(study, change, gone):
    text = html.render(replace(study, **change))
    assert gone in html.render(study)
    assert gone not in text
    assert f'href="#{gone[4:-1]}"' not in text
    Page(text)


def test_rows_without_optional_parts(study):
    bare = [Row(r.suite, r.seed, r.method, r.variant, "clean", r.task) for r in study.rows if r.condition == "clean"]
    text = html.render(replace(study, rows=bare, figures=()))
    for gone in ("conditions", "cost", "figures-adaptation"):
        assert f'id="{gone}"' not in text
    Page(text)


@pytest.mark.parametrize("rows", [[], [Row("s", 0, "m", task={"a": 0.5})], [Row("s", 0, "m", metrics={"k": 1.0})]])
def test_tiny_studies(rows):
    Page(html.render(Study("Tiny", "smoke", rows)))


def test_one_seed_is_said():
    rows = [Row("mini6", 0, m, task={"a": v}) for m, v in (("average", 0.5), ("task-arithmetic", 0.6))]
    text = Page(html.render(Study("Tiny", "smoke", rows))).text
    assert "one seed: there is no interval" in text
    assert "±" not in text[text.index("In short") :]


def test_what_users_name_is_escaped():
    evil = "<script>alert('x')</script>"
    details = {"routing": {evil: [[0.1]]}, "bias": {when: {evil: 0.5} for when in ("before", "after")}}
    rows = [Row(evil, k, evil, "", "clean", {evil: 0.5}, {"stored_parameters": 1.0 + k}, details) for k in (0, 1)]
    points = [{"step": 0, "entropy": 1.0}, {"step": 1, "entropy": 0.5}]
    curves = [{"suite": evil, "seed": 0, "method": evil, "points": points}]
    figures = former_figures(Results(rows), Claims(), curves)
    assert len(figures) == 3
    study = Study(evil, "smoke", rows, configs={evil: {evil: evil}}, notes=[evil], commands=[evil], figures=figures)
    text = html.render(study)
    assert text.count("<script") == 1, "the page's own"
    Page(text)


def test_diverging_and_flat_numbers():
    flat = [{"step": k, "entropy": 1.0, "marginal_entropy": 1.0} for k in range(3)]
    points = {"m": flat, "n": flat[:1], "empty": []}
    curves = [{"suite": "s", "seed": 0, "method": m, "points": p} for m, p in points.items()]
    bias = {"bias": {"before": {"a": 0.0}, "after": {"a": 0.0}}}
    rows = [Row("s", 0, "m", "", "clean", {"a": 0.0}, {"stored_parameters": 0.0}, bias)]
    rows.append(Row("s", 0, "n", task={"a": 0.0}, details={"routing": {"a": [[0.0, 0.0]]}}))
    Page(html.render(Study("Flat", "smoke", rows, figures=former_figures(Results(rows), Claims(), curves))))


def test_a_study_saved_when_the_page_drew_these_pictures_still_shows_them(study, tmp_path):
    study.save(tmp_path)
    rest = json.loads((tmp_path / "study.json").read_text())
    points = [{"step": 0, "entropy": 1.0}, {"step": 1, "entropy": 0.5}]
    curve = {"suite": "images", "seed": 0, "method": "wemoe", "points": points, "variant": "", "fell_back": False}
    rest |= {"format": 2, "figures": [], "curves": [curve], "field": "merging"}
    (tmp_path / "study.json").write_text(json.dumps(rest))
    sections = list(dict.fromkeys(f.section for f in Study.load(tmp_path).figures))
    assert sections == list(dict.fromkeys(f.section for f in study.figures))
    assert len(sections) == 4


def test_write_names_the_problem(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ManyoneError, match=r"report\.html: cannot write"):
        html.write(tmp_path / "file" / "report.html", study)
    out = html.write(tmp_path / "new" / "report.html", study)
    assert out.read_text().startswith("<!doctype html>")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_study_folder_errors(tmp_path):
    with pytest.raises(ManyoneError, match=r"study\.json"):
        Study.load(tmp_path)
    Study("T", "smoke", []).save(tmp_path)
    (tmp_path / "study.json").write_text('{"title": "T"}')
    with pytest.raises(ManyoneError, match="not a study of this version"):
        Study.load(tmp_path)


def test_what_claims_need_stands_before_them_and_an_undecided_claim_tells_its_power(study):
    measured = {"ladder_base": 0.875, "ladder_expert": 1.0, "lowest_task": 0.7}
    low = [
        replace(r, metrics={**r.metrics, **measured}) if (r.method, r.variant) == ("task-arithmetic", "tuned") else r
        for r in study.rows
    ]
    text = html.render(replace(study, rows=low))
    assert text.index("What claims need</h") < text.index(">Claims</h")
    row = next(part for part in text.split("<tr>") if "lies below the base" in part and ">images<" in part)
    for words in ("at least 100.0 %", "87.5 %", "fails"):
        assert words in row
    assert "not in its regime" in text
    assert "or more would have shown" in text
    assert "What claims need" not in html.render(replace(study, claims_text=""))
