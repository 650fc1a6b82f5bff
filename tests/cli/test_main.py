import io
import json
import subprocess
import sys
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path

import pytest

from manyone import __version__
from manyone.cli import main
from manyone.cli.main import VERBS
from manyone.cli.show import show_lists
from manyone.cli.studies import LISTS
from manyone.engine.options import check_round_trip
from manyone.recipes.options import CommonOptions
from manyone.recipes.table import RECIPES, options_class, runner

HEAVY = ("torch", "tyro", "matplotlib", "numpy", "transformers", "rich", "yaml", "sklearn", "lightning_fabric")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["eval", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom manyone.cli.main import run\n"
        f"assert run({words!r}) == 0\n"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_and_version(manyone):
    code, out, _ = manyone("--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)
    assert manyone("--version") == (0, f"manyone {__version__}\n", "")
    assert manyone()[0] == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(manyone, verb):
    code, out, _ = manyone(verb, "--help")
    assert code == 0
    assert f"example:\n  manyone {verb}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "unknown verb 'rnu'; did you mean 'run'? (manyone --help)"),
        (["--versoin"], "unknown option '--versoin'; did you mean '--version'? (manyone --help)"),
        (["run", "toi"], "unknown recipe 'toi'; did you mean 'toy'? (manyone ls recipes)"),
        (["run"], "the following arguments are required: RECIPE (manyone run --help)"),
        (["run", "--oops"], "the following arguments are required: RECIPE (manyone run --help)"),
        (["resume", "x", "--workrs"], "unknown option '--workrs'; did you mean '--workers'? (manyone resume --help)"),
        (["eval", "x", "--splt", "val"], "unknown option '--splt'; did you mean '--split'? (manyone eval --help)"),
        (["resume", "nowhere"], "nowhere is not a run folder: it has no config.yaml"),
        (["eval", "nowhere"], "nowhere is not a run folder: it has no config.yaml"),
        (["report", "nowhere"], "nowhere is not a run folder: it has no config.yaml"),
        (["ls", "recipe"], "unknown list 'recipe'; did you mean 'recipes'?"),
        (["ls", "data", "more"], "'more' is one word too many (manyone ls --help)"),
        (["data", "fetch", "x"], "unknown verb of `manyone data` 'fetch'; known: clear, get, info, ls, make"),
        (["data", "get"], "`manyone data get` needs a name (manyone data ls)"),
        (["reproduce", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["reproduce", "--seeds", "x"], "argument --seeds: invalid int value: 'x' (manyone reproduce --help)"),
    ],
)
def test_wrong_words_are_one_line_with_code_2(manyone, monkeypatch, tmp_path, words, message):
    monkeypatch.setitem(sys.modules, "manyone.cli.data_command", types.ModuleType("datasets"))
    assert manyone(*words) == (2, "", f"manyone: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_scale_names_the_choices(manyone):
    code, _, err = manyone("reproduce", "--scale", "huge")
    assert code == 2
    assert err.count("\n") == 1
    assert all(word in err for word in ("--scale", "'huge'", "smoke", "laptop", "paper"))


def test_unexpected_errors_are_one_line_with_code_1_and_a_traceback_with_debug(manyone):
    code, _, err = manyone("run", "toy", "--mode", "fancy")
    assert (code, err) == (1, "manyone: unexpected RuntimeError: no such thing (--debug shows where)\n")
    with pytest.raises(RuntimeError):
        manyone("run", "toy", "--mode", "fancy", "--debug")
    with pytest.raises(RuntimeError):
        manyone("--debug", "run", "toy", "--mode", "fancy")


def test_a_full_disk_anywhere_is_the_user_s_to_mend(manyone, monkeypatch):
    def full(options, build, folder):
        raise OSError(28, "No space left on device", "/data/big")

    manyone("ls", "recipes")
    monkeypatch.setattr(runner("toy"), "run", full)
    assert manyone("run", "toy") == (2, "", "manyone: /data/big: the disk is full: free some space\n")


def fake(monkeypatch, name, **functions):
    module = types.ModuleType(name)
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_ls_on_one_screen(manyone):
    code, out, _ = manyone("ls")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    words = set(out.replace(",", " ").split())
    assert {name for name, recipe in RECIPES.items() if recipe.field} <= words  # no name is cut
    assert set(LISTS) - {"recipes"} <= words


@pytest.mark.parametrize("kind", LISTS)
def test_every_list_is_json_if_asked_and_tab_separated_in_a_pipe(kind, manyone):
    code, out, _ = manyone("ls", kind, "--json")
    assert code == 0
    found = json.loads(out)
    lists = found if isinstance(found, dict) else {kind: found}
    assert all(rows and all(isinstance(row, dict) for row in rows) for rows in lists.values())
    code, out, _ = manyone("ls", kind)
    lines = [line for line in out.splitlines() if not line.startswith("# ")]
    assert code == 0
    assert len(lines) == sum(map(len, lists.values())) + len(lists)  # a line of names above each
    for rows in lists.values():
        assert "\t".join(rows[0]) in lines


def test_ls_in_a_pipe_is_tab_separated_and_json_if_asked(manyone, monkeypatch):
    lists = [("suites", [{"name": "a one", "bytes": 3}]), ("tables", [{"name": "b", "what": "two\nlines"}])]
    fake(monkeypatch, "manyone.cli.data_command", lists=lambda kind: lists if kind == "data" else lists[:1])
    assert manyone("ls", "data")[1] == "# suites\nname\tbytes\na one\t3\n# tables\nname\twhat\nb\ttwo lines\n"
    assert manyone("ls", "models") == (0, "name\tbytes\na one\t3\n", "")
    assert json.loads(manyone("ls", "data", "--json")[1]) == dict(lists)
    assert json.loads(manyone("ls", "models", "--json")[1]) == lists[0][1]
    rows = [line.split("\t") for line in manyone("ls", "recipes")[1].splitlines()]
    assert rows[0] == ["recipe", "field", "what it does"]
    assert ["toy", "", "linear regression with Adam"] in rows
    assert {row["recipe"] for row in json.loads(manyone("ls", "recipes", "--json")[1])} == set(RECIPES)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_never_cuts_a_name(width, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    name = "a-rather-long-name-of-a-data-set"
    show_lists([("sets", [{"name": name, "what it is": "words " * 30, "licence": "CC BY 4.0"}])])
    assert name in capsys.readouterr().out


def test_data_verbs(manyone, monkeypatch):
    fake(
        monkeypatch,
        "manyone.cli.data_command",
        get=lambda name: Path("/cache") / name,
        info=lambda name: {"licence": "CC0", "bytes": 5, "name": name},
        clear=lambda name: None,
    )
    assert manyone("data", "get", "a", "b") == (0, "/cache/a\n/cache/b\n", "")
    assert "CC0" in manyone("data", "info", "a")[1]
    assert manyone("data", "clear", "a") == (0, "", "")


def test_reproduce_report_and_bench_pass_their_words_on(manyone, monkeypatch, tmp_path):
    calls = []

    def reproduce(claims, **settings):
        calls.append((claims, settings))
        return 1

    fake(monkeypatch, "manyone.reproduce.reproduce", reproduce=reproduce, STUDIES={"merging": ""})
    assert (
        manyone(
            "reproduce", "a", "b", "--scale", "laptop", "--seeds", "3", "--out", "o", "--workers", "2", "--dry-run"
        )[0]
        == 1
    )
    assert calls.pop() == (
        ["a", "b"],
        {
            "fields": [],
            "suites": [],
            "scale": "laptop",
            "seeds": 3,
            "out": Path("o"),
            "workers": 2,
            "on": None,
            "dry_run": True,
        },
    )
    assert manyone("reproduce")[0] == 1
    nothing = dict.fromkeys(("seeds", "out", "workers", "on"))
    assert calls.pop() == ([], {"fields": [], "suites": [], "scale": "smoke", "dry_run": False, **nothing})
    assert manyone("reproduce", "--field", "merging, policies", "--field", "minimax")[0] == 1
    assert calls.pop()[1]["fields"] == ["merging", "policies", "minimax"]
    assert manyone("reproduce", "--suite", "pp-n5,relay")[0] == 1
    assert calls.pop()[1]["suites"] == ["pp-n5", "relay"]

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("x")
    fake(monkeypatch, "manyone.report.html", run_report=lambda runs, out: out or runs[0] / "report.html")
    assert manyone("report", "run") == (0, "report: run/report.html\n", "")
    assert manyone("report", "run", "run", "--out", "page.html") == (0, "report: page.html\n", "")
    assert manyone("report", "run", "run") == (0, f"report: {tmp_path.resolve()}/report-run-run.html\n", "")

    fake(
        monkeypatch,
        "manyone.cli.bench_command",
        run=lambda names: [{"name": n, "seconds": 0.25} for n in names or ["all"]],
    )
    assert "0.25" in manyone("bench", "ta")[1]
    assert "all" in manyone("bench")[1]


def unexplained(cls):
    """The options of ``cls`` that `--help` would show without a word."""
    from tyro._docstrings import get_field_docstring

    for field in fields(cls):
        if is_dataclass(field.default_factory):
            yield from unexplained(field.default_factory)
        elif not get_field_docstring(cls, field.name, ()):
            yield field.name


def test_every_recipe_in_the_table_keeps_the_rules(manyone):
    """Each recipe loads, shares the common options, says what it is, explains each option, and can be read back."""
    for name, recipe in RECIPES.items():  # the fixture adds the toy recipe, so there is always one
        cls = options_class(name)
        assert issubclass(cls, CommonOptions), name
        assert recipe.summary, name
        assert not (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}("), f"{name} has no docstring"
        assert list(unexplained(cls)) == [], name
        if not any(f.default is f.default_factory is MISSING for f in fields(cls)):
            needed = {"suite": "fixture", "gold": "gold.txt", "pred": "pred.txt", "db": "database"}
            if recipe.field == "earth":
                needed = {"sensor": "landsat-7", "model": "prithvi2", "data": ("area=a.tif",), "labels": "points.gpkg"}
            check_round_trip(cls(**{f.name: needed[f.name] for f in fields(cls) if f.name in needed}))


def test_an_unexplained_option_is_found():
    @dataclass
    class Silent:
        loud: int = 0
        """Meaning."""
        mute: int = 0

    assert list(unexplained(Silent)) == ["mute"]


def ascii_stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


def test_a_terminal_that_knows_ascii_alone_shows_everything(manyone, monkeypatch, tmp_path):
    (tmp_path / "größe.csv").write_text(
        "a,y\n" + "".join(f"{i % 7},{'groß' if i % 2 else 'klein'}\n" for i in range(40))
    )
    out, err = ascii_stream(), ascii_stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    for words in (
        ("ls", "claims"),
        ("run", "local-sgda", "--help"),
        ("run", "local-sgda", "--data", "größe.csv", "--label", "y", "--clients", 2, "--rounds", 2, "--out", "läuft"),
        ("eval", "läuft"),
        ("report", "läuft"),
    ):
        assert main.run([str(word) for word in words]) == 0, err.buffer.getvalue()
    assert main.run(["run", "local-sgda", "--data", "größe…csv"]) == 2
    monkeypatch.undo()
    assert b"run: lauft" in out.buffer.getvalue()
    assert b"manyone: " in err.buffer.getvalue()
    stream = ascii_stream()
    stream.reconfigure(errors="manyone-plainly")
    stream.write("δ ≤ 0.5 … ±1 – 語")
    assert stream.buffer.getvalue() == b"delta <= 0.5 ... +-1 - ?"
